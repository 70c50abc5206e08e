"""`make bench-cluster`: set up a cluster, images and the kernel, and measure executors (tests/bench/cluster).

On another cluster than this project's own, which KUBECONFIG names, the images have to be there already: those
of `make images`, and `executor-with-relay` of the Dockerfile there.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from . import environments, machine, serve
from .machine import ROOT, SetupError

_DOCKERFILE = ROOT / "tests" / "bench" / "cluster" / "Dockerfile"


def main() -> None:
    """Exits 1 on a missed gate; arguments go to the bench, for example `--rounds 1`."""
    try:
        machine.check_system()
        machine.ensure(machine.TO_SERVE)
        environments.make(environments.TEST)
        serve.make_kernel()
        from . import cluster  # elsewhere than on Linux it cannot be imported, nor come so far

        with cluster.for_tests() as environment:
            sys.exit(_measure({**os.environ, **environment}))
    except SetupError as error:
        sys.exit(str(error))


def _measure(environment: dict[str, str]) -> int:
    from . import cluster, images
    from .cluster import provision

    if "KUBECONFIG" not in environment:
        provision.check_account()
    built_in = images.reference("executor-with-relay")
    own = cluster.Cluster.of(environment["KUBECONFIG"])
    if own is not None:
        own.import_image(_build(built_in))
    (ROOT / "artifacts").mkdir(exist_ok=True)
    command = [
        str(environments.TEST.bin / "python"),
        *["-m", "tests.bench.cluster", f"--json={ROOT / 'artifacts/bench-cluster.json'}"],
        f"--kernel-python={serve.KERNEL / 'bin' / 'python'}",
        f"--built-in={built_in}",
        *sys.argv[1:],
    ]
    return subprocess.run(command, cwd=ROOT, env=environment).returncode


def _build(tag: str) -> Path:
    """The archive of the executor's image with the relay in it. Raises `SetupError`."""
    from . import images
    from .cluster import parts

    machine.ensure(machine.TO_IMAGES)
    archives = images.build(("executor", "relay"))
    key = hashlib.sha256(_DOCKERFILE.read_bytes())
    for archive in archives.values():
        key.update(str(archive).encode())
    arguments = {name.upper(): f"oci-archive:{archive}" for name, archive in archives.items()}
    folder = parts.keep(
        "image-executor-with-relay",
        key.hexdigest()[:16],
        "The image of the executor with the relay",
        lambda out: images.make(_DOCKERFILE, tag, arguments, out / "image.tar"),
    )
    return folder / "image.tar"


if __name__ == "__main__":
    main()
