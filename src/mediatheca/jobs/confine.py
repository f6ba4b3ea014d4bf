"""Takes from this process what code run by a hostile file could misuse: files (Landlock), calls and network (seccomp).

Needs no privileges and cannot be undone. Landlock holds for the calling thread and those it starts later, so it is best
called before there are others; seccomp holds for all threads. A kernel that knows one of them not is no error: what is
in force is told, and the caller decides. Sources: landlock(7), seccomp(2), Linux' unistd.h of x86_64 and aarch64.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import struct
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mediatheca.kernel.errors import UnavailableError

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_ASK_VERSION, _PATH_BENEATH = 1, 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_TRUNCATE, _IOCTL_DEVICE = 1 << 14, 1 << 15
_ON_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEVICE
_READS = _EXECUTE | _READ_FILE | _READ_DIR
_ACCESSES = {1: 13, 2: 14, 3: 15, 4: 15}
"""Version → how many kinds of access to files it knows; 16 from version 5 on."""
_SCOPES = 0b11
"""From version 6 on: no abstract Unix sockets of others, no signals to them."""

_NO_NEW_PRIVILEGES = 38
_SET_FILTER, _ALL_THREADS = 1, 1
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCH, _FIRST, _SECOND = 0, 4, 16, 24
"""Where a filter finds the number of a call, the architecture, and the lower halves of the first two arguments."""
_SIGNALS_OTHERS = (8, 10, 15)
"""F_SETOWN, F_SETSIG, F_SETOWN_EX."""
_X32 = 0x40000000
_THREAD, _NAMESPACES = 0x00010000, 0x7E020080


@dataclass(frozen=True, slots=True)
class _Machine:
    arch: int
    seccomp: int
    clone: int
    kill: tuple[int, ...]
    """Everything that sends a signal to the process in its first argument."""
    socket: int
    start: tuple[int, ...]
    """fork, vfork, execve, execveat."""
    never: tuple[int, ...]
    inodes: tuple[int, ...]
    """What changes a file that it cannot open, which Landlock does not see: mode, owner, times, attributes, length; and
    what is shared with other processes beside the file system: memory, messages, watches, priorities."""
    others: tuple[int, ...]
    """What sets limits and priorities of the process in its first argument, 0 for its own."""
    control: int
    """fcntl: it can have the kernel send signals to others."""


_NEWER = (440, 448, 452, 463, 466)
"""process_madvise, process_mrelease, fchmodat2, setxattrat, removexattrat."""
_EVERYWHERE = (424, 425, 426, 427, 428, 429, 430, 431, 432, 433, 438, 442)
"""pidfd_send_signal, io_uring, the new mount calls, pidfd_getfd, mount_setattr."""
_CLONE3 = 435
_MACHINES: Mapping[str, _Machine] = {
    "x86_64": _Machine(
        0xC000003E, 317, 56, (62, 200, 234, 129, 297), 41, (57, 58, 59, 322),
        # ptrace, process_vm_*, kcmp, bpf, perf, mount…, chroot, keys, userfaultfd, unshare, setns, modules, kexec,
        # reboot, swap, open_by_handle_at, mknod, acct, clocks, names, ports, quota, syslog
        (101, 310, 311, 312, 321, 298, 165, 166, 155, 161, 248, 249, 250, 323, 272, 308, 175, 313, 176, 246, 320, 169,
         167, 168, 304, 133, 259, 163, 164, 227, 159, 305, 170, 171, 172, 173, 179, 103, *_EVERYWHERE),
        # truncate, chmod…, chown…, *setxattr, *removexattr, utime…, shm*, sem*, msg*, mq_*, inotify, fanotify, *_pages,
        # priorities
        (76, 90, 91, 268, 92, 93, 94, 260, 188, 189, 190, 197, 198, 199, 132, 235, 261, 280, 29, 30, 31, 64, 65, 66,
         220, 68, 69, 70, 71, 240, 241, 242, 243, 244, 245, 253, 294, 300, 256, 279, 141, 251, *_NEWER),
        (302, 203, 144, 142, 314, 109), 72,
    ),
    "aarch64": _Machine(
        0xC00000B7, 277, 220, (129, 130, 131, 138, 240), 198, (221, 281),
        (117, 270, 271, 272, 280, 241, 40, 39, 41, 51, 217, 218, 219, 282, 97, 268, 105, 273, 106, 104, 294, 142,
         224, 225, 265, 33, 89, 170, 112, 171, 266, 161, 162, 60, 116, *_EVERYWHERE),
        (45, 52, 53, 55, 54, 5, 6, 7, 14, 15, 16, 88, 194, 195, 196, 197, 190, 191, 192, 193, 186, 187, 188, 189,
         180, 181, 182, 183, 184, 185, 26, 262, 238, 239, 140, 30, *_NEWER),
        (261, 122, 119, 118, 274, 154), 25,
    ),
}  # fmt: skip

_SYSTEM = (
    "/usr", "/lib", "/lib64", "/bin", "/sbin", "/etc/ssl", "/etc/pki", "/etc/fonts", "/etc/ld.so.cache", "/etc/magic",
    "/etc/localtime", "/etc/timezone", "/etc/mime.types", "/etc/alternatives", "/etc/nsswitch.conf", "/etc/passwd",
    "/etc/group", "/etc/hosts", "/etc/resolv.conf", "/sys", "/proc/self", "/proc/cpuinfo", "/proc/meminfo",
    "/proc/stat", "/proc/sys", "/proc/driver",
)  # fmt: skip
_DEVICES = ("null", "zero", "full", "random", "urandom", "dri", "kfd")


@dataclass(frozen=True, slots=True)
class Confinement:
    """What is in force."""

    landlock_abi: int
    """0: this kernel restricts no files."""
    seccomp: bool

    def __str__(self) -> str:
        files = f"files (Landlock {self.landlock_abi})" if self.landlock_abi else ""
        calls = "calls and network (seccomp)" if self.seccomp else ""
        return " and ".join(filter(None, (files, calls))) or "nothing: this kernel has neither Landlock nor seccomp"


def confine(read: Sequence[Path], write: Sequence[Path], *, network: bool, processes: bool) -> Confinement:
    """For a process that works on what strangers sent: it reads `read` and `write`, writes `write`, and nothing else.

    `processes`: it may start others, under the same limits. `network` off: also no sockets of this machine.

    Raises:
        OSError: the kernel refuses for another reason than not knowing it.
    """
    files = restrict_files([*read, *write], write)
    return Confinement(files, restrict_calls(network=network, processes=processes))


def confine_fully(read: Sequence[Path], write: Sequence[Path]) -> None:
    """For a process that runs a stranger's code: no network, no other processes, and all of it is in force.

    Raises:
        UnavailableError: this kernel cannot hold it, or there is a thread that the limits of files would miss.
    """
    threads = len(os.listdir("/proc/self/task"))
    if threads > 1:
        raise UnavailableError(f"a process with {threads} threads cannot be confined; nothing may start any before")
    found = confine(read, write, network=False, processes=False)
    if not (found.landlock_abi and found.seccomp):
        raise UnavailableError(f"a stranger's code cannot be confined on this system; in force is {found}")


def confinable() -> Confinement:
    """What this kernel would enforce."""
    known = Path("/proc/sys/kernel/seccomp/actions_avail").exists() and platform.machine() in _MACHINES
    return Confinement(_landlock_version(), known)


def readable(models_dir: Path, home: Path) -> list[Path]:
    """What a process that extracts reads: programs and libraries, models, and its own folder."""
    libraries = [Path(entry) for entry in (*sys.path, sys.prefix, sys.base_prefix, *_library_path()) if entry]
    found = [each for library in libraries for each in _code_of(library.absolute(), home.absolute())]
    return [*map(Path, _SYSTEM), *found, models_dir, home]


def _library_path() -> list[str]:
    return os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)


def _code_of(entry: Path, home: Path) -> list[Path]:
    """A folder of code. One that also holds our data (a checkout that is run from) gives only its packages."""
    if not home.is_relative_to(entry):
        return [entry]
    with contextlib.suppress(OSError):
        return [path for path in entry.iterdir() if path.suffix in (".py", ".so") or (path / "__init__.py").is_file()]
    return []


# Files


def restrict_files(read: Iterable[Path], write: Iterable[Path], *, scope: bool = True) -> int:
    """Only these files and folders, from here on, in this thread and those it starts. May be called again to restrict
    further. What does not exist is left out.

    `scope`: also no signals to processes outside, and none of their abstract sockets.

    Returns:
        The version of Landlock that does it; 0 where the kernel has none.
    """
    version = _landlock_version()
    if not version:
        return 0
    handled = (1 << _ACCESSES.get(version, 16)) - 1
    scopes = _SCOPES if scope and version >= 6 else 0
    attributes = struct.pack("<QQQ", handled, 0, scopes)[: 24 if version >= 6 else 8]
    ruleset = _syscall(_CREATE_RULESET, attributes, len(attributes), 0)
    try:
        for path in read:
            _allow(ruleset, path, _READS)
        for path in (*write, *_devices()):
            _allow(ruleset, path, handled)
        _forbid_privileges()
        _syscall(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
    return version


def _devices() -> list[Path]:
    """Those every program uses, and graphics cards."""
    devices = Path("/dev")
    return [devices / name for name in _DEVICES] + list(devices.glob("nvidia*"))


def _allow(ruleset: int, path: Path, access: int) -> None:
    try:
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        known = access if os.path.isdir(path) else access & _ON_FILES
        _syscall(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("<Qi", known, opened), 0)
    finally:
        os.close(opened)


def _landlock_version() -> int:
    if not sys.platform.startswith("linux"):
        return 0
    try:
        return _syscall(_CREATE_RULESET, None, 0, _ASK_VERSION)
    except OSError:
        return 0


# Calls


def restrict_calls(*, network: bool, processes: bool) -> bool:
    """No calls that reach into other processes or the system; without `network` no sockets, without `processes` no
    new programs, and nothing that changes files it cannot open. In all threads. Returns whether it is in force."""
    machine = _MACHINES.get(platform.machine())
    if machine is None or not sys.platform.startswith("linux"):
        return False
    program = _program(machine, network, processes)
    code = b"".join(struct.pack("<HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("<HxxxxxxQ", len(program), ctypes.addressof(buffer))
    _forbid_privileges()
    try:
        return _syscall(machine.seccomp, _SET_FILTER, _ALL_THREADS, header) == 0
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM, errno.EACCES):
            return False
        raise


_Instruction = tuple[int, int, int, int]


def _program(machine: _Machine, network: bool, processes: bool) -> list[_Instruction]:
    refuse, absent = _ERRNO | errno.EPERM, _ERRNO | errno.ENOSYS
    program: list[_Instruction] = [(_LOAD, 0, 0, _ARCH), (_EQUAL, 1, 0, machine.arch), (_RETURN, 0, 0, _KILL)]
    program.append((_LOAD, 0, 0, _NUMBER))
    if machine.arch == _MACHINES["x86_64"].arch:
        program += [(_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, refuse)]
    alone = [] if processes else [*machine.start, *machine.inodes]
    denied = [*machine.never, *([] if network else [machine.socket]), *alone]
    for number in denied:
        program += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, refuse)]
    # Its flags lie where a filter cannot look; the C library falls back to clone.
    program += [(_EQUAL, 0, 1, _CLONE3), (_RETURN, 0, 0, absent)]
    bits = [(_ANY_BIT, 0, 1, _NAMESPACES), (_RETURN, 0, 0, refuse)]
    bits += [] if processes else [(_ANY_BIT, 1, 0, _THREAD), (_RETURN, 0, 0, refuse)]
    program += _about(machine.clone, bits)
    program += [] if processes else _alone(machine, refuse)
    return [*program, (_RETURN, 0, 0, _ALLOW)]


def _alone(machine: _Machine, refuse: int) -> list[_Instruction]:
    """For a process that starts no others: nothing is done to any process but itself."""
    itself, program = os.getpid(), list[_Instruction]()
    for number in machine.kill:
        program += _about(number, [(_EQUAL, 1, 0, itself), (_RETURN, 0, 0, refuse)])
    for number in machine.others:
        program += _about(number, [(_EQUAL, 2, 0, 0), (_EQUAL, 1, 0, itself), (_RETURN, 0, 0, refuse)])
    commands = [entry for command in _SIGNALS_OTHERS for entry in ((_EQUAL, 0, 1, command), (_RETURN, 0, 0, refuse))]
    return program + _about(machine.control, commands, _SECOND)


def _about(number: int, checks: list[_Instruction], argument: int = _FIRST) -> list[_Instruction]:
    """Checks of an argument of one call."""
    body = [(_LOAD, 0, 0, argument), *checks, (_LOAD, 0, 0, _NUMBER)]
    return [(_EQUAL, 0, len(body), number), *body]


def _forbid_privileges() -> None:
    """No program it starts has more rights than it: what both mechanisms ask for."""
    if _library().prctl(_NO_NEW_PRIVILEGES, *(ctypes.c_ulong(value) for value in (1, 0, 0, 0))):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _syscall(number: int, *arguments: int | bytes | None) -> int:
    """Raises OSError."""
    typed = [ctypes.c_long(a) if isinstance(a, int) else ctypes.c_char_p(a) for a in arguments]
    call = _library().syscall
    call.restype = ctypes.c_long
    result = int(call(ctypes.c_long(number), *typed))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _library() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
