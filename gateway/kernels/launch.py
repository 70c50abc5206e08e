"""What a kernel is started with, and its bounds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from ..backends.base import Sandbox, SandboxRequest


@dataclasses.dataclass(frozen=True)
class KernelSettings:
    """Bounds of one kernel: bytes for `window` and `max_message`, seconds for the rest."""

    window: int
    max_message: int
    start_timeout: float
    restart_limit: int
    stable_after: float
    shutdown_grace: float


@dataclasses.dataclass(frozen=True)
class Launch:
    """What to start: the sandbox to make, and how the relay is to start the kernel in it.

    `environment` makes the kernel's whole environment of the sandbox's base.
    """

    request: SandboxRequest
    interrupt_mode: str
    transport: str
    sign: bool
    environment: Callable[[Mapping[str, str]], dict[str, str]]

    def members(self, sandbox: Sandbox) -> dict[str, Any]:
        """The members of CONTROL start (protocol.md 1.5)."""
        return {
            "argv": list(self.request.argv),
            "env": self.environment(sandbox.base_env),
            "cwd": sandbox.home,
            "interrupt_mode": self.interrupt_mode,
            "transport": self.transport,
            "sign": self.sign,
            **sandbox.proof,
        }
