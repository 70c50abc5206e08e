"""The clients of one kernel, and what the gateway tells them in the kernel's place (protocol.md 1.7)."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable, Iterable

from ..link import Link, LinkClosedError
from ..wire import messages
from .attachment import Attachment, SessionTakenError
from .state import State

Clock = Callable[[], datetime.datetime]

#: Sessions without a client for which the end of their requests waits.
MAX_MISSED_SESSIONS = 64


@dataclasses.dataclass(frozen=True)
class Request:
    """A client's request that has no answer yet."""

    session_id: str
    channel: str
    header: bytes


class Clients:
    """Who is attached, by session, and what those who are away are still to be told."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._attachments: dict[str, Attachment] = {}
        self._missed: dict[str, list[bytes]] = {}
        # The kernel's own session: JupyterLab drops what it still works on at a message of another one.
        self._session = ""

    def __len__(self) -> int:
        return len(self._attachments)

    def add(self, attachment: Attachment) -> None:
        """A client comes; it takes its session over from an older attachment, and hears what it missed."""
        session_id = attachment.session_id
        older = self._attachments.pop(session_id, None)
        if older is not None:
            older.unbind()
            older.inbox.close(SessionTakenError(session_id))
        self._attachments[session_id] = attachment
        for message in self._missed.pop(session_id, ()):
            attachment.inbox.put_local(message)

    def remove(self, attachment: Attachment) -> None:
        """A client goes. Idempotent."""
        attachment.unbind()
        if self._attachments.get(attachment.session_id) is attachment:
            del self._attachments[attachment.session_id]

    def bind(self, link: Link, only: Iterable[Attachment] = ()) -> None:
        """Have the clients, or some of them, go on over a new link."""
        for attachment in only or self._attachments.values():
            try:
                attachment.bind(link)
            except LinkClosedError:
                # Its kernel is about to find out, and binds to the next link.
                attachment.route = None

    def unbind(self, link: Link | None) -> None:
        """The link is to be closed."""
        self._learn_session(link)
        for attachment in self._attachments.values():
            attachment.unbind()

    def close(self, error: Exception) -> None:
        """The kernel is gone; every client hears `error`."""
        for attachment in self._attachments.values():
            attachment.inbox.close(error)
        self._attachments.clear()
        self._missed.clear()

    def end_request(self, request: Request, reason: str) -> None:
        """Give the answer that the kernel cannot give any more."""
        pairs = messages.ending(request.channel, request.header, reason, self._clock(), session=self._session)
        for channel, message in pairs:
            if channel == "iopub":
                for attachment in self._attachments.values():
                    attachment.inbox.put_local(message)
            elif request.session_id in self._attachments:
                self._attachments[request.session_id].inbox.put_local(message)
            if request.session_id not in self._attachments:
                self._missed.setdefault(request.session_id, []).append(message)
        if len(self._missed) > MAX_MISSED_SESSIONS:
            del self._missed[next(iter(self._missed))]

    def announce(self, state: State, link: Link | None) -> None:
        """Tell everyone of a state that the kernel cannot tell itself."""
        self._learn_session(link)
        message = messages.status(state.value, self._clock(), session=self._session)
        for attachment in self._attachments.values():
            attachment.inbox.put_local(message)

    def _learn_session(self, link: Link | None) -> None:
        if link is not None and link.spoken:
            self._session = messages.session_of(link.spoken)
