"""The processes of one sandbox as the gateway sees them: bubblewrap's monitor, and PID 1 of the sandbox.

PID 1 is the monitor's only child, and with it ends every process of its namespace before the monitor can
reap it. So the end of the monitor is the end of all, as long as PID 1 went first: `kill` therefore ends
PID 1 and not the monitor. Where the monitor went first (something killed it), `ended` waits for PID 1 too.

Three descriptors: the pidfds of both, and the socket of their stderr. PID 1's is had as soon as it is known,
so that a gateway that is out of descriptors can still end it, and never another process of the same number.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Sequence

from .command import OUTER_ENVIRONMENT, Descriptors
from .lastwords import LastWords

#: Bytes of bubblewrap's report; it is about 200.
_REPORT = 4096

#: Lower priority (nice(2)) for a sandbox whose CPU share no cgroup keeps.
NICE = 5

_PAUSE = 0.005
#: Seconds that the monitor gets to reap a killed PID 1 before it is killed too.
_REAPING = 1.0


class Tree:
    """A started sandbox."""

    def __init__(
        self, process: subprocess.Popen[bytes], monitor: int, report: int, orders: int, words: LastWords
    ) -> None:
        """`monitor` is the pidfd of `process`. Takes over every descriptor; made by `spawn`."""
        self._loop = asyncio.get_running_loop()
        self._process = process
        self._words = words
        #: PID 1 of the sandbox, as seen from here, or None where none was made. Or an `OSError` where it had
        #: to be ended, because its pidfd could not be had.
        self.first: asyncio.Future[int | None] = self._loop.create_future()
        self._first_pidfd: int | None = None
        self._first_gone: asyncio.Future[None] = self._loop.create_future()
        self._reaped: asyncio.Future[int] = self._loop.create_future()
        self._monitor = monitor
        self._loop.add_reader(monitor, self._on_exit)
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

        `seccomp` holds the filter, `stream` becomes stdin and stdout, `log_line` takes what it writes to
        its stderr. Raises `OSError`, and then nothing runs.
        """
        if threading.current_thread() is not threading.main_thread():
            # PR_SET_PDEATHSIG is tied to the thread: the sandbox would end with this one (prctl(2)).
            raise RuntimeError("sandboxes must be started from the main thread")
        with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
            report, info = os.pipe()
            ours.callback(_give_up, report)
            theirs.callback(os.close, info)
            args, orders = os.pipe()
            ours.callback(_give_up, orders)
            theirs.callback(os.close, args)
            heard, stderr = socket.socketpair()
            ours.callback(heard.close)
            theirs.callback(stderr.close)
            words = LastWords(log_line, heard)
            ours.callback(words.stop)
            process = subprocess.Popen(
                make_argv(Descriptors(seccomp, info, args)),
                stdin=stream,
                stdout=stream,
                stderr=stderr.fileno(),
                pass_fds=(seccomp, info, args),
                cwd="/",
                env=OUTER_ENVIRONMENT,
                bufsize=0,
                # A terminal's Ctrl-C is for the gateway, which may let running cells end.
                start_new_session=True,
            )
            # It waits for its orders, so there is no PID 1 that could survive it.
            ours.callback(process.wait)
            ours.callback(process.kill)
            if nice:
                # It has not yet become the sandbox, and what it starts inherits this.
                with contextlib.suppress(ProcessLookupError):
                    os.setpriority(os.PRIO_PROCESS, process.pid, NICE)
            monitor = os.pidfd_open(process.pid)
            ours.callback(_give_up, monitor)
            tree = cls(process, monitor, report, orders, words)
            ours.pop_all()
            return tree

    @property
    def last_lines(self) -> Sequence[str]:
        """The last lines of stderr."""
        return self._words.lines

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
        if self._first_pidfd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._first_pidfd, signal.SIGKILL)

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
        while self._first_pidfd is not None:
            self.kill()
            await asyncio.wait([self._first_gone], timeout=_PAUSE)
        return status

    async def close(self) -> None:
        """Take what is left on stderr and give back every descriptor; after `ended`."""
        if self._orders is not None:
            os.close(self._orders)
            self._orders = None
        await self._words.close()

    def _on_exit(self) -> None:
        self._loop.remove_reader(self._monitor)
        os.close(self._monitor)
        # Whoever waits for the end has to know of a PID 1 that was left.
        self._on_report()
        self._end_report()
        # Readable means that it has exited, so this does not wait.
        self._reaped.set_result(self._process.wait())

    def _on_first_exit(self) -> None:
        assert self._first_pidfd is not None
        _give_up(self._first_pidfd)
        self._first_pidfd = None
        self._first_gone.set_result(None)

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
        _give_up(self._report)
        self._report = None
        try:
            first = int(json.loads(self._reported)["child-pid"])
            # The descriptor that has just become free is there for this one.
            self._first_pidfd = os.pidfd_open(first)
        except (ValueError, KeyError, TypeError):
            self.first.set_result(None)
        except ProcessLookupError:
            # It was there, and has ended before it was looked at, as a program may that has little to do.
            self.first.set_result(first)
        except OSError as error:
            # Its number is still its own: the monitor, which alone can reap it, has just told it.
            with contextlib.suppress(ProcessLookupError):
                os.kill(first, signal.SIGKILL)
            self.first.set_exception(error)
            # It need not be asked for: whoever only ends a sandbox does not.
            self.first.exception()
        else:
            self._loop.add_reader(self._first_pidfd, self._on_first_exit)
            self.first.set_result(first)


def _give_up(descriptor: int) -> None:
    """Listen to it no more, if anyone does, and close it."""
    asyncio.get_running_loop().remove_reader(descriptor)
    os.close(descriptor)
