"""Blocks of memory by name, in the one process that there is."""

import secrets

_blocks = {}


class SharedMemory:
    def __init__(self, name=None, create=False, size=0, *, track=True):
        if create:
            if size <= 0:
                raise ValueError("'size' must be a positive number different from zero")
            name = name or f"psm_{secrets.token_hex(4)}"
            if name in _blocks:
                raise FileExistsError(f"[Errno 17] File exists: {name!r}")
            _blocks[name] = bytearray(size)
        elif name not in _blocks:
            raise FileNotFoundError(f"[Errno 2] No such file or directory: {name!r}")
        self.name, self.size = name, len(_blocks[name])
        self._view = memoryview(_blocks[name])

    @property
    def buf(self):
        return self._view

    def close(self):
        if self._view is not None:
            self._view.release()
            self._view = None

    def unlink(self):
        _blocks.pop(self.name, None)

    def __repr__(self):
        return f"SharedMemory({self.name!r}, size={self.size})"
