"""The relay's folder as a sandbox shows it, and relay processes that end with their test."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.relay.harness import Relay, Server, stage

NewRelay = Callable[..., Relay]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stage(tmp_path_factory.mktemp("relay"))


@pytest.fixture
def run_dirs() -> Iterator[Path]:
    """A folder with a short path: pytest's own would not leave room for the names of sockets."""
    made = Path(tempfile.mkdtemp(prefix="relay-"))
    yield made
    shutil.rmtree(made)


@pytest.fixture
def new_relay(folder: Path, run_dirs: Path) -> Iterator[NewRelay]:
    """Makes relays; `greet` says HELLO and opens route 1."""
    made: list[Relay] = []

    def make(*, greet: bool = True, acknowledge: bool = True, **hello: int) -> Relay:
        relay = Relay(folder, str(run_dirs / str(len(made))))
        made.append(relay)
        if greet:
            relay.hello(**hello)
            relay.open(acknowledge=acknowledge)
        return relay

    yield make
    for relay in made:
        relay.kill()


@pytest.fixture
def server(folder: Path, run_dirs: Path) -> Iterator[Server]:
    """A relay that outlives its links."""
    made = Server(folder, str(run_dirs / "s"))
    yield made
    made.kill()


@pytest.fixture
def fake(new_relay: NewRelay) -> Callable[..., Relay]:
    """A relay whose fake kernel, with the given options, is ready."""

    def make(*options: str, **members: object) -> Relay:
        relay = new_relay()
        assert relay.answer(relay.start_fake(*options, **members)) == {"id": 1, "ok": True}
        return relay

    return make


@pytest.fixture
def ipython(new_relay: NewRelay) -> Relay:
    """A relay whose ipykernel is ready."""
    relay = new_relay()
    assert relay.answer(relay.start()) == {"id": 1, "ok": True}
    return relay
