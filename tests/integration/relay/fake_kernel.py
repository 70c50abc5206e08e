"""A kernel that does what honest ones do differently from each other, and what only hostile ones do.

    fake_kernel.py <connection file> [option...]

Options: `colon` binds `path:PORT`; `welcome` greets on iopub; `late` subscribes nobody for the first two
requests (what is published is lost, as with a slow subscription); `anonymous` loses the routing
identities; `deaf` ignores SIGTERM and shutdown_request, `polite` only the latter; `mute` never reads its
requests after the first.

The code of an execute_request is a command with a number: see `COMMANDS`. It uses nothing but zmq, and is as
fast as a kernel can be: its messages are made before they are sent.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import signal
import sys
import time
from typing import Any

import zmq

DELIMITER = b"<IDS|MSG>"
JSON = dict[str, Any]


class FakeKernel:
    def __init__(self, connection: JSON, options: set[str]) -> None:
        self.options = options
        self.key = connection["key"].encode()
        self.context = zmq.Context()
        separator = ":" if connection["transport"] == "tcp" or "colon" in options else "-"
        self.sockets: dict[str, zmq.Socket[bytes]] = {}
        for name, kind in (
            ("shell", zmq.ROUTER),
            ("stdin", zmq.ROUTER),
            ("control", zmq.ROUTER),
            ("iopub", zmq.XPUB),
            ("hb", zmq.REP),
        ):
            socket = self.context.socket(kind)
            socket.sndhwm = 0
            if "mute" in options:
                socket.rcvhwm = 10  # the default would take a thousand requests for nobody to read
            socket.bind(
                f"{connection['transport']}://{connection['ip']}{separator}{connection[f'{name}_port']}"
            )
            self.sockets[name] = socket
        self.count = 0

    # -- messages -----------------------------------------------------------------------------------

    def parts(self, kind: str, content: JSON, parent: bytes) -> list[bytes]:
        """Delimiter, signature and the four parts."""
        header = {
            "msg_id": f"fake-{self.count}",
            "msg_type": kind,
            "username": "fake",
            "session": "the-fake-kernel",
            "date": "2026-01-01T00:00:00Z",
            "version": "5.3",
        }
        self.count += 1
        parts = [json.dumps(header).encode(), parent, b"{}", json.dumps(content).encode()]
        return [DELIMITER, self.sign(parts), *parts]

    def sign(self, parts: list[bytes]) -> bytes:
        if not self.key:
            return b""
        return hmac.new(self.key, b"".join(parts), hashlib.sha256).hexdigest().encode()

    def publish(self, kind: str, content: JSON, parent: bytes) -> None:
        if "late" in self.options and self.requests <= 2:
            return
        self.sockets["iopub"].send_multipart([b"topic", *self.parts(kind, content, parent)])

    # -- life ---------------------------------------------------------------------------------------

    def run(self) -> None:
        self.requests = 0
        if "welcome" in self.options:
            self.sockets["iopub"].recv()  # the subscription
            self.publish("iopub_welcome", {}, b"{}")
        poller = zmq.Poller()
        for name in ("shell", "control"):
            poller.register(self.sockets[name], zmq.POLLIN)
        while True:
            for socket, _ in poller.poll():
                frames = socket.recv_multipart()
                position = frames.index(DELIMITER)
                identities, signature, parts = frames[:position], frames[position + 1], frames[position + 2 :]
                if not hmac.compare_digest(signature, self.sign(parts[:4])):
                    print("a wrong signature", flush=True)
                    continue
                self.handle(socket, identities, parts)
                if "mute" in self.options and self.requests > 1:
                    signal.pause()

    def handle(self, socket: zmq.Socket[bytes], identities: list[bytes], parts: list[bytes]) -> None:
        header = parts[0]
        kind = json.loads(header)["msg_type"]
        self.requests += 1
        if "anonymous" in self.options:
            identities = identities[:1]
        self.publish("status", {"execution_state": "busy"}, header)
        if kind == "shutdown_request" and not self.options & {"deaf", "polite"}:
            socket.send_multipart([*identities, *self.parts("shutdown_reply", {"status": "ok"}, header)])
            time.sleep(0.05)
            print("ended as asked", flush=True)
            sys.exit(0)
        if kind == "execute_request":
            command, _, argument = json.loads(parts[3])["code"].partition(" ")
            COMMANDS[command](self, socket, identities, header, int(argument or 0))
        if kind.endswith("_request"):
            reply = kind.removesuffix("_request") + "_reply"
            socket.send_multipart([*identities, *self.parts(reply, {"status": "ok"}, header)])
        self.publish("status", {"execution_state": "idle"}, header)

    # -- what an execute_request may ask for --------------------------------------------------------

    def flood(self, socket: Any, identities: Any, header: bytes, count: int) -> None:
        """`count` stream messages as fast as they can be sent, numbered by their text."""
        messages = [
            [b"topic", *self.parts("stream", {"name": "stdout", "text": f"{n}\n"}, header)]
            for n in range(count)
        ]
        send = self.sockets["iopub"].send_multipart
        start = time.perf_counter()
        for message in messages:
            send(message)
        print(f"sent {count} in {time.perf_counter() - start:.3f} s", flush=True)

    def endless(self, socket: Any, identities: Any, header: bytes, size: int) -> None:
        """Messages of `size` bytes until a SIGINT."""
        message = [b"topic", *self.parts("stream", {"name": "stdout", "text": "x" * size}, header)]
        send = self.sockets["iopub"].send_multipart
        try:
            while True:
                send(message)
        except KeyboardInterrupt:
            print("interrupted", flush=True)

    def bulk(self, socket: Any, identities: Any, header: bytes, mebibytes: int) -> None:
        """So many MiB in messages of 1 KiB."""
        message = [b"topic", *self.parts("stream", {"name": "stdout", "text": "x" * 1024}, header)]
        send = self.sockets["iopub"].send_multipart
        for _ in range(mebibytes * 1024):
            send(message)

    def bulk_and_rest(self, socket: Any, identities: Any, header: bytes, mebibytes: int) -> None:
        """The same, and a second in which nothing is read, as on a machine that is busy."""
        self.bulk(socket, identities, header, mebibytes)
        time.sleep(1.0)

    def big(self, socket: Any, identities: Any, header: bytes, size: int) -> None:
        """One stream message whose text has `size` bytes."""
        self.publish("stream", {"name": "stdout", "text": "x" * size}, header)

    def big_reply(self, socket: Any, identities: Any, header: bytes, size: int) -> None:
        """An additional reply of `size` bytes, before the honest one."""
        socket.send_multipart([*identities, *self.parts("execute_reply", {"text": "x" * size}, header)])

    def malformed(self, socket: Any, identities: Any, header: bytes, repeat: int) -> None:
        """Everything that is not a message, on every socket."""
        good = self.parts("stream", {"name": "stdout", "text": "no"}, header)
        too_many = [b"topic", *good, *[b"x"] * 70_000]
        self.sockets["iopub"].send_multipart(too_many)
        socket.send_multipart([identities[0], *too_many])
        for _ in range(repeat or 1):
            for frames in (
                [b"no delimiter"],
                [b""],
                [DELIMITER],
                [DELIMITER, b""],
                [b"topic", DELIMITER, b"", b"{}"],
                [b"topic", *good[:5]],
                [DELIMITER, DELIMITER, DELIMITER],
            ):
                self.sockets["iopub"].send_multipart(frames)
                socket.send_multipart([identities[0], *frames])
                self.sockets["stdin"].send_multipart([identities[0], *frames])

    def strange(self, socket: Any, identities: Any, header: bytes, _: int) -> None:
        """Messages whose parts are not what they should be; a client may get them, the relay must live."""
        deep = b"[" * 50_000
        for kind in ("status", "iopub_welcome"):
            honest = b'{"msg_type": "%s"}' % kind.encode()
            for parts in (
                [b'"status" "iopub_welcome"', b"{}", b"{}", b"{}"],
                [honest, b"not json", b"{}", b"{}"],
                [honest, deep, deep, deep],
                [honest, b"[]", b"[]", b"[]"],
                [honest, b'{"msg_id": 7}', b"{}", b'{"execution_state": []}'],
                [honest, b'{"msg_id": "x"}', b"{}", b'{"execution_state": ["idle"]}'],
                [
                    b'{"msg_type": "status", "session": "\\ud800"}',
                    header,
                    b"{}",
                    b'{"execution_state": "busy"}',
                ],
                [b'{"msg_type": "status", "session": 5}', b"\xff\xfe", b"{}", b"\xff"],
                [honest, b" " * 100_000 + b"{}", b"{}", b"{}"],
            ):
                self.sockets["iopub"].send_multipart([b"topic", DELIMITER, b"", *parts])
                socket.send_multipart([*identities[:1], b"999999999999999999", DELIMITER, b"", *parts])
                socket.send_multipart([*identities[:1], b"0", DELIMITER, b"", *parts])
                socket.send_multipart([*identities[:1], b"\xff" * 300, DELIMITER, b"", *parts])

    def ask(self, socket: Any, identities: list[bytes], header: bytes, _: int) -> None:
        """An input_request to whoever sent the request; the answer is published."""
        self.sockets["stdin"].send_multipart([*identities, *self.parts("input_request", {}, header)])
        frames = self.sockets["stdin"].recv_multipart()
        text = json.loads(frames[frames.index(DELIMITER) + 5])["value"]
        self.publish("stream", {"name": "stdout", "text": text}, header)

    def die(self, socket: Any, identities: Any, header: bytes, code: int) -> None:
        """End at once: with that exit code, or by the signal of that negative number."""
        if code < 0:
            os.kill(os.getpid(), -code)
        os._exit(code)

    def flood_and_die(self, socket: Any, identities: Any, header: bytes, count: int) -> None:
        """End as soon as the last message is in the socket, whether the other end has read it or not."""
        self.flood(socket, identities, header, count)
        self.context.destroy(linger=5000)
        os._exit(1)

    def print_lines(self, socket: Any, identities: Any, header: bytes, count: int) -> None:
        """Lines on the process's own stdout."""
        for number in range(count):
            sys.stdout.write(f"line {number}\n")
        sys.stdout.flush()

    def nothing(self, socket: Any, identities: Any, header: bytes, _: int) -> None:
        """Only the reply."""

    def sleep(self, socket: Any, identities: Any, header: bytes, milliseconds: int) -> None:
        time.sleep(milliseconds / 1000)


COMMANDS = {
    name: getattr(FakeKernel, name)
    for name in (
        "flood",
        "flood_and_die",
        "endless",
        "bulk",
        "bulk_and_rest",
        "big",
        "big_reply",
        "malformed",
        "strange",
        "ask",
        "die",
        "print_lines",
        "nothing",
        "sleep",
    )
}


def end_politely(*_: object) -> None:
    print("ended by SIGTERM", flush=True)
    sys.exit(0)


def main() -> None:
    with open(sys.argv[1]) as file:
        connection = json.load(file)
    options = set(sys.argv[2:])
    if "deaf" in options:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "polite" in options:
        signal.signal(signal.SIGTERM, end_politely)
    FakeKernel(connection, options).run()


if __name__ == "__main__":
    main()
