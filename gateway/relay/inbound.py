"""From the clients to the kernel: each message is checked, remembered if it wants an answer, and sent.

A message waits here while the kernel is not ready, and while its socket has not taken enough of the ones
before. It counts as received at once, but is acknowledged only when the kernel's socket has it, which
is what keeps the gateway from sending without end. Nothing of a client's is trusted: what cannot
be read is dropped with a line in the log, and acknowledged like the rest.
"""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from ..wire import strict_json, v1
from ..wire.framing import DEFAULT_MAX_MESSAGE, Frame
from .errors import LinkError
from .outbox import Outbox
from .requests import Request, Requests
from .sockets import Sockets
from .voice import MAX_HEADER, Voice

#: Bytes of messages that may wait here: what protocol.md 1.4 lets a gateway keep unacknowledged (a message
#: and 1 MiB), and the message with which it exceeds that.
MAX_HELD = 2 * DEFAULT_MAX_MESSAGE + (1 << 20)

#: Who the relay is among the sessions, when it asks something itself: none of them, they count from 1.
_OWN_IDENTITY = b"0"


class _Held:
    """A message that waits for the kernel."""

    __slots__ = ("identity", "parts", "sequence", "size")

    def __init__(self, sequence: int, identity: bytes, parts: list[bytes], size: int) -> None:
        self.sequence = sequence
        self.identity = identity
        self.parts = parts
        self.size = size


class Inbound:
    """Takes MESSAGE frames and the relay's own requests. `log` is told what was dropped."""

    def __init__(self, outbox: Outbox, requests: Requests, voice: Voice, log: Callable[[str], None]) -> None:
        self.sockets: Sockets | None = None
        #: Whether the kernel may be sent to.
        self.ready = False
        #: Why there is no kernel to wait for, as (reason, ename); None while there is or will be one.
        self.ended: tuple[str, str] | None = None
        #: What the last shutdown_request of a client asked for: "shutdown", "restart" or None.
        self.asked: str | None = None
        self._outbox = outbox
        self._requests = requests
        self._voice = voice
        self._log = log
        self._received = 0
        self._held: dict[str, deque[_Held]] = {"control": deque(), "shell": deque(), "stdin": deque()}
        self._held_bytes = 0
        self._prefix = f"relay-{os.urandom(8).hex()}-"
        self._asked = 0

    @property
    def received(self) -> int:
        """The sequence number of the last message that was taken."""
        return self._received

    def acknowledged(self) -> int:
        """Up to which sequence number everything is with the kernel, or done with."""
        return min((held[0].sequence - 1 for held in self._held.values() if held), default=self._received)

    def take(self, frame: Frame) -> None:
        """One MESSAGE frame. Raises `LinkError`."""
        if frame.sequence <= self._received:
            return  # a gateway that resumes sends again what it does not know to have arrived
        if frame.sequence != self._received + 1:
            raise LinkError(f"message {frame.sequence} came after {self._received}")
        session = self._outbox.session_of(frame.route)
        if session is None:
            raise LinkError(f"a message on route {frame.route}, which is not open")
        self._received = frame.sequence
        try:
            channel, parts = v1.unpack(frame.payload)
            msg_id, kind = _read_header(parts[0])
            if channel == "iopub":
                raise _UnusableError("a message to iopub")
        except v1.MessageError as error:
            self._log(f"A client's message was dropped: {error}.")
            self._requests.finished(frame.sequence)
            return
        if channel == "stdin":
            self._requests.finished(frame.sequence)
        else:
            request = Request(frame.sequence, session.number, channel, parts[0])
            self._requests.add(msg_id, request, wants_reply=kind.endswith("_request"))
            session.last_request = parts[0]
            if self.ended is not None:
                self.end_all(*self.ended)
                return
            if kind == "shutdown_request":
                self.asked = _shutdown_kind(parts[3])
        if self.ended is None:
            self._send(channel, b"%d" % session.number, parts, frame.sequence, len(frame.payload))

    def ask(self, channel: str, kind: str, content: dict[str, Any]) -> str:
        """Send a request of the relay's own; returns its msg_id. Lost if the kernel takes nothing."""
        self._asked += 1
        msg_id = f"{self._prefix}{self._asked}"
        header = {
            "msg_id": msg_id,
            "msg_type": kind,
            "username": "",
            "session": self._prefix,
            "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "version": "5.3",
        }
        if self.sockets is not None:
            parts = [json.dumps(header).encode(), b"{}", b"{}", json.dumps(content).encode()]
            self.sockets.send(channel, _OWN_IDENTITY, parts)
        return msg_id

    def is_own(self, msg_id: str) -> bool:
        """Whether that is the id of a request of the relay's own."""
        return msg_id.startswith(self._prefix)

    def release(self) -> None:
        """The kernel is ready: send what has waited."""
        self.ready = True
        self.flush()

    def flush(self) -> bool:
        """Send what the kernel takes now; True if something still waits for it."""
        if self.ready and self.sockets is not None:
            for channel, held in self._held.items():
                while held and self.sockets.send(channel, held[0].identity, held[0].parts):
                    self._held_bytes -= held.popleft().size
        return self.ready and any(self._held.values())

    def end_all(self, reason: str, ename: str) -> None:
        """End every outstanding request, and drop what has waited for the kernel."""
        for held in self._held.values():
            held.clear()
        self._held_bytes = 0
        for request, replied in self._requests.take_all():
            self._voice.end(request, reason, ename, replied)

    def _send(self, channel: str, identity: bytes, parts: list[bytes], sequence: int, size: int) -> None:
        held = self._held[channel]
        if (
            self.ready
            and not held
            and self.sockets is not None
            and self.sockets.send(channel, identity, parts)
        ):
            return
        held.append(_Held(sequence, identity, parts, size))
        self._held_bytes += size
        if self._held_bytes > MAX_HELD:
            raise LinkError(f"{self._held_bytes} bytes of requests without waiting for acknowledgement")


class _UnusableError(v1.MessageError):
    """A message that no kernel could answer."""


def _read_header(data: bytes) -> tuple[str, str]:
    """msg_id and msg_type of a client's message. Raises `MessageError`."""
    if len(data) > MAX_HEADER:
        raise _UnusableError(f"its header has {len(data)} bytes")
    header = strict_json.parse(data)
    msg_id, kind = (
        (header.get("msg_id"), header.get("msg_type")) if isinstance(header, dict) else (None, None)
    )
    if not isinstance(msg_id, str) or not isinstance(kind, str):
        raise _UnusableError("its header has no msg_id or no msg_type")
    return msg_id, kind


def _shutdown_kind(content: bytes) -> str:
    """Whether a shutdown_request wants the kernel back afterwards."""
    try:
        value = strict_json.parse(content)
    except strict_json.NotJsonError:
        return "shutdown"
    return "restart" if isinstance(value, dict) and value.get("restart") is True else "shutdown"
