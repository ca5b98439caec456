"""The guest's files, compiled for this machine with its compiler's checks, and spoken to by pipe."""

from __future__ import annotations

import errno
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

from rlm_wasm.guestbuild.build_host import find_compiler
from rlm_wasm.guestbuild.manifest import guest_dir

# What lies in files, folders and links, and finds them; not what needs wasi-libc or CPython.
_SOURCES: Final = ("content", "descriptor", "directory", "node", "path", "quota", "tree", "wasi_files")
_CHECKS: Final = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
_WARNINGS: Final = ("-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter")
DRIVER: Final = Path(__file__).with_name("files_driver.c")

READ, WRITE = 1 << 1, 1 << 6
CREATE, FOLDER, NEW, CUT = 1, 2, 4, 8
FOLDER_TYPE, FILE_TYPE, LINK_TYPE = 3, 4, 7
ROOT = 3
# WASI's numbers are in the order of their names, and so are not this machine's.
_ERRORS: Final = {
    2: "EACCES", 8: "EBADF", 10: "EBUSY", 20: "EEXIST", 22: "EFBIG", 28: "EINVAL", 29: "EIO", 31: "EISDIR",
    32: "ELOOP", 33: "EMFILE", 37: "ENAMETOOLONG", 44: "ENOENT", 48: "ENOMEM", 51: "ENOSPC", 52: "ENOSYS",
    54: "ENOTDIR", 55: "ENOTEMPTY", 61: "EOVERFLOW", 63: "EPERM", 69: "EROFS", 70: "ESPIPE", 72: "ESTALE",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Status:
    """What is known of a file."""

    type: int
    size: int
    names: int
    id: int
    modified_ns: int


def compile_driver(folder: Path) -> Path:
    """Compile the driver into `folder`, with the compiler's checks where it has them."""
    shim, program = guest_dir() / "shim", folder / "files"
    command = [
        str(find_compiler()), "-std=gnu2x", "-g", "-O1", *_WARNINGS, f"-I{shim}", "-o", str(program),
        str(DRIVER), *(str(shim / f"{name}.c") for name in _SOURCES),
    ]  # fmt: skip
    checked = subprocess.run([*command, *_CHECKS], capture_output=True, text=True, check=False)
    if checked.returncode != 0:
        subprocess.run(command, check=True, capture_output=True, text=True)
    return program


class NativeFiles:
    """One tree of files. A failed operation is the OSError that the guest's Python would raise."""

    def __init__(self, program: Path) -> None:
        self._process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __enter__(self) -> NativeFiles:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End it. The checks of the compiler speak by its status."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        assert self._process.wait(30) == 0

    def ask(self, *words: str | int | bytes) -> list[str]:
        """Perform one operation and return what it gave."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        line = " ".join(_word(word) for word in words)
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline().decode().split()
        assert answer, f"the driver ended at {line[:200]!r}"
        if answer[0] != "0":
            name = _ERRORS[int(answer[0])]
            raise OSError(getattr(errno, name), name)
        return answer[1:]

    def open(
        self, path: bytes, flags: int = 0, rights: int = READ, *, appends: bool = False, follow: bool = True
    ) -> int:
        return int(self.ask("open", int(follow), path, flags, rights, int(appends))[0])

    def write(self, fd: int, data: bytes) -> int:
        return int(self.ask("write", fd, data)[0])

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        return int(self.ask("pwrite", fd, data, offset)[0])

    def read(self, fd: int, count: int) -> bytes:
        return _bytes(self.ask("read", fd, count)[0])

    def pread(self, fd: int, count: int, offset: int) -> bytes:
        return _bytes(self.ask("pread", fd, count, offset)[0])

    def seek(self, fd: int, offset: int, whence: int) -> int:
        return int(self.ask("seek", fd, offset, whence)[0])

    def stat(self, path: bytes, *, follow: bool = True) -> Status:
        return Status(*map(int, self.ask("stat", int(follow), path)))

    def fstat(self, fd: int) -> Status:
        return Status(*map(int, self.ask("fstat", fd)))

    def list(self, path: bytes, room: int = 4096) -> list[bytes]:
        """Return the names in a folder, read with a buffer of `room` bytes as wasi-libc does."""
        fd = self.open(path, FOLDER)
        names: list[bytes] = []
        cookie = 0
        while True:
            *pairs, end = self.ask("list", fd, room, cookie)
            names += map(_bytes, pairs[::2])
            if end == "end":
                break
            assert pairs, "a buffer too small for a single entry"
            cookie = int(pairs[-1])
        self.ask("close", fd)
        assert names[:2] == [b".", b".."]
        return names[2:]

    def used(self) -> tuple[int, int]:
        """Return how many bytes all files take, and how many there are."""
        size, count = self.ask("used")
        return int(size), int(count)


def _word(word: str | int | bytes) -> str:
    return (word.hex() or "-") if isinstance(word, bytes) else str(word)


def _bytes(word: str) -> bytes:
    return b"" if word == "-" else bytes.fromhex(word)
