"""The backend's configuration."""

from __future__ import annotations

from importlib.metadata import entry_points

import pytest
from traitlets import TraitError
from traitlets.config import Config

from gateway.backends.base import BackendError
from gateway.backends.bubblewrap import BubblewrapBackend
from gateway.backends.sizes import MIB
from tests.conformance.backend.visit import request


@pytest.mark.parametrize(
    ("value", "size"), [("512MiB", 512 * MIB), (128 * MIB, 128 * MIB), ("1GiB", 1024 * MIB)]
)
def test_sizes_are_numbers_or_texts(value: object, size: int) -> None:
    assert BubblewrapBackend(memory=value).memory == size


def test_a_size_is_read_from_a_command_line() -> None:
    config = Config({"BubblewrapBackend": {"memory": "512MiB"}})
    assert BubblewrapBackend(config=config).memory == 512 * MIB
    assert BubblewrapBackend.memory.from_string("64MiB") == 64 * MIB
    with pytest.raises(TraitError, match="KiB, MiB, GiB"):
        BubblewrapBackend.memory.from_string("64MB")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("memory", "lots"),
        ("memory", -1),
        ("memory", 1000),
        ("processes", 0),
        ("cpus", 0.0),
        ("life", -1.0),
        ("open_files", 3),
    ],
)
def test_a_limit_with_which_no_kernel_starts_is_an_error_that_names_it(name: str, value: object) -> None:
    with pytest.raises(TraitError, match=name):
        BubblewrapBackend(**{name: value})


def test_a_life_may_be_without_end() -> None:
    backend = BubblewrapBackend(life=None)
    assert {limit.name: limit.value for limit in backend.describe_limits()}["life"] == "none"


def test_the_limits_can_be_told_before_the_start() -> None:
    assert [limit.name for limit in BubblewrapBackend().describe_limits()] == [
        *("memory", "processes", "cpus", "file_size", "open_files", "tmp_size", "home_size", "life")
    ]


def test_the_entry_point_names_this_backend() -> None:
    (entry,) = entry_points(group="jupyter_sandbox_gateway.backends", name="bubblewrap")
    assert entry.load() is BubblewrapBackend


def test_it_says_that_its_sandboxes_end_with_their_gateway() -> None:
    assert BubblewrapBackend.survives_gateway is False


@pytest.mark.gen_test
async def test_before_the_start_there_are_no_sandboxes() -> None:
    backend = BubblewrapBackend()
    assert await backend.list() == []
    with pytest.raises(BackendError, match="not been started"):
        await backend.create(request(backend))
    await backend.close()
