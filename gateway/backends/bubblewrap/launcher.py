"""Starts sandboxes: everything a gateway holds for them, and the steps from a request to a process.

A step that fails undoes those before it. From the moment the process runs, the sandbox owns what it uses, and
gives it back when it is over.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ...relay.seccomp import UnsupportedArchitectureError, build_filter
from ...transport.pipe import PipeTransport
from ..base import BackendError, CapacityError, IsolationError
from . import command, limits
from .cgroups import Cgroups, detect
from .etc import Etc
from .instance import Instance, default_runtime_dir
from .limits import Limits
from .sandbox import BubblewrapSandbox, Log, Started
from .settings import Bind
from .staging import Stages
from .tree import Tree
from .uids import UidLeases
from .visible import Visible, is_system

#: What the machine has run out of when a sandbox cannot be made: descriptors, processes, memory, room.
_CAPACITY = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM, errno.ENOBUFS, errno.ENOSPC, errno.EDQUOT}
)


class Program(NamedTuple):
    """What runs as PID 1 of a sandbox, and the paths that it needs beside the kernel's."""

    argv: Sequence[str]
    binds: Sequence[Bind]


class Launcher:
    """What one gateway holds for its sandboxes; `close` gives it back when they are gone."""

    def __init__(
        self, bwrap: str, machine: str, runtime_dir: Path, uid_range: tuple[int, int], log: Log
    ) -> None:
        """Sweep what dead gateways left, and take what this one needs.

        Raises `IsolationError` or `OSError`, and then holds nothing.
        """
        self._bwrap = bwrap
        self._log = log
        #: Those of which anything is left, by name.
        self.sandboxes: dict[str, BubblewrapSandbox] = {}
        self._closed = False
        with contextlib.ExitStack() as undo:
            self.instance = Instance(runtime_dir)
            undo.callback(self.instance.close)
            if self.instance.swept:
                log.warning("Swept what gateways left that were killed: %s", ", ".join(self.instance.swept))
            self._uids: UidLeases | None = None
            self._stages: Stages | None = None
            if os.geteuid() == 0:
                self._stages = Stages(str(self.folder("stage", 0o755)))
                self._uids = UidLeases(default_runtime_dir() / "uids", *uid_range)
                undo.callback(self._uids.close)
            places = detect()
            groups = f"jupyter-gateway-{self.instance.name}"
            # Known to the watcher before they are made: a gateway may be killed in between.
            self.instance.watch(
                sorted({place.folder / groups for place in places.values()}),
                [self._uids.descriptor] if self._uids else [],
            )
            self.cgroups = Cgroups(groups, places)
            undo.callback(self.cgroups.close)
            self._filter = _filter(machine, "memory" in self.cgroups.controllers)
            self._etc = Etc(self.folder("etc", 0o755))
            undo.pop_all()

    async def launch(
        self, name: str, visible: Visible, program: Program, bounds: Limits
    ) -> BubblewrapSandbox:
        """A sandbox in which `program` is starting. Raises `BackendError`; then nothing is left of it."""
        try:
            if self.instance.ensure_watched():
                self._log.error("The watcher of this gateway had ended; it was started again.")
            with contextlib.ExitStack() as meanwhile:
                return await self._launch(name, self._etc.provide(visible), program, bounds, meanwhile)
        except OSError as error:
            raise refusal(error) from None

    async def _launch(
        self,
        name: str,
        visible: Visible,
        program: Program,
        bounds: Limits,
        meanwhile: contextlib.ExitStack,
    ) -> BubblewrapSandbox:
        """`meanwhile` takes what is given back once the sandbox has started, or has failed to."""
        binds, namespace = await self._reach([*visible.binds, *program.binds], meanwhile)
        contents = command.Contents(
            binds=binds,
            links=visible.links,
            covered=visible.covered,
            limits=bounds,
            rlimits=limits.rlimits(bounds, self.cgroups.controllers),
            argv=program.argv,
            environment=command.relay_environment(),
        )
        transport, theirs = PipeTransport.pair()
        try:
            started = self._spawn(name, contents, namespace, theirs.fileno())
        except BaseException:
            await transport.close()
            raise
        finally:
            theirs.close()
        base_env = command.base_environment(bounds, visible.search_path)
        sandbox = BubblewrapSandbox(name, base_env, bounds, started, transport, self._log)
        self.sandboxes[name] = sandbox
        try:
            await self._finish(contents, started)
            self.instance.record(name, await sandbox.started())
        except BaseException as error:
            await asyncio.shield(sandbox.destroy())
            if isinstance(error, OSError) and error.errno not in _CAPACITY:
                raise BackendError(f"The sandbox could not be made: {error}. {sandbox.last_words}") from None
            raise
        return sandbox

    async def _reach(
        self, binds: Sequence[Bind], meanwhile: contextlib.ExitStack
    ) -> tuple[Sequence[Bind], str | None]:
        """The binds from where a sandbox can reach their sources, and the namespace in which that is so."""
        if self._stages is None:
            return binds, None
        sources = dict.fromkeys(bind.source for bind in binds if not is_system(bind.source))
        stage = await self._stages.get(list(sources))
        reached = [Bind(stage.where.get(bind.source, bind.source), bind.target) for bind in binds]
        # One that is this sandbox's own: a stage may be made anew before nsenter has opened it.
        namespace = os.dup(stage.namespace)
        meanwhile.callback(os.close, namespace)
        return reached, f"/proc/{os.getpid()}/fd/{namespace}"

    def _spawn(self, name: str, contents: command.Contents, namespace: str | None, stream: int) -> Started:
        # Nothing is awaited from here to the entry in `sandboxes`, so no two can get one name.
        if name in self.sandboxes:
            raise BackendError(f"There is a sandbox for the kernel {name} already.")
        if self._closed:
            raise BackendError("The gateway is closing.")
        with contextlib.ExitStack() as held:
            uid = None
            if self._uids is not None:
                uid = self._uids.lease()
                held.callback(self._uids.release, uid)
            try:
                cgroup = self.cgroups.create(name, contents.limits)
            except OSError as error:
                raise CapacityError(f"No control group could be made for the sandbox: {error}.") from None
            held.callback(cgroup.try_remove)
            held.callback(self.instance.forget, name)
            outside = command.Outside(self._bwrap, uid, namespace)
            with _memory_file(self._filter) as seccomp:
                tree = Tree.spawn(
                    partial(command.build, contents, outside),
                    seccomp,
                    stream,
                    lambda line: self._log.info("sandbox %s: %s", name, line),
                    nice="cpu" not in self.cgroups.controllers,
                )
            held.callback(self.sandboxes.pop, name, None)
            return Started(tree, cgroup, held.pop_all().close)

    @staticmethod
    async def _finish(contents: command.Contents, started: Started) -> None:
        """Put a started sandbox under its limits, and only then let it become one. Raises `OSError`."""
        if started.cgroup.groups:
            # In a thread, because Linux takes its time (see `join`).
            loop = asyncio.get_running_loop()
            joining = loop.run_in_executor(None, started.cgroup.join, started.tree.pid)
            try:
                await asyncio.shield(joining)
            finally:
                # Where this is cancelled its thread goes on, with a file of the groups that go next.
                await asyncio.wait([joining])
        contents = contents._replace(binds=[*contents.binds, *started.cgroup.shown])
        started.tree.proceed(command.file_system(contents))

    def folder(self, name: str, mode: int) -> Path:
        """A new folder that goes with this gateway."""
        folder = self.instance.folder / name
        folder.mkdir()
        folder.chmod(mode)
        return folder

    async def close(self) -> None:
        """End every sandbox, and give everything back; a part that fails keeps no other from it."""
        self._closed = True
        await asyncio.gather(*(sandbox.destroy() for sandbox in [*self.sandboxes.values()]))
        async with contextlib.AsyncExitStack() as parts:
            if self._uids is not None:
                parts.callback(self._uids.close)
            # Waits for the watcher, which sweeps.
            parts.push_async_callback(asyncio.get_running_loop().run_in_executor, None, self.instance.close)
            parts.callback(self._close_groups)
            if self._stages is not None:
                parts.callback(self._stages.close)

    def _close_groups(self) -> None:
        try:
            self.cgroups.close()
        except OSError as error:
            self._log.error("The control groups of this gateway are left to its watcher: %s", error)


def refusal(error: OSError) -> BackendError:
    """The error for the client where a sandbox could not be made."""
    problem = f"The sandbox could not be made: {error}."
    if error.errno in _CAPACITY:
        return CapacityError(f"{problem} Delete a kernel, or try again later.")
    return BackendError(problem)


def _filter(machine: str, is_memory_counted: bool) -> bytes:
    try:
        return build_filter(machine, deny_unaccounted_memory=not is_memory_counted)
    except UnsupportedArchitectureError as error:
        raise IsolationError(str(error)) from None


@contextlib.contextmanager
def _memory_file(data: bytes) -> Iterator[int]:
    descriptor = os.memfd_create("seccomp", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, data)
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)
