"""A file as memory. Nothing can be mapped here, so this is a copy of what the file held when it was made;
what is written to it goes to the file at once."""

import errno
import os

import _rlm

ACCESS_DEFAULT, ACCESS_READ, ACCESS_WRITE, ACCESS_COPY = range(4)
PROT_READ, PROT_WRITE, PROT_EXEC = 1, 2, 4
MAP_SHARED, MAP_PRIVATE, MAP_ANON = 1, 2, 32
MAP_ANONYMOUS = MAP_ANON
PAGESIZE = ALLOCATIONGRANULARITY = 4096
error = OSError


class mmap(bytearray):
    # A bytearray, so that whatever takes a buffer takes this, `re` among it.

    def __new__(cls, *args, **kwargs):
        return super().__new__(cls)

    def __init__(self, fileno, length, flags=MAP_SHARED, prot=PROT_READ | PROT_WRITE, access=ACCESS_DEFAULT,
                 offset=0, *, trackfd=True):
        self._fd = None
        self.closed = True
        self._at = 0
        if length < 0 or offset < 0:
            raise OverflowError("memory mapped length and offset must be positive")
        if access not in (ACCESS_DEFAULT, ACCESS_READ, ACCESS_WRITE, ACCESS_COPY):
            raise ValueError("mmap invalid access parameter.")
        if offset % ALLOCATIONGRANULARITY:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self._reads_only = access == ACCESS_READ or access == ACCESS_DEFAULT and not prot & PROT_WRITE
        shared = access == ACCESS_WRITE or access == ACCESS_DEFAULT and flags & MAP_SHARED
        self._offset = offset
        if fileno == -1:
            if length == 0:
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            super().__init__(length)
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
            super().__init__(os.pread(fileno, length, offset))
            if shared and not self._reads_only:
                self._fd = _rlm.dup(fileno)
                try:
                    os.pwrite(self._fd, b"", 0)
                except OSError:
                    self.close()
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES)) from None
        self.closed = False

    def _check(self, writes=False):
        if self.closed:
            raise ValueError("mmap closed or invalid")
        if writes and self._reads_only:
            raise TypeError("mmap can't modify a readonly memory map.")

    def _store(self, start, data):
        self._check(writes=True)
        if start < 0 or start + len(data) > len(self):
            raise ValueError("data out of range")
        super().__setitem__(slice(start, start + len(data)), data)
        if self._fd is not None and len(data):
            os.pwrite(self._fd, data, self._offset + start)

    def __getitem__(self, key):
        self._check()
        found = super().__getitem__(key)
        return found if type(found) is int else bytes(found)

    def __setitem__(self, key, value):
        self._check(writes=True)
        before = len(self)
        if isinstance(key, slice):
            if len(value) != len(range(*key.indices(before))):
                raise IndexError("mmap slice assignment is wrong size")
        super().__setitem__(key, value)
        if self._fd is not None:
            where = range(before)[key]
            first, last = (where, where) if type(where) is int else (min(where, default=0), max(where, default=-1))
            os.pwrite(self._fd, super().__getitem__(slice(first, last + 1)), self._offset + first)

    def __delitem__(self, key):
        raise TypeError("mmap object doesn't support item deletion")

    def _never(self, *args):
        raise TypeError("an mmap has its length for ever")

    __iadd__ = __imul__ = append = clear = extend = insert = pop = remove = _never

    def __repr__(self):
        return f"<mmap.mmap closed={self.closed}>" if self.closed else f"<mmap.mmap length={len(self)}>"

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

    def madvise(self, *args):
        self._check()

    def size(self):
        self._check()
        return len(self) if self._fd is None else os.fstat(self._fd).st_size

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
        raise SystemError("mmap: resizing not available--no mremap()")
