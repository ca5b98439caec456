"""The inputs that lie with the host: each a file in /inputs, and those that are larger than this memory text or
bytes of which only what somebody looks at is read."""

import builtins
import io
import json
import os
import re
import sys
from bisect import bisect_right

import _rlm

PAGE = 1 << 20
PAGES_AT_ONCE = 64
NEEDLE_MAX = 4096
LINES_BUFFER = 1 << 20
WINDOW = 1 << 20
_CONTINUATION = bytes(range(0x80, 0xC0))
_len = len


def read_document(text):
    """What the host says of an input beside its contents."""
    return json.loads(text)


def add(about, value):
    """Make the file of an input, or the files of a folder, and return what its variable is bound to."""
    name = bytes.fromhex(about["file"])
    path = b"/inputs/" + name
    if about["folder"]:
        # The files are the texts of the dict, in its order.
        for number, below in enumerate(value, about["number"]):
            _add_file(path + b"/" + os.fsencode(below), number)
        return value
    _add_file(path, about["number"])
    if not about["lazy"]:
        return value
    _teach_len()
    _teach_re()
    kind = LazyText if about["lazy"] == "text" else LazyBytes
    return kind(about["number"], os.fsdecode(path), about["name"])


def _add_file(path, number):
    try:
        _rlm.add_input(path, number)
    except OSError:
        pass  # the cells before have removed the folder, or made one of that name: it is theirs


class _File(io.RawIOBase):
    def __init__(self, number, start, end):
        self._number, self._at, self._end = number, start, end

    def readable(self):
        return True

    def readinto(self, buffer):
        data = _rlm.read_input(self._number, self._at, max(0, min(_len(buffer), self._end - self._at)))
        buffer[: _len(data)] = data
        self._at += _len(data)
        return _len(data)


class _Lazy:
    """What both have in common: places here are those of bytes."""

    def __init__(self, number, path, name):
        self._number, self.path, self._name = number, path, name
        self._size = None

    @property
    def size(self):
        """How many bytes it has."""
        if self._size is None:
            self._size = _rlm.input_size(self._number)
        return self._size

    def __repr__(self):
        return f"<{type(self).__name__} of {self.size} bytes: {self.path}>"

    def __bool__(self):
        return self.size > 0

    def __len__(self):
        return _as_len(self._length(), self._name)

    def _read(self, start, end):
        try:
            return _rlm.read_input(self._number, start, max(0, end - start))
        except MemoryError:
            raise MemoryError(
                f"{end - start} bytes of {self._name} are more than this memory has room for; take them in "
                f"smaller slices, or line by line: for line in {self._name}"
            ) from None

    def _find(self, needle, start, end):
        """The place of the first byte, or -1. What is found ends before `end`."""
        end = min(end, self.size)
        last = end - _len(needle) + 1
        head = needle[:NEEDLE_MAX]
        while start < last:
            found, next = _rlm.search_input(self._number, 0, head, start, last)
            if found < 0:
                if next <= start:
                    break
                start = next
            elif _len(needle) <= NEEDLE_MAX or self._read(found, found + _len(needle)) == needle:
                return found
            else:
                start = found + 1
        return -1

    def _count(self, needle, start, end):
        end = min(end, self.size)
        last, total = end - _len(needle) + 1, 0
        if _len(needle) > NEEDLE_MAX:
            while (start := self._find(needle, start, end)) >= 0:
                total, start = total + 1, start + _len(needle)
            return total
        while start < last:
            found, next = _rlm.search_input(self._number, 1, needle, start, last)
            if next <= start:
                break
            total, start = total + found, next
        return total

    def _too_large(self, name):
        raise MemoryError(
            f"{self._name}.{name}() would take all of {self._name} into memory, {self.size} bytes; work on "
            f"slices, {self._name}[start:end], or line by line: for line in {self._name}"
        )

    def __str__(self):
        self._too_large("__str__")

    def __format__(self, spec):
        self._too_large("__format__")

    def __add__(self, other):
        self._too_large("__add__")

    __radd__ = __mul__ = __rmul__ = __mod__ = __add__


