"""Hears one link for its kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .outstanding import Outstanding, Request
from .state import Event

if TYPE_CHECKING:
    from .kernel import Kernel


class Voice:
    """A `gateway.link.LinkListener` that goes silent with its link."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.outstanding = Outstanding()
        self.state = ""
        self.silent = False
        #: The kernel's death that nothing was done about yet: its reason, and what a client had asked for.
        #: There is one at a time: a hostile relay may tell of any number.
        self.death: tuple[str, str | None] | None = None

    def on_state(self, state: str) -> None:
        self.state = state
        if state == "restarting":
            # It died before it had heard that it is to be restarted, which is all that a death asks for.
            self.death = None
        if not self.silent and state in ("idle", "busy"):
            self._kernel.advance(Event.IDLE if state == "idle" else Event.BUSY)

    def on_died(self, reason: str, asked: str | None) -> None:
        self.outstanding.take_all()
        if not self.silent and self.death is None:
            self.death = reason, asked
            self._kernel.on_kernel_died(reason, asked)

    def on_place(self, received: int) -> None:
        self.outstanding.keep_after(received)

    def on_outstanding(self, sequence: int, session_id: str, channel: str, header: bytes) -> None:
        self.outstanding.add(sequence, Request(session_id, channel, header))

    def on_done(self, sequences: Sequence[int]) -> None:
        self.outstanding.done(sequences)

    def on_log(self, text: str) -> None:
        self._kernel.log_output(text)

    def on_stream(self, text: str) -> None:
        self._kernel.log_stream(text)

    def on_activity(self) -> None:
        self._kernel.touch()
