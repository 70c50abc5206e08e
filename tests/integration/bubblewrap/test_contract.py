"""What a sandbox is, as seen from inside: the contract of docs/design.md, a test for each line.

What must not be possible beyond that is the escape suite's.
"""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from gateway.backends.base import SpecError
from gateway.backends.bubblewrap import BubblewrapBackend, command, visible
from gateway.backends.bubblewrap.launcher import Program
from tests.conformance.backend import traces
from tests.conformance.backend.kinds import LOG
from tests.conformance.backend.visit import found_inside, request, script, visiting
from tests.integration.bubblewrap.conftest import Started
from tests.integration.bubblewrap.inside import SCRIPT

Inside = dict[str, Any]

#: Of the user who runs the gateway.
HOME = os.path.expanduser("~")


@pytest.fixture(scope="module")
def inside(tmp_path_factory: pytest.TempPathFactory) -> Inside:
    """What the script found in one sandbox."""

    async def look() -> Inside:
        backend = BubblewrapBackend(runtime_dir=str(tmp_path_factory.mktemp("run") / "run"), log=LOG)
        await backend.start()
        try:
            found: Inside = await found_inside(backend, SCRIPT)
            return found
        finally:
            await backend.close()

    return asyncio.run(look())


# -- who it is ----------------------------------------------------------------------------------------


def test_the_kernel_is_user_and_group_1000_and_no_other(inside: Inside) -> None:
    assert inside["ids"] == [1000] * 6
    # Only root can give up the other groups of whoever runs the gateway; they have no name inside.
    nameless = int(Path("/proc/sys/kernel/overflowgid").read_text())
    assert set(inside["groups"]) <= ({1000} if os.geteuid() == 0 else {1000, nameless})


def test_it_has_no_capability_not_even_to_be_gained(inside: Inside) -> None:
    assert len(inside["capabilities"]) == 5
    assert set(inside["capabilities"].values()) == {"0" * 16}


def test_it_can_gain_no_privileges(inside: Inside) -> None:
    assert inside["no_new_privs"] == "1"


def test_a_system_call_filter_is_in_force(inside: Inside) -> None:
    assert inside["seccomp"] == "2"


def test_set_user_id_has_no_effect_on_any_mount(inside: Inside) -> None:
    assert inside["set_user_id"], "there are such programs on every Linux"
    assert all(inside["set_user_id"].values())
    assert all("nosuid" in options for _, options, _, _ in inside["mounts"])


# -- what runs in it ----------------------------------------------------------------------------------


def test_process_1_is_the_relay_and_the_kernels_parent(inside: Inside) -> None:
    assert "/opt/relay/gateway/relay/__main__.py" in inside["init"]
    assert inside["parent"] == 1


def test_no_process_but_relay_and_kernel_can_be_seen(inside: Inside) -> None:
    assert inside["processes"][0] == 1
    assert len(inside["processes"]) == 2


def test_the_relays_environment_and_memory_are_closed(inside: Inside) -> None:
    assert inside["init_environment"] == "PermissionError"
    assert inside["init_memory"] == "PermissionError"


def test_every_namespace_is_its_own(inside: Inside) -> None:
    outside = {name: os.readlink(f"/proc/self/ns/{name}") for name in inside["namespaces"]}
    for name in ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts"):
        assert inside["namespaces"][name] != outside[name], name


def test_its_own_control_group_is_all_it_knows_of(inside: Inside) -> None:
    assert {line.split(":", 2)[2] for line in inside["cgroup"].splitlines()} == {"/"}


def test_the_kernel_has_no_descriptor_but_its_output(inside: Inside) -> None:
    kinds = {fd: link.strip("'").split(":")[0] for fd, link in inside["descriptors"].items()}
    assert {kinds.pop(fd) for fd in ("0", "1", "2")} <= {"/dev/null", "pipe"}
    # What is left is the folder that was being listed.
    assert len(kinds) <= 1


