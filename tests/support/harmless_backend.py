"""A backend that makes nothing, of a distribution of its own: for what the application does around one."""

from __future__ import annotations

import abc
import asyncio
import sys
from collections.abc import Sequence

from traitlets import Bool, Float, MetaHasTraits, Unicode
from traitlets.config import LoggingConfigurable

from gateway.backends.base import (
    Backend,
    BackendError,
    Check,
    IsolationError,
    LimitReport,
    Sandbox,
    SandboxRequest,
)


class _Meta(abc.ABCMeta, MetaHasTraits):
    """Both bases have a metaclass."""


class HarmlessBackend(LoggingConfigurable, Backend, metaclass=_Meta):  # type: ignore[misc]
    """Configurable, so that a test can say what goes wrong and when."""

    name = "harmless"
    survives_gateway = False
    python = sys.executable

    trouble = Unicode("", config=True, help="What is wrong with this machine.")
    unsure = Bool(False, config=True, help="Whether that cannot be told.")
    start_seconds = Float(0, config=True, help="How long a start takes.")
    close_seconds = Float(0, config=True, help="How long the end takes.")

    async def start(self) -> None:
        print("starting", file=sys.stderr)
        await asyncio.sleep(self.start_seconds)
        if self.trouble:
            raise IsolationError(self.trouble)

    async def create(self, request: SandboxRequest) -> Sandbox:
        raise BackendError("This backend makes no sandboxes.")

    async def list(self) -> Sequence[Sandbox]:
        return []

    async def close(self) -> None:
        print("closing", file=sys.stderr)
        await asyncio.sleep(self.close_seconds)
        print("closed", file=sys.stderr)

    async def checks(self) -> Sequence[Check]:
        ok = None if self.unsure else not self.trouble
        return [
            Check("air", True, "there is some"),
            Check("ground", ok, self.trouble or "firm", "Move house."),
        ]

    def describe_limits(self) -> Sequence[LimitReport]:
        return [
            LimitReport("memory", "1 GiB", "goodwill", True),
            LimitReport("processes", "64", "a cgroup", False),
        ]
