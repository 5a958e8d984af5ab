"""Installs a filter that asks about each connect(2) of what a thread starts: seccomp(2) on Linux.

The kernel holds each caller until it is answered at the listener: seccomp_unotify(2). Run as a
program, with ``python -I -S`` and a listener, this answers "go on" until all callers have ended.
"""

from __future__ import annotations

import errno
import fcntl
import os
import posix
import select
import struct
import sys
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

# From linux/prctl.h, linux/seccomp.h, and linux/filter.h with linux/bpf_common.h.
PR_SET_NO_NEW_PRIVS = 38
SET_MODE_FILTER = 1
SPEC_ALLOW, NEW_LISTENER, WAIT_KILLABLE_RECV = 4, 8, 32
USER_NOTIF_FLAG_CONTINUE = 1
FD_SYNC_WAKE_UP = 1
RET_ALLOW, RET_USER_NOTIF, RET_ERRNO = 0x7FFF0000, 0x7FC00000, 0x00050000
LOAD, EQUAL, ANY_BIT, RETURN = 0x20, 0x15, 0x45, 0x06

# SECCOMP_IOCTL_NOTIF_RECV, _SEND, _ID_VALID and _SET_FLAGS, of which the last came with Linux 6.6.
RECV, SEND, ID_VALID, SET_FLAGS = 0xC0502100, 0xC0182101, 0x40082102, 0x40082104

# struct seccomp_notif: id, pid, flags, and then struct seccomp_data: nr, arch, ip and arguments.
REQUEST = "QIIiIQ6Q"
# struct seccomp_notif_resp: id, val, error, flags.
RESPONSE = "QqiI"

# Where struct seccomp_data has the number of the call, its architecture and the low half of an
# argument.
NUMBER, ARCHITECTURE, FIRST_ARGUMENT = 0, 4, 16

# From linux/socket.h and linux/net.h.
MSG_FASTOPEN = 0x20000000
SYS_CONNECT = 3

# Seconds to wait after an error of the kernel.
RETRY_PAUSE = 0.01


class Machine(NamedTuple):
    """Holds numbers of system calls, and of architectures: AUDIT_ARCH in linux/audit.h.

    The last three are those of 32-bit programs.
    """

    seccomp: int
    connect: int
    sendto: int
    sendmsg: int
    sendmmsg: int
    architecture: int
    connect_32: int
    socketcall_32: int
    architecture_32: int


MACHINES = {
    "x86_64": Machine(317, 42, 44, 46, 307, 0xC000003E, 362, 102, 0x40000003),
    # 32-bit ARM programs have no socketcall: no call has this number.
    "aarch64": Machine(277, 203, 206, 211, 269, 0xC00000B7, 283, 0xFFFFFFFF, 0x40000028),
}
# Programs of the x32 ABI add this to the numbers of x86-64.
X32 = 0x40000000


class UnavailableError(Exception):
    """The kernel, or what has started this process, does not allow it; the message says why."""


def reason_of_absence() -> str | None:
    """Returns why no command of this process could be supervised, or None if one could."""
    reasons: list[str | None] = []

    def probe() -> None:
        try:
            posix.close(install())
            reasons.append(None)
        except UnavailableError as error:
            reasons.append(str(error))

    thread = threading.Thread(target=probe)
    thread.start()
    thread.join()
    return reasons[0]


def serve(listener: int, answer: Callable[[bytes], object], stopped: int = -1) -> None:
    """Receives requests until no caller is left.

    :param answer: answers one, for which it must call `send`.
    :param stopped: a descriptor; it ends, too, once there is something to read.
    """
    poll = select.poll()  # noqa: TID251 - nothing has patched the process of a command
    poll.register(listener, select.POLLIN)
    if stopped >= 0:
        poll.register(stopped, select.POLLIN)
    while True:
        for descriptor, events in poll.poll():
            if descriptor == stopped or not events & select.POLLIN:
                return
            try:
                request = bytearray(struct.calcsize(REQUEST))
                fcntl.ioctl(listener, RECV, request)
                answer(bytes(request))
            except (FileNotFoundError, InterruptedError):
                continue  # The caller was interrupted or killed meanwhile.
            except Exception:  # noqa: BLE001 - whatever it was, other callers wait
                time.sleep(RETRY_PAUSE)


def send(listener: int, cookie: int, answer: int) -> None:
    """Answers a request.

    :param answer: 0 for "go on", or an error number for the caller.
    """
    flags = 0 if answer else USER_NOTIF_FLAG_CONTINUE
    control(listener, SEND, struct.pack(RESPONSE, cookie, 0, -answer, flags))


def control(listener: int, request: int, argument: bytes) -> bool:
    """Answers a caller, or asks about it; returns whether it still waits.

    A signal may interrupt it: Python does not repeat an ioctl(2).
    """
    while True:
        try:
            fcntl.ioctl(listener, request, argument)
            return True
        except InterruptedError:
            continue
        except FileNotFoundError:
            return False  # The caller was interrupted or killed meanwhile.