def _refusing(name):
    def method(self, *args, **kwargs):
        self._too_large(name)

    method.__name__ = name
    return method


# Whatever of a str's or bytes' methods makes another of all of it.
for _name in ("capitalize", "casefold", "center", "decode", "encode", "expandtabs", "format", "join", "ljust",
              "lower", "lstrip", "partition", "removeprefix", "removesuffix", "replace", "rjust", "rpartition",
              "rsplit", "rstrip", "split", "strip", "swapcase", "title", "translate", "upper", "zfill"):
    setattr(_Lazy, _name, _refusing(_name))


class LazyBytes(_Lazy):
    """Bytes that stay with the host: `len`, slices, `find`, `count` and `in` without having them here."""

    def __init__(self, number, path, name):
        super().__init__(number, path, name)

    def _length(self):
        return self.size

    def __getitem__(self, key):
        if isinstance(key, slice):
            start, stop, step = key.indices(self.size)
            if step == 1:
                return self._read(start, stop)
            if start == stop or (stop > start) != (step > 0):
                return b""
            low, high = (start, stop) if step > 0 else (stop + 1, start + 1)
            return self._read(low, high)[:: step if step > 0 else step]
        key = key.__index__()
        if key < 0:
            key += self.size
        if not 0 <= key < self.size:
            raise IndexError("index out of range")
        return self._read(key, key + 1)[0]

    def __iter__(self):
        return io.BufferedReader(_File(self._number, 0, self.size), LINES_BUFFER)

    def splitlines(self, keepends=False):
        """Its lines, one after the other."""
        return (line if keepends else line.rstrip(b"\r\n") for line in self)

    def find(self, sub, start=None, end=None):
        start, end, _ = slice(start, end).indices(self.size)
        if sub == b"":
            return start if start <= end else -1
        return self._find(bytes(sub), start, end)

    def index(self, sub, start=None, end=None):
        found = self.find(sub, start, end)
        if found < 0:
            raise ValueError("subsection not found")
        return found

    def count(self, sub, start=None, end=None):
        start, end, _ = slice(start, end).indices(self.size)
        if sub == b"":
            return max(0, end - start + 1)
        return self._count(bytes(sub), start, end)

    def __contains__(self, sub):
        if isinstance(sub, int):
            sub = bytes((sub,))
        return self.find(sub) >= 0

    def startswith(self, prefix):
        return self._read(0, _len(prefix)) == prefix

    def endswith(self, suffix):
        return self._read(max(0, self.size - _len(suffix)), self.size) == suffix

    def finditer(self, pattern, flags=0, window=WINDOW):
        """The matches of a pattern, in windows of so many bytes that end with a line: none goes beyond one."""
        return _matches(pattern, flags, _windows(iter(self).read, iter(self).readline, window, self), b"")


