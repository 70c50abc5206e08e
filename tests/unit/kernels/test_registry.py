"""The registry: limits, culling, draining, over scripted relays; and the kernelspecs it reads."""

from __future__ import annotations

import asyncio
import datetime
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from traitlets import TraitError

from gateway.kernels import specs
from gateway.kernels.attachment import Attachment
from gateway.kernels.errors import (
    BadKernelSpecError,
    DrainingError,
    NoSuchKernelError,
    NoSuchKernelSpecError,
    TooManyKernelsError,
)
from gateway.kernels.registry import Kernels
from gateway.kernels.specs import KernelSpecs
from gateway.wire.framing import DEFAULT_MAX_MESSAGE, Kind
from tests.support.backend_double import BackendDouble
from tests.support.patience import until
from tests.support.relay_double import RelayDouble
from tests.unit.kernels.scripted import became, open_route, request


def write_spec(folder: Path, name: str, **members: Any) -> Path:
    file = folder / name / "kernel.json"
    file.parent.mkdir(exist_ok=True)
    spec = {"argv": ["python3", "-f", "{connection_file}"], "display_name": name, "language": "python"}
    file.write_text(json.dumps(spec | members))
    return file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_spec(tmp_path, "spec")
    return tmp_path


def kernelspecs(folder: Path) -> KernelSpecs:
    return KernelSpecs(manager=KernelSpecManager(kernel_dirs=[str(folder)], ensure_native_kernel=False))


@asynccontextmanager
async def registry(folder: Path, **traits: Any) -> AsyncIterator[tuple[Kernels, BackendDouble]]:
    backend = BackendDouble()
    kernels = Kernels(backend=backend, kernelspecs=kernelspecs(folder), shutdown_grace=0, **traits)
    await kernels.start()
    try:
        yield kernels, backend
    finally:
        async with backend.obeying():
            await kernels.close()
        assert kernels.list() == []
        assert await backend.list() == []
        assert len(asyncio.all_tasks()) == 1


class Clock:
    def __init__(self) -> None:
        self.now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
        self._looks = 0

    def __call__(self) -> datetime.datetime:
        self._looks += 1
        return self.now

    async def looked_at(self) -> None:
        """Wait until the time was asked for twice more: by the culler, where nothing else goes on."""
        before = self._looks
        await until(lambda: self._looks >= before + 2)

    def pass_by(self, seconds: float) -> None:
        self.now += datetime.timedelta(seconds=seconds)


@pytest.mark.gen_test
async def test_a_kernel_is_found_until_it_is_deleted(folder):
    async with registry(folder) as (kernels, _):
        kernel = kernels.create("spec", {}, "someone")
        assert kernels.get(kernel.id) is kernel
        assert kernels.list() == [kernel]
        await kernels.delete(kernel.id)
        with pytest.raises(NoSuchKernelError):
            kernels.get(kernel.id)
        with pytest.raises(NoSuchKernelError):
            await kernels.delete(kernel.id)


@pytest.mark.gen_test
async def test_a_kernel_that_a_clients_request_has_shut_down_is_deleted(folder):
    async with registry(folder) as (kernels, backend):
        kernel = kernels.create("spec", {}, "someone")
        relay = await backend.next_relay()
        relay.answer(await relay.hear_control("start"))
        await kernel.wait_ready()
        relay.say_json(Kind.DIED, {"reason": "It ended with exit code 0.", "asked": "shutdown"})
        async with backend.obeying():
            await until(lambda: not kernels.list())


@pytest.mark.gen_test
async def test_an_unknown_kernelspec_is_refused_with_the_names_there_are(folder):
    write_spec(folder, "another")
    async with registry(folder) as (kernels, _):
        with pytest.raises(NoSuchKernelSpecError, match="Those there are: another, spec"):
            kernels.create("none", {}, "someone")


@pytest.mark.gen_test
async def test_sandbox_settings_that_are_no_object_are_the_administrators_error(folder):
    write_spec(folder, "spec", metadata={"sandbox": [1]})
    async with registry(folder) as (kernels, _):
        with pytest.raises(BadKernelSpecError, match="not an object"):
            kernels.create("spec", {}, "someone")


@pytest.mark.gen_test
async def test_the_limit_holds_for_requests_at_the_same_time_and_until_nothing_is_left(folder):
    async with registry(folder, max_kernels=3) as (kernels, backend):

        async def ask() -> object:
            await asyncio.sleep(0)
            try:
                return kernels.create("spec", {}, "someone")
            except TooManyKernelsError as error:
                return error

        answers = await asyncio.gather(*(ask() for _ in range(10)))
        assert sum(isinstance(answer, TooManyKernelsError) for answer in answers) == 7
        assert len(kernels.list()) == 3
        relay = await backend.next_relay()
        relay.answer(await relay.hear_control("start"))
        first = kernels.get(backend.made[0].kernel_id)
        await first.wait_ready()
        deleting = asyncio.ensure_future(kernels.delete(first.id))
        control = await relay.hear_control("shutdown")
        with pytest.raises(TooManyKernelsError):
            kernels.create("spec", {}, "someone")
        relay.answer(control)
        await deleting
        kernels.create("spec", {}, "someone")


