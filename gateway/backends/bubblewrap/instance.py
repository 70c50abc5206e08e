"""The folder of one gateway's run, its lock, and the watcher that cleans up after it (see `sweep`)."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import stat
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ..base import IsolationError
from . import sweep
from .command import OUTER_ENVIRONMENT

#: Seconds until the watcher has swept an instance from which nothing runs any more.
WATCHER_PATIENCE = 10


def default_runtime_dir() -> Path:
    """Where instances are kept: a folder that is the gateway user's own and best gone after a boot."""
    uid = os.geteuid()
    if uid == 0:
        return Path("/run/jupyter-sandbox-gateway")
    runtime = Path(f"/run/user/{uid}")
    if runtime.is_dir() and os.access(runtime, os.W_OK):
        return runtime / "jupyter-sandbox-gateway"
    return Path(f"/tmp/jupyter-sandbox-gateway-{uid}")  # noqa: S108  # its owner and mode are checked


class Instance:
    """One run of a gateway. Only one thread of one process uses it."""

    def __init__(self, runtime_dir: Path) -> None:
        """Sweep what dead gateways left in `runtime_dir`, and make a folder there for this one.

        Raises `IsolationError` where the folder is not this user's own.
        """
        _make_private(runtime_dir)
        with _one_at_a_time(runtime_dir):
            self.swept = sweep.sweep_others(runtime_dir)
            self.folder = runtime_dir / (sweep.INSTANCE_PREFIX + secrets.token_hex(6))
            self.folder.mkdir(mode=0o700)
            self._lock = os.open(self.folder, sweep.FOLDER)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._sandboxes = self.folder / sweep.SANDBOXES
        self._sandboxes.mkdir(mode=0o700)
        self._watcher: subprocess.Popen[bytes] | None = None
        self._shared: Sequence[int] = ()

    @property
    def name(self) -> str:
        """Unique on this machine; fit for the name of a file and of a control group."""
        return self.folder.name.removeprefix(sweep.INSTANCE_PREFIX)

    def watch(self, groups: Iterable[Path], shared: Sequence[int]) -> None:
        """Start the watcher. It removes `groups` in the end, and holds `shared` descriptors until then."""
        self._write(self.folder / sweep.GROUPS, "".join(f"{group}\n" for group in groups))
        self._shared = shared
        self._start_watcher()

    def ensure_watched(self) -> bool:
        """Start the watcher again if it has ended; whether it had."""
        if self._watcher is None or self._watcher.poll() is None:
            return False
        self._watcher.stdin.close()  # type: ignore[union-attr]
        self._start_watcher()
        return True

    def record(self, kernel_id: str, pid: int) -> None:
        """Note the first process of a sandbox, so that the watcher can end it."""
        identity = sweep.identity(pid)
        if identity is not None:
            self._write(self._sandboxes / kernel_id, identity)

    def forget(self, kernel_id: str) -> None:
        """Drop the note of a sandbox from which nothing is left."""
        (self._sandboxes / kernel_id).unlink(missing_ok=True)

    def close(self) -> None:
        """Let the watcher sweep, which removes the folder; waits for it, which takes milliseconds."""
        if self._watcher is not None:
            self._watcher.stdin.close()  # type: ignore[union-attr]
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._watcher.wait(WATCHER_PATIENCE)
        if self.folder.exists():
            sweep.sweep_instance(self.folder)
        os.close(self._lock)

    def _write(self, path: Path, text: str) -> None:
        """Write a file that is never seen half written."""
        new = self.folder / f".{path.name}"
        new.write_text(text)
        new.rename(path)

    def _start_watcher(self) -> None:
        # The lock goes along: while the watcher sweeps, the next gateway must not do so too.
        self._watcher = subprocess.Popen(
            [sys.executable, "-I", "-S", sweep.__file__, str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            pass_fds=(self._lock, *self._shared),
            cwd="/",
            env=OUTER_ENVIRONMENT,
            start_new_session=True,
        )


def _make_private(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise IsolationError(
            f"The folder {folder} for what belongs to running sandboxes cannot be made: {error.strerror}. "
            "Set BubblewrapBackend.runtime_dir to one that can."
        ) from None
    mode = stat.S_IMODE(status.st_mode)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or mode & 0o077:
        raise IsolationError(
            f"{folder} must be a folder of this gateway's user alone (owner {os.geteuid()}, mode 700) and is "
            f"owned by {status.st_uid} with mode {mode:o}. Remove it, or set BubblewrapBackend.runtime_dir."
        )


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Between its making and its locking an instance looks dead; so only one gateway is here."""
    descriptor = os.open(folder, sweep.FOLDER)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
