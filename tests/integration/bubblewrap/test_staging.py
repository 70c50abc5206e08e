"""Where a root gateway's sandboxes find what they are shown."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.gateways import ROOT

#: Runs in a mount namespace of its own, with a disk that has a space in its name and one with data on it.
_SCRIPT = """
import asyncio, os, subprocess, sys
from gateway.backends.bubblewrap.staging import Stages

def mount(path):
    os.makedirs(path)
    subprocess.run(["mount", "-t", "tmpfs", "none", path], check=True)

subprocess.run(["mount", "-t", "tmpfs", "none", "/mnt"], check=True)
subprocess.run(["mount", "-t", "tmpfs", "none", "/srv"], check=True)
mount("/mnt/a disk")
mount("/srv/data")
os.makedirs("/srv/data/course")
open("/srv/data/course/file", "w").write("numbers")
os.mkdir(sys.argv[1])

async def main():
    stage = await Stages(sys.argv[1]).get(["/srv/data/course"])
    inside = ["nsenter", f"--mount=/proc/{os.getpid()}/fd/{stage.namespace}", "--"]
    where = stage.where["/srv/data/course"]
    print(subprocess.check_output([*inside, "cat", where + "/file"], text=True))
    for line in subprocess.check_output([*inside, "cat", "/proc/self/mountinfo"], text=True).splitlines():
        print(line.split()[4])

asyncio.run(main())
"""


@pytest.mark.requires("root")
def test_a_stage_keeps_what_is_shown_and_no_other_disk(tmp_path: Path) -> None:
    done = subprocess.run(
        ["unshare", "--mount", sys.executable, "-c", _SCRIPT, tmp_path / "stage"],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    file, *mounts = done.stdout.splitlines()
    assert file == "numbers"
    assert {mount for mount in mounts if mount.startswith(("/mnt", "/srv"))} == {"/mnt", "/mnt/1"}
    assert "/" in mounts
