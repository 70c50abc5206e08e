"""Where streams come in: a Unix socket in the run directory, over which `connect` hands descriptors.

The kernel has the same user and can come in too. What it gains is a link to its own relay: its own
sandbox's messages, and the trouble that it makes itself. So nobody is asked for a name here; all that is
seen to is that whoever comes cannot make the relay wait, or use up its descriptors.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Callable

from .connect import SOCKET
from .loop import Loop

#: Connections that have not handed their descriptors over yet; the oldest goes for one more.
_MAX_WAITING = 8
#: Reading and writing.
_DESCRIPTORS = 2
#: Bytes that the pipe of an exec stream may hold, which is as much as everybody may ask for (pipe(7),
#: pipe-max-size). Its other end is copied on in pieces of up to 32 KiB, each through four processes. From a
#: pipe of 64 KiB, which fills as fast as it empties, the pieces were smaller: 10 MiB took a fifth more of
#: those processes' time.
_PIPE = 1 << 20

Take = Callable[[int, int, Callable[[], None]], None]


class Door:
    """Listens in `run_dir`.

    `take` gets the stream that somebody brings, and what gives it back; `end` is called when he has gone.
    """

    def __init__(self, run_dir: str, loop: Loop, take: Take, end: Callable[[], None]) -> None:
        self._loop = loop
        self._take = take
        self._end = end
        self._waiting: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(f"{run_dir}/{SOCKET}")
        self._listener.listen(_MAX_WAITING)
        self._listener.setblocking(False)
        loop.watch(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return  # whoever came has gone again, or there is no descriptor for him
        connection.setblocking(False)
        if len(self._waiting) == _MAX_WAITING:
            self._turn_away(self._waiting[0])
        self._waiting.append(connection)
        self._loop.watch(connection.fileno(), lambda: self._receive(connection))

    def _receive(self, connection: socket.socket) -> None:
        try:
            _, descriptors, flags, _ = socket.recv_fds(connection, 1, _DESCRIPTORS)
        except BlockingIOError:
            return
        except OSError:
            descriptors, flags = [], 0
        if len(descriptors) != _DESCRIPTORS or flags & socket.MSG_CTRUNC:
            _close(descriptors)
            self._turn_away(connection)
            return
        self._waiting.remove(connection)
        # From here on it only ends.
        self._loop.watch(connection.fileno(), self._end)
        for descriptor in descriptors:
            # The next kernel is not to have them. (Python 3.11's recv_fds passes no MSG_CMSG_CLOEXEC on.)
            os.set_inheritable(descriptor, False)
            os.set_blocking(descriptor, False)
        with contextlib.suppress(OSError):
            # Not everywhere to be had, and whoever comes from within may bring no pipe at all.
            fcntl.fcntl(descriptors[1], fcntl.F_SETPIPE_SZ, _PIPE)

        def release() -> None:
            self._loop.ignore(connection.fileno())
            connection.close()
            _close(descriptors)

        self._take(descriptors[0], descriptors[1], release)

    def _turn_away(self, connection: socket.socket) -> None:
        self._waiting.remove(connection)
        self._loop.ignore(connection.fileno())
        connection.close()


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
