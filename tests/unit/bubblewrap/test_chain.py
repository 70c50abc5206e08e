"""Who may exchange a step on the way to a path."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from pathlib import Path

import pytest

from gateway.backends.bubblewrap import chain

ROOT, ME, SOMEBODY = 0, 1000, 1001
#: The group that belongs to one user alone, as many systems make it, and one of several.
OWN, SHARED = 1000, 50


def status(mode: int, uid: int, gid: int = SHARED) -> os.stat_result:
    return os.stat_result((mode, 1, 1, 2, uid, gid, 0, 0, 0, 0))


@pytest.fixture(autouse=True)
def me(monkeypatch: pytest.MonkeyPatch) -> None:
    def group(gid: int) -> grp.struct_group:
        return grp.struct_group(
            ("me", "x", gid, ["me"]) if gid == OWN else ("staff", "x", gid, ["me", "you"])
        )

    entry = pwd.struct_passwd(("me", "x", ME, OWN, "", "/home/me", "/bin/sh"))
    monkeypatch.setattr("os.geteuid", lambda: ME)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: entry)
    monkeypatch.setattr("grp.getgrgid", group)


@pytest.mark.parametrize(
    ("mode", "owner", "group", "entry", "may"),
    [
        (0o755, ROOT, SHARED, ROOT, False),
        (0o755, ME, SHARED, SOMEBODY, False),
        (0o755, SOMEBODY, SHARED, ME, True),
        (0o775, ME, SHARED, ME, True),
        (0o775, ME, OWN, ME, False),
        (0o775, ROOT, 0, ME, False),
        (0o777, ROOT, OWN, ME, True),
        (0o1777, ROOT, SHARED, ROOT, False),
        (0o1777, ROOT, SHARED, ME, False),
        (0o1777, ROOT, SHARED, SOMEBODY, True),
        (0o1777, SOMEBODY, SHARED, ME, True),
    ],
)
def test_others_may_exchange_what_lies_in_a_folder_that_is_theirs_or_that_they_may_write(
    mode: int, owner: int, group: int, entry: int, may: bool
) -> None:
    folder = status(stat.S_IFDIR | mode, owner, group)
    assert chain._may_exchange(folder, status(stat.S_IFDIR | 0o755, entry)) is may


def test_every_folder_on_the_way_counts_those_of_links_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "real/a").mkdir(parents=True)
    (tmp_path / "links").mkdir()
    (tmp_path / "links/way").symlink_to("../real/./a")
    seen: list[tuple[int, int]] = []
    monkeypatch.setattr(
        chain, "_may_exchange", lambda folder, entry: bool(seen.append((folder.st_ino, entry.st_ino)))
    )
    assert chain.loose_folder(str(tmp_path / "links/way")) is None
    assert seen[-4:] == [
        (path.parent.lstat().st_ino, path.lstat().st_ino)
        for path in map(tmp_path.joinpath, ("links", "links/way", "real", "real/a"))
    ]


def test_links_in_a_circle_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain, "_may_exchange", lambda folder, entry: False)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="too many links"):
        chain.loose_folder(str(tmp_path / "loop"))


def test_a_path_that_does_not_exist_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain, "_may_exchange", lambda folder, entry: False)
    with pytest.raises(FileNotFoundError):
        chain.loose_folder(str(tmp_path / "missing"))
