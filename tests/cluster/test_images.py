"""The images hold what they should and no more, and the relay runs in one that has no Python.

The pods here are hardened as executors are; what they cannot do is shown to be possible without that.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gateway import __version__
from gateway.backends.kubernetes import names
from gateway.relay.command import FOLDER
from gateway.relay.install import TERMINATION_LOG
from gateway.wire.framing import Kind
from tests.cluster.deployed import Deployed, import_images
from tests.cluster.kubectl import PATIENCE_S, kubectl
from tests.conformance.backend.visit import script, visiting
from tests.integration.relay.harness import Relay
from tools import images, packages

pytestmark = pytest.mark.requires("cluster", "own-cluster")

MB = 1_000_000

#: Of a compiled module that is taken without a look at its source (PEP 552).
UNCHECKED = 1

#: Scratch and one static program: there is no Python, no shell and no library.
NO_PYTHON = "localhost/pause:1"


@dataclass(frozen=True)
class Image:
    """What an archive holds: the configuration, and what each layer brings (path -> its header)."""

    config: dict[str, Any]
    text: str
    layers: list[dict[str, tarfile.TarInfo]]
    #: The flags of compiled modules by path (PEP 552).
    caches: dict[str, int]

    @property
    def files(self) -> dict[str, tarfile.TarInfo]:
        return {path: member for layer in self.layers for path, member in layer.items()}


def read(archive: Path) -> Image:
    """An OCI archive (opencontainers/image-spec, "Image Layout") with one image."""
    with tarfile.open(archive) as outer:

        def blob(descriptor: dict[str, Any]) -> Any:
            return outer.extractfile("blobs/" + descriptor["digest"].replace(":", "/"))

        index = json.load(outer.extractfile("index.json"))  # type: ignore[arg-type]
        manifest = json.load(blob(index["manifests"][0]))
        text = blob(manifest["config"]).read().decode()
        layers = []
        caches = {}
        for layer in manifest["layers"]:
            with tarfile.open(fileobj=blob(layer)) as inner:
                members = {}
                for member in inner:
                    members[member.name.rstrip("/")] = member
                    if member.name.endswith(".pyc") and member.isfile():
                        header = inner.extractfile(member).read(8)  # type: ignore[union-attr]
                        caches[member.name] = int.from_bytes(header[4:], "little")
                layers.append(members)
    return Image(json.loads(text)["config"], text, layers, caches)


@pytest.fixture(scope="module")
def archives() -> dict[str, Path]:
    return images.build()


@pytest.fixture(scope="module")
def opened(archives: dict[str, Path]) -> dict[str, Image]:
    return {name: read(archive) for name, archive in archives.items()}


@pytest.fixture(params=images.NAMES)
def image(request: pytest.FixtureRequest, opened: dict[str, Image]) -> Image:
    return opened[request.param]


# -- what is in them --------------------------------------------------------------------------------


def test_an_image_says_what_it_is(image: Image) -> None:
    labels = {name.removeprefix("org.opencontainers.image."): x for name, x in image.config["Labels"].items()}
    assert labels["version"] == __version__
    assert labels["title"]
    assert labels["description"]
    assert "BSD-3-Clause" in labels["licenses"]


def test_an_image_runs_as_an_ordinary_user(image: Image) -> None:
    assert image.config["User"] == "1000:1000"


def test_nothing_but_sticky_folders_is_everybodys_to_write(image: Image) -> None:
    # The base's device files are a runtime's to replace.
    entries = [each for each in image.files.values() if each.isfile() or each.isdir()]
    writable = [each for each in entries if each.mode & 0o002]
    assert [each.name for each in writable if not (each.isdir() and each.mode & 0o1000)] == []


def test_nothing_of_the_build_is_left(image: Image) -> None:
    left = ("run/secrets/", "build/", "root/.cache/", "root/.config/", "home/", "var/cache/apt/archives/")
    files = [path for path, member in image.files.items() if member.isfile() and member.size]
    assert [path for path in files if path.startswith(left)] == []
    assert [path for path in files if path.endswith(("pip.conf", ".pem.key", ".git/config"))] == []
    assert [path for path in files if path.startswith("opt/") and "/site-packages/pip/" in path] == []
    for value in packages.pip_settings(os.environ, packages.PIP_FILES).values():
        # A number of seconds is in some digest by chance.
        assert value.isdecimal() or value not in image.text


def test_no_start_compiles_a_module_anew(image: Image) -> None:
    # PEP 552: caches that go by the source's time are stale where an archive has rounded it.
    ours = {path: flags for path, flags in image.caches.items() if path.startswith("opt/")}
    assert ours
    assert [path for path, flags in ours.items() if flags != UNCHECKED] == []
    compiled = {path.replace("__pycache__/", "").partition(".cpython-")[0] for path in ours}
    sources = [path for path in image.files if "/ipykernel/" in path and path.endswith(".py")]
    assert [path for path in sources if path.removesuffix(".py") not in compiled] == []


def test_the_relay_is_small(opened: dict[str, Image]) -> None:
    files = opened["relay"].files
    assert all(path == "opt" or path.startswith("opt/relay") for path in files)
    assert sum(each.size for each in files.values()) < 25 * MB
    assert len(files) < 300


@pytest.mark.parametrize(("name", "most"), [("gateway", 200 * MB), ("executor", 500 * MB)])
def test_an_image_adds_little_to_its_base(name: str, most: int, opened: dict[str, Image]) -> None:
    _, *added = opened[name].layers
    assert sum(each.size for layer in added for each in layer.values()) < most


# -- in a cluster -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def restricted(archives: dict[str, Path]) -> Iterator[str]:
    """A namespace that takes restricted pods only, on a node that has the images."""
    assert import_images(archives)
    name = f"images-test-{secrets.token_hex(3)}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    metadata = {"name": name, "labels": labels}
    kubectl("create", "--filename=-", stdin={"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
    try:
        yield name
    finally:
        kubectl("delete", "namespace", name, "--wait=false")


def hardened(image: str, **members: Any) -> dict[str, Any]:
    """A container."""
    return {
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        **members,
    }


@dataclass
class Pod:
    """A pod with one container, that has everything of an executor's that matters here."""

    namespace: str
    relay: list[str]

    @property
    def serve(self) -> list[str]:
        """What the relay is told to do where nothing else is said."""
        return ["serve", self.run_dir, "60", str(1 << 30)]

    def start(self, container: dict[str, Any], *, inject: bool = True, **spec: Any) -> None:
        """Start it, with the relay brought by an init container or not, and wait until it runs."""
        self.name = f"pod-{secrets.token_hex(4)}"
        self.run_dir = f"/tmp/{self.name}"  # noqa: S108  # the pod's own
        volumes: list[dict[str, Any]] = [{"name": "tmp", "emptyDir": {}}]
        container = {"name": "kernel", "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}]} | container  # noqa: S108
        if inject:
            volumes.append({"name": "relay", "emptyDir": {}})
            container["volumeMounts"].append({"name": "relay", "mountPath": FOLDER, "readOnly": True})
            installs = {"name": "relay", "args": ["install", "/target"]}
            mount = {"name": "relay", "mountPath": "/target"}
            spec["initContainers"] = [hardened(images.reference("relay"), volumeMounts=[mount], **installs)]
        if "command" not in container and "args" not in container:
            container["command"] = [*self.relay, *self.serve]
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": self.name},
            "spec": {
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 0,
                "automountServiceAccountToken": False,
                "securityContext": {
                    "runAsUser": 1000,
                    "runAsGroup": 1000,
                    "runAsNonRoot": True,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "containers": [container],
                "volumes": volumes,
                **spec,
            },
        }
        kubectl("create", "--namespace", self.namespace, "--filename=-", stdin=pod)

    def wait(self, condition: str = "condition=Ready") -> None:
        words = ("wait", f"--for={condition}", f"--timeout={PATIENCE_S:.0f}s", f"pod/{self.name}")
        kubectl(*words, "--namespace", self.namespace)

    @property
    def enter(self) -> list[str]:
        """What runs a command in it, with this one's stdin."""
        return ["kubectl", "exec", "--stdin", "--namespace", self.namespace, self.name, "--"]

    def python(self, code: str) -> str:
        """Run a few lines by the relay's own interpreter, as the kernel's user; what they printed."""
        interpreter = self.relay[: self.relay.index("-I")]
        result = subprocess.run([*self.enter, *interpreter, "-I", "-S", "-c", code], capture_output=True)
        assert result.returncode == 0, result.stderr
        return result.stdout.decode()

    def link(self) -> Relay:
        """A link to its relay, over an exec stream, as a gateway has it."""
        link = Relay(Path(FOLDER), self.run_dir, self.enter, command_name="connect", program=self.relay)
        link.hello()
        link.until(lambda: any(frame.kind is Kind.HELLO for frame in link.frames), PATIENCE_S)
        return link


@pytest.fixture
def pod(restricted: str, opened: dict[str, Image]) -> Pod:
    return Pod(restricted, opened["relay"].config["Entrypoint"])


@pytest.fixture
def links() -> Iterator[Callable[[Pod], Relay]]:
    """Makes links that end with the test."""
    made: list[Relay] = []

    def link(pod: Pod) -> Relay:
        made.append(pod.link())
        return made[-1]

    yield link
    for each in made:
        each.kill()
        each.log_path.unlink()


HOST_USERS = pytest.mark.parametrize("host_users", [True, False], ids=["hosts-users", "users-of-its-own"])

_TRY = f"""
import os
def attempt(name, function, *arguments):
    try:
        function(*arguments)
    except OSError as error:
        print(name, error.strerror, sep=": ")
    else:
        print(name, "done", sep=": ")
closed, log = "{FOLDER}/closed", "{FOLDER}/{TERMINATION_LOG}"
attempt("write", os.open, log, os.O_WRONLY)
attempt("read", os.open, log, os.O_RDONLY)
attempt("look", os.listdir, closed)
attempt("open up", os.chmod, closed, 0o700)
attempt("replace", os.rename, closed, closed + "2")
attempt("add", os.mkdir, "{FOLDER}/new")
attempt("change", os.chmod, "{FOLDER}/bin/python3", 0o777)
"""


@HOST_USERS
def test_the_relay_runs_in_an_image_without_python(
    host_users: bool, pod: Pod, links: Callable[[Pod], Relay]
) -> None:
    pod.start(hardened(NO_PYTHON), hostUsers=host_users)
    pod.wait()
    hello = next(links(pod).all_json(Kind.HELLO))
    assert hello["state"] == "starting"
    program = pod.python("print(open('/proc/1/cmdline').read().replace(chr(0), ' '))").split()
    assert program == [*pod.relay, *pod.serve]


@HOST_USERS
def test_the_kernels_user_can_change_nothing_of_the_relay_nor_write_to_the_kubelets_file(
    host_users: bool, pod: Pod
) -> None:
    path = f"{FOLDER}/{TERMINATION_LOG}"
    pod.start(hardened(NO_PYTHON, terminationMessagePath=path), hostUsers=host_users)
    pod.wait()
    assert f" {path} " in pod.python("print(open('/proc/self/mountinfo').read())")
    assert pod.python(_TRY).splitlines() == [
        "write: Permission denied",
        "read: Permission denied",
        "look: Permission denied",
        "open up: Read-only file system",
        "replace: Read-only file system",
        "add: Read-only file system",
        "change: Read-only file system",
    ]


def test_where_the_kubelet_mounts_its_file_by_default_everybody_writes_to_it(pod: Pod) -> None:
    pod.start(hardened(NO_PYTHON))
    pod.wait()
    assert pod.python("print(open('/dev/termination-log', 'w').write('x' * 100))") == "100\n"


@HOST_USERS
def test_an_image_that_has_the_relay_needs_no_init_container(
    host_users: bool, pod: Pod, links: Callable[[Pod], Relay]
) -> None:
    path = f"{FOLDER}/{TERMINATION_LOG}"
    container = hardened(images.reference("relay"), terminationMessagePath=path)
    pod.start(container, inject=False, hostUsers=host_users)
    pod.wait()
    assert next(links(pod).all_json(Kind.HELLO))["state"] == "starting"
    assert {line.split(": ")[1] for line in pod.python(_TRY).splitlines()} <= {
        "Permission denied",
        "Read-only file system",
        "Operation not permitted",
    }


def test_the_teaching_kernel_runs_in_its_image(pod: Pod, links: Callable[[Pod], Relay]) -> None:
    pod.start(hardened(images.reference("executor")), hostUsers=False)
    pod.wait()
    link = links(pod)
    link.open()
    env = {"PATH": "/opt/python3/bin:/usr/bin:/bin", "HOME": "/tmp"}  # noqa: S108  # the pod's own
    argv = ["python", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    assert link.answer(link.start(argv, env=env, cwd="/tmp")) == {"id": 1, "ok": True}  # noqa: S108
    code = "import numpy, pandas, os; print(numpy.arange(4).sum(), os.getuid(), os.getppid())"
    assert link.run(code, seconds=PATIENCE_S) == ("6 1000 1\n", "ok")


def test_the_gateways_image_runs_the_gateway(pod: Pod) -> None:
    pod.start(hardened(images.reference("gateway"), args=["--version"]), inject=False)
    pod.wait("jsonpath={.status.phase}=Succeeded")
    assert kubectl("logs", "--namespace", pod.namespace, pod.name) == f"{__version__}\n"


@pytest.mark.gen_test(timeout=180)
async def test_a_kernelspec_names_an_image_that_has_the_relay_and_no_container_brings_it(
    there: Deployed,
) -> None:
    # Its one kernel is the relay's own interpreter.
    interpreter = names.PROGRAM[: names.PROGRAM.index("-I")]
    argv = [*interpreter, *script("tell(os.getppid())")[1:]]
    asked = {"image": images.reference("relay"), "relay": "built-in"}
    async with there.backend("named") as backend, visiting(backend, argv, settings=asked) as (sandbox, visit):
        assert await visit.found() == 1
        (pod,) = there.pods(f"{names.KERNEL_ID}={sandbox.kernel_id}")
    assert "initContainers" not in pod["spec"]
    assert [each["image"] for each in pod["spec"]["containers"]] == [asked["image"]]
