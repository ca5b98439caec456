"""What a worker would try whose native code belongs to an attacker: one row an attempt.

Each row is run three times: in a locked worker; in a worker with every layer but the system-call
filter, to see what stands behind it; and in a process that is not locked down, where it has to work,
or the row would prove nothing. An attempt raises OSError when it is refused.
"""

from __future__ import annotations

import _thread
import ctypes
import errno
import fcntl
import mmap
import os
import resource
import signal
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from rlm_wasm.jail.lockdown import kernel
from rlm_wasm.jail.lockdown.kernel import prctl, syscall
from rlm_wasm.jail.lockdown.syscalls import IMAGE_FD, SOCKET_FD
from rlm_wasm.lockdown import Grade

KILLED: Final = "SIGSYS"
WORKS: Final = "works"
PAGE: Final = mmap.PAGESIZE
# A process image whose only act is to exit with 42.
_TINY_ELF: Final = bytes.fromhex(
    "7f454c4602010100000000000000000002003e0001000000780040000000000040000000000000000000000000000000"
    "00000000400038000100000000000000010000000500000000000000000000000000400000000000000040000000000084"
    "00000000000000840000000000000000100000000000006a3c586a2a5f0f0500000000"
)
TINY_EXIT: Final = 42


@dataclass(frozen=True)
class Aim:
    """What an attempt is aimed at. In a worker the victim is its zygote; the ports are a test's."""

    victim: int
    tcp_port: int
    abstract: str
    image: int = IMAGE_FD
    # Another worker of the same zygote.
    neighbour: int = 2


@dataclass(frozen=True)
class Attack:
    """An attempt; what stops it in a worker; what stops it without the filter; why it has no control run.

    Where the filter is all there is, `unfiltered` says that it works. `bare` is what stops it without the
    filter where there is no namespace either, if that is something else.
    """

    act: Callable[[Aim], object]
    locked: str
    unfiltered: str
    no_control: str = ""
    bare: str = ""

    def behind_the_filter(self, grade: Grade) -> str:
        """Return what stops it in a worker of this grade that lacks the filter; alternatives with "or"."""
        return self.bare or self.unfiltered if grade is Grade.FILTERED else self.unfiltered


_libc = ctypes.CDLL(None, use_errno=True)
_code: list[tuple[mmap.mmap, int]] = []
_kept: list[object] = []


def address(buffer: Any) -> int:
    """Return where a ctypes object lies, which stays for as long as the process."""
    _kept.append(buffer)
    return kernel.address(buffer)


