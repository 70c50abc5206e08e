"""One transport of a link, from its first byte to its end: reading, writing, and the heartbeat."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ..transport.base import Transport, TransportError
from ..wire import framing
from ..wire.framing import Frame, FrameDecoder, Kind
from .outgoing import Outgoing

#: Bytes of what was received that are handled together, and frames in them after which the others get a turn.
#: An honest relay sends a hundred, one that sends the smallest there are, thousands.
PIECE = 32 * 1024
MANY = 512


class Stream:
    """`frames` is given what the relay sends, piece by piece.

    Seconds: a PING goes every `ping_interval`, and may go unanswered for `ping_timeout`.
    """

    def __init__(
        self,
        transport: Transport,
        frames: Callable[[list[Frame]], None],
        *,
        max_message: int,
        ping_interval: float,
        ping_timeout: float,
    ) -> None:
        self.outgoing = Outgoing(transport)
        self._transport = transport
        self._frames = frames
        self._decoder = FrameDecoder(max_message)
        self._ping_interval = ping_interval
        self._ping_timeout = ping_timeout
        #: When the oldest PING went that nothing has answered; any bytes from the relay are an answer.
        self._pinged: float | None = None

    async def run(self) -> str:
        """Serve until the stream ends, and close the transport; why it ended, in words.

        Raises what `frames` raises, and `FramingError`.
        """
        tasks = [asyncio.create_task(work()) for work in (self._read, self._write, self._keep_alive)]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return next(task.result() for task in tasks if task.done())
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.close()

    async def close(self) -> None:
        """Give the transport back, also where nothing was ever served; a second call does nothing."""
        await self._transport.close()

    async def _read(self) -> str:
        while True:
            try:
                data = await self._transport.receive()
            except TransportError as error:
                return f"the stream to the relay broke: {error}"
            if not data:
                self._decoder.end()
                return "the relay ended the link"
            self._pinged = None
            view = memoryview(data)
            for first in range(0, len(view), PIECE):
                frames = self._decoder.feed(view[first : first + PIECE])
                self._frames(frames)
                if len(frames) > MANY:
                    await asyncio.sleep(0)

    async def _write(self) -> str:
        try:
            await self.outgoing.write()
        except TransportError as error:
            return f"the stream to the relay broke: {error}"

    async def _keep_alive(self) -> str:
        clock = asyncio.get_running_loop().time
        while True:
            slept = clock()
            await asyncio.sleep(self._ping_interval)
            now = clock()
            if self._pinged is None or now - slept > 2 * self._ping_interval:
                # Where this process itself stood still, what was answered meanwhile may not be read yet.
                self._pinged = now
            elif now - self._pinged > self._ping_timeout:
                return f"the relay did not answer for {self._ping_timeout:g} s"
            self.outgoing.post(framing.encode(Kind.PING, payload=framing.SEQUENCE.pack(0)))
