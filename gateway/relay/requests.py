"""Which of the clients' requests still want an answer.

A request is answered when its reply has been seen (on the channel it came on) and its `idle` (on iopub);
both name its msg_id as their parent. Then the gateway is told DONE by the request's sequence number. When
the kernel ends before, whoever asked is answered in its place. A `comm_msg` and its like want no
reply, only the idle; an `input_reply` is done when the kernel has it.
"""

from __future__ import annotations

#: Bytes of headers, with what Python needs beside, that are remembered; beyond, the oldest is let go.
MAX_BYTES = 16 << 20
_OVERHEAD = 512


class Request:
    """One request: its sequence number, its session's number, its channel, and its header as it came."""

    __slots__ = ("channel", "header", "sequence", "session")

    def __init__(self, sequence: int, session: int, channel: str, header: bytes) -> None:
        self.sequence = sequence
        self.session = session
        self.channel = channel
        self.header = header


class Requests:
    """The outstanding requests, oldest first."""

    def __init__(self) -> None:
        self._requests: dict[str, Request] = {}
        self._replied: set[str] = set()
        self._idle: set[str] = set()
        self._bytes = 0
        self._done: list[int] = []

    def __len__(self) -> int:
        return len(self._requests)

    def add(self, msg_id: str, request: Request, wants_reply: bool) -> None:
        """Remember a request. A second one with the same id takes the first one's place."""
        if msg_id in self._requests:
            self._finish(msg_id)
        self._requests[msg_id] = request
        if not wants_reply:
            self._replied.add(msg_id)
        self._bytes += len(request.header) + _OVERHEAD
        while self._bytes > MAX_BYTES:
            self._finish(next(iter(self._requests)))

    def finished(self, sequence: int) -> None:
        """A message that wants no answer is with the kernel, or was refused."""
        self._done.append(sequence)

    def replied(self, msg_id: str) -> None:
        """The reply to that request has been seen."""
        if msg_id in self._requests:
            self._replied.add(msg_id)
            if msg_id in self._idle:
                self._finish(msg_id)

    def idle(self, msg_id: str) -> None:
        """The kernel has become idle after that request."""
        if msg_id in self._requests:
            self._idle.add(msg_id)
            if msg_id in self._replied:
                self._finish(msg_id)

    def get(self, msg_id: str) -> Request | None:
        """That request, if it is outstanding."""
        return self._requests.get(msg_id)

    def outstanding(self) -> list[Request]:
        """All of them, oldest first."""
        return [*self._requests.values()]

    def take_done(self) -> list[int]:
        """The sequence numbers that were done since the last call."""
        done, self._done = self._done, []
        return done

    def take_all(self) -> list[tuple[Request, bool]]:
        """Everything that is outstanding, and whether only its idle is; it counts as done from now on."""
        requests = [(request, msg_id in self._replied) for msg_id, request in self._requests.items()]
        for msg_id in list(self._requests):
            self._finish(msg_id)
        return requests

    def _finish(self, msg_id: str) -> None:
        request = self._requests.pop(msg_id)
        self._bytes -= len(request.header) + _OVERHEAD
        self._replied.discard(msg_id)
        self._idle.discard(msg_id)
        self._done.append(request.sequence)