def prepare() -> None:
    """Make the one piece of native code that an attempt needs, where code can still be made."""
    area = mmap.mmap(-1, PAGE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    area.write(bytes.fromhex("b814000000cd80c3"))  # mov eax, 20 (getpid of i386); int 0x80; ret
    where = ctypes.addressof(ctypes.c_char.from_buffer(area))
    syscall(10, where, PAGE, 5)
    _code.append((area, where))


def _struct(*words: int) -> Any:
    return (ctypes.c_uint64 * len(words))(*words)


def _map(length: int, protection: int, flags: int, fd: int = -1) -> int:
    return syscall(9, 0, length, protection, flags, fd, 0)


def _int80(aim: Aim) -> int:
    if not _code:
        prepare()
    return int(ctypes.CFUNCTYPE(ctypes.c_int)(_code[0][1])())


def _exec_memory_file(aim: Aim) -> None:
    fd = syscall(319, address(ctypes.create_string_buffer(b"x")), 1)
    os.pwrite(fd, _TINY_ELF, 0)
    empty = ctypes.create_string_buffer(b"")
    none = (ctypes.c_uint64 * 1)(0)
    syscall(322, fd, address(empty), address(none), address(none), 0x1000)


def _vm_access(number: int, aim: Aim) -> int:
    data = ctypes.create_string_buffer(8)
    mine, theirs = _struct(address(data), 8), _struct(address(_libc.getpid) & ~0xFFF, 8)
    return syscall(number, aim.victim, address(mine), 1, address(theirs), 1, 0)


def _steal_descriptor(aim: Aim) -> int:
    return syscall(438, syscall(434, aim.victim, 0), 0, 0)


def _signal_by_pidfd(aim: Aim) -> int:
    return syscall(424, syscall(434, aim.victim, 0), int(signal.SIGCONT), 0, 0)


def _connect(family: int, target: Any) -> None:
    with socket.socket(family, socket.SOCK_STREAM) as made:
        made.connect(target)


def _bind(aim: Aim) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as made:
        made.bind(("127.0.0.1", 0))
        made.listen()


def _datagram(aim: Aim) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.sendto(b"x", ("127.0.0.1", aim.tcp_port))


def _executable_after_write(aim: Aim, number: int, *more: int) -> None:
    where = _map(PAGE, 3, 0x22)
    ctypes.memmove(where, b"\xc3", 1)
    syscall(number, where, PAGE, 5, *more)
    ctypes.CFUNCTYPE(None)(where)()


def _executable_file(aim: Aim) -> None:
    fd = syscall(319, address(ctypes.create_string_buffer(b"x")), 1)
    os.pwrite(fd, b"\xc3", 0)
    ctypes.CFUNCTYPE(None)(_map(PAGE, 5, 2, fd))()


def _system_v_executable(aim: Aim) -> None:
    where = syscall(30, syscall(29, 0, PAGE, 0o1700), 0, 0o100000)
    ctypes.memmove(where, b"\xc3", 1)
    ctypes.CFUNCTYPE(None)(where)()


def _huge_file(aim: Aim) -> None:
    fd = syscall(319, address(ctypes.create_string_buffer(b"x")), 1)
    os.ftruncate(fd, 1 << 36)


def _write_far(aim: Aim) -> None:
    fd = syscall(319, address(ctypes.create_string_buffer(b"x")), 1)
    os.pwrite(fd, b"x", 1 << 36)


def _many_files(aim: Aim) -> None:
    for _ in range(500):
        syscall(319, address(ctypes.create_string_buffer(b"x")), 1)


def _many_mapped_files(aim: Aim) -> None:
    """Memory that no descriptor shows: a page that is mapped keeps its whole file."""
    for _ in range(500):
        fd = syscall(319, address(ctypes.create_string_buffer(b"x")), 1)
        os.pwrite(fd, b"x", PAGE)
        _map(PAGE, 1, 2, fd)
        os.close(fd)


def _much_memory(aim: Aim) -> None:
    """More writable memory than the worker's sessions may have, in one piece or in many."""
    for _ in range(64):
        _map(1 << 30, 3, 0x4022)


def _start_thread(aim: Aim) -> None:
    try:
        _thread.start_new_thread(lambda: None, ())
    except RuntimeError as error:
        raise OSError(errno.EAGAIN, "no thread") from error


def _limit_up(aim: Aim) -> None:
    """Raise a hard limit where it is nothing; where it is something, only set it again."""
    _, hard = resource.getrlimit(resource.RLIMIT_MSGQUEUE) if aim.image != IMAGE_FD else (0, 1)
    new = ctypes.create_string_buffer(struct.pack("QQ", hard & (2**64 - 1), hard & (2**64 - 1)))
    syscall(302, 0, resource.RLIMIT_MSGQUEUE, address(new), 0)


def _timer(aim: Aim) -> None:
    out = ctypes.c_uint64()
    syscall(222, 1, 0, address(out))


def _keyring(aim: Aim) -> int:
    kind, name = ctypes.create_string_buffer(b"user"), ctypes.create_string_buffer(b"rlm")
    data = ctypes.create_string_buffer(b"x")
    return syscall(248, address(kind), address(name), address(data), 1, -3 & (2**63 - 1) | -(2**63))


def _io_uring(aim: Aim) -> int:
    return syscall(425, 1, address(ctypes.create_string_buffer(120)))


def _bpf(aim: Aim) -> int:
    attributes = (ctypes.c_uint32 * 32)(2, 4, 4, 1)  # an array map of one number
    return syscall(321, 0, address(attributes), 128)


def _perf(aim: Aim) -> int:
    attributes = (ctypes.c_uint32 * 32)(1, 128)  # software, the CPU clock
    return syscall(298, address(attributes), 0, -1, -1, 0)


def _handle(aim: Aim) -> int:
    path = ctypes.create_string_buffer(b"/")
    handle = ctypes.create_string_buffer(struct.pack("Ii", 120, 0), 128)
    mount = ctypes.c_int()
    syscall(303, -100, address(path), address(handle), address(mount), 0)
    root = os.open("/", os.O_RDONLY)
    return syscall(304, root, address(handle), 0)


def _mount(aim: Aim) -> None:
    kind, where = ctypes.create_string_buffer(b"tmpfs"), ctypes.create_string_buffer(b"/")
    syscall(165, address(kind), address(where), address(kind), 0, 0)


def _path_call(number: int, path: bytes, *more: int) -> int:
    return syscall(number, address(ctypes.create_string_buffer(path)), *more)


def _pair() -> int:
    pair = socket.socketpair()
    _kept.append(pair)
    return pair[0].fileno()


def _out_of_band(aim: Aim) -> None:
    """By the call itself: making a socket object asks the kernel for more than it needs here."""
    fd = SOCKET_FD if aim.image == IMAGE_FD else _pair()
    syscall(44, fd, address(ctypes.create_string_buffer(b"x")), 1, int(socket.MSG_OOB), 0, 0)


def _typed_into_terminal(aim: Aim) -> None:
    fd = 0
    if aim.image != IMAGE_FD:
        _, fd = os.openpty()
        os.setsid()
        fcntl.ioctl(fd, 0x540E, 0)  # TIOCSCTTY
    fcntl.ioctl(fd, 0x5412, b"x")


def _capabilities_up(aim: Aim) -> None:
    header = (ctypes.c_uint32 * 2)(0x2008_0522, 0)
    syscall(126, address(header), address((ctypes.c_uint32 * 6)(0xFF, 0xFF, 0, 0, 0, 0)))


def _clone3(aim: Aim) -> None:
    arguments = _struct(0, 0, 0, 0, int(signal.SIGCHLD), 0, 0, 0)
    if syscall(435, address(arguments), 64) == 0:
        os._exit(0)


def _fork(aim: Aim) -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def _kill_all(aim: Aim) -> None:
    """Signal every process there is. The kernel says yes whether or not it did: so ask after one."""
    os.kill(-1, signal.SIGKILL)
    os.kill(aim.neighbour, 0)


def _filter_of_its_own(aim: Aim) -> int:
    allow = ctypes.create_string_buffer(struct.pack("=HBBI", 6, 0, 0, 0x7FFF_0000))
    program = (ctypes.c_uint64 * 2)(1, address(allow))
    return syscall(317, 1, 8, address(program))  # with a listener that would answer for it


ATTACKS: Final[dict[str, Attack]] = {
    # -- files --------------------------------------------------------------------------------------
    "open a file": Attack(lambda aim: os.open("/etc/passwd", os.O_RDONLY), "EACCES", "ENOENT", bare="EACCES"),
    "make a file": Attack(
        lambda aim: os.close(os.open("/tmp/rlm-attack", os.O_CREAT | os.O_WRONLY)),
        "EACCES", "ENOENT", bare="EACCES",
    ),
    "make a file in the root": Attack(
        lambda aim: os.open("/x", os.O_CREAT | os.O_WRONLY), "EACCES", "EROFS", "it would stay", bare="EACCES"
    ),
    "list the root": Attack(lambda aim: os.listdir("/"), "EACCES", "EACCES"),
    "look at a path": Attack(lambda aim: os.stat("/etc/passwd"), "EACCES", "ENOENT", bare=WORKS),
    "read another process": Attack(
        lambda aim: os.open(f"/proc/{aim.victim}/environ", os.O_RDONLY), "EACCES", "ENOENT", bare="EACCES"
    ),
    "write its own code": Attack(
        lambda aim: os.open("/proc/self/mem", os.O_RDWR), "EACCES", "ENOENT", bare="EACCES",
    ),
    "make a folder": Attack(
        lambda aim: _path_call(83, b"/tmp/rlm-attack-d", 0o700), KILLED, "ENOENT", bare="EACCES",
    ),
    "remove a file": Attack(lambda aim: _path_call(87, b"/tmp/rlm-attack"), KILLED, "ENOENT"),
    "link a file": Attack(
        lambda aim: os.symlink("/etc", "/tmp/rlm-attack-l"), KILLED, "ENOENT", bare="EACCES",
    ),
    "open by handle": Attack(_handle, KILLED, "EACCES"),
    "watch files": Attack(lambda aim: syscall(294, 0), KILLED, WORKS),
    "fill a disk with one file": Attack(_huge_file, KILLED, "EFBIG"),
    "fill memory with one file": Attack(_write_far, KILLED, "EFBIG"),
    "hold many files": Attack(_many_files, KILLED, "EMFILE"),
    "hold many files by a page of each": Attack(_many_mapped_files, KILLED, WORKS),
    "write the image": Attack(lambda aim: os.pwrite(aim.image, b"x", 0), "EPERM", "EPERM"),
    "shrink the image": Attack(lambda aim: os.ftruncate(aim.image, 0), "EPERM", "EPERM"),
    "map the image shared": Attack(lambda aim: _map(PAGE, 3, 1, aim.image), KILLED, "EPERM"),
    # -- programs and processes -----------------------------------------------------------------------
    "run a program": Attack(lambda aim: os.execv("/bin/true", ["true"]), KILLED, "ENOENT", bare="EACCES"),
    "run a memory file": Attack(_exec_memory_file, KILLED, WORKS),
    "fork": Attack(_fork, KILLED, "EAGAIN"),
    "vfork": Attack(lambda aim: syscall(58), KILLED, "EAGAIN", "both would return"),
    "clone3": Attack(_clone3, KILLED, "EAGAIN or ENOSYS"),
    "start a thread": Attack(_start_thread, KILLED, "EAGAIN"),
    "trace a process": Attack(lambda aim: syscall(101, 0x4206, aim.victim, 0, 0), KILLED, "EPERM"),
    "read a process's memory": Attack(lambda aim: _vm_access(310, aim), KILLED, "EPERM"),
    "write a process's memory": Attack(lambda aim: _vm_access(311, aim), KILLED, "EPERM"),
    "take a process's descriptor": Attack(_steal_descriptor, KILLED, "EPERM"),
    "signal a process": Attack(lambda aim: os.kill(aim.victim, signal.SIGCONT), KILLED, "EPERM"),
    "signal a process by pidfd": Attack(_signal_by_pidfd, KILLED, "EPERM"),
    "signal everybody": Attack(
        _kill_all, KILLED, "EPERM", "it would reach this machine"
    ),
    "kill a neighbour": Attack(
        lambda aim: os.kill(aim.neighbour, signal.SIGKILL), KILLED, "EPERM"
    ),
    "abort a neighbour": Attack(
        lambda aim: syscall(234, aim.neighbour, aim.neighbour, int(signal.SIGABRT)), "EPERM", "EPERM"
    ),
    # -- network ----------------------------------------------------------------------------------------
    "connect to a port": Attack(
        lambda aim: _connect(socket.AF_INET, ("127.0.0.1", aim.tcp_port)), KILLED, "EACCES"
    ),
    "connect to an abstract socket": Attack(
        lambda aim: _connect(socket.AF_UNIX, f"\0{aim.abstract}"), KILLED, "ECONNREFUSED", bare="EPERM"
    ),
    "listen on a port": Attack(_bind, KILLED, "EACCES"),
    "send a datagram": Attack(_datagram, KILLED, "ENETUNREACH", bare=WORKS),
    "ask netlink": Attack(
        lambda aim: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0), KILLED, WORKS
    ),
    "make a raw socket": Attack(
        lambda aim: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1), KILLED, "EPERM"
    ),
    "send out of band": Attack(_out_of_band, KILLED, WORKS),
    # -- memory -----------------------------------------------------------------------------------------
    "map a page to write and run": Attack(lambda aim: _map(PAGE, 7, 0x22), KILLED, WORKS),
    "make a written page run": Attack(lambda aim: _executable_after_write(aim, 10), KILLED, WORKS),
    "the same with a key": Attack(lambda aim: _executable_after_write(aim, 329, -1), KILLED, WORKS),
    "run a page of a memory file": Attack(_executable_file, KILLED, WORKS),
    "run a System V segment": Attack(_system_v_executable, KILLED, WORKS),
    "make every page run": Attack(lambda aim: syscall(135, 0x0400000), KILLED, WORKS),
    "take much memory": Attack(_much_memory, "ENOMEM", "ENOMEM"),
    "share memory": Attack(lambda aim: _map(PAGE, 3, 0x21), KILLED, WORKS),
    "lock memory": Attack(lambda aim: syscall(149, _map(PAGE, 3, 0x22), PAGE), KILLED, "EPERM"),
    "hide memory": Attack(lambda aim: syscall(447, 0), KILLED, WORKS),
    "handle its own page faults": Attack(lambda aim: syscall(323, 0), KILLED, "EPERM"),
    # -- the kernel's larger doors ------------------------------------------------------------------------
    "io_uring": Attack(_io_uring, KILLED, "ENOMEM"),
    "bpf": Attack(_bpf, KILLED, "EPERM"),
    "perf events": Attack(_perf, KILLED, "EACCES"),
    "keyrings": Attack(_keyring, KILLED, WORKS),
    "timers": Attack(_timer, KILLED, "EAGAIN"),
    "a filter with a listener": Attack(_filter_of_its_own, KILLED, WORKS),
    "local descriptor tables": Attack(
        lambda aim: syscall(154, 0, address(ctypes.create_string_buffer(64)), 64), KILLED, WORKS
    ),
    "a 32-bit system call": Attack(_int80, KILLED, WORKS),
    "an x32 system call": Attack(
        lambda aim: syscall(0x4000_0000 | 39), KILLED, "ENOSYS", "this kernel may know none"
    ),
    "a system call of a later kernel": Attack(
        lambda aim: syscall(1000), "ENOSYS", "ENOSYS", "no kernel knows it"
    ),
    "load a module": Attack(
        lambda aim: syscall(313, IMAGE_FD, address(ctypes.create_string_buffer(b"")), 0),
        KILLED, "EPERM or ENOSYS", "it would change this machine",
    ),
    "read the kernel's log": Attack(lambda aim: syscall(103, 10, 0, 0), KILLED, "EPERM"),
    "reboot": Attack(
        lambda aim: syscall(169, 0xFEE1DEAD, 672274793, 0, 0), KILLED, "EPERM", "it would change this machine"
    ),
    "set the clock": Attack(
        lambda aim: syscall(227, 0, address(_struct(1, 0))), KILLED, "EPERM", "it would change this machine"
    ),
    # -- a way out, or more rights ------------------------------------------------------------------------
    "a new user namespace": Attack(lambda aim: syscall(272, 0x1000_0000), KILLED, "ENOSPC or EPERM"),
    "a new mount namespace": Attack(lambda aim: syscall(272, 0x2_0000), KILLED, "EPERM"),
    "join a namespace": Attack(
        lambda aim: syscall(308, syscall(434, aim.victim, 0), 0x0400_0000), KILLED, "EPERM"
    ),
    "mount": Attack(_mount, KILLED, "EPERM", "it would cover this machine's root"),
    "change the root": Attack(lambda aim: _path_call(161, b"/"), KILLED, "EPERM"),
    "become root": Attack(lambda aim: os.setuid(0), KILLED, "EPERM"),
    "take capabilities": Attack(_capabilities_up, KILLED, "EPERM"),
    "be dumpable again": Attack(lambda aim: prctl(4, 1), KILLED, WORKS),
    "outlive its parent": Attack(lambda aim: prctl(1, 0), KILLED, WORKS),
    "raise a limit": Attack(_limit_up, KILLED, "EPERM"),
    "raise its priority": Attack(lambda aim: syscall(141, 0, 0, -20), KILLED, "EACCES"),
    "run in real time": Attack(
        lambda aim: syscall(144, 0, 1, address(ctypes.c_uint32(1))), KILLED, "EPERM"
    ),
    "change the host name": Attack(
        lambda aim: _path_call(170, b"x", 1), KILLED, "EPERM", "it would change this machine"
    ),
    "type into a terminal": Attack(_typed_into_terminal, KILLED, "ENOTTY"),
    "ask what machine this is": Attack(
        lambda aim: syscall(63, address(ctypes.create_string_buffer(390))), KILLED, WORKS
    ),
}  # fmt: skip


def attempt(name: str, aim: Aim) -> str:
    """Try it; return "works", or the name of the error that it met."""
    try:
        ATTACKS[name].act(aim)
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    return WORKS
