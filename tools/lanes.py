"""Runs commands side by side; what each has printed is shown in one piece when it has ended."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import IO

from .machine import ROOT


@dataclass(frozen=True)
class Row:
    """How a command went: whether it ended with status 0, and the seconds that it took."""

    name: str
    well: bool
    seconds: float


@dataclass(frozen=True)
class _Running:
    name: str
    process: subprocess.Popen[bytes]
    began: float
    #: What it prints, None where that is shown at once.
    output: IO[bytes] | None

    def row(self) -> Row:
        if self.output is not None:
            print(f"--- {self.name}", flush=True)
            self.output.seek(0)
            shutil.copyfileobj(self.output, sys.stdout.buffer)
            sys.stdout.flush()
        return Row(self.name, self.process.returncode == 0, time.monotonic() - self.began)


def run(
    commands: Mapping[str, Sequence[str]],
    lanes: int,
    behind: Mapping[str, Collection[str]] = MappingProxyType({}),
) -> Iterator[Row]:
    """Run every command in the project's folder, `lanes` at a time and in order, also after one that failed.

    One that `behind` names begins when all those have ended that it names there. With one lane what they
    print is shown at once. Whoever stops before the end has those ended that run.
    """
    waiting = list(commands.items())
    running: list[_Running] = []
    with contextlib.ExitStack() as stack:
        stack.callback(_end, running)
        while waiting or running:
            while len(running) < lanes and (ready := _ready(waiting, running, behind)) is not None:
                name, words = waiting.pop(ready)
                print(f"--- {name}{'' if lanes == 1 else ' begins'}", flush=True)
                output = None if lanes == 1 else stack.enter_context(tempfile.TemporaryFile())
                process = subprocess.Popen(
                    words,
                    cwd=ROOT,
                    stdout=output,
                    stderr=output and subprocess.STDOUT,
                    # Ctrl-C at the terminal reaches this program alone, which passes it on, once.
                    process_group=0,
                )
                running.append(_Running(name, process, time.monotonic(), output))
            # Leaves the child to be reaped by its Popen.
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
            for each in [each for each in running if each.process.poll() is not None]:
                running.remove(each)
                yield each.row()


def _ready(
    waiting: Sequence[tuple[str, Sequence[str]]],
    running: Sequence[_Running],
    behind: Mapping[str, Collection[str]],
) -> int | None:
    """Which of those that wait may begin, the first of them."""
    unfinished = {name for name, _ in waiting} | {each.name for each in running}
    for number, (name, _) in enumerate(waiting):
        if unfinished.isdisjoint(behind.get(name, ())):
            return number
    return None


def _end(running: Sequence[_Running]) -> None:
    for each in running:
        each.process.terminate()
    for each in running:
        each.process.wait()
