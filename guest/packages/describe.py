"""Stands in for the guest's Python while a package is built: a cross build has none that it could ask.

Usage: python describe.py SERIES INCLUDE [ARGUMENT...]

meson asks a Python about itself with a program of its own, `python_info.py`, and gets the guest's description.
Whatever else it is asked to run are the package's own generators: the Python of the build runs them.
"""

import json
import os
import sys


def describe(series, include):
    names = ("data", "include", "platinclude", "platlib", "platstdlib", "purelib", "scripts", "stdlib")
    paths = {name: "/usr/lib/python" for name in names}
    return {
        "variables": {"base_prefix": "/usr", "INCLUDEPY": include, "LIBDIR": "/usr/lib"},
        "paths": paths,
        "sysconfig_paths": {**paths, "include": include},
        "install_paths": paths,
        "version": series,
        "platform": "wasi-wasm32",
        "is_pypy": False,
        "is_venv": False,
        "link_libpython": False,
        "suffix": ".so",
        "limited_api_suffix": ".abi3.so",
        "is_freethreaded": False,
    }


def main(series, include, *arguments):
    if arguments and os.path.basename(arguments[0]) == "python_info.py":
        print(json.dumps(describe(series, include)))
    else:
        os.execv(sys.executable, [sys.executable, "-B", *arguments])


if __name__ == "__main__":
    main(*sys.argv[1:])
