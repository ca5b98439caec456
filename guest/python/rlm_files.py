"""What the host asks of this session's files, by cells of its own. It checks all that comes back."""

import binascii
import json
import os
import stat

import _rlm
import rlm_repl

_KINDS = {stat.S_IFREG: "f", stat.S_IFDIR: "d", stat.S_IFLNK: "l"}


def put(path, name):
    """Write the input called `name` to a file, with the folders above it, and forget it."""
    path, data = os.fsdecode(path), rlm_repl.take_input(name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(data)


def get(path, offset, length):
    """Send a part of a file."""
    with open(os.fsdecode(path), "rb", buffering=0) as file:
        file.seek(offset)
        _rlm.emit(1, binascii.b2a_base64(file.read(length), newline=False))


def tell(path, entries_max):
    """Send what lies below a folder, or the file that it is, as far as there is room: links stay links."""
    found = []
    waiting = [path]
    while waiting and len(found) < entries_max:
        path = waiting.pop()
        about = os.lstat(os.fsdecode(path))
        kind = _KINDS.get(stat.S_IFMT(about.st_mode))
        if kind is None:
            continue
        found.append((path.hex(), kind, about.st_size, about.st_mtime_ns))
        if kind == "d":
            waiting += sorted((os.path.join(path, name) for name in os.listdir(path)), reverse=True)
    paths, kinds, sizes, times = zip(*found) if found else ((), (), (), ())
    _rlm.emit(1, json.dumps({"paths": paths, "kinds": "".join(kinds), "sizes": sizes, "modified_ns": times}).encode())
