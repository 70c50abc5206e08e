"""Builds the images of k8s/images with buildah, as archives that a cluster imports without a registry.

    python -m tools.images [--base REFERENCE] [NAME...]        all where none is named

Each is kept beside the cluster's parts, under a key of everything that it is built from; what is printed
is where. The base is the cluster's own unless it is named, in buildah's terms (docker://..., or
oci-archive:...). The Dockerfiles need neither buildah nor this: k8s/images/README.md has a line for Docker.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from . import machine, packages
from .cluster import parts
from .machine import ROOT, SetupError

_IMAGES = ROOT / "k8s/images"
NAMES = ("relay", "gateway", "executor")

#: What a Dockerfile takes from the repository.
_COPY = re.compile(r"^COPY (?!--from)(.+) \S+$", re.MULTILINE)


def version() -> str:
    """The project's, which is the images' tag."""
    found = re.search(r'__version__ = "(.+)"', (ROOT / "gateway/__init__.py").read_text())
    assert found is not None
    return found[1]


def reference(name: str) -> str:
    """What a pod names the image by."""
    return f"localhost/jupyter-sandbox-gateway/{name}:{version()}"


def build(names: Iterable[str] = NAMES, base: str | None = None) -> dict[str, Path]:
    """Name -> archive of each image, built where it is missing. Raises `SetupError`."""
    if os.geteuid() != 0:
        raise SetupError("Only root can build images here; k8s/images/README.md says what else builds them.")
    if base is None:
        folder = parts.build_one("base")
        base, base_key = f"oci-archive:{folder}/base.tar", folder.name
    else:
        base_key = base
    archives = {}
    for name in names:
        folder = parts.keep(
            f"image-{name}",
            key(name, base_key),
            f"The image of the {name}",
            functools.partial(_make, name, base),
        )
        archives[name] = folder / f"{name}.tar"
    return archives


def key(name: str, base_key: str) -> str:
    """Of all that the image is built from."""
    digest = hashlib.sha256(f"{base_key} {version()}".encode())
    for file in (_dockerfile(name), ROOT / ".dockerignore", *copied(name)):
        digest.update(f"\0{file.relative_to(ROOT)}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def copied(name: str) -> Iterator[Path]:
    """Every file of the repository that the image's Dockerfile copies."""
    for sources in _COPY.findall(_dockerfile(name).read_text()):
        for source in sources.split():
            path = ROOT / source
            inside = (each for each in sorted(path.rglob("*")) if "__pycache__" not in each.parts)
            yield from (each for each in inside if each.is_file()) if path.is_dir() else (path,)


def _dockerfile(name: str) -> Path:
    return _IMAGES / name / "Dockerfile"


def _make(name: str, base: str, out: Path) -> bool:
    arguments = {"BASE": base, "VERSION": version()}
    return make(_dockerfile(name), reference(name), arguments, out / f"{name}.tar")


def make(dockerfile: Path, tag: str, arguments: Mapping[str, str], archive: Path) -> bool:
    """Build an image as an archive, with the repository's root for context; whether it could be."""
    # chroot and vfs work wherever there is root, in a container too.
    environment = {**os.environ, "STORAGE_DRIVER": "vfs", "BUILDAH_ISOLATION": "chroot"}
    with tempfile.TemporaryDirectory(dir=archive.parent) as work:
        buildah = ("buildah", f"--root={work}/root", f"--runroot={work}/run")
        given = [f"--build-arg={name}={value}" for name, value in arguments.items()]
        recipe = (f"--tag={tag}", f"--file={dockerfile}")
        build = ("build", "--quiet", *recipe, *given, *_secrets(Path(work)), str(ROOT))
        push = ("push", "--quiet", tag, f"oci-archive:{archive}:{tag}")
        return all(
            subprocess.run([*buildah, *words], env=environment).returncode == 0 for words in (build, push)
        )


def _secrets(work: Path) -> list[str]:
    """buildah's options for what pip needs to know of this site. Nothing of it stays in the image."""
    settings = packages.pip_settings(os.environ, packages.PIP_FILES)
    options = []
    if authorities := settings.get("cert"):
        options.append(f"--secret=id=ca.pem,src={authorities}")
        settings["cert"] = "/run/secrets/ca.pem"
    file = work / "pip.conf"
    file.write_text("".join(["[global]\n", *(f"{name} = {value}\n" for name, value in settings.items())]))
    return [*options, f"--secret=id=pip.conf,src={file}"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.images")
    parser.add_argument("names", nargs="*", help=f"of {', '.join(NAMES)}; all where none is named")
    parser.add_argument("--base", help="the image that they start from, in buildah's terms")
    arguments = parser.parse_args()
    if unknown := {*arguments.names} - {*NAMES}:
        parser.error(f"there is no image {', '.join(sorted(unknown))}, only {', '.join(NAMES)}")
    try:
        machine.ensure(machine.TO_IMAGES)
        for name, archive in build(arguments.names or NAMES, arguments.base).items():
            print(reference(name), archive)
    except SetupError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
