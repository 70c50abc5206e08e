"""What a sandbox writes to its stderr: to the log as far as that is bearable, and the last lines of it.

The user's code may write there without end. So it is read at `_RATE` in the long run, and while that is used
up not at all, which stops who writes; and once enough is logged, only the last lines of what
was read are looked at. It comes by a socket and not by a pipe for the reason in `gateway.transport.guarded`.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import socket
from collections.abc import Callable

from ...transport.guarded import MOST, DescriptorPassedError, GuardedSocket

#: Bytes read at a time, so few because all lines in them are logged within one turn of the loop; bytes that
#: may be read without a pause, and bytes a second after that.
_CHUNK, _BURST, _RATE = 4 * 1024, 64 * 1024, 16 * 1024
#: Bytes kept of a line, and lines kept for an explanation.
_LONGEST_LINE, _LAST_LINES = 2000, 20
#: Lines that are logged per sandbox.
_MOST_LINES = 500


class LastWords:
    """The gateway's end of a sandbox's stderr. `log_line` takes what may be logged, line by line."""

    def __init__(self, log_line: Callable[[str], None], sock: socket.socket) -> None:
        """Takes over `sock`. Raises `OSError`, and then does not."""
        self._loop = asyncio.get_running_loop()
        self._log_line = log_line
        #: The last lines.
        self.lines: collections.deque[str] = collections.deque(maxlen=_LAST_LINES)
        self._line = b""
        self._logged = 0
        self._left = float(_BURST)
        self._then = self._loop.time()
        self._later: asyncio.TimerHandle | None = None
        self._guarded = GuardedSocket(sock)
        self._listen()

    async def close(self) -> None:
        """Take what is there and give the descriptor back; after the end of all that wrote."""
        self.stop()
        with contextlib.suppress(OSError, DescriptorPassedError):
            # The rate is for those who write on; what is there now is bounded by the socket.
            while data := self._guarded.receive(MOST):
                self._take(data)
        self._take(b"\n")
        await self._guarded.close()

    def stop(self) -> None:
        """Listen no more; the descriptor stays."""
        self._loop.remove_reader(self._guarded.fileno())
        if self._later is not None:
            self._later.cancel()
            self._later = None

    def _listen(self) -> None:
        self._later = None
        self._loop.add_reader(self._guarded.fileno(), self._on_readable)

    def _on_readable(self) -> None:
        try:
            data = self._guarded.receive(_CHUNK)
        except BlockingIOError:
            return
        except (OSError, DescriptorPassedError):
            data = b""
        if not data:
            self.stop()
            return
        self._take(data)
        now = self._loop.time()
        self._left = min(float(_BURST), self._left + (now - self._then) * _RATE) - len(data)
        self._then = now
        if self._left < 0:
            self._loop.remove_reader(self._guarded.fileno())
            self._later = self._loop.call_later(_CHUNK / _RATE, self._listen)

    def _take(self, data: bytes) -> None:
        data = self._line + data
        if self._logged < _MOST_LINES:
            *lines, rest = data.split(b"\n")
            wanted = _MOST_LINES - self._logged
            for line in lines[:wanted]:
                self._log(line)
            lines = lines[wanted:]
        else:
            *lines, rest = data.rsplit(b"\n", _LAST_LINES + 1)
        for line in lines[-_LAST_LINES:]:
            self._keep(line)
        self._line = rest[:_LONGEST_LINE]

    def _log(self, line: bytes) -> None:
        if text := self._keep(line):
            self._logged += 1
            more = "" if self._logged < _MOST_LINES else " (no more of its output is logged)"
            self._log_line(text + more)

    def _keep(self, line: bytes) -> str:
        if text := _legible(line):
            self.lines.append(text)
        return text


def _legible(line: bytes) -> str:
    decoded = line[:_LONGEST_LINE].decode(errors="replace").rstrip()
    if decoded.isprintable():
        return decoded
    # What comes from inside may try to write to the terminal that shows the log.
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in decoded)
