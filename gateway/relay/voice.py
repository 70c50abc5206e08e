"""What the relay itself says to clients, in the kernel's name: endings, what was lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..wire import builders
from .outbox import Outbox, Session
from .requests import Request

if TYPE_CHECKING:
    import datetime

#: Bytes of a header that is used as a parent. An honest one has a few hundred.
MAX_HEADER = 64 * 1024


class Voice:
    """Speaks through the outbox. `kernel_session` is the `session` of the kernel's own messages: clients
    hold on to what comes from one session only (see `gateway.wire.builders`)."""

    def __init__(self, outbox: Outbox) -> None:
        self.kernel_session = ""
        self._outbox = outbox

    def end(self, request: Request, reason: str, ename: str, replied: bool) -> None:
        """Answer one request in the kernel's place (docs/protocol.md 1.7)."""
        messages = builders.ending(
            request.channel,
            request.header,
            reason,
            _now(),
            ename=ename,
            replied=replied,
            session=self.kernel_session,
        )
        for channel, message in messages:
            if channel == "iopub":
                self._outbox.publish(message)
            elif (session := self._outbox.session(request.session)) is not None:
                self._outbox.send(session, message)

    def refuse(self, request: Request, reason: str, ename: str) -> None:
        """Give one request an error for a reply; the kernel says everything else itself."""
        reply = builders.error(
            request.channel, request.header, ename, reason, _now(), session=self.kernel_session
        )
        session = self._outbox.session(request.session)
        if reply is not None and session is not None:
            self._outbox.send(session, reply)

    def lost(self, session: Session, count: int) -> None:
        """Tell a session that came back what it has missed, under its last request."""
        mebibytes = self._outbox.window / 2**20
        text = (
            f"[{count} messages of this kernel were dropped: while this client was away, "
            f"more than {mebibytes:g} MiB of output came.]\n"
        )
        self._outbox.send(session, self._stderr(text, session.last_request))

    def too_large(self, size: int, limit: int, parent: bytes) -> str:
        """Tell every client of a message that was too large to be sent on; returns the sentence."""
        reason = (
            f"The kernel sent a message of {size / 2**20:.1f} MiB. It was dropped: "
            f"a message may have {limit / 2**20:g} MiB."
        )
        self._outbox.publish(self._stderr(reason + "\n", parent if len(parent) <= MAX_HEADER else b"{}"))
        return reason

    def _stderr(self, text: str, parent: bytes) -> bytes:
        return builders.stream("stderr", text, _now(), parent=parent, session=self.kernel_session)


def _now() -> datetime.datetime:
    import datetime  # takes some ms, and a kernel that lives needs none of this

    return datetime.datetime.now(datetime.UTC)
