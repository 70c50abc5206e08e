"""Each program of the cluster: its arguments, its environment, and what it reads when it starts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from .instance import (
    DNS_IPV4,
    NODE,
    PODS_IPV4,
    PODS_IPV6,
    SERVICES_IPV4,
    SERVICES_IPV6,
    Instance,
    has_ipv6,
)
from .node import PARTS

_SETTINGS = "/var/lib/kubernetes"
_PKI = f"{_SETTINGS}/pki"
CONTAINERD = "/run/containerd/containerd.sock"

#: Containerd's own client, with what the kubelet has there.
CTR = ("ctr", f"--address={CONTAINERD}", "--namespace=k8s.io")

PATH = ":".join(
    [f"{PARTS}/{part}" for part in ("kubernetes", "etcd", "containerd", "calico")]
    + ["/usr/sbin", "/usr/bin", "/sbin", "/bin"]
)

#: Where felix says that its rules are in place.
FELIX_HEALTH_PORT = 9099


@dataclass(frozen=True)
class Component:
    """A program that runs in the node as long as the cluster does."""

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


def components(instance: Instance) -> dict[str, Component]:
    """Name -> component, in no order: each waits by itself for what it needs, but for the API server."""
    ipv6 = has_ipv6()
    pods = f"{PODS_IPV4},{PODS_IPV6}" if ipv6 else PODS_IPV4
    services = f"{SERVICES_IPV4},{SERVICES_IPV6}" if ipv6 else SERVICES_IPV4
    node = instance.node_ipv4
    addresses = f"{node},{instance.node_ipv6}" if ipv6 else node
    etcd = "http://127.0.0.1:2379"
    return {
        "etcd": Component(
            (
                *("etcd", "--data-dir=/var/lib/etcd", "--unsafe-no-fsync"),
                *(f"--listen-client-urls={etcd}", f"--advertise-client-urls={etcd}"),
                "--listen-peer-urls=http://127.0.0.1:2380",
            )
        ),
        "kube-apiserver": Component(
            (
                *("kube-apiserver", f"--etcd-servers={etcd}", "--secure-port=6443", "--allow-privileged"),
                *(f"--advertise-address={node}", f"--service-cluster-ip-range={services}"),
                *(f"--tls-cert-file={_PKI}/apiserver.crt", f"--tls-private-key-file={_PKI}/apiserver.key"),
                f"--client-ca-file={_PKI}/ca.crt",
                f"--kubelet-certificate-authority={_PKI}/ca.crt",
                f"--kubelet-client-certificate={_PKI}/kubelet-client.crt",
                f"--kubelet-client-key={_PKI}/kubelet-client.key",
                "--kubelet-preferred-address-types=InternalIP",
                "--service-account-issuer=https://kubernetes.default.svc",
                f"--service-account-key-file={_PKI}/accounts.pub",
                f"--service-account-signing-key-file={_PKI}/accounts.key",
                "--authorization-mode=Node,RBAC",
                "--enable-admission-plugins=NodeRestriction",
            )
        ),
        "kube-controller-manager": Component(
            (
                "kube-controller-manager",
                f"--kubeconfig={_SETTINGS}/controller-manager.kubeconfig",
                f"--service-account-private-key-file={_PKI}/accounts.key",
                *(f"--root-ca-file={_PKI}/ca.crt", f"--cluster-cidr={pods}", "--allocate-node-cidrs"),
                *("--leader-elect=false", "--use-service-account-credentials"),
            )
        ),
        "kube-scheduler": Component(
            ("kube-scheduler", f"--kubeconfig={_SETTINGS}/scheduler.kubeconfig", "--leader-elect=false")
        ),
        "containerd": Component(("containerd", f"--config={_SETTINGS}/containerd.toml")),
        "kubelet": Component(
            (
                *("kubelet", f"--config={_SETTINGS}/kubelet.json"),
                f"--kubeconfig={_SETTINGS}/kubelet.kubeconfig",
                *(f"--node-ip={addresses}", f"--hostname-override={NODE}"),
            )
        ),
        "kube-proxy": Component(
            (
                *("kube-proxy", f"--kubeconfig={_SETTINGS}/proxy.kubeconfig", "--proxy-mode=nftables"),
                *(f"--hostname-override={NODE}", f"--cluster-cidr={pods}"),
                # The table of connections is the whole machine's, and so is its size.
                "--conntrack-max-per-core=0",
            )
        ),
        "felix": Component(
            ("calico-felix",),
            {
                "KUBECONFIG": f"{_SETTINGS}/calico.kubeconfig",
                "FELIX_DATASTORETYPE": "kubernetes",
                "FELIX_FELIXHOSTNAME": NODE,
                "FELIX_IPV6SUPPORT": str(ipv6).lower(),
                "FELIX_DEFAULTENDPOINTTOHOSTACTION": "RETURN",
                "FELIX_LOGFILEPATH": "none",
                "FELIX_LOGSEVERITYFILE": "none",
                "FELIX_LOGSEVERITYSCREEN": "Warning",
                "FELIX_USAGEREPORTINGENABLED": "false",
                "FELIX_BPFENABLED": "false",
                "FELIX_IPTABLESBACKEND": "NFT",
                "FELIX_NFTABLESMODE": "Disabled",
                "FELIX_HEALTHENABLED": "true",
                "FELIX_HEALTHHOST": node,
                "FELIX_HEALTHPORT": str(FELIX_HEALTH_PORT),
            },
        ),
    }


def write_settings(instance: Instance) -> None:
    """The files that the components read."""
    (instance.settings / "containerd.toml").write_text(_CONTAINERD)
    (instance.settings / "kubelet.json").write_text(json.dumps(_kubelet(instance), indent=1))
    plugins = instance.settings / "cni"
    plugins.mkdir()
    (plugins / "10-calico.conflist").write_text(json.dumps(_cni(), indent=1))


_CONTAINERD = f"""\
version = 3
[grpc]
  address = "{CONTAINERD}"
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "localhost/pause:1"
[plugins."io.containerd.cri.v1.runtime"]
  # Without CAP_SYS_RESOURCE nobody may lower a process's score, and a pod would not start.
  restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = ["/usr/lib/cni", "{PARTS}/calico"]
  conf_dir = "{_SETTINGS}/cni"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
    BinaryName = "{PARTS}/containerd/runc"
    SystemdCgroup = false
