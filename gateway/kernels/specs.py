"""Kernelspecs: found by jupyter_client, read again when a folder changes, never from a request.

The kernelspec API of jupyter_client says where they are and how they are written
(https://jupyter-client.readthedocs.io/en/stable/kernels.html#kernel-specs). A kernelspec belongs to the
administrator; what of it reaches a kernel is its `argv`, its `env` and `metadata.sandbox`.

On Kubernetes they are a ConfigMap, which is mounted as one flat folder: there may be such a folder, `files`.
"""

from __future__ import annotations

import json
import os
import string
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from traitlets import Instance, Unicode, default
from traitlets.config import LoggingConfigurable

from .errors import BadKernelSpecError, NoSuchKernelSpecError

#: Names that jupyter_client's own manager replaces by the interpreter it runs on
#: (jupyter_client/manager.py, format_kernel_cmd).
_PYTHONS = {
    "python",
    f"python{sys.version_info[0]}",
    f"python{sys.version_info[0]}.{sys.version_info[1]}",
}


class KernelSpecs(LoggingConfigurable):
    """The kernelspecs there are. Reading them again costs a few `stat` calls while nothing changed."""

    default_kernel_name = Unicode(
        "python3", config=True, help="The kernelspec that is started where a client names none."
    )

    files = Unicode(
        "",
        config=True,
        help="A folder with a file NAME.json for each of further kernelspecs, which have no folder of their "
        "own. They come before others of the same name; empty: there is none.",
    )

    manager = Instance(KernelSpecManager)

    @default("manager")
    def _default_manager(self) -> KernelSpecManager:
        return KernelSpecManager(parent=self)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._seen: object = None
        self._specs: dict[str, KernelSpec] = {}

    def all(self) -> Mapping[str, KernelSpec]:
        """Name -> kernelspec. One that cannot be read is left out and logged once per change."""
        seen = self._fingerprint()
        if seen != self._seen:
            self._specs = self._read()
            self._seen = seen
        return self._specs

    def get(self, name: str) -> KernelSpec:
        """The kernelspec of that name; raises `NoSuchKernelSpecError`."""
        specs = self.all()
        if name not in specs:
            raise NoSuchKernelSpecError(name, specs)
        return specs[name]

    def _read(self) -> dict[str, KernelSpec]:
        specs = {}
        for name in self.manager.find_kernel_specs():
            try:
                specs[name] = self.manager.get_kernel_spec(name)
            except Exception as error:
                # jupyter_client lets JSON, traitlets and OS errors through; none may hide the others.
                self.log.error("The kernelspec %r cannot be read and is left out: %s", name, error)
        for path in self._files():
            try:
                specs[path.stem] = _from_file(path)
            except Exception as error:
                self.log.error("The kernelspec in %s cannot be read and is left out: %s", path, error)
        return specs

    def _files(self) -> list[Path]:
        # A hidden one is not the administrator's: the kubelet keeps what it links to in such folders.
        return sorted(Path(self.files).glob("[!.]*.json")) if self.files else []

    def _fingerprint(self) -> object:
        seen: list[tuple[str, int, int]] = []
        for folder in self.manager.kernel_dirs:
            try:
                entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            except OSError:
                continue
            for entry in entries:
                try:
                    status = Path(entry.path, "kernel.json").stat()
                except OSError:
                    continue
                seen.append((entry.path, status.st_mtime_ns, status.st_size))
        for path in self._files():
            try:
                status = path.stat()
            except OSError:
                continue
            seen.append((str(path), status.st_mtime_ns, status.st_size))
        return seen


def _from_file(path: Path) -> KernelSpec:
    """Raises whatever is wrong with it, as jupyter_client does."""
    spec = KernelSpec(resource_dir="", **json.loads(path.read_text()))
    if any("{resource_dir}" in part for part in spec.argv):
        raise ValueError("its argv has {resource_dir} in it, and it has no folder")
    return spec


def command(name: str, spec: KernelSpec, python: str) -> list[str]:
    """The kernelspec's argv with `{resource_dir}` and `{prefix}` filled in; `{connection_file}` stays.

    `python` is the interpreter that a plain `python` stands for. Raises `BadKernelSpecError` where argv is
    empty.
    """
    argv = [str(part) for part in spec.argv]
    if not argv:
        raise BadKernelSpecError(f"The kernelspec {name!r} has no argv. Its kernel.json needs one.")
    if argv[0] in _PYTHONS:
        argv[0] = python
    known = {"resource_dir": spec.resource_dir, "prefix": sys.prefix}
    for key, value in known.items():
        argv = [part.replace("{" + key + "}", value) for part in argv]
    return argv


def environment(spec: KernelSpec, base: Mapping[str, str], request: Mapping[str, str]) -> dict[str, str]:
    """The kernel's whole environment: the sandbox's, then what the request may pass, then the spec's.

    `${NAME}` in the spec's values is filled from the first two, never from the gateway's environment.
    """
    env = {**base, **request}
    return {
        **env,
        **{key: string.Template(str(value)).safe_substitute(env) for key, value in spec.env.items()},
    }
