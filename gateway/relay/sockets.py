"""The ZMQ sockets of one generation of the kernel.

Queues for what comes from the kernel have no high-water mark: with the default one a SUB socket lost
nine tenths of a flood, the final idle among it. What bounds them is that the kernel is stopped when its
clients are slow. Queues towards the kernel are short, so that what a busy kernel has not taken is not
acknowledged either.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import zmq

from ..wire.v1 import JSON_PARTS, MAX_PARTS

#: Messages that may wait in ZMQ towards the kernel, per channel.
SEND_QUEUE = 64
#: Milliseconds between two attempts to connect: a kernel binds its sockets one by one.
_RECONNECT = 1
#: The frame between routing identities and the message (Jupyter's messaging protocol, "The wire protocol").
DELIMITER = b"<IDS|MSG>"


class Sockets:
    """Connects to `endpoints` (by channel). With a `key`, requests are signed; replies are not checked,
    for their sender is the one who knows the key."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], endpoints: dict[str, str], key: str) -> None:
        self._key = key.encode()
        self.by_channel: dict[str, zmq.Socket[bytes]] = {}
        self._monitors: list[zmq.Socket[bytes]] = []
        self._connections = 0
        for channel in ("control", "shell", "stdin", "iopub"):
            socket = context.socket(zmq.SUB if channel == "iopub" else zmq.DEALER)
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.RCVHWM, 0)
            socket.setsockopt(zmq.RECONNECT_IVL, _RECONNECT)
            if channel == "iopub":
                socket.setsockopt(zmq.SUBSCRIBE, b"")
            else:
                socket.setsockopt(zmq.SNDHWM, SEND_QUEUE)
                # The same on all: a kernel asks for input on stdin with the identity it saw on shell.
                socket.setsockopt(zmq.ROUTING_ID, b"relay")
            self._monitors.append(_monitor(context, socket))
            socket.connect(endpoints[channel])
            self.by_channel[channel] = socket

    def send(self, channel: str, identity: bytes, parts: Sequence[bytes]) -> bool:
        """Send a message (header, parent, metadata, content, buffers) in the name of `identity`.

        False if the kernel has not taken enough of the earlier ones; then nothing was sent.
        """
        signature = self._sign(parts) if self._key else b""
        try:
            self.by_channel[channel].send_multipart([identity, DELIMITER, signature, *parts], zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def is_connected(self) -> bool:
        """Whether a socket of the kernel's is still open at its end.

        Where none is, all that it has sent waits here: ZMQ tells of the end of a connection when it has read
        up to it.
        """
        for monitor in self._monitors:
            while monitor.poll(0):
                event, _ = monitor.recv_multipart()
                # u16 event and u32 value, in the machine's own order (zmq_socket_monitor(3)).
                is_new = int.from_bytes(event[:2], sys.byteorder) == zmq.EVENT_CONNECTED
                self._connections += 1 if is_new else -1
        return self._connections > 0

    def close(self) -> None:
        """Close all; what was not sent or taken is gone."""
        for socket, monitor in zip(self.by_channel.values(), self._monitors, strict=True):
            # First, because ZMQ's thread would wait for ever to tell a monitor that is gone.
            socket.monitor(None, 0)
            monitor.close(0)
            socket.close(0)

    def _sign(self, parts: Sequence[bytes]) -> bytes:
        import hmac  # only for the few kernels that want it

        digest = hmac.new(self._key, digestmod="sha256")
        for part in parts[:4]:
            digest.update(part)
        return digest.hexdigest().encode()


def _monitor(context: zmq.Context[zmq.Socket[bytes]], socket: zmq.Socket[bytes]) -> zmq.Socket[bytes]:
    """Where ZMQ tells of the connections of `socket`, each time one is made or ends."""
    # pyzmq would name it after a descriptor, which the last kernel's may still have.
    name = f"inproc://{os.urandom(8).hex()}"
    socket.monitor(name, zmq.EVENT_CONNECTED | zmq.EVENT_DISCONNECTED)
    monitor = context.socket(zmq.PAIR)
    # ZMQ's thread waits where a monitor is full, which a kernel could bring about by hanging up.
    monitor.setsockopt(zmq.RCVHWM, 0)
    monitor.connect(name)
    return monitor


def receive(socket: zmq.Socket[bytes]) -> tuple[list[bytes], list[bytes]] | None:
    """The next message: routing identities, and its parts (header, parent, metadata, content, buffers).

    None for what is no message; `zmq.Again` where there is nothing.
    """
    frames = socket.recv_multipart(zmq.NOBLOCK)
    try:
        position = frames.index(DELIMITER)
    except ValueError:
        return None
    parts = frames[position + 2 :]  # a signature follows the delimiter
    return (frames[:position], parts) if JSON_PARTS <= len(parts) <= MAX_PARTS else None


def receive_published(socket: zmq.Socket[bytes]) -> list[bytes] | None:
    """As `receive`, in a third of its time, for the parts of what is published.

    Asking ZMQ after each frame whether another one belongs to the message takes twice as long as receiving
    it. A message has a topic, the delimiter, a signature and four parts, so it is asked behind those
    only. One that is shorter takes frames of the next one along, which is found again by its delimiter.
    """
    receive = socket.recv
    first = receive(zmq.NOBLOCK)
    try:
        if first != DELIMITER and (second := receive(zmq.NOBLOCK)) != DELIMITER:
            return _find([second, *_receive_rest(socket)])
        frames = [receive(zmq.NOBLOCK), receive(zmq.NOBLOCK), receive(zmq.NOBLOCK), receive(zmq.NOBLOCK)]
        last = receive(zmq.NOBLOCK, copy=False)
    except zmq.Again:
        return None  # it ended early, and nothing came behind it
    frames.append(last.bytes)
    if last.more:
        frames += _receive_rest(socket)
    if DELIMITER in frames[: JSON_PARTS + 2]:
        return _find(frames)
    return frames[1:] if len(frames) <= MAX_PARTS else None


def _receive_rest(socket: zmq.Socket[bytes]) -> list[bytes]:
    """The frames that belong to the same message as the last one."""
    frames = []
    while socket.getsockopt(zmq.RCVMORE):
        frames.append(socket.recv(zmq.NOBLOCK))
    return frames


def _find(frames: list[bytes]) -> list[bytes] | None:
    """The parts of the message behind the last delimiter, if there is one."""
    if DELIMITER not in frames:
        return None
    parts = frames[len(frames) - frames[::-1].index(DELIMITER) + 1 :]
    return parts if JSON_PARTS <= len(parts) <= MAX_PARTS else None