CULLING = {
    "an idle kernel": ({}, b"\x01", False, True),
    "a busy kernel": ({}, b"\x02", False, False),
    "a busy kernel, when told so": ({"cull_busy": True}, b"\x02", False, True),
    "a connected kernel": ({}, b"\x01", True, False),
    "a connected kernel, when told so": ({"cull_connected": True}, b"\x01", True, True),
}


@pytest.mark.parametrize(("traits", "state", "connected", "culled"), CULLING.values(), ids=CULLING.keys())
@pytest.mark.gen_test
async def test_what_is_culled_after_its_time(folder, traits, state, connected, culled):
    clock = Clock()
    async with registry(folder, cull_idle_timeout=60, cull_interval=0.02, **traits) as (kernels, backend):
        kernels.clock = clock
        kernel = kernels.create("spec", {}, "someone")
        relay = await backend.next_relay()
        relay.answer(await relay.hear_control("start"))
        relay.say(Kind.STATE, payload=state)
        await kernel.wait_ready()
        if connected:
            kernel.attach("s")
        clock.pass_by(59)
        await asyncio.sleep(0.1)
        assert kernels.list() == [kernel]
        clock.pass_by(2)
        if culled:
            async with backend.obeying():
                await until(lambda: not kernels.list())
        else:
            await asyncio.sleep(0.1)
            assert kernels.list() == [kernel]


async def start_busy(kernels: Kernels, backend: BackendDouble) -> RelayDouble:
    """The relay of a new kernel that is busy."""
    kernel = kernels.create("spec", {}, "someone")
    relay = await backend.next_relay()
    relay.answer(await relay.hear_control("start"))
    await kernel.wait_ready()
    relay.say(Kind.STATE, payload=b"\x02")
    await became(kernel, "busy")
    return relay


@asynccontextmanager
async def attached(kernels: Kernels, backend: BackendDouble) -> AsyncIterator[tuple[Attachment, RelayDouble]]:
    """A client of a new kernel, and the relay."""
    kernel = kernels.create("spec", {}, "someone")
    relay = await backend.next_relay()
    relay.answer(await relay.hear_control("start"))
    await kernel.wait_ready()
    client = kernel.attach("s")
    await open_route(relay)
    yield client, relay


async def exchange(client: Attachment, relay: RelayDouble, direction: str) -> None:
    """One message, taken at its other end."""
    if direction == "to the kernel":
        await client.send(request())
        await relay.hear(Kind.MESSAGE)
    else:
        relay.say_message(request(channel="iopub", msg_type="stream"))
        await asyncio.wait_for(client.receive(), 2)


both = pytest.mark.parametrize("direction", ["to the kernel", "to the client"])


@both
@pytest.mark.gen_test
async def test_a_message_in_either_direction_is_activity(folder, direction):
    clock = Clock()
    async with registry(folder) as (kernels, backend):
        kernels.clock = clock
        began = clock.now
        async with attached(kernels, backend) as (client, relay):
            (kernel,) = kernels.list()
            clock.pass_by(10)
            assert kernel.last_activity == began
            await exchange(client, relay, direction)
            assert kernel.last_activity == clock.now


@both
@pytest.mark.gen_test
async def test_a_kernel_is_not_culled_while_messages_go_either_way(folder, direction):
    clock = Clock()
    traits = {"cull_idle_timeout": 60, "cull_interval": 0.02, "cull_connected": True}
    async with registry(folder, **traits) as (kernels, backend):
        kernels.clock = clock
        async with attached(kernels, backend) as (client, relay):
            for _ in range(4):
                clock.pass_by(40)
                await exchange(client, relay, direction)
                await clock.looked_at()
                assert len(kernels.list()) == 1
            clock.pass_by(61)
            await until(lambda: not kernels.list())


@pytest.mark.gen_test
async def test_a_drain_starts_nothing_more_and_waits_for_busy_kernels(folder):
    async with registry(folder) as (kernels, backend):
        relay = await start_busy(kernels, backend)
        draining = asyncio.ensure_future(kernels.drain(30))
        await asyncio.sleep(0)
        assert kernels.draining
        with pytest.raises(DrainingError):
            kernels.create("spec", {}, "someone")
        assert not draining.done()
        relay.say(Kind.STATE, payload=b"\x01")
        await asyncio.wait_for(draining, 2)


@pytest.mark.gen_test
async def test_a_drain_ends_with_its_grace(folder):
    async with registry(folder) as (kernels, backend):
        await start_busy(kernels, backend)
        began = time.monotonic()
        await asyncio.wait_for(kernels.drain(0.3), 2)
        assert time.monotonic() - began >= 0.3


@pytest.mark.parametrize(
    ("trait", "value"),
    [
        ("max_kernels", -1),
        ("cull_interval", 0),
        ("max_message_size", 0),
        ("max_message_size", DEFAULT_MAX_MESSAGE + 1),
        ("start_timeout", -1),
    ],
)
def test_a_trait_out_of_its_range_is_refused_by_name(trait, value):
    with pytest.raises(TraitError, match=trait):
        Kernels(**{trait: value})


