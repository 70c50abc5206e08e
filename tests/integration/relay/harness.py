"""Runs the real relay process over a socketpair, and is the gateway's end of its link.

Synchronous on purpose: a test says what is sent and waits, with a deadline, for what it expects.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gateway.relay import command
from gateway.wire import framing, v1
from gateway.wire.framing import Frame, FrameDecoder, Kind, encode

FAKE_KERNEL = Path(__file__).with_name("fake_kernel.py")
DEADLINE = 30.0
#: Bytes of the largest file that a relay which outlives its links lets anybody write.
LARGEST_FILE = 64 << 20


class Heard(NamedTuple):
    """A kernel message as it came: frame's route and sequence number, and the parts read."""

    route: int
    sequence: int
    channel: str
    header: dict[str, Any]
    parent: dict[str, Any]
    content: dict[str, Any]

    @property
    def kind(self) -> str:
        return str(self.header.get("msg_type", ""))

    @property
    def parent_id(self) -> str:
        return str(self.parent.get("msg_id", ""))


def stage(folder: Path) -> Path:
    """The relay's folder, as a sandbox would show it, made of links."""
    command.compile_sources()
    for name, source in command.parts().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(source)
    return folder


def request(kind: str, content: Mapping[str, Any] | None = None, channel: str = "shell") -> tuple[str, bytes]:
    """A client's request: its msg_id and its bytes."""
    msg_id = uuid.uuid4().hex
    header = {
        "msg_id": msg_id,
        "msg_type": kind,
        "username": "u",
        "session": "s",
        "date": "",
        "version": "5.3",
    }
    parts = [json.dumps(header).encode(), b"{}", b"{}", json.dumps(content or {}).encode()]
    return msg_id, v1.join(channel, parts)


def execute(code: str) -> tuple[str, bytes]:
    """An execute_request."""
    content = {
        "code": code,
        "silent": False,
        "store_history": False,
        "user_expressions": {},
        "allow_stdin": True,
        "stop_on_error": True,
    }
    return request("execute_request", content)


