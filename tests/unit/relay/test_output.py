"""What the kernel's process prints, and whether it died of memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.relay import output as module
from gateway.relay.memory import MemoryWatch
from gateway.relay.output import Output
from gateway.wire import allowance


class Pipe:
    def __init__(self) -> None:
        reading, self.writing = os.pipe()
        os.set_blocking(reading, False)
        os.set_blocking(self.writing, False)
        self.output = Output(reading, now=0.0)

    def say(self, data: bytes) -> None:
        os.write(self.writing, data)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.output.close()
    os.close(pipe.writing)


def test_only_whole_lines_are_told(pipe: Pipe) -> None:
    pipe.say(b"one\ntw")
    assert pipe.output.read(0.0) == ("one\n", True)
    pipe.say(b"o\n")
    assert pipe.output.read(0.0) == ("two\n", True)
    assert pipe.output.read(0.0) == ("", True)


def test_what_a_process_that_ended_has_left_is_read_without_waiting_for_its_end(pipe: Pipe) -> None:
    pipe.say(b"one\nlast words")
    assert pipe.output.read_rest(0.0) == "one\nlast words\n"
    assert pipe.output.tail() == "one\nlast words"
    assert pipe.output.read_rest(0.0) == ""


def test_a_line_without_an_end_is_cut(pipe: Pipe) -> None:
    pipe.say(b"x" * (module.MAX_LINE + 100))
    assert pipe.output.read(0.0) == ("x" * module.MAX_LINE + "\n", True)


def test_bytes_that_are_no_text_are_shown_somehow(pipe: Pipe) -> None:
    pipe.say(b"\xff\xfe\n")
    assert pipe.output.read(0.0) == ("\ufffd\ufffd\n", True)


def test_a_flood_is_read_and_mostly_dropped_and_that_is_said(pipe: Pipe) -> None:
    told = ""
    for _ in range(100):
        pipe.say(b"0123456789abcde\n" * 2000)
        text, _ = pipe.output.read(1.0)
        told += text
    assert len(told) <= allowance.BURST
    pipe.say(b"later\n")
    text, _ = pipe.output.read(2.0)
    dropped = 200_000 - told.count("\n")
    assert text == f"[{dropped} lines were dropped]\nlater\n"
    assert pipe.output.tail().endswith("later"), "the last lines are kept whatever was told"


def test_the_end_of_the_pipe_is_told() -> None:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    output = Output(reading, now=0.0)
    os.write(writing, b"unfinished")
    os.close(writing)
    text, more = output.read(0.0)
    while more:
        text, more = output.read(0.0)
    assert text == "unfinished\n"
    output.close()


# -- memory -----------------------------------------------------------------------------------------


def put(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_text(text)


@pytest.mark.parametrize(
    ("events", "limit", "template"),
    [
        ("memory.events", "memory.max", "low 0\nhigh 0\nmax 31\noom 2\noom_kill {}\noom_group_kill 0\n"),
        (
            "memory/memory.oom_control",
            "memory/memory.limit_in_bytes",
            "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n",
        ),
    ],
    ids=["v2", "v1"],
)
def test_a_kill_for_want_of_memory_is_seen(tmp_path: Path, events: str, limit: str, template: str) -> None:
    put(tmp_path, events, template.format(3))
    put(tmp_path, limit, "536870912\n")
    watch = MemoryWatch(str(tmp_path))
    assert not watch.was_exceeded()
    put(tmp_path, events, template.format(4))
    assert watch.was_exceeded()
    assert watch.limit() == "512 MiB"


@pytest.mark.parametrize("limit", ["max", "9223372036854771712"])
def test_no_limit_is_not_named(tmp_path: Path, limit: str) -> None:
    put(tmp_path, "memory.max", limit)
    assert MemoryWatch(str(tmp_path)).limit() == ""


def test_where_there_is_no_cgroup_nothing_is_claimed(tmp_path: Path) -> None:
    watch = MemoryWatch(str(tmp_path))
    assert not watch.was_exceeded()
    assert watch.limit() == ""
