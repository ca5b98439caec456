"""Values and arrays of one C type, without ctypes."""

import array
import threading

_ZERO = {"c": b"\0", "u": "\0", "w": "\0", "f": 0.0, "d": 0.0}


class _Shared:
    def __init__(self, lock):
        self._lock = threading.RLock() if lock is True or lock is None else lock or None

    def get_lock(self):
        return self._lock

    def get_obj(self):
        return self

    def acquire(self, *args):
        return self._lock.acquire(*args)

    def release(self):
        self._lock.release()

    def __enter__(self):
        return self._lock.__enter__()

    def __exit__(self, kind, error, trace):
        return self._lock.__exit__(kind, error, trace)


class _Value(_Shared):
    def __init__(self, typecode, value, lock):
        super().__init__(lock)
        self._cell = _Cells(typecode, [value])

    @property
    def value(self):
        return self._cell[0]

    @value.setter
    def value(self, value):
        self._cell[0] = value

    def __repr__(self):
        return f"<Value {self.value!r}>"


class _Array(_Shared):
    def __init__(self, typecode, values, lock):
        super().__init__(lock)
        self._cells = _Cells(typecode, values)

    def __len__(self):
        return len(self._cells)

    def __getitem__(self, key):
        found = self._cells[key]
        return list(found) if isinstance(found, array.array) else found

    def __setitem__(self, key, value):
        self._cells[key] = array.array(self._cells.typecode, value) if isinstance(key, slice) else value

    def __iter__(self):
        return iter(self._cells)

    def __repr__(self):
        return f"<Array {list(self)!r}>"


class _Bytes(_Shared):
    """An array of "c": bytes, and as `value` those before the first zero."""

    def __init__(self, values, lock):
        super().__init__(lock)
        self.raw = bytearray(values)

    @property
    def value(self):
        return bytes(self.raw).partition(b"\0")[0]

    @value.setter
    def value(self, value):
        self.raw[: len(value)] = value

    def __len__(self):
        return len(self.raw)

    def __getitem__(self, key):
        return bytes(self.raw[key]) if isinstance(key, slice) else bytes((self.raw[key],))

    def __setitem__(self, key, value):
        self.raw[key] = value if isinstance(key, slice) else ord(value)


def _Cells(typecode, values):
    if not isinstance(typecode, str):
        raise TypeError("a type is given by its letter here, such as 'i' or 'd': there is no ctypes")
    return array.array(typecode, values)


def Value(typecode_or_type, *args, lock=True, ctx=None):
    return _Value(typecode_or_type, args[0] if args else _ZERO.get(typecode_or_type, 0), lock)


def Array(typecode_or_type, size_or_initializer, *, lock=True, ctx=None):
    values = size_or_initializer
    if typecode_or_type == "c":
        return _Bytes(values, lock)
    if isinstance(values, int):
        values = [_ZERO.get(typecode_or_type, 0)] * values
    return _Array(typecode_or_type, values, lock)


def RawValue(typecode_or_type, *args):
    return Value(typecode_or_type, *args, lock=False)


def RawArray(typecode_or_type, size_or_initializer):
    return Array(typecode_or_type, size_or_initializer, lock=False)
