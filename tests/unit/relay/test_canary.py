"""The canary answers all, whatever some do; the probe hears it and nothing else, and says what it met."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

import gateway
from gateway.relay.canary import WORD

PROGRAM = [sys.executable, "-I", "-S", str(Path(gateway.__file__).with_name("relay") / "__main__.py")]
PATIENCE_S = 20.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def probe(addresses: str, port: int, *seconds: str) -> subprocess.CompletedProcess[str]:
    argv = [*PROGRAM, "probe", addresses, str(port), *seconds]
    return subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE_S)


def heard(address: str, port: int) -> bytes:
    with (
        socket.create_connection((address, port), PATIENCE_S) as connection,
        connection.makefile("rb") as file,
    ):
        return file.read()


@contextmanager
def started(port: int) -> Iterator[subprocess.Popen[str]]:
    """A canary on this port, which may not listen yet."""
    process = subprocess.Popen([*PROGRAM, "canary", str(port)], stderr=subprocess.PIPE, text=True)
    with process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def port() -> Iterator[int]:
    """Of a canary that listens."""
    number = free_port()
    with started(number):
        assert probe("127.0.0.1", number).returncode == 0
        yield number


@pytest.mark.parametrize("address", ["127.0.0.1", pytest.param("::1", marks=pytest.mark.requires("ipv6"))])
def test_it_says_that_it_is_there_and_hangs_up_by_each_family(port: int, address: str) -> None:
    assert heard(address, port) == WORD
    assert probe(address, port).returncode == 0


def test_one_that_keeps_its_end_open_or_resets_it_does_not_keep_others_waiting(port: int) -> None:
    with closing(socket.create_connection(("127.0.0.1", port))), closing(socket.socket()) as rude:
        rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        rude.connect(("127.0.0.1", port))
        rude.close()
        assert all(heard("127.0.0.1", port) == WORD for _ in range(100))


def test_it_ends_by_sigterm_through_a_handler_without_which_the_first_process_of_a_pod_would_not() -> None:
    number = free_port()
    with started(number) as process:
        assert probe("127.0.0.1", number).returncode == 0
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0


@pytest.mark.parametrize("number", ["taken", "70000"])
def test_a_port_that_it_cannot_have_is_named(number: str) -> None:
    with socket.create_server(("", 0)) as server:
        taken = str(server.getsockname()[1]) if number == "taken" else number
        result = subprocess.run([*PROGRAM, "canary", taken], capture_output=True, text=True)
    assert result.returncode == 1
    assert f"on port {taken}" in result.stderr


def test_the_probe_waits_for_a_canary_that_comes_later() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        number = server.getsockname()[1]
        waiting = subprocess.Popen([*PROGRAM, "probe", "127.0.0.1", str(number), "15"])
        server.settimeout(PATIENCE_S)
        server.accept()[0].close()
    with started(number), waiting:
        assert waiting.wait(PATIENCE_S) == 0


def test_the_probe_says_that_nobody_listens() -> None:
    number = free_port()
    result = probe("127.0.0.1", number, "0")
    assert result.returncode == 1
    assert result.stderr == f"relay: no canary at 127.0.0.1 port {number}: Connection refused\n"


def test_each_address_has_to_answer_and_the_one_that_does_not_is_named(port: int) -> None:
    result = probe("127.0.0.1,127.0.0.2,name.invalid", port, "0")
    assert result.returncode == 1, "a name is asked for"
    assert "127.0.0.1 " not in result.stderr
    assert "127.0.0.2 " not in result.stderr, "the canary listens on every address"
    assert "name.invalid" in result.stderr


@pytest.mark.parametrize("words", [b"", b"canar", b"HTTP/1.1"], ids=["nothing", "a part", "another word"])
def test_somebody_else_is_not_taken_for_the_canary(words: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(words)

        thread = threading.Thread(target=answer)
        thread.start()
        result = probe("127.0.0.1", server.getsockname()[1], "0")
        thread.join(PATIENCE_S)
    assert result.returncode == 1
    assert "something else answered" in result.stderr


def test_the_probe_gives_up_on_one_that_listens_and_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        before = time.monotonic()
        result = probe("127.0.0.1", server.getsockname()[1], "1")
    assert result.returncode == 1
    assert "timed out" in result.stderr
    assert time.monotonic() - before < 5


@pytest.mark.parametrize(
    "arguments",
    [
        ["canary"],
        ["canary", "x"],
        ["canary", "-1"],
        ["probe", "127.0.0.1"],
        ["probe", "127.0.0.1", "x"],
        ["probe", "127.0.0.1", "1", "2", "3"],
    ],
    ids=" ".join,
)
def test_a_command_that_cannot_be_meant_is_answered_by_the_usage(arguments: list[str]) -> None:
    result = subprocess.run([*PROGRAM, *arguments], capture_output=True, text=True, timeout=PATIENCE_S)
    assert result.returncode == 1
    assert result.stderr.startswith("usage: relay")
