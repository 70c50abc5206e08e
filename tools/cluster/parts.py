"""What a cluster is built from. Each part is built once and kept, by a key of everything it is built from.

Go modules come through the module proxy and are checked against its checksum database, or against the go.sum
beside the sources here; the base image comes from Debian. The folder of a part is complete, or not there.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from .. import machine
from ..machine import SetupError

_HERE = Path(__file__).parent
_MODULES = _HERE / "modules"

_GO = ("go", "build", "-trimpath", "-o", "{out}/")
_INSTALL = ("go", "install", "-trimpath")
_SMALL = "-s -w"

#: From this one on Go fetches a newer Go by itself, as the sources' go.mod ask for it (go.dev/doc/toolchain).
_OLDEST_GO = 21

_DEBIAN = "bookworm"
_BASE_PACKAGES = "python3,python3-venv,python3-zmq,ca-certificates"


def kubernetes_version() -> str:
    """As the go.mod has it: "v1.36.3"."""
    found = re.search(r"^\s*k8s\.io/kubernetes (v\S+)", _module_file("kubernetes", "go.mod"), re.MULTILINE)
    assert found is not None
    return found[1]


def _module_file(module: str, name: str) -> str:
    return (_MODULES / module / name).read_text()


@dataclass(frozen=True)
class Part:
    """`commands` run in the folder of `module`, or in the part's own; `files` are what else goes into it.

    In a command "{out}" is the part's own folder, and "{here}" is this package's.
    """

    name: str
    commands: tuple[tuple[str, ...], ...]
    module: str | None = None
    environment: dict[str, str] = field(default_factory=dict)
    files: tuple[str, ...] = ()

    def key(self) -> str:
        """Of all that it is built from."""
        digest = hashlib.sha256(
            repr((self.commands, sorted(self.environment.items()), platform.machine())).encode()
        )
        if self.module is not None:
            for name in ("go.mod", "go.sum"):
                digest.update(_module_file(self.module, name).encode())
        for file in self.files:
            digest.update((_HERE / file).read_bytes())
        return digest.hexdigest()[:16]

    @property
    def folder(self) -> Path:
        return cache() / f"{self.name}-{self.key()}"


def _kubernetes() -> Part:
    version = kubernetes_version()
    major, minor, _ = version.removeprefix("v").split(".")
    # Without its version each program takes the others for something too old to talk to.
    variables = {"gitVersion": version, "gitMajor": major, "gitMinor": minor}
    flags = " ".join(f"-X k8s.io/component-base/version.{name}={value}" for name, value in variables.items())
    programs = ("apiserver", "controller-manager", "scheduler", "proxy")
    commands = (*(f"kube-{name}" for name in programs), "kubelet", "kubectl")
    packages = tuple(f"k8s.io/kubernetes/cmd/{name}" for name in commands)
    return Part("kubernetes", ((*_GO, f"-ldflags={_SMALL} {flags}", *packages),), "kubernetes")


def parts() -> list[Part]:
    """All of them, what takes longest first."""
    calico = "github.com/projectcalico/calico"
    containerd = "github.com/containerd/containerd/v2/cmd"
    static = {"CGO_ENABLED": "0"}
    return [
        _kubernetes(),
        Part(
            "calico",
            (
                (
                    *_GO,
                    f"-ldflags={_SMALL}",
                    f"{calico}/felix/cmd/calico-felix",
                    f"{calico}/cni-plugin/cmd/calico",
                ),
                (
                    "sh",
                    "-euc",
                    f'cp -r "$(go list -m -f "{{{{.Dir}}}}" {calico})/libcalico-go/config/crd" "$0"/crds',
                    "{out}",
                ),
            ),
            "calico",
            static,
        ),
        Part(
            "coredns",
            (
                (*_GO, f"-ldflags={_SMALL}", "."),
                (
                    *("{here}/oci_image", "localhost/coredns:1", "{out}/coredns.tar", "{out}/coredns"),
                    *("--entrypoint", '["/coredns"]'),
                ),
            ),
            "coredns",
            static,
            ("oci_image", "modules/coredns/main.go"),
        ),
        Part(
            "containerd",
            (
                (
                    *(*_INSTALL, f"-ldflags={_SMALL}", "-tags=no_btrfs no_devmapper no_zfs"),
                    *(
                        f"{containerd}/{name}@v2.4.2"
                        for name in ("containerd", "containerd-shim-runc-v2", "ctr")
                    ),
                ),
                (*_INSTALL, f"-ldflags={_SMALL}", "-tags=seccomp", "github.com/opencontainers/runc@v1.5.2"),
            ),
        ),
        Part(
            "helm",
            ((*_INSTALL, f"-ldflags={_SMALL}", "helm.sh/helm/v4/cmd/helm@v4.3.1"),),
            environment=static,
        ),
        Part(
            "etcd",
            ((*_GO, f"-ldflags={_SMALL}", "go.etcd.io/etcd/server/v3"), ("mv", "{out}/server", "{out}/etcd")),
            "etcd",
        ),
        Part(
            "base",
            (
                (
                    *("mmdebstrap", "--quiet", "--variant=minbase", f"--include={_BASE_PACKAGES}"),
                    *(_DEBIAN, "{out}/rootfs.tar"),
                ),
                (
                    *("{here}/oci_image", "localhost/base:1", "{out}/base.tar", "{out}/rootfs.tar"),
                    *("--cmd", '["python3"]'),
                ),
                ("rm", "{out}/rootfs.tar"),
            ),
            files=("oci_image",),
        ),
        Part(
            "pause",
            (
                ("gcc", "-static", "-O2", "-o", "{out}/pause", "{here}/pause.c"),
                (
                    *("{here}/oci_image", "localhost/pause:1", "{out}/pause.tar", "{out}/pause"),
                    *("--entrypoint", '["/pause"]', "--user", "65535"),
                ),
            ),
            files=("oci_image", "pause.c"),
        ),
    ]


def cache() -> Path:
    """The folder that holds every part."""
    return machine.cache() / "cluster"


def check_go() -> None:
    """Raises `SetupError` where there is no Go that can fetch the version which the sources ask for."""
    version = (
        subprocess.run(["go", "env", "GOVERSION"], capture_output=True, text=True)
        if shutil.which("go")
        else None
    )
    found = version and re.match(r"go1\.(\d+)", version.stdout)
    if not found or int(found[1]) < _OLDEST_GO:
        raise SetupError(
            f"The cluster is built by Go 1.{_OLDEST_GO} or later, which is not here: install it from https://go.dev/dl"
            " or as your system has it, and try again; or set KUBECONFIG to use a cluster that exists."
        )


def build() -> dict[str, Path]:
    """Name -> folder of each part, built where it is missing. Raises `SetupError`."""
    return {part.name: _build(part) for part in parts()}


def build_one(name: str) -> Path:
    """The folder of this part, built where it is missing. Raises `SetupError`."""
    return _build(next(part for part in parts() if part.name == name))


def _build(part: Part) -> Path:
    return keep(part.name, part.key(), f"The cluster's {part.name}", lambda out: _make(part, out))


def keep(name: str, key: str, title: str, make: Callable[[Path], bool]) -> Path:
    """The folder of this name and key, made where it is missing: whole, or `SetupError` is raised.

    `make` fills the folder that it is given, which then gets its name, and says whether it could.
    """
    folder = cache() / f"{name}-{key}"
    if folder.exists():
        return folder
    cache().mkdir(parents=True, exist_ok=True)
    # Whoever comes second waits, and finds it made.
    with (cache() / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            print(f"Building {name} ...", flush=True)
            began = time.monotonic()
            for unfinished in cache().glob(f".{name}-*"):
                shutil.rmtree(unfinished)
            out = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=cache()))
            # Containers' users look into what is mounted from here.
            out.chmod(0o755)
            if not make(out):
                shutil.rmtree(out)
                raise SetupError(f"{title} could not be built; the reason is above.")
            out.rename(folder)
            print(f"... {name} took {time.monotonic() - began:.0f} s", flush=True)
    return folder


def _make(part: Part, out: Path) -> bool:
    # The machine's own flags and workspaces would build something else. And compilers that collect their
    # garbage less often, as nobody needs the memory meanwhile, take a quarter less time.
    go = {"GOFLAGS": "", "GOWORK": "off", "GOBIN": str(out), "GOGC": "400"}
    environment = {**os.environ, **go, **part.environment}
    for command in part.commands:
        words = [word.replace("{out}", str(out)).replace("{here}", str(_HERE)) for word in command]
        place = out if part.module is None else _MODULES / part.module
        if subprocess.run(words, cwd=place, env=environment).returncode != 0:
            return False
    return True