class LazyText(_Lazy):
    """The text of a file in UTF-8 that stays with the host. Places are those of characters (code points).

    How many characters there are before a place is counted once, up to the furthest that was asked for. What
    is no UTF-8 is U+FFFD in what comes of it. `size` is how many bytes it has, `bytes` the same as LazyBytes.
    """

    def __init__(self, number, path, name):
        super().__init__(number, path, name)
        # How many characters begin before each page.
        self._before = [0]

    @property
    def bytes(self):
        """The same input as bytes, whose places are known without counting."""
        return LazyBytes(self._number, self.path, f"{self._name}.bytes")

    @property
    def _pages(self):
        return -(-self.size // PAGE)

    def _count_page(self):
        """Count a few more pages."""
        first = _len(self._before) - 1
        count = min(PAGES_AT_ONCE, self._pages - first)
        counts = memoryview(_rlm.count_characters(self._number, first * PAGE, count)).cast("I")
        for characters in counts:
            self._before.append(self._before[-1] + characters)

    def _length(self):
        while _len(self._before) <= self._pages:
            self._count_page()
        return self._before[-1]

    def _byte(self, place):
        """Where the character of this place begins; the end, if there are fewer."""
        before = self._before
        while before[-1] <= place and _len(before) <= self._pages:
            self._count_page()
        if before[-1] <= place:
            return self.size
        page = bisect_right(before, place) - 1
        start, skip = page * PAGE, place - before[page]
        end = min(start + PAGE, self.size)
        if before[page + 1] - before[page] == end - start:
            return start + skip
        data = _rlm.read_input(self._number, start, end - start)
        # The beginning of character `skip` of the page, by halves.
        low, high = 0, _len(data)
        while high - low > 1:
            middle = (low + high) // 2
            part = _len(data[low:middle].translate(None, _CONTINUATION))
            if part > skip:
                high = middle
            else:
                low, skip = middle, skip - part
        # `low` is the last byte before which `skip` more begin: a character's first, or one that goes on.
        while data[low] & 0xC0 == 0x80 or skip:
            if data[low] & 0xC0 != 0x80:
                skip -= 1
            low += 1
        return start + low

    def _place(self, byte):
        """How many characters begin before a byte."""
        page = byte // PAGE
        while _len(self._before) <= page:
            self._count_page()
        data = _rlm.read_input(self._number, page * PAGE, byte - page * PAGE)
        return self._before[page] + _len(data.translate(None, _CONTINUATION))

    def _text(self, start, end):
        return self._read(start, end).decode("utf-8", "replace")

    def _tail(self, count):
        """The last so many characters, for which none have to be counted."""
        data = self._read(max(0, self.size - 4 * count), self.size)
        begin = 0
        while begin < min(3, _len(data)) and data[begin] & 0xC0 == 0x80:
            begin += 1
        return data[begin:].decode("utf-8", "replace")[-count:]

    def __getitem__(self, key):
        if isinstance(key, slice):
            start, stop, step = key.start, key.stop, key.step
            if step is None or step == 1:
                if stop is None and start is not None and start.__index__() < 0:
                    return self._tail(-start.__index__())
                start = 0 if start is None else start.__index__()
                if start < 0 or stop is not None and stop.__index__() < 0:
                    start, stop, _ = key.indices(self._length())
                if stop is not None and stop.__index__() <= start:
                    return ""
                end = self.size if stop is None else self._byte(stop.__index__())
                return self._text(self._byte(start), end)
            start, stop, step = key.indices(self._length())
            places = range(start, stop, step)
            if not places:
                return ""
            low, high = min(places[0], places[-1]), max(places[0], places[-1])
            text = self[low : high + 1]
            return text[::step] if step > 0 else text[::-1][::-step]
        place = key.__index__()
        if place < 0:
            place += self._length()
        found = self[place : place + 1] if place >= 0 else ""
        if not found:
            raise IndexError("string index out of range")
        return found

    def __iter__(self):
        # `utf-8` and no other newlines than that: the fastest way there is, and the lines end as they do.
        raw = io.BufferedReader(_File(self._number, 0, self.size), LINES_BUFFER)
        lines = io.TextIOWrapper(raw, encoding="utf-8", errors="replace", newline="\n")
        lines._CHUNK_SIZE = 1 << 17
        return lines

    def splitlines(self, keepends=False):
        """Its lines, one after the other: they end with \\n, \\r\\n or \\r."""
        raw = io.BufferedReader(_File(self._number, 0, self.size), LINES_BUFFER)
        lines = io.TextIOWrapper(raw, encoding="utf-8", errors="replace", newline="")
        return lines if keepends else (line.rstrip("\r\n") for line in lines)

    def _bounds(self, start, end):
        """Places of characters as those of bytes."""
        if start is not None and start < 0 or end is not None and end < 0:
            start, end, _ = slice(start, end).indices(self._length())
        return self._byte(start) if start else 0, self.size if end is None else self._byte(end)

    def find(self, sub, start=None, end=None):
        low, high = self._bounds(start, end)
        if sub == "":
            return self._place(low) if low <= high else -1
        found = self._find(sub.encode("utf-8", "surrogatepass"), low, high)
        return found if found < 0 else self._place(found)

    def index(self, sub, start=None, end=None):
        found = self.find(sub, start, end)
        if found < 0:
            raise ValueError("substring not found")
        return found

    def count(self, sub, start=None, end=None):
        low, high = self._bounds(start, end)
        if sub == "":
            return max(0, self._place(high) - self._place(low) + 1)
        return self._count(sub.encode("utf-8", "surrogatepass"), low, high)

    def __contains__(self, sub):
        return sub == "" or self._find(sub.encode("utf-8", "surrogatepass"), 0, self.size) >= 0

    def startswith(self, prefix):
        return self._text(0, _len(prefix.encode())) == prefix

    def endswith(self, suffix):
        return suffix == "" or self._tail(_len(suffix)) == suffix

    def finditer(self, pattern, flags=0, window=WINDOW):
        """The matches of a pattern, in windows of so many characters that end with a line: none goes beyond one."""
        lines = iter(self)
        return _matches(pattern, flags, _windows(lines.read, lines.readline, window, self), "")


def _windows(read, readline, size, lazy):
    offset = 0
    while data := read(size):
        # To the end of the line, but no further than as much again.
        data += readline(size)
        yield offset, data
        offset += _len(data)


class Found:
    """A match in a window. Its places are those of the whole; `match` is the match itself."""

    def __init__(self, match, offset):
        self.match, self.offset = match, offset

    def __getattr__(self, name):
        return getattr(self.match, name)

    def __getitem__(self, group):
        return self.match[group]

    def start(self, group=0):
        place = self.match.start(group)
        return place if place < 0 else place + self.offset

    def end(self, group=0):
        place = self.match.end(group)
        return place if place < 0 else place + self.offset

    def span(self, group=0):
        return self.start(group), self.end(group)

    def __repr__(self):
        return f"<Found span={self.span()} match={self.match.group()!r:.60}>"


def _matches(pattern, flags, windows, empty):
    compiled = re.compile(pattern, flags) if isinstance(pattern, type(empty)) else pattern
    for offset, data in windows:
        for match in compiled.finditer(data):
            yield Found(match, offset)


# -- what of Python has to know of them --------------------------------------------------------------


def _as_len(length, name):
    if length > sys.maxsize:
        raise OverflowError(f"{name} has {length} characters or bytes, which this len() cannot say; {name}.size is its bytes")
    return length


def _session_len(obj, /):
    """Return the number of items in a container."""
    # Memory of 32 bits: the interpreter's own could say no more than 2,147,483,647.
    return obj._length() if isinstance(obj, _Lazy) else _len(obj)


def _teach_len():
    import rlm_repl

    _session_len.__name__ = "len"
    rlm_repl.namespace.setdefault("len", _session_len)
    rlm_repl._inputs["len"] = id(_session_len)  # no variable that somebody made


def _teach_re():
    if getattr(re.finditer, "knows_inputs", False):
        return
    for name in ("finditer", "findall", "search"):
        setattr(re, name, _knowing(name, getattr(re, name)))


def _knowing(name, own):
    def function(pattern, string, flags=0):
        if not isinstance(string, _Lazy):
            return own(pattern, string, flags)
        found = string.finditer(pattern, flags)
        if name == "search":
            return next(found, None)
        if name == "findall":
            return [one.groups() if _len(one.groups()) > 1 else one[_len(one.groups())] for one in found]
        return found

    function.__name__, function.__doc__, function.knows_inputs = name, own.__doc__, True
    return function
