"""What a transport is: a duplex byte stream between the gateway and one relay.

A transport knows nothing of frames. It has bounded buffers in both directions, so that a side that
does not read stops the side that writes. `tests/conformance` holds every implementation to this
page, against honest and hostile peers.

- One task may be in `receive` and one in `send` at a time; a second one gets `TransportBusyError`.
- `receive` lets other tasks run before it returns new bytes, so that a peer that floods cannot stop them.
- Cancelling `receive` loses no byte: the next call returns it. Cancelling a `send` that waits leaves it
  unknown how much has gone, so the stream is broken for sending and every later `send` and `send_eof`
  raises `TransportBrokenError`; `receive` still works.
- The peer's end of stream is `b""` from `receive`, again and again. A peer that vanished in a way
  that can be told from an orderly end is a `TransportBrokenError`.
- `send_eof` is the half-close: the peer reads the end of stream, and may go on sending. Where a
  protocol has no half-close, it raises `NotImplementedError` and the caller closes instead. After it,
  `send` and `send_eof` raise `TransportClosedError`.
- `close` never fails, never waits for the peer, gives back every descriptor and task, and makes
  pending and later calls raise `TransportClosedError`. A second `close` does nothing.
"""

from __future__ import annotations

import abc


class TransportError(Exception):
    """The stream cannot go on. The message says what ended it, in words for a log."""


class TransportClosedError(TransportError):
    """This side has closed the transport."""


class TransportBrokenError(TransportError):
    """The stream broke: the peer vanished, or a `send` was cancelled midway."""


class TransportBusyError(TransportError):
    """Another task is already inside the same call; that is a bug in the caller."""


class Transport(abc.ABC):
    """A duplex byte stream to one relay; the module's docstring is the contract."""

    @abc.abstractmethod
    async def receive(self) -> bytes:
        """The next bytes, at least one and at most 1 MiB; `b""` once the peer has ended."""

    @abc.abstractmethod
    async def send(self, data: bytes) -> None:
        """Hand over all of `data`; returns when the transport's bounded buffer has taken it."""

    @abc.abstractmethod
    async def send_eof(self) -> None:
        """Tell the peer that nothing more will come; what was sent before still arrives."""

    @abc.abstractmethod
    async def close(self) -> None:
        """End both directions at once and give back everything the transport holds."""
