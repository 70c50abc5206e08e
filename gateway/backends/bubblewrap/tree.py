"""The processes of one sandbox as the gateway sees them: bubblewrap's monitor, and PID 1 of the sandbox.

PID 1 is the monitor's only child, and with it ends every process of its namespace before the monitor can
reap it. So the end of the monitor is the end of all, as long as PID 1 went first: `kill` therefore ends
PID 1 and not the monitor. Where the monitor went first (something killed it), `ended` waits for PID 1 too.

Two descriptors: the monitor's pidfd and the pipe of its stderr.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import errno
import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence

from . import sweep
from .command import OUTER_ENVIRONMENT, Descriptors

#: Bytes read of stderr at a time, kept of a line, and lines kept for an explanation.
_CHUNK, _LONGEST_LINE, _LAST_LINES = 64 * 1024, 2000, 20
#: Lines of stderr that are logged per sandbox: its user's code may write there without end.
_MOST_LINES = 500

#: Bytes of bubblewrap's report; it is about 200.
_REPORT = 4096

#: Lower priority (nice(2)) for a sandbox whose CPU share no cgroup keeps.
NICE = 5

_PAUSE = 0.005
#: Seconds that the monitor gets to reap a killed PID 1 before it is killed too.
_REAPING = 1.0


class Tree:
    """A started sandbox. `log_line` takes what it writes to its stderr, line by line."""

    def __init__(
        self, process: subprocess.Popen[bytes], report: int, orders: int, log_line: Callable[[str], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._process = process
        self._log_line = log_line
        #: The last lines of stderr.
        self.last_lines: collections.deque[str] = collections.deque(maxlen=_LAST_LINES)
        self._line = b""
        self._lines = 0
        self._pid_1: str | None = None
        #: PID 1 of the sandbox, as seen from here, or None where none was made.
        self.first: asyncio.Future[int | None] = self._loop.create_future()
        self._reaped: asyncio.Future[int] = self._loop.create_future()
        self._pidfd: int | None = os.pidfd_open(process.pid)
        self._loop.add_reader(self._pidfd, self._on_exit)
        assert process.stderr is not None
        self._stderr = process.stderr
        os.set_blocking(self._stderr.fileno(), False)
        self._loop.add_reader(self._stderr.fileno(), self._on_stderr)
        self._orders: int | None = orders
        os.set_blocking(orders, False)
        self._report: int | None = report
        os.set_blocking(report, False)
        self._reported = b""
        self._loop.add_reader(report, self._on_report)

    @classmethod
    def spawn(
        cls,
        make_argv: Callable[[Descriptors], Sequence[str]],
        seccomp: int,
        stream: int,
        log_line: Callable[[str], None],
        *,
        nice: bool,
    ) -> Tree:
        """Start what `make_argv` says for the descriptors that it inherits; it waits for `proceed`.

        `seccomp` holds the filter, `stream` becomes stdin and stdout. Raises `OSError`.
        """
        if threading.current_thread() is not threading.main_thread():
            # PR_SET_PDEATHSIG is tied to the thread: the sandbox would end with this one (prctl(2)).
            raise RuntimeError("sandboxes must be started from the main thread")
        report, info = os.pipe()
        args, orders = os.pipe()
        try:
            process = subprocess.Popen(
                make_argv(Descriptors(seccomp, info, args)),
                stdin=stream,
                stdout=stream,
                stderr=subprocess.PIPE,
                pass_fds=(seccomp, info, args),
                cwd="/",
                env=OUTER_ENVIRONMENT,
                bufsize=0,
                # A terminal's Ctrl-C is for the gateway, which may let running cells end.
                start_new_session=True,
            )
        except BaseException:
            os.close(report)
            os.close(orders)
            raise
        finally:
            os.close(info)
            os.close(args)
        if nice:
            # It has not yet become the sandbox, and what it starts inherits this.
            with contextlib.suppress(ProcessLookupError):
                os.setpriority(os.PRIO_PROCESS, process.pid, NICE)
        return cls(process, report, orders, log_line)

    @property
    def pid(self) -> int:
        """The first process: bubblewrap's monitor, once it is that."""
        return self._process.pid

    def proceed(self, orders: bytes) -> None:
        """Tell bubblewrap what to mount, upon which it makes PID 1. Raises `OSError`."""
        descriptor, self._orders = self._orders, None
        if descriptor is None:
            return
        try:
            if os.write(descriptor, orders) < len(orders):
                raise OSError(errno.EMSGSIZE, "the options of the sandbox do not fit into a pipe")
        finally:
            os.close(descriptor)

    def kill(self) -> None:
        """Send SIGKILL to PID 1 and thereby to everything inside; may be called at any time and again."""
        if self._pid_1 is None:
            return
        pid = int(self._pid_1.split()[0])
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        try:
            # Only now does the number surely mean the process that is looked at.
            if sweep.identity(pid) == self._pid_1:
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        except ProcessLookupError:
            pass
        finally:
            os.close(descriptor)

    async def end(self) -> None:
        """Kill everything, the monitor at last, and wait until all of it is gone."""
        if self._orders is not None:
            # It waits for orders, so there is no PID 1 yet.
            self._process.kill()
            await self.ended()
            return
        await asyncio.wait([self.first], timeout=_REAPING)
        self.kill()
        if not (await asyncio.wait([self._reaped], timeout=_REAPING))[0]:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        await self.ended()

    async def ended(self) -> int:
        """Wait until no process is left; the exit status, negative for the signal that ended the monitor."""
        status = await asyncio.shield(self._reaped)
        while self._pid_1 is not None and sweep.identity(int(self._pid_1.split()[0])) == self._pid_1:
            self.kill()
            await asyncio.sleep(_PAUSE)
        return status

    def close(self) -> None:
        """Take what is left on stderr and give back every descriptor; after `ended`."""
        if self._orders is not None:
            os.close(self._orders)
            self._orders = None
        self._on_report()
        self._end_report()
        if not self._stderr.closed:
            self._on_stderr()
            self._end_stderr()

    def _on_exit(self) -> None:
        assert self._pidfd is not None
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = None
        # Readable means that it has exited, so this does not wait.
        self._reaped.set_result(self._process.wait())

    def _on_report(self) -> None:
        """Read bwrap's `--info-fd`: a JSON object with `child-pid`, then the end of the file (bwrap(1))."""
        if self._report is None:
            return
        try:
            data = os.read(self._report, _REPORT)
        except BlockingIOError:
            return
        self._reported += data
        if not data or self._reported.rstrip().endswith(b"}") or len(self._reported) > _REPORT:
            self._end_report()

    def _end_report(self) -> None:
        if self._report is None:
            return
        self._loop.remove_reader(self._report)
        os.close(self._report)
        self._report = None
        first = None
        with contextlib.suppress(ValueError, KeyError, TypeError):
            first = int(json.loads(self._reported)["child-pid"])
        if first is not None:
            self._pid_1 = sweep.identity(first)
        if not self.first.done():
            self.first.set_result(first if self._pid_1 is not None else None)

    def _on_stderr(self) -> None:
        try:
            data = os.read(self._stderr.fileno(), _CHUNK)
        except BlockingIOError:
            return
        if not data:
            self._end_stderr()
            return
        *lines, rest = (self._line + data).split(b"\n")
        for line in lines:
            self._take_line(line)
        self._line = rest[:_LONGEST_LINE]

    def _end_stderr(self) -> None:
        if self._line:
            self._take_line(self._line)
            self._line = b""
        self._loop.remove_reader(self._stderr.fileno())
        self._stderr.close()

    def _take_line(self, line: bytes) -> None:
        decoded = line[:_LONGEST_LINE].decode(errors="replace").rstrip()
        # What comes from inside may try to write to the terminal that shows the log.
        text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in decoded)
        if not text:
            return
        self.last_lines.append(text)
        self._lines += 1
        if self._lines < _MOST_LINES:
            self._log_line(text)
        elif self._lines == _MOST_LINES:
            self._log_line(f"{text} (no more of its output is logged)")
