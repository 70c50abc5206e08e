"""When a kernel that was launched can be used: iopub has to be heard before a request may be sent.

ZMQ drops what is published before a subscription has arrived, so a request sent too early loses its
output, and its idle. Newer kernels welcome a subscriber on iopub (`iopub_welcome`, Jupyter
Enhancement Proposal 65). From the others nothing is to be had but an answer: `kernel_info_request` is
repeated until the idle that follows one has been seen on iopub. It is repeated only after the last
one's reply, because a kernel that boots slowly would find them all in its queue.
"""

from __future__ import annotations

from collections.abc import Callable

#: Seconds that a welcome gets before the first question. A kernel that welcomes does it within a few ms.
PATIENCE = 0.1
#: Seconds between a reply without a heard idle and the next question.
INTERVAL = 0.02


class Readiness:
    """Follows one kernel from the connecting of its sockets. `ready` once iopub is known to be heard."""

    def __init__(self, now: float, ask: Callable[[], object]) -> None:
        """`ask` sends a kernel_info_request."""
        self.ready = False
        #: When `tick` wants to be called, or None.
        self.due: float | None = now + PATIENCE
        self._ask = ask

    def tick(self) -> None:
        """Ask; called when `due`."""
        self._ask()
        self.due = None

    def welcomed(self) -> None:
        """An iopub_welcome came."""
        self._done()

    def replied(self, now: float) -> None:
        """The last question was answered on shell."""
        if not self.ready:
            self.due = now + INTERVAL

    def idle(self) -> None:
        """A question's idle was heard on iopub."""
        self._done()

    def _done(self) -> None:
        self.ready = True
        self.due = None
