"""Makes system calls under a filter that is really loaded; run as a program, in a process of its own.

It reads `{"filter": hex, "calls": [[number, argument, ...], ...], "apart": bool}` from stdin and writes
one result per call: an errno (0 for success), or the name of what ended the process that tried.
`apart` makes each call in a process of its own, which may block or die.

Whatever the filter lets through would be executed. So the process first gives up its capabilities, its
terminal and the right to new privileges; and the caller sends arguments that no call can act upon.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import sys
import time

_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _SECCOMP_MODE_FILTER = 22, 38, 2
_CAPABILITY_VERSION_3 = 0x2008_0522
#: Seconds for one call that is made apart, on a machine that does much else. What has been asleep at two
#: looks in a row is blocked in its call: before that, the child waits for nothing.
_PATIENCE = 5.0
_LOOK = 0.05

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class _Program(ctypes.Structure):
    """`struct sock_fprog` of linux/filter.h."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def call(number: int, *arguments: int) -> int:
    """The errno of one raw system call, 0 if it succeeds."""
    ctypes.set_errno(0)
    values = [ctypes.c_long(ctypes.c_long(argument).value) for argument in arguments]
    return ctypes.get_errno() if _libc.syscall(ctypes.c_long(number), *values) == -1 else 0


def give_up_privileges() -> None:
    if os.getpid() != os.getsid(0):
        os.setsid()
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    nothing = (ctypes.c_uint32 * 6)()
    for result in (
        _libc.capset(header, nothing),
        _libc.prctl(_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), 0, 0, 0),
    ):
        if result:
            raise OSError(ctypes.get_errno(), "privileges could not be given up")


def load(filter_: bytes) -> None:
    program = _Program(len(filter_) // 8, filter_)
    if _libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0):
        raise OSError(ctypes.get_errno(), "the filter was not accepted")


def call_apart(number: int, *arguments: int) -> int | str:
    """As `call`, in a child; else the name of the signal that ended it, "exited", "blocked" or "late"."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, b"%d" % call(number, *arguments))
        os._exit(0)
    os.close(writer)
    answer = _hear(reader, child)
    os.close(reader)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if answer.isdigit():
        return int(answer)
    if answer:
        return answer.decode()
    return signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else "exited"


def _hear(reader: int, child: int) -> bytes:
    deadline, asleep = time.monotonic() + _PATIENCE, 0
    while time.monotonic() < deadline:
        if select.select([reader], [], [], _LOOK)[0]:
            return os.read(reader, 16)
        with open(f"/proc/{child}/stat") as file:
            asleep = asleep + 1 if file.read().rpartition(")")[2].split()[0] in "ST" else 0
        if asleep == 2:
            return b"blocked"
    return b"late"


def main() -> None:
    request = json.load(sys.stdin)
    give_up_privileges()
    load(bytes.fromhex(request["filter"]))
    attempt = call_apart if request["apart"] else call
    json.dump([attempt(*arguments) for arguments in request["calls"]], sys.stdout)


if __name__ == "__main__":
    main()
