"""A kernel gets nothing to do before its relay has shown that it reaches no canary (protocol.md 1.5)."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.relay.proof import QUIET
from tests.integration.relay.harness import Relay, Server, execute


@pytest.fixture
def link(server: Server) -> Relay:
    made, _ = server.link()
    made.open()
    return made


@pytest.fixture
def canary() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def at(port: int, within: float = 0.3) -> dict[str, Any]:
    return {"addresses": ["127.0.0.1"], "port": port, "within": within}


def port_of(canary: socket.socket) -> int:
    return int(canary.getsockname()[1])


def test_a_kernel_is_ready_and_its_requests_go_through_after_the_silence(
    link: Relay, canary: socket.socket
) -> None:
    canary.close()
    began = time.monotonic()
    number = link.start_fake(canary=at(_closed()))
    msg_id, data = execute("nothing")
    link.message(data)
    assert link.answer(number)["ok"]
    assert time.monotonic() - began >= QUIET
    link.until(lambda: link.is_idle(msg_id))


def _closed() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return port_of(listener)


def test_where_the_canary_answers_no_request_reaches_the_kernel_and_nothing_starts_any_more(
    server: Server, link: Relay, canary: socket.socket
) -> None:
    number = link.start_fake(canary=at(port_of(canary)))
    msg_id, data = execute("nothing")
    link.message(data)
    answer = link.answer(number)
    assert answer["ok"] is False
    assert "The sandbox is not isolated: it could reach the canary at 127.0.0.1" in answer["error"]
    link.until(lambda: link.is_idle(msg_id))
    assert "not isolated" in str([heard.content for heard in link.heard])
    for again in (link.control("restart"), link.start_fake()):
        assert link.answer(again)["ok"] is False
    assert _children(server.process.pid) == []


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def test_a_policy_that_binds_late_is_waited_for(link: Relay, canary: socket.socket) -> None:
    began = time.monotonic()
    number = link.start_fake(canary=at(port_of(canary), within=20))
    threading.Timer(1, canary.close).start()
    assert link.answer(number)["ok"]
    assert time.monotonic() - began >= 1


@pytest.mark.parametrize("canary_member", [None, {}, {"addresses": ["x"], "port": "1", "within": 1}])
def test_a_start_with_a_canary_that_is_none_fails(link: Relay, canary_member: object) -> None:
    answer = link.answer(link.start_fake(canary=canary_member))
    assert answer["ok"] is False
    assert "'canary' must have" in answer["error"]


def test_prove_shows_it_without_a_kernel(link: Relay, canary: socket.socket) -> None:
    answer = link.answer(link.control("prove", canary=at(port_of(canary))))
    assert "could reach the canary" in answer["error"]
    assert link.answer(link.control("prove", canary=at(_closed())))["ok"]
    assert "'canary' must have" in link.answer(link.control("prove"))["error"]
    assert link.answer(link.start_fake())["ok"]


def test_one_proof_at_a_time(link: Relay) -> None:
    first = link.control("prove", canary=at(_closed()))
    second = link.control("prove", canary=at(_closed()))
    assert "under way" in link.answer(second)["error"]
    assert link.answer(first)["ok"]


def test_the_kernel_of_a_relay_that_outlives_its_gateways_has_its_sandboxes_environment(
    folder: Path, run_dirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OF_THE_IMAGE", "there")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    server = Server(folder, str(run_dirs / "e"))
    try:
        link, _ = server.link()
        link.start(
            ["/bin/sh", "-c", 'echo "$OF_THE_IMAGE-$KUBERNETES_SERVICE_HOST-$OWN"; sleep 100'],
            env={"OWN": "mine", "PATH": os.defpath},
        )
        link.until(lambda: b"there--mine" in b"".join(frame.payload for frame in link.frames))
    finally:
        server.kill()
