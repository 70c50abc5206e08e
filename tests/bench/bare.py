"""A client of a kernel without a gateway: its own sockets, as `jupyter_client` would use them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import zmq

from .client import PATIENCE, Client, header


class BareClient(Client):
    """ZMQ over ipc, for a kernel whose connection file has the ip `{folder}/k` and ports from 1 on."""

    def __init__(self, folder: Path) -> None:
        self.context = zmq.Context()
        self.shell = self._socket(zmq.DEALER, f"ipc://{folder}/k-1")
        self.iopub = self._socket(zmq.SUB, f"ipc://{folder}/k-2")
        self.iopub.subscribe(b"")
        self.poller = zmq.Poller()
        for each in (self.shell, self.iopub):
            self.poller.register(each, zmq.POLLIN)
        self.waiting: Iterator[bytes] = iter(())

    def _socket(self, kind: int, url: str) -> zmq.Socket[bytes]:
        made = self.context.socket(kind)
        made.linger = 0
        made.rcvhwm = 0
        # Milliseconds. The default of 100 would be most of what a cold start takes beyond the kernel.
        made.reconnect_ivl = 1
        made.connect(url)
        return made

    def wait_until_heard(self) -> None:
        """Return once the kernel answers and its iopub reaches this client."""
        deadline = time.monotonic() + PATIENCE
        while True:
            self.send("shell", [json.dumps(header("kernel_info_request")).encode(), b"{}", b"{}", b"{}"])
            self.poller.poll(1000)
            if self.iopub.poll(50):
                break
            if time.monotonic() > deadline:
                raise TimeoutError("the bare kernel does not answer")
        while self.shell.poll(0):
            self.shell.recv_multipart()

    def send(self, channel: str, parts: Sequence[bytes]) -> None:
        self.shell.send_multipart([b"<IDS|MSG>", b"", *parts])

    def receive(self) -> bytes:
        while True:
            for message in self.waiting:
                return message
            self.waiting = self._batch()

    def _batch(self) -> Iterator[bytes]:
        found = self.poller.poll(round(PATIENCE * 1000))
        if not found:
            raise TimeoutError("the bare kernel says nothing")
        for ready, _ in found:
            for _ in range(1000):
                try:
                    yield b"".join(ready.recv_multipart(zmq.NOBLOCK))
                except zmq.Again:
                    break

    def close(self) -> None:
        self.context.destroy(linger=0)
