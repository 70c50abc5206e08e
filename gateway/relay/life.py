"""The kernel's life: start, interrupt, restart, shutdown, death.

    (nothing) -> booting -> ready -> dying -> dead        ending: every process is being killed, for a
                    |         |                ^          restart (then booting again) or at a shutdown
                    +---------+-- ending ------+

- A start or restart is answered when the kernel is ready, or when it has failed, with the reason.
- A kernel that ends by itself takes what it left behind along: all other processes are killed, what is
  still in its sockets is taken (`dying`), outstanding requests are ended, and the gateway hears why.
- Requests that come when the kernel is dead are ended with the same reason.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .boot import Boot
from .inbound import Inbound
from .launch import Launch, Running, run
from .loop import Loop
from .memory import MemoryWatch
from .outbound import Listener
from .output import Output
from .process import KernelProcess, LaunchError, reap
from .readiness import Readiness
from .taps import Taps

if TYPE_CHECKING:
    from .proof import Proof

#: Seconds between two looks for the kernel's sockets: they are what its start waits for, and its end.
LOOK = 0.002
#: Seconds between two kills while something of the sandbox is still alive, and until the link's stream is no
#: longer spared: what forks as fast as it is killed ends by nothing less.
KILL_AGAIN = 0.01
SPARE_STREAMS = 1.0
#: Seconds without a message after which a dead kernel's sockets are given up that something else holds open:
#: what it left behind outside of a sandbox. In one everything was killed, and they end with it.
QUIET = 1.0
#: Seconds that a shutdown gives the kernel where the command does not say.
DEFAULT_GRACE = 2.0


class Gateway:
    """What the gateway is told; the base of one class, and cheaper to import than a Protocol."""

    def answer(self, number: int, error: str = "") -> None:
        """Answer a CONTROL: ok, or the reason why not."""

    def state(self, state: str) -> None:
        """The kernel's state has changed."""

    def died(self, reason: str, exit_code: int | None, number: int | None, asked: str | None) -> None:
        """The kernel ended unasked."""

    def log(self, text: str) -> None:
        """Whole lines for the gateway's log."""


