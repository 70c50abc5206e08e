"""One kernel: its state, its clients, and the sandbox and link that carry it.

A kernel is changed by one operation at a time (start, restart, revival, shutdown); `_changing` orders
them. It is what stays when everything below it is lost: a kernel whose process dies is started again in
its sandbox, one whose sandbox dies is started again in a new one, both a bounded number of times,
and whoever waits for an answer is told (protocol.md 1.7).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from ..backends.base import Backend, BackendError, Ending, Sandbox
from ..link import Link, LinkClosedError, LinkError
from ..transport.base import Transport, TransportBrokenError, TransportError
from ..wire import messages
from .attachment import Attachment
from .clients import Clients, Clock
from .errors import KernelGoneError, KernelStateError
from .launch import KernelSettings, Launch
from .outstanding import Request
from .state import Event, State, advance
from .voice import Voice

#: Seconds that a sandbox whose link has ended may take to say why it ended.
EXIT_WAIT = 2.0


async def _connect(sandbox: Sandbox) -> Transport:
    """Another stream to a sandbox's relay. Raises `TransportError`."""
    try:
        return await sandbox.connect()
    except BackendError as error:
        raise TransportBrokenError(str(error)) from error


class Kernel:
    """A kernel as clients know it. Made by `gateway.kernels.registry.Kernels`."""

    def __init__(
        self,
        launch: Launch,
        backend: Backend,
        settings: KernelSettings,
        clock: Clock,
        log: logging.Logger | logging.LoggerAdapter[Any],
        on_over: Callable[[Kernel], None],
    ) -> None:
        """`on_over` is called when the kernel is to be deleted: a client's shutdown_request has ended it, or
        it has lived as long as it may and nobody is there to be told."""
        self.id = launch.request.kernel_id
        self.name = launch.request.spec_name
        self.owner = launch.request.owner
        self.reason: str | None = None
        self.last_activity = clock()
        self._state = State.STARTING
        self._launch = launch
        self._backend = backend
        self._settings = settings
        self._clock = clock
        self._log = log
        self._on_over = on_over
        self._sandbox: Sandbox | None = None
        self._link: Link | None = None
        self._voice = Voice(self)
        self._clients = Clients(clock, settings.window)
        self._changing = asyncio.Lock()
        self._changed = asyncio.Event()
        self._deleted = False
        self._memory = ""
        self._remembering: asyncio.Task[None] | None = None
        self._reviving: asyncio.Task[None] | None = None
        self._restarts = 0
        self._ready_at = 0.0
        self._tasks: set[asyncio.Task[None]] = set()

    # -- what clients see ---------------------------------------------------------------------------

    @property
    def execution_state(self) -> str:
        """One of `State`, as text."""
        return self._state.value

    @property
    def connections(self) -> int:
        """How many clients are attached."""
        return len(self._clients)

    def model(self) -> dict[str, Any]:
        """The kernel's JSON in the REST API, with the exact time format that clients parse."""
        model: dict[str, Any] = {
            "id": self.id,
            "name": self.name,
            "last_activity": self.last_activity.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "execution_state": self.execution_state,
            "connections": self.connections,
        }
        if self.reason is not None:
            model["reason"] = self.reason
        return model

    async def wait_ready(self) -> None:
        """Return when the kernel can be used or is dead."""
        while self._state in (State.STARTING, State.RESTARTING, State.AUTORESTARTING):
            await self._next_change()

    def touch(self) -> None:
        """Something was sent or received."""
        self.last_activity = self._clock()

    @property
    def memory(self) -> str:
        """What `remember` was given last, also by an earlier gateway."""
        return self._memory

    def remember(self, text: str) -> None:
        """Keep a text with the kernel, for a gateway that adopts it, if one can."""
        self._memory = text
        if self._remembering is None or self._remembering.done():
            self._remembering = self._spawn(self._keep_memory())

    async def _keep_memory(self) -> None:
        while self._sandbox is not None and self._sandbox.memory != self._memory:
            try:
                await self._sandbox.remember(self._memory)
            except BackendError as error:
                self._log.warning("a gateway that adopts kernel %s will not know all: %s", self.id, error)
                return

    # -- operations ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to start; `wait_ready` follows it."""
        self._spawn(self._start())

    async def _start(self) -> None:
        async with self._changing:
            await self._bring_up()

    def adopt(self, sandbox: Sandbox) -> None:
        """Go on with a kernel that an earlier gateway has left in this sandbox; `wait_ready` follows it."""
        self._sandbox = sandbox
        self._memory = sandbox.memory
        self._spawn(self._adopt(sandbox))

    async def _adopt(self, sandbox: Sandbox) -> None:
        async with self._changing:
            link = self._make_link(None, sandbox)
            try:
                await link.control("ready", within=self._settings.start_timeout)
            except LinkClosedError as error:
                await self._on_lost(str(error))
                return
            except LinkError as error:
                # It died meanwhile, or was never started.
                await self._try_again(str(error))
            else:
                self._up()
            if self._link is link:
                self._spawn(self._watch(link))

    async def leave(self) -> None:
        """Let go of the kernel and leave it running, for the next gateway. Clients hear that it is gone."""
        if self._remembering is not None:
            await asyncio.wait({self._remembering}, timeout=EXIT_WAIT)
        await self._cancel_tasks()
        async with self._changing:
            self._voice.silent = True
            self._clients.leave(self._link, KernelGoneError(self.id))
            if self._link is not None:
                await self._link.settle(EXIT_WAIT)
                await self._link.close()

    async def interrupt(self) -> None:
        """Have what runs interrupted; what never looks goes on. Raises `KernelStateError`."""
        if self._link is None or self._state not in (State.IDLE, State.BUSY):
            raise KernelStateError(
                f"Kernel {self.id} is {self.execution_state} and cannot be interrupted. "
                "Wait until it is idle, or restart it."
            )
        try:
            await self._link.control("interrupt", within=5)
        except LinkError as error:
            raise KernelStateError(
                f"Kernel {self.id} could not be interrupted: {error}. Restart it."
            ) from error

    async def restart(self) -> None:
        """End the kernel and start it again with the same id and clients.

        Its sandbox, and so its files, stay where that can be done. Raises `KernelStateError` with the
        reason where it does not come up.
        """
        self._check_not_deleted()
        task = self._spawn(self._restart())
        try:
            # Who asked may go away; a restart that has begun goes on.
            await asyncio.shield(task)
        except asyncio.CancelledError:
            self._check_not_deleted()
            raise
        if self._state is State.DEAD:
            raise KernelStateError(f"Kernel {self.id} did not restart: {self.reason}")

    async def _restart(self) -> None:
        async with self._changing:
            await self._restart_kernel(Event.RESTART)

    async def shutdown(self) -> None:
        """End the kernel, its sandbox and every attachment; nothing of it is left. Idempotent."""
        self._deleted = True
        await self._cancel_tasks()
        async with self._changing:
            if self._link is not None and self._state in (State.IDLE, State.BUSY):
                try:
                    grace = self._settings.shutdown_grace
                    await self._link.control("shutdown", {"grace": grace}, within=grace + 1)
                except LinkError as error:
                    self._log.info("kernel %s did not shut down by itself: %s", self.id, error)
            await self._tear_down()
            self._set(State.DEAD)
            self._clients.close(KernelGoneError(self.id))

    # -- clients ------------------------------------------------------------------------------------

    def attach(self, session_id: str) -> Attachment:
        """A client comes, in any state of the kernel; takes its session over from an older attachment."""
        self._check_not_deleted()
        attachment = Attachment(self, session_id)
        self._clients.add(attachment)
        if self._link is not None:
            self._clients.bind(self._link, [attachment])
        return attachment

    def forget(self, attachment: Attachment) -> None:
        """See `Attachment.detach`."""
        self._clients.remove(attachment)

    async def send(self, attachment: Attachment, message: bytes) -> None:
        """See `Attachment.send`."""
        channel, parts = messages.unpack(message)
        request = Request(attachment.session_id, channel, parts[0])
        self.touch()
        while True:
            if self._deleted:
                raise KernelGoneError(self.id)
            if self._state is State.DEAD:
                # The answer waits in memory until the client takes it, so it waits for room there.
                if await attachment.inbox.has_room(self._settings.window):
                    self._clients.end_request(request, self.reason or "The kernel is dead.")
                    return
                continue
            route, voice = attachment.route, self._voice
            if route is None:
                await self._next_change()
                continue
            try:
                sequence = await route.send(message)
            except LinkClosedError:
                # The next route may have come already, while this one failed.
                if attachment.route is route:
                    await self._next_change()
                continue
            self._expect_answer(voice, sequence, request)
            return

    def _expect_answer(self, voice: Voice, sequence: int, request: Request) -> None:
        if voice.silent:
            self._clients.end_request(request, self.reason or "The kernel's sandbox ended.")
        elif request.wants_answer:
            voice.outstanding.add(sequence, request)

    # -- what the relay tells -----------------------------------------------------------------------

    def advance(self, event: Event) -> None:
        """Follow the table of states; what does not apply is ignored."""
        state = advance(self._state, event)
        if state is not None and state is not self._state:
            self._set(state)

    def on_kernel_died(self, reason: str, asked: str | None) -> None:
        """The kernel's process ended; its relay is there and has ended the requests.

        A client may have asked it to end, by a shutdown_request on its websocket: then it is shut down or
        restarted as if it had asked in the REST API.
        """
        if self._deleted:
            return
        if asked == "shutdown":
            self._log.info("kernel %s was shut down by a client's shutdown_request", self.id)
            self._on_over(self)
            return
        self._log.warning("kernel %s died: %s", self.id, reason)
        if self._reviving is None or self._reviving.done():
            self._reviving = self._spawn(self._revive(self._voice))

    def log_output(self, text: str) -> None:
        """Lines that the relay or the kernel's process wrote, shown with every control character escaped."""
        for line in text.splitlines():
            self._log.info("kernel %s says: %s", self.id, line.encode("unicode_escape").decode())

    def log_stream(self, text: str) -> None:
        """What became of the link's stream; the reason may be a relay's words."""
        self._log.warning("kernel %s: its stream was %s", self.id, text.encode("unicode_escape").decode())

    # -- inner workings -----------------------------------------------------------------------------

    async def _bring_up(self) -> None:
        """Make sandbox and link and start the kernel in it; ends in idle or dead."""
        self._voice = Voice(self)
        try:
            if not self._launch.request.argv:
                raise BackendError(
                    f"Its kernelspec {self.name!r} is not there any more. Start another kernel."
                )
            self._sandbox = sandbox = await self._backend.create(self._launch.request)
            link = self._make_link(await sandbox.connect(), sandbox)
            await link.control("start", self._launch.members(sandbox), within=self._settings.start_timeout)
        except LinkClosedError as error:
            ending = await self._why_ended(str(error))
            await self._tear_down()
            self._fail(f"The kernel did not start: {ending.reason}.")
            return
        except (BackendError, TransportError, LinkError) as error:
            reason = str(error)
            if self._sandbox is not None:
                reason = await self._sandbox.explain(reason)
            await self._tear_down()
            self._fail(f"The kernel did not start: {reason}")
            return
        except BaseException:
            await self._tear_down()
            raise
        self._up()
        self.remember(self._memory)
        self._spawn(self._watch(link))

    def _make_link(self, transport: Transport | None, sandbox: Sandbox) -> Link:
        """A link over `transport`, or to a relay that another gateway has left, with every client on it."""
        link = self._link = Link(
            transport,
            self._voice,
            window=self._settings.window,
            max_message=self._settings.max_message,
            reconnect=partial(_connect, sandbox) if self._backend.survives_gateway else None,
        )
        link.start()
        self._clients.bind(link)
        self._changed_now()
        return link

    def _up(self) -> None:
        self.reason = None
        self._ready_at = asyncio.get_running_loop().time()
        self.advance(Event.READY)
        if self._voice.state == "busy":
            # It took up what waited for it before its answer was seen here.
            self.advance(Event.BUSY)

    def _fail(self, reason: str) -> None:
        self._log.warning("kernel %s is dead: %s", self.id, reason)
        self.reason = reason
        self.advance(Event.FAILED)
        self._clients.announce(State.DEAD, self._link)

    async def _restart_kernel(self, event: Event) -> None:
        """Start the kernel again, in its sandbox if that lives and can."""
        if event is Event.RESTART:
            self._restarts = 0
        self.advance(event)
        if self._link is not None:
            self._voice.death = None
            try:
                await self._link.control("restart", within=self._settings.start_timeout)
            except LinkError as error:
                self._log.warning("kernel %s gets a new sandbox: %s", self.id, error)
                await self._lose_sandbox("The kernel was restarted.")
            else:
                self._up()
                return
        await self._bring_up()

    async def _revive(self, voice: Voice) -> None:
        """Start a kernel that has died again, unless another operation has dealt with it meanwhile."""
        async with self._changing:
            while voice is self._voice and not voice.silent and self._state in (State.IDLE, State.BUSY):
                if voice.death is None:
                    return
                reason, asked = voice.death
                if asked == "restart":
                    await self._restart_kernel(Event.RESTART)
                else:
                    await self._try_again(reason)

    async def _watch(self, link: Link) -> None:
        """The end of the link that nobody asked for: the relay or its sandbox is gone."""
        reason = await self._end_of(link)
        async with self._changing:
            if link is self._link:
                await self._on_lost(reason)

    async def _on_lost(self, reason: str) -> None:
        """The sandbox is lost; `reason` is a clause about its link, for where it says nothing itself."""
        ending = await self._why_ended(reason)
        self._log.warning("kernel %s lost its sandbox: %s", self.id, ending.reason)
        reason = f"The kernel's sandbox ended: {ending.reason}."
        await self._lose_sandbox(reason)
        if self._state is State.DEAD:
            return  # it was given up before, with a reason that stays
        if ending.expired:
            self._fail(reason)
            if not self.connections:
                self._on_over(self)
        else:
            await self._try_again(reason)

    async def _end_of(self, link: Link) -> str:
        """Wait for the end of the link, which looks for no other stream once its sandbox has ended."""
        assert self._sandbox is not None
        sandbox_ended = asyncio.ensure_future(self._sandbox.wait())
        closed = asyncio.ensure_future(link.closed())
        try:
            await asyncio.wait({sandbox_ended, closed}, return_when=asyncio.FIRST_COMPLETED)
            if not closed.done():
                link.abandon(sandbox_ended.result().reason)
            return await closed
        finally:
            sandbox_ended.cancel()
            closed.cancel()
            await asyncio.gather(sandbox_ended, closed, return_exceptions=True)

    async def _try_again(self, reason: str) -> None:
        """Restart after a death, unless it keeps dying."""
        self.reason = reason
        if asyncio.get_running_loop().time() - self._ready_at > self._settings.stable_after:
            self._restarts = 0
        if self._restarts >= self._settings.restart_limit:
            self._fail(f"{reason} It has been restarted {self._restarts} times and is given up.")
            return
        self._restarts += 1
        self.advance(Event.DIED)
        self._clients.announce(State.AUTORESTARTING, self._link)
        await self._restart_kernel(Event.DIED)

    async def _why_ended(self, reason: str) -> Ending:
        """How the sandbox ended; where it does not say so, `reason`, a clause about its link."""
        if self._sandbox is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(EXIT_WAIT):
                    return await self._sandbox.wait()
        return Ending(reason)

    async def _lose_sandbox(self, reason: str) -> None:
        """Give the sandbox up and end, in the relay's place, what it still owed.

        In this order: who waits for an answer does not also wait until a node that is lost is given up.
        """
        outstanding = self._voice.outstanding
        await self._close_link()
        for request in outstanding.take_all():
            self._clients.end_request(request, reason)
        await self._tear_down()

    async def _tear_down(self) -> None:
        # Each is let go of when it is gone: a DELETE may cancel this midway, and does the rest then.
        await self._close_link()
        if self._sandbox is not None:
            await self._sandbox.destroy()
            self._sandbox = None

    async def _close_link(self) -> None:
        self._voice.silent = True
        self._clients.unbind(self._link)
        if self._link is not None:
            await self._link.close()
            self._link = None

    def _set(self, state: State) -> None:
        self._state = state
        self._changed_now()

    def _changed_now(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _next_change(self) -> None:
        """Wait for a change of state or link."""
        await self._changed.wait()

    def _check_not_deleted(self) -> None:
        if self._deleted:
            raise KernelGoneError(self.id)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_done)
        return task

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.error("kernel %s failed", self.id, exc_info=error)
            self._fail("The gateway failed while it handled this kernel; its log has the details.")

    async def _cancel_tasks(self) -> None:
        # One that ends may have begun another. One that has ended stays in the set until its callback runs,
        # and from Python 3.12 on, to wait for it gives the callback no turn.
        while running := [task for task in self._tasks if not task.done()]:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