"""


def _kubelet(instance: Instance) -> dict[str, object]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "x509": {"clientCAFile": f"{_PKI}/ca.crt"},
            "webhook": {"enabled": True},
            "anonymous": {"enabled": False},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": f"{_PKI}/kubelet.crt",
        "tlsPrivateKeyFile": f"{_PKI}/kubelet.key",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{instance.name}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "containerRuntimeEndpoint": f"unix://{CONTAINERD}",
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        # By default a volume that is too full is noticed after up to two minutes.
        "volumeStatsAggPeriod": "5s",
        "clusterDNS": [DNS_IPV4],
        "clusterDomain": "cluster.local",
        # No name outside is a pod's to ask for.
        "resolvConf": "",
        # The disk is the machine's: what else fills it is no reason to end pods.
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "1%",
            "nodefs.inodesFree": "1%",
            "imagefs.available": "1%",
        },
        "serializeImagePulls": False,
    }


def _cni() -> dict[str, object]:
    families = ["usePodCidr", *(["usePodCidrIPv6"] if has_ipv6() else [])]
    calico = {
        "type": "calico",
        "log_file_path": "/var/log/cni.log",
        "datastore_type": "kubernetes",
        "nodename": NODE,
        "nodename_file_optional": True,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": family}] for family in families]},
        "policy": {"type": "k8s"},
        "kubernetes": {"kubeconfig": f"{_SETTINGS}/calico.kubeconfig"},
    }
    ports = {"type": "portmap", "snat": True, "capabilities": {"portMappings": True}}
    return {"name": "pods", "cniVersion": "0.3.1", "plugins": [calico, ports]}
