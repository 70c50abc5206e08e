"""From the kernel to the clients: what its sockets bring goes to the outbox, all but unread.

What the kernel publishes is for everyone and is not parsed, but for its `status`, of which the kernel's state
and the end of requests are read. A reply finds its way by the identity that its request was sent
with, which is its session's number; its parent's msg_id tells which request is answered.

All of it is the user's code's to forge. What is no message is counted and dropped, what is too large is
dropped and told to the clients, what cannot be read as a status is sent on as it is.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

import zmq

from ..wire import v1
from ..wire.framing import DEFAULT_MAX_MESSAGE
from ..wire.window import BATCH_BYTES
from .inbound import Inbound
from .outbox import Outbox, Session
from .requests import Request, Requests
from .sockets import receive, receive_published
from .voice import MAX_HEADER, Voice

#: Messages that are taken from one socket in one turn, so that the others are served too.
BATCH = 256
# The v1 layout's table for a message without buffers: the count of offsets, and where the channel, each of
# the four parts, and the message's end are (see gateway.wire.v1).
_TABLE = struct.Struct("<7Q")
_TABLE_COUNT = 6
_CHANNEL_END = _TABLE.size + len(b"iopub")
#: Characters of a kernel's session id; honest ones have 36.
_MAX_SESSION = 128


class Listener:
    """Who follows the kernel's life; the base of one class, and cheaper to import than a Protocol."""

    def on_status(self, state: str) -> None:
        """The kernel says that it is idle or busy, for a client's request."""

    def on_welcome(self) -> None:
        """iopub_welcome: the subscription is known to the kernel."""

    def on_own_reply(self) -> None:
        """A request of the relay's own was answered."""

    def on_own_idle(self) -> None:
        """The idle after a request of the relay's own was heard on iopub."""


class Outbound:
    """Takes what the kernel sends. `max_message` bounds one message, in bytes."""

    def __init__(
        self,
        outbox: Outbox,
        requests: Requests,
        inbound: Inbound,
        voice: Voice,
        log: Callable[[str], None],
    ) -> None:
        self.max_message = DEFAULT_MAX_MESSAGE
        #: Set before anything is taken.
        self.listener: Listener
        self._outbox = outbox
        self._requests = requests
        self._inbound = inbound
        self._voice = voice
        self._log = log

    def take(self, channel: str, socket: zmq.Socket[bytes]) -> int:
        """Take a batch from one of the kernel's sockets; how many messages it was."""
        take = self._take_published if channel == "iopub" else self._take_reply
        size = 0
        for count in range(BATCH):
            try:
                taken = take(channel, socket)
            except zmq.Again:
                return count
            if taken is None:
                self._log(f"The kernel sent something on {channel} that is no message; it was dropped.")
            else:
                size += taken
                if size > BATCH_BYTES:
                    break
        return count + 1

    def _take_published(self, channel: str, socket: zmq.Socket[bytes]) -> int | None:
        parts = receive_published(socket)
        if parts is None:
            return None
        header = parts[0]
        if (b'"status"' in header or b'"iopub_welcome"' in header) and not self._follow_status(parts):
            return 0
        payload = _join_published(parts)
        if len(payload) > self.max_message:
            self._voice.too_large(len(payload), self.max_message, parts[1])
        else:
            self._outbox.publish(payload)
        return len(payload)

    def _follow_status(self, parts: list[bytes]) -> bool:
        """Read what may be a status or a welcome; False if it concerns nobody but the relay."""
        header, parent, content = _read(parts[0]), _read(parts[1]), _read(parts[3])
        kind = header.get("msg_type")
        if kind == "iopub_welcome":
            self.listener.on_welcome()
            return False
        if kind != "status":
            return True
        if isinstance(session := header.get("session"), str):
            self._voice.kernel_session = session[:_MAX_SESSION]
        msg_id, state = parent.get("msg_id"), content.get("execution_state")
        if not isinstance(msg_id, str):
            return True
        if self._inbound.is_own(msg_id):
            if state == "idle":
                self.listener.on_own_idle()
            return False
        request = self._requests.get(msg_id)
        # What goes by on control says nothing of the cell that runs meanwhile.
        if state in ("idle", "busy") and (request is None or request.channel != "control"):
            self.listener.on_status(state)
        if state == "idle":
            self._requests.idle(msg_id)
        return True

    def _take_reply(self, channel: str, socket: zmq.Socket[bytes]) -> int | None:
        message = receive(socket)
        if message is None:
            return None
        identities, parts = message
        msg_id = _read(parts[1]).get("msg_id") if channel != "stdin" else None
        if not isinstance(msg_id, str):
            msg_id = ""
        if self._inbound.is_own(msg_id):
            self.listener.on_own_reply()
            return 0
        request = self._requests.get(msg_id)
        session = self._addressee(identities, request)
        payload = v1.join(channel, parts)
        if session is None:
            pass  # its session has been forgotten meanwhile
        elif len(payload) <= self.max_message:
            self._outbox.send(session, payload)
        else:
            reason = self._voice.too_large(len(payload), self.max_message, parts[1])
            if request is not None:
                self._voice.refuse(request, reason, "MessageTooLarge")
        self._requests.replied(msg_id)
        return len(payload)

    def _addressee(self, identities: list[bytes], request: Request | None) -> Session | None:
        """Whose reply it is: by its identity, or by its request where a kernel has lost the identity."""
        name = identities[-1] if identities else b""
        if len(name) < 20 and name.isdigit():
            return self._outbox.session(int(name))
        return self._outbox.session(request.session) if request is not None else None


def _join_published(parts: list[bytes]) -> bytes:
    """`v1.join` for iopub; without buffers, which is nearly always, in a third of its time."""
    if len(parts) != v1.JSON_PARTS:
        return v1.join("iopub", parts)
    header, parent, metadata, content = parts
    a = _CHANNEL_END + len(header)
    b = a + len(parent)
    c = b + len(metadata)
    table = _TABLE.pack(_TABLE_COUNT, _TABLE.size, _CHANNEL_END, a, b, c, c + len(content))
    return b"".join((table, b"iopub", header, parent, metadata, content))


def _read(data: bytes) -> dict[str, Any]:
    """The members of a JSON object from the kernel; none if it is not one, or is suspiciously long."""
    if len(data) > MAX_HEADER:
        return {}
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
