"""Text taken apart: split, searched, counted, formatted; regular expressions; CSV, HTML, encodings."""

import base64
import collections
import csv
import difflib
import hashlib
import html
import html.parser
import io
import random
import re
import string
import textwrap
import unicodedata
import urllib.parse
import zlib

CHOICE = random.Random(7)
WORDS = ["".join(CHOICE.choices(string.ascii_lowercase, k=CHOICE.randint(2, 9))) for _ in range(2000)]
PROSE = " ".join(CHOICE.choices(WORDS, k=20_000))
WIDE = "Größe – état, naïve; 漢字かな交じり文 🙂 and more. " * 600
LOG = "\n".join(
    f"2025-{n % 12 + 1:02}-{n % 28 + 1:02} {n % 24:02}:{n % 60:02} host{n % 7} app[{n}]: "
    f"{'ERROR' if n % 11 == 0 else 'INFO'} GET /{CHOICE.choice(WORDS)}/{n}?id={n * 7} {CHOICE.choice((200, 404, 500))} "
    f"user{n % 50}@mail{n % 3}.example.org \"{CHOICE.choice(WORDS)} {CHOICE.choice(WORDS)}\""
    for n in range(2500)
)


def counting():
    words = PROSE.split()
    counts = collections.Counter(words)
    counts.most_common(20)
    plain = {}
    for word in words:
        plain[word] = plain.get(word, 0) + 1
    by_length = collections.defaultdict(list)
    for word in words:
        by_length[len(word)].append(word)
    by_first = {}
    for word in words:
        by_first.setdefault(word[0], set()).add(word)
    sorted(plain, key=plain.get, reverse=True)
    sorted(plain.items(), key=lambda item: (-item[1], item[0]))
    letters = {}
    for letter in PROSE[:30_000]:
        if letter in letters:
            letters[letter] += 1
        else:
            letters[letter] = 1
    for word in ("the", "ab", WORDS[5]):
        PROSE.count(word)
        PROSE.find(word)
        LOG.lower().count(word)


def lines():
    errors, kept, total = [], [], 0
    for number, line in enumerate(LOG.split("\n")):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if "ERROR" in line:
            errors.append((number, line[:16], line.rsplit(" ", 2)[-1].strip('"')))
        fields = line.split()
        if fields[4].upper() == "INFO" and fields[5] in ("GET", "POST") and line.endswith('"'):
            kept.append(" | ".join(fields[:3]).replace("host", "h"))
        head, _, rest = line.partition(": ")
        total += len(head) + len(rest) + rest.count("/") + rest.find("?") + len(head.title())
        if fields[-3].isdigit():
            total += int(fields[-3])
    text = "\n".join(f"{n:>5}: {when} {what!r:<14} {n / 7:.2f} {n:,}" for n, when, what in errors)
    text += "\n".join("%d:%s|%5.1f" % (n, line, n / 3) for n, line in enumerate(kept))
    chunks = [LOG[at : at + 2000] for at in range(0, len(LOG), 1900)]
    [chunk for chunk in chunks if "error" in chunk.lower() and "404" in chunk]
    textwrap.wrap(PROSE[:6000], 72)
    text.splitlines()
    return total, "".join(reversed(text[:500])), text[::3].translate({58: ";", 32: None})


def wide():
    for line in (WIDE + LOG[:20_000]).split("."):
        line.strip().upper().casefold()
        line.encode("utf-8").decode("utf-8")
        line.find("漢字")
        line.isalpha()
        f"{line[:10]!r} {line:>20}"
        ascii(line[:20])
    unicodedata.normalize("NFC", WIDE[:4000])
    "".join(c for c in WIDE[:8000] if c.isalnum() or c in " -")
    sorted(set(WIDE))
    WIDE.replace("é", "e").title()


def patterns():
    entry = re.compile(
        r"^(?P<day>\d{4}-\d\d-\d\d) (?P<time>[\d:]+) (\w+) (\w+)\[(\d+)\]: (INFO|ERROR) (GET|POST) (\S+) (\d{3})", re.M
    )
    status = {}
    for match in entry.finditer(LOG):
        status[match.group(9)] = status.get(match.group(9), 0) + len(match["day"])
    re.findall(r"\b(\w+)@(\w+)\.example\.(org|com)\b", LOG)
    re.findall(r"[\w.+-]+@[\w-]+\.[\w.]+", LOG)
    re.findall(r"\b[A-Z]{2,}\b|\d+", LOG)
    re.findall(r"[a-z]+ing\b", PROSE)
    re.split(r"[\s,;]+", LOG)
    re.sub(r"\s+", " ", PROSE[:40_000])
    re.sub(r"(?i)error|info", lambda match: match.group(0).lower(), LOG)
    number, path = re.compile(r"\d+\.?\d*"), re.compile(r".*?/(\w+)/(\d+)\?")
    for line in LOG.splitlines()[:1200]:
        number.search(line)
        path.match(line)
        re.search(r"(error|fail(ed|ure)?)", line, re.IGNORECASE)
        re.fullmatch(r"\d+.*", line)
    for n in range(40):
        re.compile(rf"(?:a|b{n})+?[x-z{n}]*(\d{{2,3}})?$")


def documents():
    rows = [[n, f"name, {n}", f'"{n}"', n / 3] for n in range(1200)]
    stream = io.StringIO()
    csv.writer(stream).writerows(rows)
    stream.seek(0)
    [row["b"] for row in csv.DictReader(stream, ["a", "b", "c", "d"])]
    for line in io.StringIO(LOG):
        line.rstrip()

    class Titles(html.parser.HTMLParser):
        count = 0

        def handle_starttag(self, tag, attributes):
            self.count += tag == "p"

        def handle_data(self, data):
            self.count += len(data)

    Titles().feed('<html><body>' + '<p class="x" id=3>text &amp; <b>bold</b></p>\n' * 250 + "</body></html>")
    html.escape('<a href="x">&</a>' * 200)
    urllib.parse.parse_qs("&".join(f"k{n}=v%20{n}" for n in range(200)))
    urllib.parse.urlparse("https://example.org/a/b;c?d=e#f")
    difflib.SequenceMatcher(None, "the quick brown fox " * 8, "the quack brown dog " * 8).ratio()
    list(difflib.unified_diff([f"a{n % 50}" for n in range(150)], [f"a{n % 47}" for n in range(150)]))
    data = PROSE.encode()
    base64.b64decode(base64.b64encode(data))
    bytes.fromhex(data[:9000].hex())
    hashlib.sha256(data).hexdigest()
    hashlib.md5(data[:9000]).digest()
    zlib.decompress(zlib.compress(data[:30_000]))
    string.Template("$a $b").substitute(a=1, b=2)


PROGRAMS = ((counting, 4), (lines, 6), (wide, 2), (patterns, 3), (documents, 2))
