"""What the relay takes from its gateway, and what ends the link (docs/protocol.md 1.1 to 1.5)."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.wire import framing, v1
from gateway.wire.framing import Kind, encode
from tests.integration.relay.conftest import NewRelay
from tests.integration.relay.harness import Relay, execute, request

SEQUENCE = framing.SEQUENCE


def hello(**members: object) -> bytes:
    value = {"version": 1, "capabilities": [], "window": 1 << 20, "max_message": 1 << 20, "received": None}
    return encode(Kind.HELLO, payload=json.dumps(value | members).encode())


def opening(route: int = 1, session: object = "s") -> bytes:
    return encode(Kind.OPEN, route, json.dumps({"session_id": session}).encode())


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (encode(Kind.PING, payload=bytes(8)), "the first frame was PING, not HELLO"),
        (encode(Kind.HELLO, payload=b"{"), "a HELLO frame that is not JSON"),
        (encode(Kind.HELLO, payload=b"[" * 100_000), "a HELLO frame that is not JSON"),
        (encode(Kind.HELLO, payload=b"[]"), "a HELLO frame that is not an object"),
        (hello(version=0), "speaks version 0"),
        (hello(version="1"), "'version' that is not a number"),
        (hello(window=0), "'window' that is not a number from 1"),
        (hello(window=1.5), "'window' that is not a number"),
        (hello(max_message=True), "'max_message' that is not a number"),
        (hello(max_message=1 << 60), "'max_message' that is not a number"),
        (hello() + hello(), "a HELLO frame, which only a relay sends, or only once"),
        (hello() + encode(Kind.STATE, payload=b"\0"), "a STATE frame, which only a relay sends"),
        (hello() + b"\0\0\0\0\xff\0\0\0", "frame kind 255"),
        (hello() + b"\xff\xff\xff\xff\x08\0\0\0", "a CONTROL frame of 4294967295 bytes exceeds 262144"),
        (hello() + b"\xff\xff\xff\xff\x02\1\0\0", "a MESSAGE frame of 4294967295 bytes exceeds"),
        (hello() + b"\4\0\0\0\x02\1\0\0abcd", "a MESSAGE frame of 4 bytes"),
        (hello() + opening(0), "route 0 was opened, which is in use"),
        (hello() + opening() + opening(), "route 1 was opened, which is in use"),
        (hello() + opening(session=7), "OPEN without a session_id"),
        (hello() + opening(session="x" * 1025), "OPEN without a session_id"),
        (hello() + encode(Kind.CLOSE, 1), "route 1 was closed without being open"),
        (hello() + opening() + encode(Kind.ACK, 1, SEQUENCE.pack(1)), "1 was acknowledged, only 0 were sent"),
        (hello() + encode(Kind.ACK, 1, b"short"), "a ACK frame of 5 bytes"),
        (hello() + encode(Kind.PING, payload=b""), "a PING frame of 0 bytes"),
        (hello() + encode(Kind.CONTROL, payload=b"nope"), "a CONTROL frame that is not JSON"),
        (hello() + encode(Kind.CONTROL, payload=b'{"op": "restart"}'), "'id' that is not a number"),
        (hello() + encode(Kind.MESSAGE, 1, b"x", 1), "a message on route 1, which is not open"),
        (hello() + opening() + encode(Kind.MESSAGE, 1, b"x", 2), "message 2 came after 0"),
    ],
)
def test_a_broken_rule_ends_the_link_with_its_name(new_relay: NewRelay, sent: bytes, reason: str) -> None:
    relay = new_relay(greet=False)
    relay.send_bytes(sent)
    relay.until(lambda: relay.ended)
    assert relay.process.wait(5) == 1
    said = relay.log_path.read_text()
    assert said.startswith("relay: the gateway broke the protocol: ")
    assert reason in said
    assert said.count("\n") == 1, "one line, no traceback"


def table(*offsets: int, tail: bytes = b"") -> bytes:
    return struct.pack(f"<{len(offsets) + 1}Q", len(offsets), *offsets) + tail


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"x" * 7,
        b"\xff" * 8,
        b"\xff" * 4096,
        table(56, 61, 63, 65, 67, 1 << 62, tail=b"shell" + b"{}" * 4),
        table(56, 61, 63, 62, 67, 69, tail=b"shell" + b"{}" * 4),
        v1.join("iopub", [b'{"msg_id": "a", "msg_type": "b"}', b"{}", b"{}", b"{}"]),
        v1.join("shell", [b"not json", b"{}", b"{}", b"{}"]),
        v1.join("shell", [b"[" * 60_000, b"{}", b"{}", b"{}"]),
        v1.join("shell", [b"[]", b"{}", b"{}", b"{}"]),
        v1.join("shell", [b"{}", b"{}", b"{}", b"{}"]),
        v1.join("shell", [b'{"msg_id": 1, "msg_type": "x_request"}', b"{}", b"{}", b"{}"]),
        v1.join("shell", [b'{"msg_id": "a", "msg_type": null}', b"{}", b"{}", b"{}"]),
        v1.join("shell", [b'{"msg_id": "' + b"a" * 70_000 + b'", "msg_type": "b"}', b"{}", b"{}", b"{}"]),
        v1.join("shell", [b"\xff\xfe{\0}\0", b"{}", b"{}", b"{}"]),
    ],
)
def test_a_clients_message_that_cannot_be_read_is_dropped_told_done_and_acknowledged(
    new_relay: NewRelay, message: bytes
) -> None:
    """It is the client's doing, not the gateway's, so it does not cost the kernel its link."""
    relay = new_relay()
    number = relay.message(message)
    relay.until(lambda: number in relay.done())
    relay.until(lambda: any(f.kind is Kind.ACK and f.payload == SEQUENCE.pack(number) for f in relay.frames))
    assert "A client's message was dropped: " in relay.logs()
    assert relay.process.poll() is None


def test_a_flood_of_unreadable_messages_does_not_flood_the_log(new_relay: NewRelay) -> None:
    relay = new_relay()
    for _ in range(5000):
        number = relay.message(b"nonsense")
    relay.until(lambda: number in relay.done())
    assert len(relay.logs()) < 100_000


@pytest.mark.parametrize(
    ("op", "members", "words"),
    [
        ("dance", {}, "knows no command 'dance'"),
        ("x" * 1000, {}, "knows no command"),
        ("restart", {}, "none was ever started"),
        ("shutdown", {"grace": -1}, "'grace' must be"),
        ("shutdown", {"grace": "long"}, "'grace' must be"),
    ],
)
def test_a_command_that_cannot_be_is_answered_with_a_sentence(
    new_relay: NewRelay, op: str, members: dict[str, object], words: str
) -> None:
    relay = new_relay()
    answer = relay.answer(relay.control(op, **members))
    assert not answer["ok"]
    assert words in answer["error"]
    assert len(answer["error"]) < 200


def test_a_shutdown_before_any_kernel_is_simply_done(new_relay: NewRelay) -> None:
    relay = new_relay()
    assert relay.answer(relay.control("shutdown"))["ok"]


def test_pings_are_answered_before_and_while_a_kernel_runs(new_relay: NewRelay) -> None:
    relay = new_relay()
    relay.send_bytes(encode(Kind.PING, payload=b"12345678"))
    relay.until(lambda: any(f.kind is Kind.PONG and f.payload == b"12345678" for f in relay.frames))


def test_hello_is_said_without_waiting_for_the_other_sides(new_relay: NewRelay) -> None:
    relay = new_relay(greet=False)
    relay.until(lambda: relay.frames and relay.frames[0].kind is Kind.HELLO)


def test_a_stream_that_ends_inside_a_frame_ends_the_relay_quietly(new_relay: NewRelay) -> None:
    relay = new_relay(greet=False)
    relay.send_bytes(hello()[:-3])
    assert relay.end() == 0


def test_requests_that_reuse_an_id_are_all_done(ready: Relay) -> None:
    _, data = request("kernel_info_request")
    numbers = {ready.message(data) for _ in range(5)}
    ready.until(lambda: numbers <= ready.done())


def test_bytes_one_at_a_time_are_as_good(new_relay: NewRelay) -> None:
    relay = new_relay(greet=False)
    for byte in hello() + opening() + encode(Kind.PING, payload=b"12345678"):
        relay.send_bytes(bytes([byte]))
    relay.until(lambda: any(f.kind is Kind.PONG for f in relay.frames))


def test_a_large_request_reaches_the_kernel_whole(ready: Relay) -> None:
    _, data = execute("nothing " + "0" * (20 << 20))
    number = ready.message(data)
    ready.until(lambda: number in ready.done())


@pytest.mark.parametrize(
    "words",
    [
        *([], ["pipe"], ["/run/dir"], ["connect"], ["serve", "/run/dir"], ["serve", "/run/dir", "60"]),
        *(["serve", "/run/dir", "-1", "1"], ["serve", "/run/dir", "60", "1k"]),
    ],
)
def test_a_wrong_command_line_is_answered_with_the_right_ones(folder: object, words: list[str]) -> None:
    argv = [sys.executable, "-I", "-S", f"{folder}/gateway/relay/__main__.py", *words]
    said = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    assert said.returncode == 1
    assert said.stderr.startswith("usage: relay pipe RUN_DIR")


@pytest.fixture
def ready(new_relay: NewRelay) -> Relay:
    relay = new_relay()
    assert relay.answer(relay.start_fake())["ok"]
    return relay


def test_a_kernel_inherits_nothing_that_the_relay_was_given(folder: Path, run_dirs: Path) -> None:
    relay = Relay(folder, str(run_dirs / "r"), ["sh", "-c", 'exec 7</etc/passwd "$@"', "sh"])
    try:
        relay.hello()
        relay.open()
        assert relay.answer(relay.start(["sh", "-c", "ls -l /proc/self/fd >&2; exit 1"]))["ok"] is False
        listing = relay.logs()
        assert "/dev/null" in listing
        assert "passwd" not in listing
        assert "socket:" not in listing, "the link"
    finally:
        relay.kill()
