"""Which of the kernel's sockets are served, and when.

Control always is. The others are left alone while clients are behind (the brake is on, and the kernel
stopped), and iopub for a few ms while a stream gathers. Neither holds for a kernel that boots, whose
first words somebody waits for, or has ended, whose last words are few.
"""

from __future__ import annotations

import zmq

from .brake import Brake
from .inbound import Inbound
from .loop import Loop
from .outbound import Outbound
from .outbox import Outbox
from .pace import Pace
from .process import KernelProcess
from .sockets import Sockets
from .writer import Writer

_BRAKED = ("shell", "stdin", "iopub")
#: Seconds until it is tried again to send what the kernel has not taken.
_RETRY = 0.02


class Taps:
    """The sockets of one kernel after the other, on `loop`."""

    def __init__(
        self, loop: Loop, inbound: Inbound, outbound: Outbound, outbox: Outbox, writer: Writer
    ) -> None:
        #: The process that the brake stops.
        self.process: KernelProcess | None = None
        #: How many messages have been taken so far.
        self.taken = 0
        #: Whether the kernel is in full service: brake and gathering apply.
        self.serving = False
        self._loop = loop
        self._inbound = inbound
        self._outbound = outbound
        self._outbox = outbox
        self._writer = writer
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._sockets: Sockets | None = None
        self._brake = Brake()
        self._pace = Pace()

    def connect(self, endpoints: dict[str, str], key: str) -> None:
        """Connect to a kernel and begin to serve it."""
        self._sockets = self._inbound.sockets = Sockets(self._context, endpoints, key)
        self._brake.on = False
        self._watch("control")
        self._open()

    def disconnect(self) -> None:
        """The kernel has ended; what its sockets still hold is given up."""
        self._loop.cancel("gather")
        self._loop.cancel("retry")
        self.serving = False
        self._inbound.sockets = None
        if self._sockets is not None:
            for socket in self._sockets.by_channel.values():
                self._loop.ignore(socket)
            self._sockets.close()
            self._sockets = None

    def release(self) -> None:
        """Let the kernel go on for some bytes more, whatever waits."""
        self._brake.release(self._outbox.backlog(), self._writer.unsent)
        self._go_on()

    def is_connected(self) -> bool:
        """Whether the kernel may still send something; where not, all of it waits in its sockets."""
        return self._sockets is not None and self._sockets.is_connected()

    def drain(self) -> None:
        """Take what a kernel that has ended sent before, at once and however slow the clients are."""
        self.serving = False
        self._brake.on = False
        self._open()

    def settle(self) -> None:
        """Follow what waits in either direction; called at the end of each turn."""
        if self._inbound.flush() and not self._loop.is_set("retry"):
            # Its deadline only wakes the loop up; the next turn's end tries again.
            self._loop.at("retry", self._loop.now + _RETRY, lambda: None)
        if not self.serving:
            return
        changed = self._brake.update(self._outbox.backlog(), self._outbox.window, self._writer.unsent)
        if changed and self._brake.on:
            self._stop()
        elif changed:
            self._go_on()

    def _watch(self, channel: str) -> None:
        if self._sockets is not None:
            socket = self._sockets.by_channel[channel]
            self._loop.watch(socket, lambda: self._take(channel, socket))

    def _take(self, channel: str, socket: zmq.Socket[bytes]) -> None:
        count = self._outbound.take(channel, socket)
        self.taken += count
        if channel != "iopub":
            return
        until = self._pace.taken(count, self._loop.now)
        if until is not None and self.serving:
            self._loop.ignore(socket)
            self._loop.at("gather", until, self._gathered)

    def _gathered(self) -> None:
        if not self._brake.on:
            self._watch("iopub")

    def _open(self) -> None:
        for channel in _BRAKED:
            self._watch(channel)

    def _stop(self) -> None:
        if self.process is not None:
            self.process.stop()
        if self._sockets is not None:
            for channel in _BRAKED:
                self._loop.ignore(self._sockets.by_channel[channel])

    def _go_on(self) -> None:
        if self.process is not None:
            self.process.go_on()
        self._open()
