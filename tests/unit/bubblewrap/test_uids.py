"""Host UIDs are leased once on this machine, whoever asks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.backends.base import CapacityError, IsolationError
from gateway.backends.bubblewrap import uids
from gateway.backends.bubblewrap.uids import UidLeases


@pytest.fixture(autouse=True)
def _every_uid_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uids, "_is_mapped", lambda *_: True)


FIRST = 1_900_000_000


def test_two_gateways_never_have_one_uid(tmp_path: Path) -> None:
    one, other = (UidLeases(tmp_path / "uids", FIRST, FIRST + 9) for _ in range(2))
    leased = [leases.lease() for leases in (one, other) for _ in range(5)]
    assert sorted(leased) == list(range(FIRST, FIRST + 10))
    for leases in (one, other):
        leases.close()


def test_the_folder_of_the_leases_is_made(tmp_path: Path) -> None:
    leases = UidLeases(tmp_path / "new/folder/uids", FIRST, FIRST)
    assert leases.lease() == FIRST
    leases.close()


def test_when_all_are_taken_the_error_says_what_to_set(tmp_path: Path) -> None:
    leases = UidLeases(tmp_path / "uids", FIRST, FIRST)
    leases.lease()
    with pytest.raises(CapacityError, match="uid_range"):
        leases.lease()
    leases.close()


def test_a_released_uid_comes_again_but_last(tmp_path: Path) -> None:
    leases = UidLeases(tmp_path / "uids", FIRST, FIRST + 2)
    first = leases.lease()
    leases.release(first)
    assert [leases.lease() for _ in range(3)] == [FIRST + 1, FIRST + 2, first]
    leases.close()


def test_a_uid_that_somebody_has_is_passed_over(tmp_path: Path) -> None:
    leases = UidLeases(tmp_path / "uids", 1, 3)
    taken = {1, 2, 3} & {int(line.split(":")[2]) for line in Path("/etc/passwd").read_text().splitlines()}
    assert taken, "every Debian has these"
    if taken == {1, 2, 3}:
        with pytest.raises(CapacityError):
            leases.lease()
    else:
        assert leases.lease() not in taken
    leases.close()


def test_leases_end_with_their_process(tmp_path: Path) -> None:
    body = (
        "import sys; from pathlib import Path; from gateway.backends.bubblewrap import uids; "
        "uids._is_mapped = lambda *_: True; "
        f"leases = uids.UidLeases(Path({str(tmp_path / 'uids')!r}), {FIRST}, {FIRST}); "
        "print(leases.lease(), flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", body], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=os.getcwd()
    ) as process:
        assert process.stdout is not None
        assert int(process.stdout.readline()) == FIRST
        leases = UidLeases(tmp_path / "uids", FIRST, FIRST)
        with pytest.raises(CapacityError):
            leases.lease()
        process.kill()
        process.wait()
        assert leases.lease() == FIRST
        leases.close()


@pytest.mark.parametrize(("first", "last"), [(0, 5), (-1, 5), (9, 5), (5, 1 << 31)])
def test_a_range_that_cannot_be_is_refused(tmp_path: Path, first: int, last: int) -> None:
    with pytest.raises(IsolationError, match="uid_range"):
        UidLeases(tmp_path / "uids", first, last)


@pytest.mark.parametrize(
    ("uid_map", "mapped"),
    [
        ("         0          0 4294967295\n", True),
        ("         0     100000      65536\n", False),
        ("         0       1000          1\n 1 100000 4000000000\n", True),
    ],
)
def test_the_range_must_exist_in_the_user_namespace(
    uid_map: str, mapped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    assert uids._is_mapped(FIRST, FIRST + 9, uid_map) is mapped
