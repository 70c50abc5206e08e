"""One client's hold on a kernel: what a websocket sends and receives through.

An attachment outlives links: it is there before the sandbox is, and stays when a kernel is started anew in
another sandbox. Its numbers rise all the while (`gateway.link.Inbox.offset`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..link import Inbox, InboxFullError, Link, Route
from .errors import KernelError

if TYPE_CHECKING:
    from .kernel import Kernel


class SessionTakenError(KernelError):
    """Another websocket has attached with the same session_id; this one gets nothing more."""

    def __init__(self, session_id: str) -> None:
        super().__init__(f"Session {session_id} goes on in another connection.")


class ClientBehindError(KernelError):
    """More has come for this client than may wait for it. What it has not been given comes when it attaches
    again."""

    def __init__(self, session_id: str) -> None:
        super().__init__(f"Session {session_id} reads too slowly. Connect again for what is left.")


class Attachment:
    """Made by `Kernel.attach`; one task may be in `send` and one in `receive` at a time."""

    def __init__(self, kernel: Kernel, session_id: str) -> None:
        self._kernel = kernel
        self.session_id = session_id
        self.inbox = Inbox()
        self.route: Route | None = None

    async def send(self, message: bytes) -> None:
        """Hand one v1 message to the kernel, waiting while it starts or has too much to take.

        Where the kernel is dead the request is ended at once, as if it had died then (protocol.md 1.7).
        Raises `gateway.wire.messages.MessageError` for bytes that are no v1 message, and
        `KernelGoneError` when the kernel was deleted.
        """
        await self._kernel.send(self, message)

    async def receive(self) -> list[tuple[int, bytes]]:
        """The messages that wait, at least one, as `(number, v1 message)`; cancelling loses none.

        Raises `KernelGoneError` when the kernel was deleted, `SessionTakenError` when another attachment
        took the session over, and `ClientBehindError` after the last that could wait.
        """
        try:
            return await self.inbox.take()
        except InboxFullError as error:
            raise ClientBehindError(self.session_id) from error

    def acknowledge(self, number: int) -> None:
        """The client has taken every message up to this number; its session will not need them again."""
        if self.route is not None and number > self.inbox.offset:
            self.route.acknowledge(number - self.inbox.offset)

    def detach(self) -> None:
        """Give up; what the session has not acknowledged is kept for its next attachment. Idempotent."""
        self._kernel.forget(self)

    def bind(self, link: Link) -> None:
        """Go on over a new link (for `Kernel`)."""
        self.inbox.offset = self.inbox.last
        self.route = link.open_route(self.session_id, self.inbox)

    def unbind(self) -> None:
        """Leave the link (for `Kernel`)."""
        if self.route is not None:
            self.route.close()
            self.route = None
