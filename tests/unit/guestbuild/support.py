"""What the image tests share: a real HTTP server on loopback, archives made by hand, a small manifest."""

from __future__ import annotations

import hashlib
import io
import platform
import tarfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from rlm_wasm.guestbuild.manifest import PinnedFile


@dataclass
class Site:
    """What the server serves. `break_after`: for that many requests, close half-way through the body."""

    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    break_after: int = 0
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    root: str = ""
    asked: threading.Event = field(default_factory=threading.Event)
    # Of this path the first half is sent, then nothing until the client goes away.
    stalling: str = ""


@contextmanager
def serve() -> Iterator[Site]:
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            site.asked.set()
            site.requests.append((self.path, wanted))
            body = site.files.get(self.path)
            if body is None:
                self.send_error(404)
                return
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and site.ranges else 0
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            rest = body[start:]
            self.send_header("Content-Length", str(len(rest)))
            self.end_headers()
            if site.break_after > 0:
                site.break_after -= 1
                rest = rest[: len(rest) // 2]
            if self.path == site.stalling:
                self.wfile.write(rest[: len(rest) // 2])
                self.rfile.read(1)
                return
            self.wfile.write(rest)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site.root = f"http://127.0.0.1:{server.server_address[1]}/"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def pin(content: bytes, *, pool: str | None = "pool/main/x/x.tar", urls: Sequence[str] = ()) -> PinnedFile:
    return PinnedFile(hashlib.sha256(content).hexdigest(), len(content), pool, tuple(urls))


class Watched:
    """A `Progress` that remembers what it was told."""

    def __init__(self) -> None:
        self.began: list[str] = []
        self.notes: list[str] = []
        self.planned: list[list[str]] = []

    def plan(self, stages: Sequence[tuple[str, int]]) -> None:
        self.planned.append([name for name, _ in stages])

    def begin(self, stage: str, text: str) -> None:
        self.began.append(stage)

    def advance(self, stage: str, fraction: float) -> None:
        assert 0.0 <= fraction <= 1.0

    def end(self, stage: str) -> None:
        pass

    def note(self, text: str) -> None:
        self.notes.append(text)


def member(name: str, content: bytes = b"", **changes: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = len(content), 0o644, 1_000_000_000
    for key, value in changes.items():
        setattr(info, key, value)
    return info, content


def tar(path: Path, *members: tuple[tarfile.TarInfo, bytes], mode: str = "w:xz") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return path


def deb(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    data = tar(path.with_suffix(".data"), *members).read_bytes()
    parts = [("debian-binary", b"2.0\n"), ("control.tar.xz", b"odd"), ("data.tar.xz", data)]
    out = b"!<arch>\n"
    for name, content in parts:
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode() + content
        out += b"\n" * (len(content) % 2)
    path.write_bytes(out)
    return path


MANIFEST = """
format = 1
[boundary]
module = "rlm"
imports = ["call", "take"]
exports = ["memory", "rlm_exec"]
[compile]
target = "wasm32-wasip1"
source_date_epoch = 1767225600
configure = ["--with-pymalloc"]
opt = ["-O3"]
small = ["Python/ceval.o"]
[training]
instrument = ["-fprofile-generate"]
use = ["-Werror"]
merge = ["-r"]
alone = ["Python/ceval.o"]
shim = ["start.c"]
[link]
shim = ["-O2"]
flags = ["-O2"]
libraries = ["-lm"]
wrap = ["chdir"]
[stdlib]
exclude = ["tkinter"]
[[python]]
series = "3.14"
version = "3.14.7"
config_site = "Tools/site"
patches = ["one"]
files = [{ pool = "pool/main/p/python.tar.xz", bytes = 6, sha256 = "%(python)s" }]
[[library]]
name = "zlib"
archive = "z"
configure = "ZLIB"
folder = ""
sources = ["*.c"]
leave = []
include = ["."]
headers_in = ""
headers = ["zlib.h"]
flags = []
releases = [
  { version = "1.3.2", files = [{ pool = "pool/main/z/zlib.tar.gz", bytes = 4, sha256 = "%(zlib)s" }] },
]
[[zones]]
version = "2026.6"
files = [{ pool = "pool/main/t/tzdata.whl", bytes = 7, sha256 = "%(tzdata)s" }]
[[toolchain]]
name = "clang-22"
machine = "%(machine)s"
llvm = "usr/lib/llvm-22"
cflags = ["-fwrapv"]
packages = [{ pool = "pool/main/c/clang-22.deb", bytes = 8, sha256 = "%(clang22)s" }]
wasi_libc = { pool = "pool/main/w/wasi-libc.deb", bytes = 4, sha256 = "%(wasi)s" }
[[toolchain]]
name = "clang-19"
machine = "%(machine)s"
llvm = "usr/lib/llvm-19"
cflags = []
packages = [{ pool = "pool/main/c/clang-19.deb", bytes = 8, sha256 = "%(clang19)s" }]
wasi_libc = { pool = "pool/main/w/wasi-libc.deb", bytes = 4, sha256 = "%(wasi)s" }
[[host_tool]]
name = "make"
path = "usr/bin/make"
file = { pool = "pool/main/m/make.deb", bytes = 4, sha256 = "%(make)s" }
[[host_library]]
soname = "libz.so.1"
file = { pool = "pool/main/z/zlib1g.deb", bytes = 6, sha256 = "%(zlib1g)s" }
"""

CONTENTS = {
    "python": b"python", "zlib": b"zlib", "clang22": b"clang-22", "clang19": b"clang-19",
    "wasi": b"wasi", "make": b"make", "zlib1g": b"zlib1g",
    "tzdata": b"zones26",
}  # fmt: skip
PATHS = {
    "/pool/main/p/python.tar.xz": b"python", "/pool/main/z/zlib.tar.gz": b"zlib",
    "/pool/main/c/clang-22.deb": b"clang-22", "/pool/main/c/clang-19.deb": b"clang-19",
    "/pool/main/w/wasi-libc.deb": b"wasi", "/pool/main/t/tzdata.whl": b"zones26",
}  # fmt: skip


def guest_folder(folder: Path, changes: dict[str, str] | None = None) -> Path:
    """Write a small but complete guest folder; `changes` are replacements in its manifest."""
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENTS.items()}
    text = MANIFEST % {**hashes, "machine": platform.machine()}
    for old, new in (changes or {}).items():
        assert old in text
        text = text.replace(old, new)
    for name, content in {
        "manifest.toml": text,
        "patches/one.toml": 'file = "a.c"\nsearch = "old"\nreplace = "new"\n',
        "libraries/zlib/more.c": "int more;\n",
        "shim/rlm.c": "int rlm;\n",
        "shim/start.c": "int start;\n",
        "training/train.c": "int train;\n",
        "training/rlm_training.py": "def train(): pass\n",
        "python/rlm_boot.py": "boot = 1\n",
        "tools/freeze.py": "print()\n",
    }.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return folder


_PACKAGE = """
[[cxx]]
toolchain = "clang-22"
files = [{{ pool = "pool/main/c/libcxx.deb", bytes = 3, sha256 = "{a}" }}]
[[package]]
name = "arrays"
version = "1.0"
licence = "MIT"
meson = "meson.py"
options = ["-Dx=1"]
flags = ["-O2"]
cxx_flags = []
patches = ["arrays-one"]
extensions = ["arrays._core", "arrays.sub._more"]
imports = ["arrays"]
leave = []
archives = ["-lmore"]
seconds = 9
cython = {{ wheel = "cython-1.0-py3-none-any.whl", bytes = 3, sha256 = "{b}" }}
files = [{{ sdist = "arrays-1.0.tar.gz", backend = "mesonpy", bytes = 3, sha256 = "{c}" }}]
test_wheels = [{{ wheel = "pytest-1.0-py3-none-any.whl", bytes = 3, sha256 = "{d}" }}]
""".format(a="a" * 64, b="b" * 64, c="c" * 64, d="d" * 64)
_PATCH = 'file = "a.c"\nsearch = "old"\nreplace = "new"\n'


def folder_with_package(folder: Path, changes: dict[str, str] | None = None) -> Path:
    guest_folder(folder)
    text = _PACKAGE
    for old, new in (changes or {}).items():
        assert old in text
        text = text.replace(old, new)
    path = folder / "manifest.toml"
    path.write_text(path.read_text() + text)
    for name, content in {
        "patches/arrays-one.toml": _PATCH,
        "packages/describe.py": "print()\n",
        "packages/rlm_variant.py": '"""First."""\n',
        "packages/arrays/flags.h": "int flag;\n",
        "packages/arrays/flags.c": "int flag;\n",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder
