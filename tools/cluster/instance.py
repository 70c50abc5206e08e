"""The names, addresses and folders of one cluster. Clusters differ by their number alone."""

from __future__ import annotations

import fcntl
import os
import struct
from dataclasses import dataclass
from pathlib import Path

#: Not below a home: a container's processes have UIDs that may not go there.
STATES = Path("/var/lib/jupyter-sandbox-gateway/cluster")

#: `make cluster-up`'s; a test run takes the first of the others that is free.
MAIN = 0
NUMBERS = range(64)

NODE = "node1"

PODS_IPV4, SERVICES_IPV4, DNS_IPV4 = "10.244.0.0/16", "10.96.0.0/16", "10.96.0.10"
#: Unique local addresses (RFC 4193) of this project's own.
PODS_IPV6, SERVICES_IPV6 = "fd6a:7367:c002::/56", "fd6a:7367:c001::/112"


#: struct flock: type, whence, start, length, process id.
_FLOCK = "hhqqi"


@dataclass(frozen=True)
class Instance:
    """`number` is one of `NUMBERS`."""

    number: int

    @property
    def name(self) -> str:
        """Of the interface on the host's side and of the control group."""
        return f"jsgc{self.number}"

    @property
    def network_ipv4(self) -> str:
        return f"10.201.{self.number}.0/24"

    @property
    def host_ipv4(self) -> str:
        return f"10.201.{self.number}.1"

    @property
    def node_ipv4(self) -> str:
        return f"10.201.{self.number}.2"

    @property
    def host_ipv6(self) -> str:
        return f"fd6a:7367:c000:{self.number:x}::1"

    @property
    def node_ipv6(self) -> str:
        return f"fd6a:7367:c000:{self.number:x}::2"

    @property
    def state(self) -> Path:
        """Everything that it writes; gone after `down` except the logs."""
        return STATES / str(self.number)

    @property
    def lib(self) -> Path:
        """What the node sees as /var/lib."""
        return self.state / "lib"

    @property
    def log(self) -> Path:
        """What the node sees as /var/log."""
        return self.state / "log"

    @property
    def keeper_log(self) -> Path:
        """What the keeper, and the commands that make the namespaces, say of errors."""
        return self.state / "keeper.log"

    @property
    def settings(self) -> Path:
        """Certificates, kubeconfigs and configuration; /var/lib/kubernetes in the node."""
        return self.lib / "kubernetes"

    @property
    def kubeconfig(self) -> Path:
        return self.settings / "admin.kubeconfig"

    @property
    def init(self) -> Path:
        """Holds the process id of the node's first process, as the host numbers it."""
        return self.state / "init.pid"

    @property
    def lock(self) -> Path:
        """Held by the keeper as long as it lives: a record lock, which tells whose it is (fcntl(2))."""
        return STATES / f"{self.number}.lock"

    def keeper(self) -> int | None:
        """The process id of the keeper; None where none runs."""
        try:
            file = self.lock.open("rb")
        except FileNotFoundError:
            return None
        with file:
            asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            held, *_, process = struct.unpack(_FLOCK, fcntl.fcntl(file, fcntl.F_GETLK, asked))
        return None if held == fcntl.F_UNLCK else process


def has_ipv6() -> bool:
    """Whether this machine's kernel has it: so has the node's network then, whatever the host's settings."""
    return os.path.exists("/proc/net/if_inet6")
