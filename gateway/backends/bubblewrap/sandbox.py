"""One sandbox: its stream, its life, why it ended, and that nothing is left of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from ...transport.base import Transport
from ..base import BackendError, Ending, Sandbox
from ..sizes import format_size
from . import command
from .cgroups import Cgroup
from .limits import Limits
from .tree import Tree

Log = logging.Logger | logging.LoggerAdapter[logging.Logger]

_PAUSE = 0.005
#: Seconds after which control groups that stay busy are left to the watcher.
_PATIENCE = 5.0

#: Exit statuses from here on are signals, as shells and bwrap(1) tell them.
_SIGNALLED = 128


class Started(NamedTuple):
    """What runs. `release` is called when nothing is left of it but a transport that was taken."""

    tree: Tree
    cgroup: Cgroup
    release: Callable[[], None]


class BubblewrapSandbox(Sandbox):
    """A running sandbox."""

    home = command.HOME

    def __init__(
        self,
        kernel_id: str,
        base_env: Mapping[str, str],
        limits: Limits,
        started: Started,
        transport: Transport,
        log: Log,
    ) -> None:
        self.kernel_id = kernel_id
        self.base_env = base_env
        self._limits = limits
        self._tree, self._cgroup, self._release = started
        self._transport: Transport | None = transport
        self._log = log
        self._asked = asyncio.get_running_loop().create_future()
        self._over = asyncio.create_task(self._live())

    async def connect(self) -> Transport:
        transport, self._transport = self._transport, None
        if transport is None:
            raise BackendError("A sandbox has one stream, and that of this one is taken or has ended.")
        return transport

    async def wait(self) -> Ending:
        return await asyncio.shield(self._over)

    async def destroy(self) -> None:
        if not self._asked.done():
            self._asked.set_result(None)
        await asyncio.wait([self._over])

    async def started(self) -> int:
        """Wait for the first process inside; its number outside.

        Raises `BackendError` if there is none, and `OSError` if the gateway could not keep hold of it.
        """
        first = await asyncio.shield(self._tree.first)
        if first is None:
            ending = await self.wait()
            raise BackendError(f"The sandbox could not be made: {ending.reason}.")
        return first

    @property
    def last_words(self) -> str:
        """What it last wrote to stderr, "" where that is nothing."""
        return " ".join(self._tree.last_lines)

    async def _live(self) -> Ending:
        ended = asyncio.create_task(self._tree.ended())
        await asyncio.wait(
            [ended, self._asked], timeout=self._limits.life, return_when=asyncio.FIRST_COMPLETED
        )
        ending = None
        if not ended.done():
            if self._asked.done():
                ending = Ending("it was deleted")
            else:
                ending = Ending(f"it reached its maximum life of {self._limits.life:g} s", expired=True)
            await self._tree.end()
        status = await ended
        await self._tree.close()
        ending = ending or Ending(self._explain(status))
        await self._remove_cgroup()
        if self._transport is not None:
            await self._transport.close()
            self._transport = None
        try:
            self._release()
        except OSError as error:
            self._log.error("Not all that sandbox %s held was given back: %s", self.kernel_id, error)
        return ending

    async def _remove_cgroup(self) -> None:
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                if self._cgroup.try_remove():
                    return
                self._cgroup.kill()
                problem = "they stay busy"
            except OSError as error:
                # The gateway may be out of descriptors for a moment.
                problem = str(error)
            if time.monotonic() > deadline:
                self._log.error(
                    "The control groups of sandbox %s cannot be removed: %s", self.kernel_id, problem
                )
                return
            await asyncio.sleep(_PAUSE)

    def _explain(self, status: int) -> str:
        """Why it ended, from the monitor's status: how PID 1 ended, or (negative) the monitor itself."""
        number = -status if status < 0 else status - _SIGNALLED
        if number == signal.SIGKILL and self._deaths_by_memory():
            return f"the kernel used more than its {format_size(self._limits.memory)} of memory"
        if number > 0:
            name = str(number)
            with contextlib.suppress(ValueError):
                name = signal.Signals(number).name
            return f"it was killed by {name}"
        last = f": {self._tree.last_lines[-1]}" if self._tree.last_lines else ""
        return f"its first process ended with exit status {status}{last}"

    def _deaths_by_memory(self) -> int:
        try:
            return self._cgroup.deaths_by_memory()
        except OSError as error:
            self._log.error("Whether sandbox %s ran out of memory is unknown: %s", self.kernel_id, error)
            return 0