def this_machine() -> Machine:
    """Returns the numbers of system calls on this machine.

    :raises UnavailableError: there is no filter to be had on such a machine.
    """
    if sys.platform != "linux":
        raise UnavailableError("it needs Linux")
    name = os.uname().machine
    if name not in MACHINES or sys.maxsize < 2**32:
        raise UnavailableError(f"it needs a 64-bit Python on x86-64 or arm64, not {name}")
    if not os.path.isdir("/proc/self"):
        raise UnavailableError("it needs /proc")
    return MACHINES[name]


def install() -> int:
    """Installs the filter for this thread, and for all that it starts; returns the listener.

    :raises UnavailableError: it cannot be had here.
    """
    machine = this_machine()
    try:
        import ctypes
    except ImportError as error:
        raise UnavailableError(f"this Python was built without ctypes: {error}") from None

    libc = ctypes.CDLL(None, use_errno=True)
    code = _program(machine)
    buffer = ctypes.create_string_buffer(code, len(code))
    fprog = ctypes.create_string_buffer(
        struct.pack("HxxxxxxQ", len(code) // 8, ctypes.addressof(buffer)), 16
    )
    flags = SPEC_ALLOW | NEW_LISTENER | WAIT_KILLABLE_RECV
    arguments = machine.seccomp, SET_MODE_FILTER, flags, fprog
    listener: int = libc.syscall(*arguments)
    if listener < 0 and ctypes.get_errno() == errno.EACCES:
        # Without CAP_SYS_ADMIN. Only this thread, and what it starts, gets no new privileges.
        libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        listener = libc.syscall(*arguments)
    if listener < 0:
        raise UnavailableError(_reason(ctypes.get_errno()))
    return listener


def _reason(number: int) -> str:
    if number == errno.EBUSY:
        return "another program supervises this process already, such as an outer 'sandbox exec'"
    if number == errno.EINVAL:
        return f"it needs Linux 5.19, and this is {os.uname().release}"
    if number in (errno.EPERM, errno.ENOSYS):
        return f"seccomp(2) is not allowed here: {os.strerror(number)}"
    return f"seccomp(2) has failed: {os.strerror(number)}"


def _program(machine: Machine) -> bytes:
    """Returns the filter, a program for the kernel's virtual machine.

    It is a list of lines: label, code, operand, and the labels to go to if true and if false; ""
    stands for the next line.
    """
    third, fourth = FIRST_ARGUMENT + 2 * 8, FIRST_ARGUMENT + 3 * 8
    lines: list[tuple[str, int, int, str, str]] = [
        ("", LOAD, ARCHITECTURE, "", ""),
        ("", EQUAL, machine.architecture, "", "32 bit"),
        ("", LOAD, NUMBER, "", ""),
        ("", EQUAL, machine.connect, "ask", ""),
        ("", EQUAL, machine.connect | X32, "ask", ""),
        ("", EQUAL, machine.sendto, "fourth", ""),
        ("", EQUAL, machine.sendmmsg, "fourth", ""),
        ("", EQUAL, machine.sendmsg, "", "allow"),
        ("", LOAD, third, "", ""),
        ("", ANY_BIT, MSG_FASTOPEN, "fast open", "allow"),
        ("fourth", LOAD, fourth, "", ""),
        ("", ANY_BIT, MSG_FASTOPEN, "fast open", "allow"),
        ("32 bit", EQUAL, machine.architecture_32, "", "allow"),
        ("", LOAD, NUMBER, "", ""),
        ("", EQUAL, machine.connect_32, "ask", ""),
        ("", EQUAL, machine.socketcall_32, "", "allow"),
        ("", LOAD, FIRST_ARGUMENT, "", ""),
        ("", EQUAL, SYS_CONNECT, "ask", "allow"),
        ("ask", RETURN, RET_USER_NOTIF, "", ""),
        ("allow", RETURN, RET_ALLOW, "", ""),
        # As where fast open is switched off: clients call connect() then.
        ("fast open", RETURN, RET_ERRNO | errno.EOPNOTSUPP, "", ""),
    ]
    at = {label: number for number, (label, *_) in enumerate(lines) if label}
    return b"".join(
        struct.pack("HBBI", code, *((at[to] - number - 1 if to else 0) for to in jumps), operand)
        for number, (_, code, operand, *jumps) in enumerate(lines)
    )


def main(listener: int) -> None:
    """Answers "go on" until no caller is left, and holds nothing that others may wait for."""
    os.setsid()
    os.chdir("/")
    os.closerange(listener + 1, os.sysconf("SC_OPEN_MAX"))

    def go_on(request: bytes) -> None:
        cookie, *_ = struct.unpack(REQUEST, request)
        send(listener, cookie, 0)

    serve(listener, go_on)


if __name__ == "__main__":
    main(int(sys.argv[1]))
