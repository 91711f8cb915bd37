"""The system call filter of a decoding child: what its kernel still does for it, on Linux.

A short program of the classic Berkeley packet filter, which the kernel runs before each system call (seccomp(2) and
prctl(2) of the Linux manual; Documentation/userspace-api/seccomp_filter.rst of the kernel). What is on no list fails
with EPERM, so that a codec which tries something new reports a fault; what only an intruder calls ends the process.
"""

import ctypes
import errno
import os
import platform
import struct
import sys
from typing import NamedTuple

# name: x86-64, AArch64 (arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h)
_ALLOWED = {
    "read": (0, 63),
    "write": (1, 64),
    "close": (3, 57),
    "munmap": (11, 215),
    "mremap": (25, 216),
    "brk": (12, 214),
    "madvise": (28, 233),
    "futex": (202, 98),
    "exit": (60, 93),
    "exit_group": (231, 94),
    "rt_sigreturn": (15, 139),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "restart_syscall": (219, 128),
    "clock_gettime": (228, 113),
    "gettimeofday": (96, 169),
    "getrandom": (318, 278),
    "sched_yield": (24, 124),
    "getpid": (39, 172),
    "rseq": (334, 293),
    "set_robust_list": (273, 99),
}
_ALLOWED_UNLESS_EXECUTABLE = {"mmap": (9, 222), "mprotect": (10, 226)}
# libde265 decodes in a thread of its own. What clone3 asks for lies in memory, which no filter sees; told that there is
# none, the C library asks by clone. Allowed are a thread's flags as glibc and musl set them: no process, no namespace.
_CLONE, _CLONE3 = (56, 220), (435, 435)
_THREAD = (0x3D0F00, 0x7D0F00)
_DEADLY = {
    "execve": (59, 221),
    "execveat": (322, 281),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "kexec_load": (246, 104),
}


class _Machine(NamedTuple):
    """A processor: its place in the lists above, what seccomp(2) is called on it, and its AUDIT_ARCH number."""

    column: int
    seccomp: int
    arch: int


_MACHINES = {"x86_64": _Machine(0, 317, 0xC000003E), "aarch64": _Machine(1, 277, 0xC00000B7)}

# linux/seccomp.h, linux/prctl.h, asm-generic/mman-common.h
_SET_MODE_FILTER, _TSYNC = 1, 1
_KILL_PROCESS, _ERRNO, _ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
_PR_SET_NO_NEW_PRIVS = 38
_PROT_EXEC = 4

# linux/filter.h; the offsets are those of struct seccomp_data, of whose arguments the low word matters
_LOAD, _JUMP_IF_EQUAL, _JUMP_IF_SET, _RETURN = 0x20, 0x15, 0x45, 0x06
_NUMBER, _ARCH, _FIRST_ARGUMENT, _THIRD_ARGUMENT = 0, 4, 16, 32


class SandboxMissing(Exception):
    """There is no filter for this system, or the kernel takes none. Trying again changes nothing."""


class _Program(ctypes.Structure):
    """A struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def install_filter() -> None:
    """Put every thread of this process under the filter, for good. Raises ``SandboxMissing``.

    Needs no privilege: the process gives up gaining any, which is what the kernel asks for in return.
    """
    machine = _MACHINES.get(platform.machine())
    if sys.platform != "linux" or machine is None or sys.byteorder != "little" or ctypes.sizeof(ctypes.c_void_p) != 8:  # noqa: PLR2004 -- 64 bits
        raise SandboxMissing(f"no filter for {platform.system()} on {platform.machine()}")
    code = _filter(machine)
    program = _Program(len(code) // 8, code)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise SandboxMissing(f"prctl: {os.strerror(ctypes.get_errno())}")
    done = libc.syscall(ctypes.c_long(machine.seccomp), _SET_MODE_FILTER, _TSYNC, ctypes.byref(program))
    if done != 0:
        raise SandboxMissing(f"seccomp: {os.strerror(ctypes.get_errno()) if done < 0 else 'a thread stays outside'}")


def _filter(machine: _Machine) -> bytes:
    """The program for one machine, in the order of frequency: allowed, allowed with a condition, deadly, the rest.

    Numbers mean something else in the calls of another architecture, so that those end the process. The x32 calls of
    x86-64 have a bit of their own in the number and match nothing.
    """
    allow = _return(_ALLOW)
    refuse = _return(_ERRNO | errno.EPERM)
    kill = _return(_KILL_PROCESS)
    unless_executable = [_step(_LOAD, _THIRD_ARGUMENT), _step(_JUMP_IF_SET, _PROT_EXEC, 1, 0), allow, refuse]
    unless_process = [
        _step(_LOAD, _FIRST_ARGUMENT),
        *(_step(_JUMP_IF_EQUAL, flags, left, 0) for left, flags in zip((2, 1), _THREAD, strict=True)),
        refuse,
        allow,
    ]
    steps = [
        _step(_LOAD, _ARCH),
        _step(_JUMP_IF_EQUAL, machine.arch, 1, 0),
        kill,
        _step(_LOAD, _NUMBER),
    ]
    for calls, verdict in (
        (_ALLOWED, [allow]),
        ({"clone": _CLONE}, unless_process),
        ({"clone3": _CLONE3}, [_return(_ERRNO | errno.ENOSYS)]),
        (_ALLOWED_UNLESS_EXECUTABLE, unless_executable),
        (_DEADLY, [kill]),
    ):
        numbers = [call[machine.column] for call in calls.values()]
        for left, number in zip(reversed(range(len(numbers))), numbers, strict=True):
            # To the verdict behind this list; past it, if the last number is another one.
            steps.append(_step(_JUMP_IF_EQUAL, number, left, 0 if left else len(verdict)))
        steps += verdict
    return b"".join([*steps, refuse])


def _step(code: int, operand: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """A struct sock_filter; a jump says how many steps to skip."""
    return struct.pack("<HBBI", code, if_true, if_false, operand)


def _return(action: int) -> bytes:
    return _step(_RETURN, action)
