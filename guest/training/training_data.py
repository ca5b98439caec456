"""Lists, dicts and sets; sorting; JSON; iterators; algorithms over them."""

import bisect
import collections
import copy
import functools
import heapq
import itertools
import json
import operator
import pprint
import random

CHOICE = random.Random(11)
RECORDS = [
    {"id": n, "name": f"Jörg {n}", "age": n % 90, "scores": [n / 7, n * 1e6, -n], "ok": n % 2 == 0, "note": None,
     "tags": [f"t{n % 5}", "b\"q\\uoted\"\n"], "nested": {f"k{k}": k for k in range(3)}}
    for n in range(700)
]


def documents():
    text = json.dumps(RECORDS)
    json.loads(text)
    pretty = json.dumps(RECORDS[:200], indent=2, sort_keys=True, ensure_ascii=False)
    json.loads(pretty)
    json.loads(json.dumps([{"i": n, "v": n * 1.5, "t": ["a", "b"]} for n in range(1500)]))
    json.loads(json.dumps(list(range(4000))))
    for line in [json.dumps(record) for record in RECORDS[:300]]:
        record = json.loads(line)
        record.get("name", "").lower()
        record["nested"].get("k1")


def tables():
    groups = {}
    for record in RECORDS:
        groups.setdefault(record["age"] // 10, []).append(record)
    averages = {key: sum(r["scores"][0] for r in rows) / len(rows) for key, rows in groups.items()}
    best = max(averages, key=averages.get)
    rows = sorted(RECORDS, key=lambda r: (-r["age"], r["name"]))
    sorted(RECORDS, key=operator.itemgetter("age"))
    names = [r["name"] for r in rows if r["ok"] and r["age"] > 20]
    index = {r["id"]: r for r in RECORDS}
    joined = [(index[n]["name"], n) for n in range(0, 700, 3) if n in index]
    wide = [[f"{r['id']:>4}", f"{r['name']:<12}", f"{r['scores'][0]:.2f}"] for r in RECORDS]
    text = "\n".join(" | ".join(row) for row in wide)
    copy.deepcopy(RECORDS[:40])
    pprint.pformat(RECORDS[:12])
    {**RECORDS[0], "extra": 1}
    return best, names, joined, text


def containers():
    table = {}
    for n in range(25_000):
        key = (n * 7919) % 5003
        table[key] = table.get(key, 0) + n
        if key in table and n % 3 == 0:
            table.setdefault(("t", key % 97), []).append(n)
        if n % 11 == 0:
            table.pop(key, None)
    for key, value in table.items():
        pass
    {str(key): value for key, value in table.items() if isinstance(key, int)}
    some, others = set(range(0, 12_000, 3)), set(range(0, 12_000, 5))
    some & others, some | others, some - others, some ^ others, some <= others
    numbers = [CHOICE.randrange(10**6) for _ in range(12_000)]
    numbers.sort()
    sorted(numbers, key=lambda n: -n)
    sorted([n / 3 for n in numbers])
    words = sorted(str(n) for n in numbers)
    pairs = list(zip(words, numbers))
    pairs.sort(reverse=True)
    heap = []
    for n in numbers[::4]:
        heapq.heappush(heap, -n)
        if len(heap) > 100:
            heapq.heappop(heap)
    for n in range(2000):
        bisect.bisect_left(numbers, n)
    recent = collections.deque(maxlen=50)
    for n in range(10_000):
        recent.append(n)
        recent[0]
    numbers.index(numbers[-1]), numbers.count(3), numbers[::2], numbers + numbers[:9], min(numbers), max(numbers)
    sum(numbers), any(numbers), all(numbers), tuple(numbers), numbers[1:] == numbers[:-1]


def loops():
    total, found = 0, []
    for n in range(60_000):
        total += n * n % 7
        if n % 15 == 0:
            found.append(n)
        elif not n & 1:
            continue
        else:
            total -= 1
    n = 0
    while n < 40_000:
        n += 1
        if n % 5 == 0:
            total ^= n
    for first, second in zip(found, found[1:]):
        total += second - first
    for index, value in enumerate(found):
        found[index] = value + 1
    matrix = [[row * column for column in range(40)] for row in range(40)]
    [list(column) for column in zip(*matrix)]
    [[sum(a * b for a, b in zip(row, column)) for column in zip(*matrix)] for row in matrix[:8]]
    for row in range(40):
        for column in range(40):
            if matrix[row][column] > 700 and row != column:
                matrix[row][column] = 0
    return total


def iterators():
    list(itertools.chain.from_iterable([[n, n + 1] for n in range(3000)]))
    list(itertools.islice(itertools.accumulate(range(6000)), 100))
    [(key, len(list(group))) for key, group in itertools.groupby(sorted(n % 7 for n in range(5000)))]
    list(itertools.combinations(range(24), 3))
    list(itertools.product("abcd", repeat=4))
    list(filter(None, map(lambda n: n % 3, range(6000))))
    functools.reduce(operator.add, range(5000))

    def numbered(items):
        for number, item in enumerate(items):
            got = yield number, item
            if got:
                yield got

    def flat(items):
        for item in items:
            if isinstance(item, list):
                yield from flat(item)
            else:
                yield item

    sum(number for number, _ in numbered(range(8000)))
    nested = []
    for n in range(120):
        nested = [nested, n] if n % 20 else [nested, [n] * 3]
    for _ in range(6):
        list(flat(nested))


def searches():
    graph = {n: [(n * k + 1) % 500 for k in range(1, 5)] for n in range(500)}
    for start in range(12):
        queue, seen = collections.deque([start]), {start}
        while queue:
            for other in graph[queue.popleft()]:
                if other not in seen:
                    seen.add(other)
                    queue.append(other)
    distance, heap = {0: 0}, [(0, 0)]
    while heap:
        far, node = heapq.heappop(heap)
        for other in graph[node]:
            new = far + (node ^ other) % 13 + 1
            if new < distance.get(other, 10**9):
                distance[other] = new
                heapq.heappush(heap, (new, other))
    first, second = "ACGTTGCA" * 14, "GATTACAG" * 14
    row = list(range(len(second) + 1))
    for number, letter in enumerate(first):
        new_row = [number + 1]
        for column, other in enumerate(second):
            new_row.append(min(row[column + 1] + 1, new_row[column] + 1, row[column] + (letter != other)))
        row = new_row
    alive = {(CHOICE.randrange(30), CHOICE.randrange(30)) for _ in range(200)}
    for _ in range(5):
        near = collections.Counter(
            (x + dx, y + dy) for x, y in alive for dx in (-1, 0, 1) for dy in (-1, 0, 1) if dx or dy
        )
        alive = {cell for cell, count in near.items() if count == 3 or (count == 2 and cell in alive)}


PROGRAMS = ((documents, 4), (tables, 6), (containers, 2), (loops, 3), (iterators, 2), (searches, 2))
