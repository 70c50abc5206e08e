"""The command line of a sandbox, as data: what is on it, and in what order."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from gateway.backends.bubblewrap import command
from gateway.backends.bubblewrap.command import Contents, Descriptors, Outside
from gateway.backends.bubblewrap.hidden import Cover
from gateway.backends.bubblewrap.settings import Bind
from tests.unit.bubblewrap.test_settings import BOUNDS

CONTENTS = Contents(
    binds=[Bind("/usr", "/usr"), Bind("/mnt/1", "/opt/env")],
    links=[("usr/bin", "/bin")],
    covered=[Cover("/opt/env/etc/jupyter", True), Cover("/opt/env/token", False)],
    limits=BOUNDS,
    rlimits=["--nofile=10"],
    argv=["python", "relay.py"],
    environment={"PATH": "/usr/bin"},
)
ORDINARY = Outside("/usr/bin/bwrap", None, None)
ROOT = Outside("/usr/bin/bwrap", 1_900_000_000, "/proc/1/fd/9")
DESCRIPTORS = Descriptors(seccomp=5, info=6, args=7)


def options() -> list[str]:
    return command.file_system(CONTENTS).decode().split("\0")


def has(argv: Sequence[str], *wanted: str) -> bool:
    """Whether the words follow each other."""
    return any(list(argv[start : start + len(wanted)]) == list(wanted) for start in range(len(argv)))


@pytest.mark.parametrize("outside", [ORDINARY, ROOT], ids=["ordinary user", "root"])
@pytest.mark.parametrize(
    "words",
    [
        ["--unshare-user", "--uid", "1000", "--gid", "1000", "--disable-userns"],
        ["--unshare-pid"],
        ["--unshare-ipc"],
        ["--unshare-net"],
        ["--unshare-uts"],
        ["--unshare-cgroup"],
        ["--die-with-parent"],
        ["--new-session"],
        ["--cap-drop", "ALL"],
        ["--clearenv"],
        ["--seccomp", "5"],
        ["--as-pid-1", "--", "/usr/bin/prlimit", "--nofile=10", "--", "python", "relay.py"],
    ],
    ids=lambda words: words[0] if isinstance(words, list) else "",
)
def test_what_is_to_be_isolated_is_on_the_command_line(outside: Outside, words: list[str]) -> None:
    """And not in the pipe, of which a killed gateway may have written a part."""
    assert has(command.build(CONTENTS, outside, DESCRIPTORS), *words)


def test_an_ordinary_user_starts_bubblewrap_with_nothing_but_a_higher_score_before_it() -> None:
    argv = command.build(CONTENTS, ORDINARY, DESCRIPTORS)
    assert argv[:5] == ["choom", "--adjust", "800", "--", "/usr/bin/bwrap"]


def test_root_is_given_up_for_good_before_bubblewrap() -> None:
    argv = command.build(CONTENTS, ROOT, DESCRIPTORS)
    chain = argv[: argv.index("/usr/bin/bwrap")]
    assert chain[:7] == ["choom", "--adjust", "800", "--", "nsenter", "--mount=/proc/1/fd/9", "--"]
    assert has(
        chain, "setpriv", "--reuid=1900000000", "--regid=1900000000", "--clear-groups", "--no-new-privs"
    )
    assert {"--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all"} <= set(chain)


def test_every_tmpfs_has_a_size_and_a_mode() -> None:
    given = options()
    places = [position for position, option in enumerate(given) if option == "--tmpfs"]
    assert {given[position + 1] for position in places} >= {"/tmp", "/dev/shm", command.HOME, command.RUN}  # noqa: S108
    for position in places:
        assert given[position - 4] == "--perms"
        assert given[position - 2] == "--size"
        assert int(given[position - 1]) > 0


def test_the_root_is_made_read_only_last_of_all() -> None:
    given = options()
    assert given[-7:] == ["--remount-ro", "/dev", "--remount-ro", "/", "--chdir", command.HOME, ""]


def test_nothing_is_bound_writable() -> None:
    given = options()
    writable = [given[place : place + 3] for place, option in enumerate(given) if option == "--dev-bind"]
    assert writable == [["--dev-bind", "/dev/full", "/dev/zero"]]
    assert {option for option in given if "bind" in option} == {"--ro-bind", "--dev-bind"}


def test_own_file_systems_come_before_what_may_lie_below_them_and_covers_after_it() -> None:
    given = options()
    order = ["/tmp", "/opt/env", "/opt/env/etc/jupyter"]  # noqa: S108
    assert sorted(order, key=given.index) == order
    assert has(given, "--ro-bind", "/dev/null", "/opt/env/token")
    assert has(given, "--tmpfs", "/opt/env/etc/jupyter", "--remount-ro", "/opt/env/etc/jupyter")


def test_the_environment_is_what_is_given_and_nothing_else() -> None:
    argv = command.build(CONTENTS, ORDINARY, DESCRIPTORS)
    assert [argv[position + 1] for position, part in enumerate(argv) if part == "--setenv"] == ["PATH"]
    assert argv.index("--clearenv") < argv.index("--setenv")


@pytest.mark.parametrize(("cpus", "threads"), [(0.5, "1"), (1.0, "1"), (2.5, "2")])
def test_libraries_start_as_many_threads_as_there_are_processors_to_have(cpus: float, threads: str) -> None:
    env = command.base_environment(CONTENTS.limits.__class__(**{**vars(BOUNDS), "cpus": cpus}), ["/a", "/b"])
    assert env["OMP_NUM_THREADS"] == env["OPENBLAS_NUM_THREADS"] == threads
    assert env["PATH"] == "/a:/b"
    assert env["HOME"] == command.HOME