@pytest.mark.gen_test(timeout=60)
async def test_process_1_inherits_only_the_stream_and_the_log(started: Started) -> None:
    body = """
import json, os
found = {}
for fd in os.listdir("/proc/self/fd"):
    try:
        found[fd] = os.readlink(f"/proc/self/fd/{fd}").split(":")[0]
    except FileNotFoundError:
        pass  # it was for listing the folder
print(json.dumps(found))
"""
    async with started() as backend:
        assert backend._launcher is not None
        seen = visible.look(backend._rules())
        program = Program([backend._python, "-I", "-S", "-c", body], [])
        sandbox = await backend._launcher.launch(str(uuid.uuid4()), seen, program, backend._limits())
        transport = await sandbox.connect()
        told = b""
        while data := await transport.receive():
            told += data
        await transport.close()
        await sandbox.wait()
        # No pipe: reading one waits for the lock that its writer holds (gateway/transport/guarded.py).
        assert json.loads(told) == {"0": "socket", "1": "socket", "2": "socket"}


def test_it_has_no_terminal(inside: Inside) -> None:
    assert inside["terminal"] == "OSError"


def test_the_environment_is_made_from_nothing(inside: Inside) -> None:
    assert set(inside["environment"]) <= {
        *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"),
        # The relay's, and the interpreter's own (PEP 538).
        *("JPY_PARENT_PID", "LC_CTYPE"),
    }


# -- network ------------------------------------------------------------------------------------------


def test_there_is_no_network_but_its_own_loopback(inside: Inside) -> None:
    assert inside["interfaces"] == ["lo"]
    assert inside["routes"] == []


# -- files --------------------------------------------------------------------------------------------


def test_files_can_be_made_only_in_its_own_tmp_home_and_sockets_folder(inside: Inside) -> None:
    own = ("/tmp", command.HOME, "/dev/shm", command.RUN)  # noqa: S108
    assert {"/tmp", command.HOME} <= set(inside["made"])  # noqa: S108
    for place in inside["made"]:
        assert place.startswith(own), place


def test_every_mount_is_read_only_but_its_own(inside: Inside) -> None:
    writable = {place: kind for place, options, kind, _ in inside["mounts"] if "ro" not in options}
    sizes = {place: options for place, _, kind, options in inside["mounts"] if kind == "tmpfs"}
    for place, kind in writable.items():
        if kind == "tmpfs":
            assert any(option.startswith("size=") for option in sizes[place]), f"{place} has no size"
        else:
            assert kind in {"proc", "devpts", "devtmpfs", "tmpfs"}, f"{place} is {kind}"
            assert place == "/proc" or place.startswith("/dev/"), place


def test_devices_are_the_harmless_ones(inside: Inside) -> None:
    harmless = {"full", "null", "random", "tty", "urandom", "zero", "ptmx"}
    assert {os.path.basename(path) for path in inside["devices"]} <= harmless


def test_what_proc_tells_of_the_host_is_covered(inside: Inside) -> None:
    for path, text in inside["masked"].items():
        assert text in {"", "PermissionError", "OSError"}, path
    for path in ("/proc/acpi", "/proc/fs", "/proc/driver"):
        if os.path.isdir(path):
            assert inside["masked_folders"][path] == []
    assert inside["kernel_settings"] in {"OSError", "PermissionError"}


def test_sys_holds_nothing_but_the_reports_on_memory(inside: Inside) -> None:
    assert set(inside["sys"]) <= {
        "/sys/fs/cgroup/memory/memory.oom_control",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory.events",
        "/sys/fs/cgroup/memory.max",
    }


def test_etc_is_small_and_knows_one_user(inside: Inside) -> None:
    assert inside["accounts"] == "jovyan:x:1000:1000::/home/jovyan:/bin/sh\n"
    assert inside["user"] == "jovyan"
    assert inside["hostname"] == "kernel"
    assert set(inside["etc"]) <= {
        *("passwd", "group", "hosts", "nsswitch.conf"),
        *("R", "alternatives", "fonts", "ld.so.cache", "localtime", "pki", "ssl"),
        *(name for name in inside["etc"] if name.startswith("java-")),
    }


