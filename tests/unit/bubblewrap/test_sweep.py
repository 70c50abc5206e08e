"""What a start sweeps, and what it leaves alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.backends.bubblewrap import sweep
from gateway.backends.bubblewrap.instance import Instance


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as sleeper:
        yield sleeper
        sleeper.kill()


def left_by_a_dead_gateway(runtime_dir: Path, name: str, **records: str) -> Path:
    folder = runtime_dir / (sweep.INSTANCE_PREFIX + name)
    (folder / sweep.SANDBOXES).mkdir(parents=True)
    (folder / "etc").mkdir()
    for number in range(6):
        (folder / "etc" / str(number)).write_text("")
    (folder / sweep.GROUPS).write_text("")
    for kernel_id, record in records.items():
        (folder / sweep.SANDBOXES / kernel_id).write_text(record)
    return folder


def test_what_a_dead_gateway_recorded_is_ended(tmp_path: Path, process: subprocess.Popen[bytes]) -> None:
    identity = sweep.identity(process.pid)
    assert identity is not None
    folder = left_by_a_dead_gateway(tmp_path, "one", kernel=identity)
    # Its parent, which is here, has to reap it.
    reaper = threading.Thread(target=process.wait)
    reaper.start()
    assert sweep.sweep_others(tmp_path) == [folder.name]
    reaper.join()
    assert process.returncode == -9
    assert os.listdir(tmp_path) == []


def test_a_living_gateway_is_left_alone_although_its_files_were_cleaned_up(
    tmp_path: Path, process: subprocess.Popen[bytes]
) -> None:
    tmp_path.chmod(0o700)
    living = Instance(tmp_path)
    living.record("kernel", process.pid)
    for name in os.listdir(living.folder):
        if (living.folder / name).is_file():
            (living.folder / name).unlink()
    another = Instance(tmp_path)
    assert another.swept == []
    assert process.poll() is None
    another.close()
    assert living.folder.exists()
    living.forget("kernel")
    living.close()


@pytest.mark.parametrize(
    "record", ["", " ", "12", "x y z", "-1 2 3", "\N{SUPERSCRIPT TWO} 2 3", "\0", "9" * 30 + " 1 x"], ids=repr
)
def test_what_is_no_record_keeps_no_start_from_sweeping_the_rest(
    tmp_path: Path, process: subprocess.Popen[bytes], record: str
) -> None:
    identity = sweep.identity(process.pid)
    assert identity is not None
    left_by_a_dead_gateway(tmp_path, "one", a=record, b=identity)
    threading.Thread(target=process.wait).start()
    assert sweep.sweep_others(tmp_path) == [sweep.INSTANCE_PREFIX + "one"]
    assert process.wait(10) == -9
    assert os.listdir(tmp_path) == []


def test_only_groups_that_are_named_after_the_instance_are_removed(tmp_path: Path) -> None:
    run, own, foreign = tmp_path / "run", tmp_path / "gateway-one", tmp_path / "gateway"
    folder = left_by_a_dead_gateway(run, "one")
    (folder / sweep.GROUPS).write_text(f"\ngateway-one\n{tmp_path}/not-there-one\n{foreign}\n{own}\n")
    removed: list[Path] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "remove_group", removed.append)
        sweep.sweep_others(run)
    assert removed == [tmp_path / "not-there-one", own]
    assert os.listdir(run) == []


def test_what_another_sweep_left_unfinished_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".dead-one" / "etc").mkdir(parents=True)
    assert sweep.sweep_others(tmp_path) == []
    assert os.listdir(tmp_path) == []


def test_a_start_and_a_watcher_that_sweep_at_once_do_not_trip_over_each_other(tmp_path: Path) -> None:
    failures: list[BaseException] = []

    def watch(folder: Path) -> None:
        try:
            sweep.sweep_instance(folder)
        except OSError as error:
            failures.append(error)

    for number in range(100):
        folder = left_by_a_dead_gateway(tmp_path, str(number))
        watcher = threading.Thread(target=watch, args=[folder])
        watcher.start()
        while watcher.is_alive():
            sweep.sweep_others(tmp_path)
        watcher.join()
        assert failures == []
        sweep.sweep_others(tmp_path)
        assert os.listdir(tmp_path) == []


def test_an_instance_that_vanishes_while_it_is_looked_at_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = left_by_a_dead_gateway(tmp_path, "one")
    real = os.open

    def after_another_sweep(path: Path, flags: int) -> int:
        monkeypatch.undo()
        shutil.rmtree(folder)
        return real(path, flags)

    monkeypatch.setattr(os, "open", after_another_sweep)
    assert sweep.sweep_others(tmp_path) == []


def test_a_record_that_cannot_be_written_whole_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.write_text

    def half(path: Path, text: str) -> int:
        real(path, text[: len(text) // 2])
        raise OSError("No space left on device")

    tmp_path.chmod(0o700)
    instance = Instance(tmp_path)
    records = instance.folder / sweep.SANDBOXES
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", half)
        with pytest.raises(OSError, match="No space"):
            instance.record("kernel", os.getpid())
    assert os.listdir(records) == []
    instance.record("kernel", os.getpid())
    assert (records / "kernel").read_text() == sweep.identity(os.getpid())
    instance.forget("kernel")
    instance.close()
