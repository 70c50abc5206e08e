"""One end of a Unix socket pair whose other end belongs to code that nobody trusts.

Reading must never make the event loop wait for the other side. Two things could:

- The lock of a pipe (Linux, fs/pipe.c). Who writes holds it while the pages that he writes from are fetched,
  which a second thread of his can draw out for seconds; and `read` waits for it, nonblocking or not. So no
  pipe leads from a sandbox to the gateway. A Unix socket copies before it takes a lock.
- A descriptor that is passed along (SCM_RIGHTS, unix(7)). Whoever takes the bytes that it came with closes
  it, also where there was no room for it; and closing the last reference to a TCP socket waits as long as
  its SO_LINGER says. From Linux 6.16 on the system can be told to refuse it to the sender (SO_PASSRIGHTS).
  Before that each read looks first (MSG_PEEK, which takes nothing, and tells of a descriptor by
  MSG_CTRUNC), and then takes exactly the bytes that were looked at. The look would skip a byte out of
  band (MSG_OOB), and the read drop it with its descriptor; so those are had in line (SO_OOBINLINE).

What has a descriptor in it cannot be closed here either. It is left to a process that ends: then nothing
lingers (Linux, inet_release).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess

#: Bytes that one `receive` returns at most.
MOST = 256 * 1024

#: Linux, include/uapi/asm-generic/socket.h; the socket module has no name for it.
_SO_PASSRIGHTS = 83

#: Where looked-at bytes go; nobody reads them.
_ASIDE = memoryview(bytearray(MOST))


class DescriptorPassedError(Exception):
    """The other side has passed a descriptor along; what is behind cannot be read."""


class GuardedSocket:
    """Takes over a connected stream socket, and makes it nonblocking."""

    def __init__(self, sock: socket.socket, *, refuse: bool = True) -> None:
        """`refuse` only off to test what is done where the system cannot refuse descriptors."""
        self.socket = sock
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        self._looks = not (refuse and _refuses_descriptors(sock))

    def fileno(self) -> int:
        return self.socket.fileno()

    def receive(self, most: int) -> bytes:
        """At least one byte and at most `most`, which is up to `MOST`; `b""` at the end of the stream.

        Raises `DescriptorPassedError`, and then for ever, and `OSError`, which is `BlockingIOError` where
        nothing has come.
        """
        if self._looks:
            most = self._look(most)
            if not most:
                return b""
        return self.socket.recv(most)

    async def close(self) -> None:
        """Give it back, without waiting for the other side; never fails."""
        if self._looks and not self._is_clean():
            await asyncio.get_running_loop().run_in_executor(None, _leave_to_a_process, self.socket)
        else:
            self.socket.close()

    def _look(self, most: int) -> int:
        size, _, flags, _ = self.socket.recvmsg_into([_ASIDE[:most]], 0, socket.MSG_PEEK)
        if flags & socket.MSG_CTRUNC:
            raise DescriptorPassedError
        return size

    def _is_clean(self) -> bool:
        """Let nothing more come, and drop what has; whether no descriptor was in the way."""
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
            while self.receive(MOST):
                pass
        except DescriptorPassedError:
            return False
        except OSError:
            # The other side is gone, or nothing is there: either way nothing waits.
            return True
        return True


def _refuses_descriptors(sock: socket.socket) -> bool:
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS, 0)
    except OSError:
        return False
    return True


def _leave_to_a_process(sock: socket.socket) -> None:
    """Let the last reference go with a process that ends. In a thread of its own."""
    with contextlib.ExitStack() as process:
        # Where none can be started only this thread waits.
        with contextlib.suppress(OSError):
            process.enter_context(
                subprocess.Popen(
                    # It ends with its stdin, which is after the socket was closed here.
                    ["cat"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    pass_fds=[sock.fileno()],
                    cwd="/",
                    env={"PATH": "/usr/bin:/bin"},
                    start_new_session=True,
                )
            )
        sock.close()
