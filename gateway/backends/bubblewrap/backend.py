"""The bubblewrap backend: its configuration, its start, and its sandboxes."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import platform
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from traitlets import Float, Int, List, Tuple, Unicode, default, validate
from traitlets.config import LoggingConfigurable

from ...relay import command as relay_command
from ..base import (
    Backend,
    BackendError,
    Check,
    IsolationError,
    LimitReport,
    Sandbox,
    SandboxRequest,
    SpecError,
)
from ..sizes import MIB
from ..traits import BackendMeta, Size, check_limit
from . import cgroups, diagnosis, limits, relay, selfcheck, settings, visible
from .instance import default_runtime_dir
from .launcher import Launcher, refusal
from .limits import Limits


class BubblewrapBackend(LoggingConfigurable, Backend, metaclass=BackendMeta):
    """Sandboxes on this machine; the package's docstring says how it is made up."""

    name = "bubblewrap"
    survives_gateway = False
    python = sys.executable

    memory = Size(1024 * MIB, config=True, help="Memory of a sandbox: bytes, or a text such as 512MiB.")
    processes = Int(256, config=True, help="Processes and threads in a sandbox.")
    cpus = Float(2.0, config=True, help="Processors that a sandbox may use up, such as 0.5.")
    file_size = Size(256 * MIB, config=True, help="Largest file that a process may write.")
    open_files = Int(1024, config=True, help="Open files of a process.")
    tmp_size = Size(256 * MIB, config=True, help="Size of /tmp; what is in it counts as memory.")
    home_size = Size(256 * MIB, config=True, help="Size of the home; what is in it counts as memory.")
    life = Float(
        86400.0, allow_none=True, config=True, help="Seconds after which a sandbox is ended; None: never."
    )

    data_roots = List(
        Unicode(),
        config=True,
        help="Folders below which kernelspecs may name data to be shown read-only "
        "(`read_only` of metadata.sandbox). Empty: none.",
    )
    hidden_paths = List(
        Unicode(),
        config=True,
        help="Files and folders that no sandbox may see, should they lie in an environment that is shown.",
    )
    bwrap = Unicode("bwrap", config=True, help="The program bubblewrap, by name or by absolute path.")
    runtime_dir = Unicode(config=True, help="Where what belongs to running sandboxes is kept.")
    uid_range = Tuple(
        Int(),
        Int(),
        default_value=(1_900_000_000, 1_900_004_095),
        config=True,
        help="First and last host UID for sandboxes of a gateway that is root; each has its own. They must "
        "belong to nobody.",
    )

    #: (host, port) pairs on which the gateway listens: the self-check shows that no sandbox reaches them.
    listeners = List(Tuple(Unicode(), Int()))

    @default("runtime_dir")
    def _default_runtime_dir(self) -> str:
        return str(default_runtime_dir())

    @validate("memory", "processes", "cpus", "file_size", "open_files", "tmp_size", "home_size", "life")
    def _can_work(self, proposal: Any) -> Any:
        return check_limit(self, proposal)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._launcher: Launcher | None = None
        self._python = relay.interpreter()

    async def start(self) -> None:
        if self._launcher is not None:
            raise RuntimeError("this backend has been started")
        launcher, checks = await self._get_ready()
        # What is wrong goes before what could not be told.
        failed = sorted((check for check in checks if not check.ok), key=lambda check: check.ok is None)
        if launcher is None or failed:
            if launcher is not None:
                await launcher.close()
            raise IsolationError(f"{failed[0].detail} {failed[0].remedy}".strip())
        # Only now can anything be created.
        self._launcher = launcher
        for report in self.describe_limits():
            if report.best_effort:
                self.log.warning("Best effort on this machine: %s, by %s.", report.name, report.enforced_by)

    async def create(self, request: SandboxRequest) -> Sandbox:
        if self._launcher is None:
            raise BackendError("The backend has not been started.")
        kernel_id = str(uuid.UUID(request.kernel_id))
        try:
            asked = settings.read(request.settings, self._limits(), self.data_roots)
            seen = visible.look(self._rules(), request.argv, request.resource_dir, asked.data)
        except OSError as error:
            raise refusal(error) from None
        return await self._launcher.launch(kernel_id, seen, relay.program(self._python), asked.limits)

    async def list(self) -> Sequence[Sandbox]:
        if self._launcher is None:
            return []
        sandboxes = self._launcher.sandboxes.values()
        return [sandbox for sandbox in sandboxes if not sandbox.kernel_id.startswith(selfcheck.NAME)]

    async def close(self) -> None:
        launcher, self._launcher = self._launcher, None
        if launcher is not None:
            await launcher.close()

    async def checks(self) -> Sequence[Check]:
        if self._launcher is not None:
            return [*diagnosis.look_for_tools(self.bwrap), *await self._prove(self._launcher)]
        launcher, checks = await self._get_ready()
        if launcher is not None:
            await launcher.close()
        return checks

    def describe_limits(self) -> Sequence[LimitReport]:
        if self._launcher is not None:
            return limits.describe(self._limits(), self._launcher.cgroups.controllers)
        places = cgroups.detect()
        return limits.describe(self._limits(), {name: place.version for name, place in places.items()})

    async def _get_ready(self) -> tuple[Launcher | None, Sequence[Check]]:
        """Take what sandboxes need and prove their isolation; stops at the first check that fails.

        Whoever gets the launcher closes it. Where there is none, a check says why.
        """
        checks = [*diagnosis.look_for_tools(self.bwrap)]
        if not checks[-1].ok:
            return None, checks
        try:
            launcher = Launcher(
                bwrap=diagnosis.find(self.bwrap) or self.bwrap,
                machine=platform.machine(),
                runtime_dir=Path(self.runtime_dir),
                uid_range=self.uid_range,
                log=self.log,
            )
        except IsolationError as error:
            return None, [*checks, Check("resources", False, str(error))]
        except OSError as error:
            remedy = "Set BubblewrapBackend.runtime_dir to a folder that can be written."
            return None, [
                *checks,
                Check("resources", False, f"Sandboxes cannot be prepared: {error}.", remedy),
            ]
        try:
            relay_command.compile_sources()
            return launcher, [*checks, *await self._prove(launcher)]
        except BaseException:
            await asyncio.shield(launcher.close())
            raise

    async def _prove(self, launcher: Launcher) -> Sequence[Check]:
        try:
            seen = visible.look(self._rules())
        except SpecError as error:
            return [Check("interpreter", False, str(error))]
        proof = await selfcheck.prove(launcher, seen, self._limits(), self._python, self.listeners)
        return [launcher.cgroups.check(), *proof]

    def _limits(self) -> Limits:
        return Limits(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Limits)})

    def _rules(self) -> visible.Rules:
        return visible.Rules(
            interpreter=visible.prefixes(self._python),
            programs=os.path.join(sys.prefix, "bin"),
            hidden=[self.runtime_dir, *self.hidden_paths],
        )
