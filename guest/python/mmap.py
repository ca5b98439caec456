"""A file as memory. Nothing can be mapped here, so this is a copy of what the file held when it was made;
what is written to it goes to the file at once."""

import errno
import operator
import os

import _rlm

ACCESS_DEFAULT, ACCESS_READ, ACCESS_WRITE, ACCESS_COPY = range(4)
PROT_READ, PROT_WRITE, PROT_EXEC = 1, 2, 4
MAP_SHARED, MAP_PRIVATE, MAP_ANON = 1, 2, 32
MAP_ANONYMOUS = MAP_ANON
PAGESIZE = ALLOCATIONGRANULARITY = 4096
error = OSError
_ACCESSES = "ACCESS_DEFAULT", "ACCESS_READ", "ACCESS_WRITE", "ACCESS_COPY"


class mmap(bytearray):
    # A bytearray, so that whatever takes a buffer takes this, `re` among it.
    closed, _fd = True, None

    def __new__(cls, fileno, length, flags=MAP_SHARED, prot=PROT_READ | PROT_WRITE, access=ACCESS_DEFAULT,
                offset=0, *, trackfd=True):
        if length < 0 or offset < 0:
            raise OverflowError("memory mapped length and offset must be positive")
        if access not in range(len(_ACCESSES)):
            raise ValueError("mmap invalid access parameter.")
        if access != ACCESS_DEFAULT and (flags != MAP_SHARED or prot != PROT_READ | PROT_WRITE):
            raise ValueError("mmap can't specify both access and flags, prot.")
        if offset % ALLOCATIONGRANULARITY or fileno == -1 and length == 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self = super().__new__(cls)
        self._fd = None
        self._at, self._offset, self._access, self._tracks = 0, offset, access, trackfd
        self._reads_only = access == ACCESS_READ or access == ACCESS_DEFAULT and not prot & PROT_WRITE
        self._shared = access == ACCESS_WRITE or access == ACCESS_DEFAULT and bool(flags & MAP_SHARED)
        if fileno == -1:
            bytearray.__init__(self, length)
        else:
            size = os.fstat(fileno).st_size
            if length == 0:
                if size == 0:
                    raise ValueError("cannot mmap an empty file")
                if offset >= size:
                    raise ValueError("mmap offset is greater than file size")
                length = size - offset
            elif offset + length > size:
                raise ValueError("mmap length is greater than file size")
            bytearray.__init__(self, os.pread(fileno, length, offset))
            self._fd = _rlm.dup(fileno)
            if self._shared and not self._reads_only:
                try:
                    os.pwrite(self._fd, b"", 0)
                except OSError:
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES)) from None
        self.closed = False
        return self

    def __init__(self, *args, **kwargs):
        pass  # all of it was done

    def _check(self, writes=False):
        if self.closed:
            raise ValueError("mmap closed or invalid")
        if writes and self._reads_only:
            raise TypeError("mmap can't modify a readonly memory map.")

    def _where(self, key):
        # First, because asking a number for its value may run code that closes this.
        where = range(*key.indices(len(self))) if isinstance(key, slice) else operator.index(key)
        self._check()
        return where

    def _store(self, start, data):
        self._check(writes=True)
        if start < 0 or start + len(data) > len(self):
            raise ValueError("data out of range")
        super().__setitem__(slice(start, start + len(data)), data)
        self._write_through(start, start + len(data))

    def _write_through(self, start, end):
        if self._fd is not None and self._shared and end > start:
            os.pwrite(self._fd, super().__getitem__(slice(start, end)), self._offset + start)

    def __getitem__(self, key):
        where = self._where(key)
        if type(where) is int:
            return super().__getitem__(where)
        if where.step == 1:
            return bytes(super().__getitem__(slice(where.start, max(where.start, where.stop))))
        return bytes([bytearray.__getitem__(self, place) for place in where])

    def __setitem__(self, key, value):
        where = self._where(key)
        if type(where) is int:
            if not -len(self) <= where < len(self):
                raise IndexError("mmap index out of range")
            where, value = range(where % len(self), where % len(self) + 1), (operator.index(value),)
        self._check(writes=True)
        if len(value) != len(where):
            raise IndexError("mmap slice assignment is wrong size")
        if where.step == 1 and type(value) is not tuple:
            self._store(where.start, bytes(value))
            return
        for place, byte in zip(where, value):
            super().__setitem__(place, byte)
        if where:
            self._write_through(min(where), max(where) + 1)

    def __delitem__(self, key):
        raise TypeError("mmap object doesn't support item deletion")

    def _never(self, *args):
        raise TypeError("an mmap has its length for ever")

    __add__ = __radd__ = __mul__ = __rmul__ = __iadd__ = __imul__ = append = clear = extend = insert = pop = remove = _never

    def __repr__(self):
        what = f"mmap.mmap closed={self.closed}, access={_ACCESSES[self._access]}"
        return f"<{what}>" if self.closed else f"<{what}, length={len(self)}, pos={self._at}, offset={self._offset}>"

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def close(self):
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
        if not self.closed:
            super().clear()  # a BufferError while somebody has a view of it
        self.closed = True

    def __del__(self):
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def flush(self, offset=0, size=None):
        self._check()

    def size(self):
        self._check()
        if self._fd is None or not self._tracks:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return os.fstat(self._fd).st_size

    def tell(self):
        self._check()
        return self._at

    def seek(self, offset, whence=0):
        self._check()
        if whence not in (0, 1, 2):
            raise ValueError("unknown seek type")
        to = offset + (0, self._at, len(self))[whence]
        if not 0 <= to <= len(self):
            raise ValueError("seek out of range")
        self._at = to
        return to

    def seekable(self):
        return True

    def read(self, count=None):
        self._check()
        end = len(self) if count is None or count < 0 else min(len(self), self._at + count)
        found = self[self._at : end]
        self._at = max(self._at, end)
        return found

    def read_byte(self):
        self._check()
        if self._at >= len(self):
            raise ValueError("read byte out of range")
        self._at += 1
        return self[self._at - 1]

    def readline(self):
        self._check()
        end = super().find(b"\n", self._at)
        return self.read(None if end < 0 else end + 1 - self._at)

    def write(self, data):
        data = bytes(data)
        self._store(self._at, data)
        self._at += len(data)
        return len(data)

    def write_byte(self, byte):
        self._store(self._at, bytes((byte,)))
        self._at += 1

    def move(self, to, start, count):
        if min(to, start, count) < 0 or max(to, start) + count > len(self):
            raise ValueError("source, destination, or count out of range")
        self._store(to, self[start : start + count])

    def find(self, sub, start=None, end=None):
        self._check()
        return super().find(sub, self._at if start is None else start, len(self) if end is None else end)

    def rfind(self, sub, start=None, end=None):
        self._check()
        return super().rfind(sub, self._at if start is None else start, len(self) if end is None else end)

    def resize(self, size):
        self._check()
        if self._reads_only or not self._shared:
            raise TypeError("mmap can't resize a readonly or copy-on-write memory map.")
        raise SystemError("mmap: resizing not available--no mremap()")
