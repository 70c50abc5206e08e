"""Who hears what a relay tells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class LinkListener(Protocol):
    """Who hears what the relay tells about its kernel. Called from the reading task; must not block."""

    def on_state(self, state: str) -> None:
        """The kernel's execution state, one of `gateway.wire.payloads.STATES`."""

    def on_place(self, received: int) -> None:
        """The relay, which the link has lost or adopted, has had the requests up to this number.

        Those of them that are outstanding are told right after (`on_outstanding`).
        """

    def on_outstanding(self, sequence: int, session_id: str, channel: str, header: bytes) -> None:
        """A request that has no answer yet: on shell or control, with its header as the client sent it."""

    def on_died(self, reason: str, asked: str | None) -> None:
        """The kernel's process ended; its outstanding requests were ended by the relay.

        `asked` is "shutdown" or "restart" where a client's shutdown_request wanted that.
        """

    def on_done(self, sequences: Sequence[int]) -> None:
        """These requests, by the numbers that `Route.send` returned, have their reply and their idle."""

    def on_log(self, text: str) -> None:
        """Whole lines of the relay's or kernel's own output; hostile text."""

    def on_stream(self, text: str) -> None:
        """The link has lost its stream, or has found another one: in words, for the gateway's log."""

    def on_activity(self) -> None:
        """Kernel messages came."""
