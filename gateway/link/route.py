"""One client's lane on a link, and what is said about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ..wire import framing, payloads
from ..wire.framing import Kind
from .inbox import Inbox

if TYPE_CHECKING:
    from .session import Link


class Route:
    """Made by `Link.open_route`."""

    def __init__(self, link: Link, number: int, session_id: str, inbox: Inbox) -> None:
        self._link = link
        self.number = number
        self.session_id = session_id
        self.inbox = inbox
        #: What the client has taken, by its sequence number.
        self.acknowledged = 0

    async def send(self, message: bytes) -> int:
        """Send one v1 message to the kernel; returns its sequence number.

        Waits while too much is unacknowledged. Raises `LinkClosedError`.
        """
        return await self._link.send_message(self, message)

    def acknowledge(self, sequence: int) -> None:
        """The client has taken every message up to `sequence`."""
        self._link.acknowledge(self, sequence)

    def close(self) -> None:
        """Give the route up; the relay keeps what its session has not acknowledged."""
        self._link.close_route(self)


class Sent(NamedTuple):
    """A request that the relay has not acknowledged; its bytes are kept where they may have to go again."""

    sequence: int
    size: int
    route: Route
    message: bytes


def opening(route: Route, after: int) -> bytes:
    """The OPEN of a route whose client has everything up to `after`."""
    members: dict[str, Any] = {"session_id": route.session_id}
    if after:
        members["after"] = after
    return framing.encode(Kind.OPEN, route.number, payloads.dump(members))


def request(route: int, sequence: int, message: bytes) -> tuple[bytes, bytes]:
    """The MESSAGE of a request, in two pieces so that it is not copied."""
    return framing.encode_header(Kind.MESSAGE, route, len(message), sequence), message
