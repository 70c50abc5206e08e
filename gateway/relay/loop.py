"""One thread, one poller: descriptors and ZMQ sockets with their handlers, and deadlines by name.

The raw `zmq.Poller` costs 8 us a message where zmq.asyncio costs 21. It reports in the order in which
sources were added, so what is watched first is served first.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import zmq

Handler = Callable[[], None]
Source = int | zmq.Socket[bytes]

#: Seconds that a turn may wait when no deadline is nearer.
_LONGEST_WAIT = 60.0


class Loop:
    """`settle` is called at the end of each turn, when every handler has run."""

    def __init__(self, settle: Handler, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.now = clock()
        self._settle = settle
        self._poller = zmq.Poller()
        self._handlers: dict[Source, Handler] = {}
        self._deadlines: dict[str, tuple[float, Handler]] = {}
        self._stopped = False

    def watch(self, source: Source, handler: Handler, events: int = zmq.POLLIN) -> None:
        """Call `handler` in each turn in which `source` is ready."""
        self._handlers[source] = handler
        self._poller.register(source, events)

    def ignore(self, source: Source) -> None:
        """Stop watching; nothing happens if it is not watched."""
        if self._handlers.pop(source, None) is not None:
            self._poller.unregister(source)

    def at(self, name: str, deadline: float, handler: Handler) -> None:
        """Call `handler` once at `deadline`; takes the place of an earlier one of that name."""
        self._deadlines[name] = (deadline, handler)

    def cancel(self, name: str) -> None:
        """Forget the deadline of that name, if there is one."""
        self._deadlines.pop(name, None)

    def is_set(self, name: str) -> bool:
        """Whether there is a deadline of that name."""
        return name in self._deadlines

    def stop(self) -> None:
        """End `run` after this turn."""
        self._stopped = True

    def run(self) -> None:
        """Turn until `stop`."""
        while not self._stopped:
            self.turn()

    def turn(self) -> None:
        """Wait for something to do, and do it."""
        nearest = min((deadline for deadline, _ in self._deadlines.values()), default=math.inf)
        wait = min(max(nearest - self.clock(), 0.0), _LONGEST_WAIT)
        ready = self._poller.poll(math.ceil(wait * 1000))
        self.now = self.clock()
        for source, _ in ready:
            # A handler may have stopped the watching of one that comes after it.
            handler = self._handlers.get(source)
            if handler is not None:
                handler()
        if nearest <= self.now:
            for name, (deadline, handler) in list(self._deadlines.items()):
                if deadline <= self.now and self._deadlines.get(name) == (deadline, handler):
                    del self._deadlines[name]
                    handler()
        self._settle()
