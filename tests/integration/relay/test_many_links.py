"""A relay that outlives its links: what goes on meanwhile, and what each link is told (protocol.md 1.9)."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.relay.connect import SOCKET
from gateway.wire.framing import Kind, encode
from tests.integration.relay.harness import Relay, Server, execute


@pytest.fixture
def first(server: Server) -> Relay:
    """The first link, with a fake kernel that is ready, and route 1 open."""
    link, hello = server.link()
    assert (hello["received"], hello["sent"], hello["command"], hello["state"]) == (0, 0, 0, "starting")
    link.open()
    assert link.answer(link.start_fake())["ok"]
    return link


def test_a_link_ends_and_the_kernel_goes_on(server: Server, first: Relay) -> None:
    kernel = _children(server.process.pid)
    assert first.end() == 0
    second, hello = server.link()
    assert hello["state"] == "idle"
    second.open()
    assert second.run("nothing") == ("", "ok")
    assert _children(server.process.pid) == kernel


def test_a_request_that_is_answered_meanwhile_is_told_to_the_next_link_once(
    server: Server, first: Relay
) -> None:
    msg_id, data = execute("sleep 300")
    first.message(data)
    first.until(lambda: first.published(msg_id))
    first.acknowledge(1, first.heard[-1].sequence)
    seen = {m.sequence for m in first.heard}
    first.end()
    second, hello = server.link()
    assert hello["received"] == 1
    second.open(7, acknowledge=False)
    second.until(lambda: second.is_idle(msg_id))
    heard = [m.sequence for m in second.heard]
    assert heard == sorted(set(heard))
    assert not seen & set(heard)


def test_what_the_gateway_has_already_is_not_sent_again(server: Server, first: Relay) -> None:
    first.acknowledging.clear()
    assert first.run("nothing") == ("", "ok")
    last = first.heard[-1].sequence
    first.end()
    second, hello = server.link()
    assert hello["sent"] == last
    second.open(after=last - 1, acknowledge=False)
    second.ping()
    assert [m.sequence for m in second.heard] == [last]


def test_what_is_outstanding_is_told_to_the_next_link(server: Server, first: Relay) -> None:
    msg_id, data = execute("sleep 300")
    number = first.message(data)
    first.until(lambda: first.published(msg_id))
    first.end()
    second, _ = server.link()
    (told,) = second.all_json(Kind.OUTSTANDING)
    assert (told["sequence"], told["session_id"], told["channel"]) == (number, "one", "shell")
    assert json.loads(told["header"])["msg_id"] == msg_id
    second.open()
    second.until(lambda: number in second.done())
    second.end()
    third, _ = server.link()
    third.ping()
    assert not list(third.all_json(Kind.OUTSTANDING))


def test_a_message_that_is_sent_again_reaches_the_kernel_once(server: Server, first: Relay) -> None:
    msg_id, data = execute("nothing")
    first.message(data)
    first.until(lambda: first.is_idle(msg_id))
    first.end()
    second, hello = server.link()
    second.open()
    second.go_on(messages=hello["received"] - 1, commands=hello["command"])
    second.message(data)
    other, data = execute("nothing")
    second.message(data)
    second.until(lambda: second.is_idle(other))
    assert (
        len([m for m in [*first.heard, *second.heard] if m.kind == "execute_reply" and m.parent_id == msg_id])
        == 1
    )


def test_a_command_that_is_asked_again_is_done_once_and_answered_again(server: Server, first: Relay) -> None:
    kernel = _children(server.process.pid)
    number = first.control("restart")
    assert first.answer(number)["ok"]
    restarted = _children(server.process.pid)
    assert restarted != kernel
    first.end()
    second, hello = server.link()
    assert hello["command"] == number
    second.go_on(messages=0, commands=number - 1)
    assert second.answer(second.control("restart"))["ok"]
    assert _children(server.process.pid) == restarted


def test_a_start_whose_link_breaks_is_waited_for_on_the_next(server: Server) -> None:
    link, _ = server.link()
    number = link.start_fake()
    link.ping()
    link.end()
    second, hello = server.link()
    assert hello["command"] == number
    second.go_on(messages=0, commands=0)
    # The same command again, and one of another gateway that only wants to know.
    assert second.answer(second.start_fake())["ok"]
    assert second.answer(second.control("ready"))["ok"]


@pytest.mark.parametrize("is_started", [False, True])
def test_who_waits_for_a_kernel_that_is_not_there_is_told_why(server: Server, is_started: bool) -> None:
    link, _ = server.link()
    if is_started:
        assert not link.answer(link.start(["sh", "-c", "echo its last word >&2; exit 7"]))["ok"]
    answer = link.answer(link.control("ready"))
    assert not answer["ok"]
    assert ("exit code 7" if is_started else "none was ever started") in answer["error"]


def test_a_kernel_that_dies_meanwhile_is_told_with_its_reason(server: Server, first: Relay) -> None:
    msg_id, data = execute("sleep 5000")
    first.message(data)
    first.until(lambda: first.published(msg_id))
    first.end()
    (kernel,) = _children(server.process.pid)
    os.kill(kernel, signal.SIGKILL)
    _until(lambda: not _children(server.process.pid))
    second, hello = server.link()
    assert hello["state"] == "dead"
    (died,) = second.all_json(Kind.DIED)
    assert "SIGKILL" in died["reason"]
    second.open()
    second.until(lambda: second.is_idle(msg_id))
    (reply,) = second.replies(msg_id)
    assert reply.content["ename"] == "KernelDied"


def test_a_new_link_takes_the_place_of_the_one_that_is_there(server: Server, first: Relay) -> None:
    second, _ = server.link()
    _until(lambda: not first.pump(0.05))
    second.open()
    assert second.run("nothing") == ("", "ok")


def test_a_gateway_that_breaks_the_protocol_loses_its_link_and_nothing_else(
    server: Server, first: Relay
) -> None:
    first.send_bytes(encode(Kind.STATE, payload=b"\1"))
    _until(lambda: not first.pump(0.05))
    _, hello = server.link()
    assert hello["state"] == "idle"
    assert "broke the protocol" in server.log_path.read_text()


def test_beyond_its_bound_what_is_lost_meanwhile_is_counted_and_said(server: Server) -> None:
    link, _ = server.link(window=1 << 20)
    link.open()
    assert link.answer(link.start_fake())["ok"]
    msg_id, data = execute("sleep 300")
    link.message(data)
    link.until(lambda: link.published(msg_id))
    _, flood = execute("flood 20000")
    number = link.message(flood)
    link.ping()
    link.end()
    second, _ = server.link(window=1 << 20)
    second.until(lambda: number in second.done())
    second.heard.clear()
    second.open()
    texts = second.until(
        lambda: [m.content["text"] for m in second.heard if m.content.get("name") == "stderr"]
    )
    opened = next(second.all_json(Kind.OPENED))
    assert texts[0].startswith(f"[{opened['lost']} messages of this kernel were dropped")
    kept = [m for m in second.heard if m.route == 1 and m.content.get("name") == "stdout"]
    assert 0 < opened["lost"] < 20010
    assert opened["lost"] + len(kept) > 20000


@contextlib.contextmanager
def serving(folder: Path, run_dirs: Path, patience: int) -> Iterator[tuple[Server, Relay, int]]:
    """A relay with this patience, its link, and the pid of its fake kernel."""
    server = Server(folder, str(run_dirs / "s"), patience=patience)
    try:
        link, _ = server.link()
        link.open()
        assert link.answer(link.start_fake())["ok"]
        (kernel,) = _children(server.process.pid)
        yield server, link, kernel
    finally:
        server.kill()


def test_a_relay_that_is_asked_to_end_does_not_say_that_it_ended_well(folder: Path, run_dirs: Path) -> None:
    """Or a kubelet forgets that it has evicted the pod."""
    with serving(folder, run_dirs, 60) as (server, _, kernel):
        server.process.terminate()
        assert server.process.wait(10) == 128 + signal.SIGTERM
        _until(lambda: not Path(f"/proc/{kernel}").exists())


def test_without_a_link_for_its_time_the_relay_ends_with_its_kernel(folder: Path, run_dirs: Path) -> None:
    with serving(folder, run_dirs, 1) as (server, link, kernel):
        link.end()
        assert server.process.wait(10) == 0
        _until(lambda: not Path(f"/proc/{kernel}").exists())


def test_who_comes_in_without_descriptors_costs_the_relay_nothing(server: Server, first: Relay) -> None:
    before = _descriptors(server.process.pid)
    callers = [socket.socket(socket.AF_UNIX) for _ in range(40)]
    try:
        for number, caller in enumerate(callers):
            caller.connect(f"{server.run_dir}/{SOCKET}")
            if number % 3 == 0:
                caller.sendall(b"x" * 100)
            elif number % 3 == 1:
                socket.send_fds(caller, [b"x"], [0])
            first.ping()
        assert len(_descriptors(server.process.pid)) <= len(before) + 8
    finally:
        for caller in callers:
            caller.close()
    _until(lambda: len(_descriptors(server.process.pid)) == len(before))
    assert first.run("nothing") == ("", "ok")


def test_what_a_link_held_is_given_back(server: Server, first: Relay) -> None:
    first.end()
    listening = len(_descriptors(server.process.pid))
    _until(lambda: len(_descriptors(server.process.pid)) <= listening)
    before = _descriptors(server.process.pid)
    for _ in range(5):
        link, _ = server.link()
        link.ping()
        link.end()
    _until(lambda: _descriptors(server.process.pid) == before)


def test_the_pipe_of_a_stream_is_made_large(server: Server, first: Relay) -> None:
    """Else what copies it on, on a node, finds it in small pieces."""
    with contextlib.ExitStack() as stack:
        ends = [end for _ in range(2) for end in os.pipe()]
        for end in ends:
            stack.callback(os.close, end)
        caller = stack.enter_context(socket.socket(socket.AF_UNIX))
        caller.connect(f"{server.run_dir}/{SOCKET}")
        to_relay, _, from_relay, written = ends
        socket.send_fds(caller, [b"\0"], [to_relay, written])
        assert os.read(from_relay, 1), "HELLO came by it"
        assert fcntl.fcntl(from_relay, fcntl.F_GETPIPE_SZ) == 1 << 20


def test_connect_says_when_no_relay_can_listen_there(folder: Path, run_dirs: Path) -> None:
    (run_dirs / "nobody").touch()
    link = Relay(folder, str(run_dirs / "nobody"), command_name="connect")
    try:
        assert link.process.wait(10) == 1
        assert "no relay listens" in link.log_path.read_text()
    finally:
        link.kill()


def _children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _descriptors(pid: int) -> list[str]:
    return sorted(entry.name for entry in Path(f"/proc/{pid}/fd").iterdir())


def _until(condition: Any) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