def test_the_root_shows_little(inside: Inside) -> None:
    shown = {
        "bin",
        "dev",
        "etc",
        "home",
        "lib",
        "lib32",
        "lib64",
        "libx32",
        "opt",
        "proc",
        "run",
        "sbin",
        "sys",
    }
    ways = {Path(path).parts[1] for path in (sys.prefix, sys.base_prefix)}
    assert set(inside["top"]) <= shown | ways | {"tmp", "usr"}


# -- whose it is outside ------------------------------------------------------------------------------


@pytest.mark.gen_test(timeout=60)
async def test_outside_its_processes_are_not_roots(started: Started) -> None:
    async with started() as backend:
        before = traces.descendants(os.getpid())
        async with visiting(backend) as (_, visit):
            await visit.until(lambda: "here" in visit.lines)
            users = _users(traces.descendants(os.getpid()) - before)
            assert users
            assert 0 not in users


@pytest.mark.requires("root")
@pytest.mark.gen_test(timeout=60)
async def test_each_sandbox_of_a_root_gateway_has_a_host_uid_that_is_nobodys(started: Started) -> None:
    async with started() as backend:
        before = traces.descendants(os.getpid())
        async with visiting(backend) as (_, first), visiting(backend) as (_, second):
            for visit in (first, second):
                await visit.until(lambda visit=visit: "here" in visit.lines)  # type: ignore[misc]
            users = _users(traces.descendants(os.getpid()) - before)
        assert len(users) == 2
        for uid in users:
            assert backend.uid_range[0] <= uid <= backend.uid_range[1]
            with pytest.raises(KeyError):
                pwd.getpwuid(uid)


@pytest.mark.gen_test(timeout=60)
async def test_a_terminals_interrupt_of_the_gateway_reaches_no_sandbox(started: Started) -> None:
    async with started() as backend:
        before = traces.descendants(os.getpid())
        async with visiting(backend) as (_, visit):
            await visit.until(lambda: "here" in visit.lines)
            processes = traces.descendants(os.getpid()) - before
            assert processes
            assert os.getpgid(0) not in {os.getpgid(int(each.split()[0])) for each in processes}
            assert os.getsid(0) not in {os.getsid(int(each.split()[0])) for each in processes}


def _users(identities: set[str]) -> set[int]:
    return {os.stat(f"/proc/{identity.split()[0]}/task").st_uid for identity in identities}


# -- what of the host is shown ------------------------------------------------------------------------


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """A virtual environment that also holds a gateway's configuration."""
    prefix = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", prefix], check=True, timeout=60)
    (prefix / "etc/jupyter").mkdir(parents=True)
    (prefix / "etc/jupyter/jupyter_gateway_config.py").write_text("c.JupyterGateway.token = 'secret'")
    (prefix / "keys").mkdir()
    (prefix / "keys/token").write_text("secret")
    (tmp_path / "beside").write_text("secret")
    return prefix


def in_environment(prefix: Path, body: str) -> list[str]:
    return [str(prefix / "bin/python"), *script(body)[1:]]


@pytest.mark.gen_test(timeout=60)
async def test_the_kernels_environment_is_shown_without_the_configuration_in_it(
    started: Started, environment: Path
) -> None:
    body = f"""
def readable(path):
    try:
        return os.listdir(path) if os.path.isdir(path) else open(path).read()
    except OSError as error:
        return type(error).__name__
tell([sys.prefix, readable({str(environment / "etc/jupyter")!r}), readable({str(environment / "keys")!r}),
      readable({str(environment.parent / "beside")!r}), readable({str(environment.parent)!r})])
"""
    argv = in_environment(environment, body)
    hidden = [str(environment / "keys")]
    async with started(hidden_paths=hidden) as backend, visiting(backend, argv) as (_, visit):
        assert await visit.found() == [
            str(environment),
            [],
            [],
            "FileNotFoundError",
            ["environment"],
        ]


