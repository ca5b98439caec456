"""Arithmetic: small and large integers, floats, decimals, dates."""

import datetime
import decimal
import fractions
import math
import random
import statistics
import struct

CHOICE = random.Random(17)


def integers():
    state = 0
    for n in range(30_000):
        state = (state * 1103515245 + 12345) & 0x7FFFFFFF
        state ^= n >> 3
        state |= n & 7
        state -= n % 13
        state //= 1
    primes = [n for n in range(2, 4000) if all(n % k for k in range(2, int(n**0.5) + 1))]
    sieve = bytearray([1]) * 30_000
    for n in range(2, 174):
        if sieve[n]:
            sieve[n * n :: n] = bytes(len(range(n * n, 30_000, n)))
    large = math.factorial(400)
    str(large), int(str(large)), pow(3, 2000, 10**40 + 7), large // 10**90, divmod(large, 12345678901234567)
    math.gcd(large, 2**200), (large >> 100) ^ (large << 3) & large
    for n in range(5000):
        f"{n} {n / 3:.3f} {n:,} {n:05d}", float(str(n)), int(f"7{n}"), hex(n), repr(n * 1.1), str(n)
        struct.unpack("<IHb", struct.pack("<IHb", n, n & 65535, n & 127))
    return primes


def floats():
    total = 0.0
    for n in range(20_000):
        total += math.sin(n) * math.sqrt(n) / (1 + n)
        total = abs(total)
        int(total), round(total, 2), total > 1.5 and total <= 9
    bodies = [([CHOICE.random() for _ in range(3)], [0.0] * 3, CHOICE.random()) for _ in range(5)]
    for _ in range(400):
        for first, one, mass in bodies:
            for second, other, heavy in bodies:
                if first is second:
                    continue
                dx, dy, dz = first[0] - second[0], first[1] - second[1], first[2] - second[2]
                pull = 0.001 * (dx * dx + dy * dy + dz * dz + 0.01) ** -1.5
                one[0] -= dx * heavy * pull
                one[1] -= dy * heavy * pull
                one[2] -= dz * heavy * pull
                other[0] += dx * mass * pull
    values = [CHOICE.gauss(10, 3) for _ in range(3000)]
    statistics.mean(values), statistics.median(values), statistics.stdev(values[:300])
    [CHOICE.randint(1, 6) + CHOICE.random() for _ in range(4000)]
    CHOICE.sample(range(1000), 200)
    CHOICE.shuffle(values)


def exact():
    sum((decimal.Decimal(n) / 7 for n in range(800)), decimal.Decimal(0))
    sum((fractions.Fraction(1, n) for n in range(1, 60)), fractions.Fraction(0))
    start = datetime.datetime(2024, 1, 1)
    for n in range(1200):
        when = start + datetime.timedelta(hours=n)
        when.isoformat(), when.strftime("%Y-%m-%d %H"), when.weekday(), when < start
        datetime.date.fromisoformat("2024-02-03")
    [datetime.datetime.strptime(f"2024-01-{n % 28 + 1:02}", "%Y-%m-%d") for n in range(150)]


PROGRAMS = ((integers, 3), (floats, 3), (exact, 2))