# -- kernelspecs ----------------------------------------------------------------------------------


def test_a_kernelspec_that_is_added_changed_or_removed_is_seen_without_a_restart(folder):
    found = kernelspecs(folder)
    assert set(found.all()) == {"spec"}
    file = write_spec(folder, "later")
    assert set(found.all()) == {"spec", "later"}
    write_spec(folder, "later", display_name="another name, and longer")
    assert found.get("later").display_name == "another name, and longer"
    file.unlink()
    file.parent.rmdir()
    assert set(found.all()) == {"spec"}


def test_nothing_is_read_again_while_nothing_changes(folder, monkeypatch):
    found = kernelspecs(folder)
    found.all()
    monkeypatch.setattr(KernelSpecManager, "get_kernel_spec", lambda *_: pytest.fail("read again"))
    found.all()


def test_a_kernelspec_that_cannot_be_read_hides_no_other(folder):
    (folder / "broken").mkdir()
    (folder / "broken" / "kernel.json").write_text("{")
    assert set(kernelspecs(folder).all()) == {"spec"}


def write_as_kubelet(volume: Path, **specs: dict[str, Any]) -> None:
    """What a ConfigMap's volume is (kubernetes/pkg/volume/util/atomic_writer.go): links through a link that
    is exchanged."""
    volume.mkdir(exist_ok=True)
    held = volume / f"..{len(list(volume.iterdir()))}"
    held.mkdir()
    for name, members in specs.items():
        spec = {"argv": ["k", "{connection_file}"], "display_name": name, "language": "any", **members}
        (held / f"{name}.json").write_text(json.dumps(spec))
    (volume / "..new").symlink_to(held.name)
    (volume / "..new").rename(volume / "..data")
    for link in volume.glob("[!.]*"):
        if link.stem not in specs:
            link.unlink()
    for name in specs:
        if not (volume / f"{name}.json").is_symlink():
            (volume / f"{name}.json").symlink_to(f"..data/{name}.json")


def test_a_kernelspec_in_a_file_is_added_changed_or_removed_without_a_restart(folder, tmp_path):
    volume = tmp_path / "volume"
    write_as_kubelet(volume, one={})
    found = kernelspecs(folder)
    found.files = str(volume)
    assert set(found.all()) == {"spec", "one"}
    write_as_kubelet(volume, one={}, two={})
    assert set(found.all()) == {"spec", "one", "two"}
    write_as_kubelet(volume, one={"display_name": "eno"}, two={})  # of the same size
    assert found.get("one").display_name == "eno"
    write_as_kubelet(volume, two={})
    assert set(found.all()) == {"spec", "two"}


def test_a_kernelspec_in_a_file_comes_before_that_in_a_folder(folder, tmp_path):
    write_as_kubelet(tmp_path / "volume", spec={"display_name": "the file's"})
    found = kernelspecs(folder)
    found.files = str(tmp_path / "volume")
    assert found.get("spec").display_name == "the file's"


@pytest.mark.parametrize("argv", [["{resource_dir}/kernel", "{connection_file}"], 7])
def test_a_file_that_is_no_kernelspec_hides_no_other(folder, tmp_path, argv):
    write_as_kubelet(tmp_path / "volume", one={}, broken={"argv": argv})
    found = kernelspecs(folder)
    found.files = str(tmp_path / "volume")
    assert set(found.all()) == {"spec", "one"}


def test_a_folder_of_files_that_is_not_there_hides_no_kernelspec(folder):
    found = kernelspecs(folder)
    found.files = str(folder / "nowhere")
    assert set(found.all()) == {"spec"}


def test_the_command_has_its_folders_filled_in_and_keeps_the_connection_file():
    spec = KernelSpec(argv=["/k", "{resource_dir}/a", "{connection_file}", "{other}"], resource_dir="/r")
    assert specs.command("spec", spec, "/p") == ["/k", "/r/a", "{connection_file}", "{other}"]
    with pytest.raises(BadKernelSpecError, match="no argv"):
        specs.command("spec", KernelSpec(argv=[]), "/p")


def test_the_environment_is_filled_from_the_sandbox_and_the_request_and_nothing_else(monkeypatch):
    monkeypatch.setenv("SECRET", "of the gateway")
    spec = KernelSpec(argv=["/k"], env={"WHO": "${KERNEL_USERNAME} at ${HOME}", "NOT": "${SECRET}"})
    env = specs.environment(spec, {"HOME": "/home/x"}, {"KERNEL_USERNAME": "me"})
    assert env == {
        "HOME": "/home/x",
        "KERNEL_USERNAME": "me",
        "WHO": "me at /home/x",
        "NOT": "${SECRET}",
    }


@pytest.mark.parametrize("name", ["python", "python3"])
def test_a_plain_python_is_the_backends_interpreter(name):
    spec = KernelSpec(argv=[name, "-m", "kernel", "{connection_file}"])
    assert specs.command("spec", spec, "/p") == ["/p", "-m", "kernel", "{connection_file}"]