@pytest.mark.gen_test(timeout=60)
async def test_a_hidden_file_stays_so_while_it_is_rotated_and_one_that_would_not_is_refused(
    started: Started, environment: Path
) -> None:
    """Renaming a file over another takes mounts away from that one, in sandboxes that run too."""
    token = environment / "keys/token"
    body = f"""
import time
print("ready", flush=True)
deadline = time.monotonic() + 20
while not os.path.exists({str(environment / "rotated")!r}) and time.monotonic() < deadline:
    time.sleep(0.01)
try:
    tell(open({str(token)!r}).read())
except OSError as error:
    tell(type(error).__name__)
"""
    argv = in_environment(environment, body)
    hidden = [str(token), str(token.parent)]
    async with started(hidden_paths=hidden) as backend, visiting(backend, argv) as (_, visit):
        await visit.until(lambda: "ready" in visit.lines)
        token.with_name("new").write_text("new secret")
        os.replace(token.with_name("new"), token)
        (environment / "rotated").touch()
        assert await visit.found() == "FileNotFoundError"
    async with started(hidden_paths=[str(token)]) as backend:
        with pytest.raises(SpecError, match="Move it out of"):
            await backend.create(request(backend, argv))


@pytest.mark.gen_test(timeout=60)
async def test_the_gateways_home_and_runtime_folder_are_not_shown(started: Started, tmp_path: Path) -> None:
    body = f"""
found = []
for top, folders, files in os.walk({HOME!r}):
    found += [os.path.join(top, name) for name in files]
    if top in {[sys.prefix, sys.base_prefix]!r}:
        folders[:] = []
tell([sorted(found)[:20], os.path.exists({str(tmp_path / "run")!r})])
"""
    async with started() as backend:
        files, runtime = await found_inside(backend, body)
    assert [path for path in files if not path.startswith((sys.prefix, sys.base_prefix))] == []
    assert runtime is False


@pytest.mark.gen_test(timeout=60)
async def test_an_environment_as_wide_as_a_home_is_refused(started: Started, tmp_path: Path) -> None:
    home = tmp_path / "home"
    async with started() as backend:
        for wide in ("/", "/home/someone", "/root"):
            with pytest.raises(SpecError, match="of its own"):
                await backend.create(request(backend, resource_dir=wide))
        await (await backend.create(request(backend, resource_dir=str(_made(home))))).destroy()


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.mark.gen_test(timeout=60)
async def test_data_of_a_kernelspec_is_shown_read_only_below_data(started: Started, tmp_path: Path) -> None:
    source = _made(tmp_path / "course")
    (source / "numbers").write_text("1 2 3")
    (source / "out").symlink_to("/etc/shadow")
    for path in (tmp_path, source):
        path.chmod(0o755)
    body = """
try:
    open("/data/lesson/new", "w")
    made = "made"
except OSError as error:
    made = type(error).__name__
tell([open("/data/lesson/numbers").read(), made, os.path.exists("/data/lesson/out")])
"""
    settings = {"read_only": [{"source": str(source), "target": "lesson"}]}
    async with started(data_roots=[str(tmp_path)]) as backend:
        assert await found_inside(backend, body, settings=settings) == ["1 2 3", "OSError", False]
    async with started() as backend:
        with pytest.raises(SpecError, match="data root"):
            await backend.create(request(backend, settings=settings))


@pytest.mark.gen_test(timeout=60)
async def test_a_sandbox_sees_nothing_of_another(started: Started) -> None:
    write = """
import time
for folder in ("/tmp", "/dev/shm"):
    open(folder + "/mine", "w").close()
tell(True)
time.sleep(60)
"""
    look = """
processes = [name for name in os.listdir("/proc") if name.isdigit()]
tell([os.path.exists("/tmp/mine"), os.path.exists("/dev/shm/mine"), len(processes)])
"""
    async with started() as backend, visiting(backend, script(write)) as (_, first):
        assert await first.found()
        assert await found_inside(backend, look) == [False, False, 2]
