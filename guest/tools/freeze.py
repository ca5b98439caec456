"""Compiles a folder of Python modules to one blob of marshalled code and an index.

Usage: python freeze.py FOLDER OUT [EXCLUDED...]

Runs under the natively built CPython of the guest's own version, so that the bytecode fits. Writes
OUT.bin and OUT.json, a list of [name, offset, size, is_package]. The order of modules, the hash
seed and the process are always the same, and with them the bytes.
"""

import json.encoder
import marshal
import os
import sys

ALIGNMENT = 16
NEVER = {"__pycache__", "test", "tests", "idle_test"}
# sysconfig imports this by a name that no file can be compiled under; only these values are asked for.
SYSCONFIG = ("_sysconfigdata__wasi_wasm32-wasi", b"build_time_vars = {'TZPATH': '', 'EXT_SUFFIX': '.wasm'}\n")


def find(folder, excluded):
    """Yield (module name, path, is_package) of every module below `folder`, in a fixed order."""
    for base, folders, files in os.walk(folder):
        relative = os.path.relpath(base, folder).replace(os.sep, "/")
        prefix = "" if relative == "." else relative + "/"
        folders[:] = sorted(f for f in folders if f not in NEVER and prefix + f not in excluded)
        for file in sorted(files):
            if not file.endswith(".py") or prefix + file in excluded:
                continue
            name = (prefix + file)[:-3].replace("/", ".")
            package = name.endswith(".__init__")
            name = name[:-9] if package else name
            if all(part.isidentifier() for part in name.split(".")):
                yield name, os.path.join(base, file), package


def freeze(name, source):
    return marshal.dumps(compile(source, f"<frozen {name}>", "exec", dont_inherit=True, optimize=0))


def main(folder, out, *excluded):
    modules = []
    for name, path, package in find(folder, set(excluded)):
        with open(path, "rb") as stream:
            modules.append((name, stream.read(), int(package)))
    if any(name == "sysconfig" or name.startswith("sysconfig.") for name, _, _ in modules):
        modules.append((*SYSCONFIG, 0))
    index = []
    with open(out + ".bin", "wb") as blob:
        for name, source, package in modules:
            code = freeze(name, source)
            index.append([name, blob.tell(), len(code), package])
            blob.write(code + bytes(-len(code) % ALIGNMENT))
    with open(out + ".json", "w", encoding="ascii") as stream:
        stream.write(json.encoder.JSONEncoder().encode(index))
    print(len(index), "modules")


if __name__ == "__main__":
    main(*sys.argv[1:])
