"""Puts packages into an image: their files below /packages, which are fixed then, and their modules.

It runs while an image is made and in no session. What it is given was unpacked and checked by whoever makes the
image; the code of a package runs here and nowhere else.
"""

import importlib
import importlib.util
import io
import json
import linecache
import os
import re
import sys
from importlib._bootstrap_external import _code_to_hash_pyc

FOLDER = "/packages"
# What a session finds there, it wrote itself.
_WRITABLE = ("/tmp", "/out", "/inputs")


def compiled(name, source):
    """Return the compiled file of a module, which is taken as it is: neither of the two ever changes."""
    code = compile(source, os.path.join(FOLDER, name), "exec", dont_inherit=True)
    return bytes(_code_to_hash_pyc(code, bytes(8), checked=False))


def add(name, data):
    """Write one file."""
    path = os.path.join(FOLDER, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "xb") as file:
        file.write(data)


def seal(names):
    """Make the files importable, and import the modules of these names."""
    sys.path.append(FOLDER)
    for name in json.loads(names):
        try:
            importlib.import_module(name)
        except Exception as error:
            raise ImportError(f"{name} cannot be imported: {describe(error)}") from error
    _give_zones()
    for folder in _WRITABLE:
        if left := os.listdir(folder):
            raise ImportError(f"an import has left files in {folder}: {', '.join(left)}")
    importlib.invalidate_caches()
    linecache.clearcache()
    re.purge()


def _give_zones():
    """Have dateutil find time zones: it looks for the files of a package, and they are a frozen module here."""
    if importlib.util.find_spec("dateutil") is None or importlib.util.find_spec("dateutil._tzdata_impl") is None:
        return
    from dateutil import _tzdata_impl

    def open_zone(package, resource):
        from rlm_zonedata import ZONES

        name = "/".join([*package.split(".")[2:], resource])
        if name not in ZONES:
            raise FileNotFoundError(name)
        return io.BytesIO(ZONES[name])

    def open_list(package, resource):
        from rlm_zonedata import ZONES

        return io.StringIO("\n".join(ZONES))

    _tzdata_impl._open_binary, _tzdata_impl._open_text = open_zone, open_list
    _tzdata_impl._is_package_directory = lambda package, resource: False


def describe(error):
    return f"{type(error).__name__}: {error}"[:2000]
