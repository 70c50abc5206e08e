"""Who hears what a relay tells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class LinkListener(Protocol):
    """Who hears what the relay tells about its kernel. Called from the reading task; must not block."""

    def on_state(self, state: str) -> None:
        """The kernel's execution state, one of `gateway.wire.payloads.STATES`."""

    def on_died(self, reason: str, asked: str | None) -> None:
        """The kernel's process ended; its outstanding requests were ended by the relay.

        `asked` is "shutdown" or "restart" where a client's shutdown_request wanted that.
        """

    def on_done(self, sequences: Sequence[int]) -> None:
        """These requests, by the numbers that `Route.send` returned, have their reply and their idle."""

    def on_log(self, text: str) -> None:
        """Whole lines of the relay's or kernel's own output; hostile text."""

    def on_activity(self) -> None:
        """Kernel messages came."""