class Life(Listener):
    """One kernel from its start to the relay's end; the module's docstring is the theory."""

    def __init__(
        self,
        loop: Loop,
        gateway: Gateway,
        taps: Taps,
        inbound: Inbound,
        run_dir: str,
        environment: dict[str, str],
    ) -> None:
        """`environment` is what a kernel gets beneath that of its start."""
        self.phase = "nothing"
        self.process: KernelProcess | None = None
        self._loop = loop
        self._gateway = gateway
        self._taps = taps
        self._inbound = inbound
        self._run_dir = run_dir
        self._environment = environment
        self._launch: Launch | None = None
        self._running: Running | None = None
        self._output: Output | None = None
        self._memory = MemoryWatch()
        self._readiness: Readiness | None = None
        #: Runs, where the start asked for one; whether the kernel may be used as far as it is concerned.
        self._proof: Proof | None = None
        self._is_proven = True
        self._generation = 1
        self._next: Callable[[], None] | None = None
        self._spared_until = 0.0
        #: CONTROLs that wait: for a kernel that is ready, or for one that has ended.
        self._starting: list[int] = []
        self._stopping: list[int] = []
        #: How many messages were taken so far, and since when; whether its sockets have ended.
        self._taken = 0
        self._taken_at = 0.0
        self._is_cut_off = False

    # -- commands -----------------------------------------------------------------------------------

    def adopt(self, boot: Boot) -> None:
        """Go on with what `boot` has begun."""
        if boot.command is None:
            return
        self._starting.append(int(str(boot.command["id"])))
        self._launch = boot.launch
        if boot.running is None:
            self._failed(boot.error)
        else:
            self._booted(boot.running)

    def start(self, number: int, command: dict[str, Any]) -> None:
        """CONTROL start; once in a relay's life."""
        if self.phase != "nothing":
            self._gateway.answer(number, "This sandbox has had its kernel; it starts no second one.")
            return
        self._starting.append(number)
        try:
            self._launch = Launch(command, self._environment)
            self._begin_proof(command)
        except LaunchError as error:
            self._failed(str(error))
        else:
            self._begin()

    def ready(self, number: int) -> None:
        """CONTROL ready: answered when there is a kernel that is ready, or will be none."""
        if self.phase == "ready":
            self._gateway.answer(number)
        elif self.phase == "nothing":
            self._gateway.answer(number, "There is no kernel to wait for: none was ever started.")
        elif self.phase == "dead":
            assert self._inbound.ended is not None
            self._gateway.answer(number, self._inbound.ended[0])
        else:
            self._starting.append(number)

    def interrupt(self, number: int) -> None:
        """CONTROL interrupt."""
        if self.phase != "ready" or self.process is None or self._launch is None:
            self._gateway.answer(number, "There is no kernel to interrupt that is ready.")
            return
        if self._launch.interrupt_mode == "message":
            self._inbound.ask("control", "interrupt_request", {})
        else:
            self.process.interrupt()
        self._taps.release()
        self._gateway.answer(number)

    def restart(self, number: int) -> None:
        """CONTROL restart; one that comes while the last is under way begins it anew."""
        if self._launch is None:
            self._gateway.answer(number, "There is no kernel to restart: none was ever started.")
            return
        if self._stopping:
            self._gateway.answer(number, "The kernel is being shut down.")
            return
        self._starting.append(number)
        # What comes from here on is for the next kernel.
        self._inbound.ready = False
        self._inbound.end_all("The kernel was restarted.", "KernelRestarted")
        self._gateway.state("restarting")
        self._end_processes(self._begin_next)

    def shutdown(self, number: int, grace: float) -> None:
        """CONTROL shutdown: asked nicely, then SIGTERM, and SIGKILL after `grace` seconds."""
        self._stopping.append(number)
        if self.phase in ("nothing", "dead"):
            self._ended_as_asked()
        elif self.phase == "ready" and self.process is not None:
            self._inbound.ask("control", "shutdown_request", {"restart": False})
            self._taps.release()
            self._loop.at("terminate", self._loop.now + grace / 2, self.process.terminate)
            self._loop.at("kill", self._loop.now + grace, self._kill_at_shutdown)
        else:
            self._kill_at_shutdown()

    # -- the proof of isolation ---------------------------------------------------------------------

    def _begin_proof(self, command: dict[str, Any]) -> None:
        if "canary" not in command:
            return
        # Only a sandbox with a network has one to be shown shut.
        from .proof import Proof

        self._is_proven = False
        if self._proof is not None:
            self._proof.close()
        try:
            self._proof = Proof(self._loop, command["canary"], self._on_proof)
        except ValueError as error:
            self._launch = None
            raise LaunchError(f"A kernel cannot start: {error}") from None

    def prove(self, number: int, command: dict[str, Any]) -> None:
        """CONTROL prove: the same by itself, of a sandbox whose kernel is not to be started yet."""
        from .proof import Proof

        def done(error: str) -> None:
            self._proof = None
            self._gateway.answer(number, error)

        if self._proof is not None:
            self._gateway.answer(number, "Another proof is under way.")
            return
        try:
            self._proof = Proof(self._loop, command.get("canary"), done)
        except ValueError as error:
            self._gateway.answer(number, str(error))

    def _on_proof(self, error: str) -> None:
        self._proof = None
        if not error:
            self._is_proven = True
            self._follow_readiness()
            return
        # It starts nothing any more.
        self._launch = None
        self._inbound.ready = False
        self._end_processes(lambda: self._failed(error))

    # -- booting ------------------------------------------------------------------------------------

    def _begin_next(self) -> None:
        self._generation += 1
        self._begin()

    def _begin(self) -> None:
        assert self._launch is not None
        try:
            self._booted(run(self._launch, self._run_dir, self._generation))
        except LaunchError as error:
            self._failed(str(error))

    def _booted(self, running: Running) -> None:
        self.phase = "booting"
        self._running = running
        self.process = self._taps.process = running.process
        self._memory = MemoryWatch()
        self._inbound.ended = None
        self._inbound.asked = None
        self._output = Output(running.process.output, self._loop.now)
        self._loop.watch(self._output.descriptor, self._read_output)
        self._loop.at("look", self._loop.now, self._look)

    def _look(self) -> None:
        """See whether the kernel listens already."""
        assert self._running is not None
        endpoints = self._running.endpoints()
        if endpoints is None:
            self._loop.at("look", self._loop.now + LOOK, self._look)
            return
        self._taps.connect(endpoints, self._running.key)
        self._readiness = Readiness(
            self._loop.now, lambda: self._inbound.ask("shell", "kernel_info_request", {})
        )
        self._follow_readiness()

    def _follow_readiness(self) -> None:
        readiness = self._readiness
        if readiness is None or self.phase != "booting":
            return
        if readiness.ready:
            self._loop.cancel("ask")
            if not self._is_proven:
                return
            self.phase = "ready"
            self._taps.serving = True
            self._gateway.state("idle")
            self._inbound.release()
            self._answer(self._starting)
        elif readiness.due is not None:
            self._loop.at("ask", readiness.due, readiness.tick)

    def on_welcome(self) -> None:
        """See `outbound.Listener`."""
        if self._readiness is not None:
            self._readiness.welcomed()
            self._follow_readiness()

    def on_own_reply(self) -> None:
        """See `outbound.Listener`."""
        if self._readiness is not None:
            self._readiness.replied(self._loop.now)
            self._follow_readiness()

    def on_own_idle(self) -> None:
        """See `outbound.Listener`."""
        if self._readiness is not None:
            self._readiness.idle()
            self._follow_readiness()

    def on_status(self, state: str) -> None:
        """See `outbound.Listener`."""
        if self.phase == "ready":
            self._gateway.state(state)

    # -- ending -------------------------------------------------------------------------------------

    def on_child(self) -> None:
        """Some child has ended: reap all, and see whether the kernel is among them."""
        ended, any_left = reap()
        process = self.process
        if process is not None and process.pid in ended:
            process.status = ended[process.pid]
            if self.phase in ("booting", "ready"):
                process.kill_all()  # what the kernel has left behind
                if self._stopping:
                    self._end_processes(self._ended_as_asked)
                else:
                    self.phase = "dying"
                    self._taps.drain()
                    self._is_cut_off = False
                    self._taken_at = self._loop.now
                    self._await_silence()
        if self.phase == "ending" and not self._is_anything_left(any_left):
            self._finish_ending()

    def _is_anything_left(self, any_child_left: bool) -> bool:
        # As PID 1 every process is a child in the end. Outside a sandbox only the kernel counts.
        if os.getpid() == 1:
            return any_child_left
        return self.process is not None and self.process.status is None

    def _await_silence(self) -> None:
        """Go on once everything that the kernel has sent was taken."""
        if self._taps.taken != self._taken:
            self._taken = self._taps.taken
            self._taken_at = self._loop.now
        elif self._is_cut_off or self._loop.now - self._taken_at > QUIET:
            self._dead()
            return
        # What had come by then is taken in the next turn, if there is anything.
        self._is_cut_off = not self._taps.is_connected()
        self._loop.at("silence", self._loop.now + LOOK, self._await_silence)

    def _dead(self) -> None:
        process = self.process
        assert process is not None
        assert process.status is not None
        exit_code = os.WEXITSTATUS(process.status) if os.WIFEXITED(process.status) else None
        number = os.WTERMSIG(process.status) if os.WIFSIGNALED(process.status) else None
        reason = self._why(exit_code, number)
        self._let_go()
        if self._starting:
            self._failed(reason)
        else:
            self._end_with(reason)
            self._gateway.died(reason, exit_code, number, self._inbound.asked)

    def _why(self, exit_code: int | None, number: int | None) -> str:
        """A sentence that says how the kernel ended, and its last words if it was not up yet."""
        if number == signal.SIGKILL and self._memory.was_exceeded():
            limit = self._memory.limit()
            allowed = f" (its limit is {limit})" if limit else ""
            return f"The kernel used more memory than it may have{allowed} and was killed."
        if number is not None:
            try:
                name = signal.Signals(number).name
            except ValueError:
                name = f"signal {number}"  # a realtime signal has no name
            reason = f"The kernel was ended by {name}."
        else:
            reason = f"The kernel ended with exit code {exit_code}."
        self._read_last_output()
        tail = self._output.tail() if self._output is not None else ""
        if tail and (self._starting or exit_code != 0):
            reason += f" Its last output:\n{tail}"
        return reason

    def _failed(self, reason: str) -> None:
        self._end_with(reason)
        self._answer(self._starting, reason)

    def _end_with(self, reason: str) -> None:
        """There is no kernel any more: end what waits for it, and what is going to come."""
        self.phase = "dead"
        self._inbound.ended = (reason, "KernelDied")
        self._inbound.end_all(reason, "KernelDied")
        self._gateway.state("dead")

    def _kill_at_shutdown(self) -> None:
        self._end_processes(self._ended_as_asked)

    def _ended_as_asked(self) -> None:
        self._end_with("The kernel was shut down.")
        self._answer(self._starting, "The kernel was shut down.")
        self._answer(self._stopping)

    def _end_processes(self, then: Callable[[], None]) -> None:
        """Kill everything, and go on with `then` when nothing is left."""
        self._next = then
        if self.process is None:
            then()
            return
        self.phase = "ending"
        self._spared_until = self._loop.now + SPARE_STREAMS
        self._kill_again()

    def _kill_again(self) -> None:
        assert self.process is not None
        self.process.kill_all(streams_too=self._loop.now > self._spared_until)
        self._loop.at("kill", self._loop.now + KILL_AGAIN, self._kill_again)
        self.on_child()

    def _finish_ending(self) -> None:
        self._read_last_output()
        self._let_go()
        assert self._next is not None
        self._next()

    def _let_go(self) -> None:
        """Give back what belonged to the kernel that has ended."""
        for name in ("look", "ask", "silence", "terminate", "kill"):
            self._loop.cancel(name)
        self._taps.disconnect()
        self._inbound.ready = False
        self._readiness = None
        self.process = self._taps.process = None
        if self._output is not None:
            self._loop.ignore(self._output.descriptor)
            self._output.close()
            self._output = None

    def _answer(self, waiting: list[int], error: str = "") -> None:
        for number in waiting:
            self._gateway.answer(number, error)
        waiting.clear()

    # -- output -------------------------------------------------------------------------------------

    def _read_output(self) -> None:
        assert self._output is not None
        text, more = self._output.read(self._loop.now)
        if text:
            self._gateway.log(text)
        if not more:
            self._loop.ignore(self._output.descriptor)

    def _read_last_output(self) -> None:
        if self._output is not None and (text := self._output.read_rest(self._loop.now)):
            self._gateway.log(text)
