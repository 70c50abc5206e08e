"""The clients of one kernel, and what the gateway tells them in the kernel's place (protocol.md 1.7)."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable

from ..link import Link, LinkClosedError
from ..wire import messages
from .attachment import Attachment, SessionTakenError
from .outstanding import Request
from .state import State

Clock = Callable[[], datetime.datetime]

#: Bytes that wait for sessions without a client; beyond, the oldest session's go.
MAX_MISSED = 4 * 1024 * 1024


class Clients:
    """Who is attached, by session, and what those who are away are still to be told."""

    def __init__(self, clock: Clock, window: int) -> None:
        """`window`: bytes that may wait for a client that is told of other clients' requests."""
        self._clock = clock
        self._window = window
        self._attachments: dict[str, Attachment] = {}
        self._missed: dict[str, list[bytes]] = {}
        self._missed_size = 0
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
        for message in self._take_missed(session_id):
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

    def leave(self, link: Link | None, error: Exception) -> None:
        """Another gateway goes on, and gives each client what it has not taken here. All hear `error`."""
        for attachment in self._attachments.values():
            attachment.inbox.drop()
            attachment.inbox.close(error)
        self.unbind(link)
        self.close(error)

    def close(self, error: Exception) -> None:
        """The kernel is gone; every client hears `error`."""
        for attachment in self._attachments.values():
            attachment.inbox.close(error)
        self._attachments.clear()
        self._missed.clear()
        self._missed_size = 0

    def end_request(self, request: Request, reason: str) -> None:
        """Give the answer that the kernel cannot give any more, unless nobody waits for one."""
        if not request.wants_answer:
            return
        asking = self._attachments.get(request.session_id)
        if asking is not None and asking.inbox.is_closed:
            asking = None  # it reads too slowly, and is told when it comes back
        pairs = messages.ending(request.channel, request.header, reason, self._clock(), session=self._session)
        for channel, message in pairs:
            if asking is not None:
                asking.inbox.put_local(message)
            else:
                self._missed.setdefault(request.session_id, []).append(message)
                self._missed_size += len(message)
            if channel == "iopub":
                for attachment in self._attachments.values():
                    # What concerns another client is not worth more memory to one that reads nothing.
                    if attachment is not asking and attachment.inbox.size < self._window:
                        attachment.inbox.put_local(message)
        while self._missed_size > MAX_MISSED:
            self._take_missed(next(iter(self._missed)))

    def _take_missed(self, session_id: str) -> list[bytes]:
        missed = self._missed.pop(session_id, [])
        self._missed_size -= sum(map(len, missed))
        return missed

    def announce(self, state: State, link: Link | None) -> None:
        """Tell everyone of a state that the kernel cannot tell itself."""
        self._learn_session(link)
        message = messages.status(state.value, self._clock(), session=self._session)
        for attachment in self._attachments.values():
            attachment.inbox.put_local(message)

    def _learn_session(self, link: Link | None) -> None:
        if link is not None and link.spoken:
            self._session = messages.session_of(link.spoken)