class Relay:
    """One relay process and its link. `frames` is everything it has said, in order."""

    def __init__(
        self,
        folder: Path,
        run_dir: str,
        argv: Sequence[str] = (),
        *,
        command_name: str = "pipe",
        program: Sequence[str] | None = None,
    ) -> None:
        """`command_name` may be `connect`: then the process is not the relay, but brings the link to one.

        `program` takes the place of the relay in `folder`, run by this interpreter.
        """
        ours, theirs = socket.socketpair()
        self.socket = ours
        self.log_path = Path(f"{run_dir}.{command_name}.stderr")
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [*argv, *(program or command.program(sys.executable, str(folder))), command_name, run_dir],
                stdin=theirs,
                stdout=theirs,
                stderr=log,
            )
        theirs.close()
        self.frames: list[Frame] = []
        self.heard: list[Heard] = []
        self.ended = False
        self._replied: set[str] = set()
        self._idle: set[str] = set()
        self._decoder = FrameDecoder()
        self._sequence = 0
        self._control = 0
        #: Acknowledge for these routes whatever comes.
        self.acknowledging: set[int] = set()

    # -- saying -------------------------------------------------------------------------------------

    def send_bytes(self, data: bytes) -> None:
        self.socket.sendall(data)

    def send_json(self, kind: Kind, value: Any, route: int = 0) -> None:
        self.send_bytes(encode(kind, route, json.dumps(value).encode()))

    def hello(self, **members: Any) -> None:
        value = {
            "version": 1,
            "capabilities": [],
            "window": 64 << 20,
            "max_message": framing.DEFAULT_MAX_MESSAGE,
            "received": None,
        }
        self.send_json(Kind.HELLO, value | members)

    def open(self, route: int = 1, session: str = "one", *, acknowledge: bool = True, **members: int) -> None:
        if acknowledge:
            self.acknowledging.add(route)
        self.send_json(Kind.OPEN, {"session_id": session, **members}, route)

    def close_route(self, route: int) -> None:
        self.acknowledging.discard(route)
        self.send_bytes(encode(Kind.CLOSE, route))

    def acknowledge(self, route: int, sequence: int) -> None:
        self.send_bytes(encode(Kind.ACK, route, framing.SEQUENCE.pack(sequence)))

    def message(self, data: bytes, route: int = 1) -> int:
        """Send one v1 message; its sequence number."""
        self._sequence += 1
        self.send_bytes(framing.encode_header(Kind.MESSAGE, route, len(data), self._sequence))
        self.send_bytes(data)
        return self._sequence

    def control(self, op: str, **members: Any) -> int:
        self._control += 1
        self.send_json(Kind.CONTROL, {"id": self._control, "op": op, **members})
        return self._control

    def start(self, argv: Sequence[str] = (), **members: Any) -> int:
        """CONTROL start of `argv`, by default ipykernel of this environment."""
        values: dict[str, Any] = {
            "argv": list(argv) or [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            "env": {"PATH": os.environ["PATH"], "HOME": "/tmp", "LANG": "C.UTF-8"},  # noqa: S108
            "cwd": "/",
            "interrupt_mode": "signal",
            "transport": "ipc",
            "sign": False,
        }
        return self.control("start", **(values | members))

    def start_fake(self, *arguments: str, **members: Any) -> int:
        """CONTROL start of the fake kernel."""
        return self.start([sys.executable, str(FAKE_KERNEL), "{connection_file}", *arguments], **members)

    def go_on(self, messages: int, commands: int) -> None:
        """Count on from there, as a gateway does that takes an earlier one's place."""
        self._sequence, self._control = messages, commands

    # -- hearing ------------------------------------------------------------------------------------

    def pump(self, seconds: float) -> bool:
        """Take what comes within `seconds`; False once the link has ended."""
        if self.ended or not select.select([self.socket], [], [], seconds)[0]:
            return not self.ended
        try:
            data = self.socket.recv(1 << 20)
        except ConnectionResetError:
            data = b""
        if not data:
            self.ended = True
            return False
        last = 0
        for frame in self._decoder.feed(data):
            self.frames.append(frame)
            if frame.kind is Kind.MESSAGE:
                last = frame.sequence
                self._hear(read(frame))
        if last:
            for route in self.acknowledging:
                self.acknowledge(route, last)
        return True

    def _hear(self, message: Heard) -> None:
        self.heard.append(message)
        if message.channel in ("shell", "control"):
            self._replied.add(message.parent_id)
        elif message.content.get("execution_state") == "idle":
            self._idle.add(message.parent_id)

    def until(self, what: Callable[[], Any], seconds: float = DEADLINE) -> Any:
        """Pump until `what()` is true, and return that; fails with what was heard instead."""
        deadline = time.monotonic() + seconds
        while not (value := what()):
            if time.monotonic() > deadline or not self.pump(0.05):
                if value := what():
                    break
                raise AssertionError(
                    f"not heard; relay ended: {self.ended}, said {self.log_path.read_text()!r}, "
                    f"last frames: {[(f.kind.name, f.route, f.payload[:600]) for f in self.frames[-8:]]}"
                )
        return value

    def answer(self, number: int) -> dict[str, Any]:
        """The answer to a CONTROL."""

        def find() -> dict[str, Any] | None:
            for value in self.all_json(Kind.CONTROL):
                if value["id"] == number:
                    return value
            return None

        found: dict[str, Any] = self.until(find)
        return found

    def all_json(self, kind: Kind) -> Iterator[dict[str, Any]]:
        return (json.loads(frame.payload) for frame in self.frames if frame.kind is kind)

    def states(self) -> list[int]:
        """The codes of all STATE frames so far."""
        return [frame.payload[0] for frame in self.frames if frame.kind is Kind.STATE]

    def logs(self) -> str:
        return "".join(frame.payload.decode() for frame in self.frames if frame.kind is Kind.LOG)

    def done(self) -> set[int]:
        """The requests that are DONE so far."""
        return {
            number
            for frame in self.frames
            if frame.kind is Kind.DONE
            for (number,) in framing.SEQUENCE.iter_unpack(frame.payload)
        }

    def replies(self, msg_id: str) -> list[Heard]:
        return [m for m in self.heard if m.parent_id == msg_id and m.channel in ("shell", "control")]

    def published(self, msg_id: str) -> list[Heard]:
        return [m for m in self.heard if m.parent_id == msg_id and m.channel == "iopub"]

    def is_idle(self, msg_id: str) -> bool:
        """Whether the reply and the idle of that request were heard."""
        return msg_id in self._replied and msg_id in self._idle

    def run(self, code: str, route: int = 1, seconds: float = DEADLINE) -> tuple[str, str]:
        """Execute and wait for reply and idle: the text of its streams, and the reply's status."""
        msg_id, data = execute(code)
        self.message(data, route)
        self.until(lambda: self.is_idle(msg_id), seconds)
        return self.printed(msg_id), str(self.replies(msg_id)[0].content["status"])

    def printed(self, msg_id: str) -> str:
        """The text of that request's streams, whose lines a busy kernel may cut in two."""
        return "".join(m.content["text"] for m in self.published(msg_id) if m.kind == "stream")

    def ping(self) -> None:
        """Return when all has been heard that the relay had written by now."""
        count = self._pongs()
        self.send_bytes(encode(Kind.PING, payload=b"12345678"))
        self.until(lambda: self._pongs() > count)

    def _pongs(self) -> int:
        return sum(frame.kind is Kind.PONG for frame in self.frames)

    def kernel(self) -> int:
        """The process that the relay has launched."""
        (pid,) = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(pid)

    def is_kernel_stopped(self) -> bool:
        """Whether the kernel's process is suspended."""
        return Path(f"/proc/{self.kernel()}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T"

    def until_stopped(self) -> None:
        """Read, until the kernel is stopped and nothing of it is on the way."""

        def is_quiet() -> bool:
            heard = len(self.heard)
            # The second one, because a relay that has just become rid of what waited lets the kernel go on.
            self.ping()
            self.ping()
            return self.is_kernel_stopped() and len(self.heard) == heard

        self.until(is_quiet, seconds=120)

    # -- end ----------------------------------------------------------------------------------------

    def memory(self) -> int:
        """Resident bytes of the relay (the kernel's page size is 4 KiB on all that this runs on)."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * 4096

    def cpu(self) -> float:
        """CPU seconds that the relay has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def end(self) -> int:
        """End the link; the relay's exit status."""
        self.socket.close()
        self.ended = True
        return self.process.wait(10)

    def kill(self) -> None:
        """Clean up whatever the test has left."""
        self.socket.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            raise


class Server:
    """A relay process that outlives its links."""

    def __init__(self, folder: Path, run_dir: str, argv: Sequence[str] = (), patience: int = 60) -> None:
        self._folder = folder
        self.run_dir = run_dir
        self._links: list[Relay] = []
        self.log_path = Path(f"{run_dir}.serve.stderr")
        numbers = (str(patience), str(LARGEST_FILE))
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [*argv, *command.program(sys.executable, str(folder)), "serve", run_dir, *numbers],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def link(self, argv: Sequence[str] = (), **members: Any) -> tuple[Relay, dict[str, Any]]:
        """A new link, on which HELLO was said, and the relay's HELLO. What it sends goes on counting."""
        link = Relay(self._folder, self.run_dir, argv, command_name="connect")
        self._links.append(link)
        link.hello(**members)
        hello = link.until(lambda: next(link.all_json(Kind.HELLO), None))
        link.go_on(messages=hello["received"], commands=hello["command"])
        return link, hello

    def kill(self) -> None:
        """Clean up whatever the test has left."""
        for link in self._links:
            link.kill()
        self.process.terminate()
        self.process.wait(10)


def read(frame: Frame) -> Heard:
    """The parts of a MESSAGE frame."""
    channel, parts = v1.unpack(frame.payload)
    header, parent, _, content = map(_members, parts[:4])
    return Heard(frame.route, frame.sequence, channel, header, parent, content)


def _members(part: bytes) -> dict[str, Any]:
    """A hostile kernel's parts may be anything; what is no JSON object counts as an empty one."""
    try:
        value = json.loads(part)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
