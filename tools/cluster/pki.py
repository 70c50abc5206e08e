"""Certificates for a few hours, made by openssl (3.0 or later), and kubeconfigs that hold them."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path

from .instance import NODE, Instance

_CONFIG = """\
[req]
distinguished_name = name
[name]
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign
"""

_DAYS = "365"

#: Name of the file -> subject. What the API server grants each is Kubernetes' own default for that name.
_CLIENTS = {
    "admin": "/O=system:masters/CN=admin",
    "calico": "/O=system:masters/CN=calico",
    "kubelet-client": "/O=system:masters/CN=kube-apiserver-kubelet-client",
    "controller-manager": "/CN=system:kube-controller-manager",
    "scheduler": "/CN=system:kube-scheduler",
    "proxy": "/CN=system:kube-proxy",
}

KUBECONFIGS = ("admin", "calico", "controller-manager", "scheduler", "proxy", "kubelet")


def make(instance: Instance) -> None:
    """Everything below `settings`/pki, and a kubeconfig for each program that asks the API server."""
    folder = instance.settings / "pki"
    folder.mkdir(parents=True, mode=0o700)
    (folder / "openssl.cnf").write_text(_CONFIG)
    _certificate(folder, "ca", "/CN=test-cluster", "-extensions", "authority")
    kubernetes = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"]
    addresses = [instance.node_ipv4, "10.96.0.1", "127.0.0.1"]
    _signed(folder, "apiserver", "/CN=kube-apiserver", kubernetes, addresses)
    _signed(folder, "kubelet", f"/O=system:nodes/CN=system:node:{NODE}", [NODE], [instance.node_ipv4])
    for name, subject in _CLIENTS.items():
        _signed(folder, name, subject, ["localhost"], [])
    _openssl(folder, "genrsa", "-out", "accounts.key", "2048")
    _openssl(folder, "rsa", "-in", "accounts.key", "-pubout", "-out", "accounts.pub")
    for name in KUBECONFIGS:
        _kubeconfig(instance, folder, name)


def _signed(folder: Path, name: str, subject: str, names: list[str], addresses: list[str]) -> None:
    alternatives = ",".join([f"DNS:{each}" for each in names] + [f"IP:{each}" for each in addresses])
    _certificate(
        folder,
        name,
        subject,
        *("-CA", "ca.crt", "-CAkey", "ca.key"),
        *("-addext", "basicConstraints=critical,CA:FALSE"),
        *("-addext", "extendedKeyUsage=clientAuth,serverAuth"),
        *("-addext", f"subjectAltName={alternatives}"),
    )


def _certificate(folder: Path, name: str, subject: str, *options: str) -> None:
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-keyout", f"{name}.key")
    place = ("-config", "openssl.cnf", "-subj", subject, "-days", _DAYS, "-out", f"{name}.crt")
    _openssl(folder, "req", "-x509", *key, *place, *options)


def _openssl(folder: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], cwd=folder, check=True, stderr=subprocess.DEVNULL)


def _kubeconfig(instance: Instance, folder: Path, name: str) -> None:
    def data(file: str) -> str:
        return base64.b64encode((folder / file).read_bytes()).decode()

    cluster = {"server": f"https://{instance.node_ipv4}:6443", "certificate-authority-data": data("ca.crt")}
    user = {"client-certificate-data": data(f"{name}.crt"), "client-key-data": data(f"{name}.key")}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": instance.name, "cluster": cluster}],
        "users": [{"name": name, "user": user}],
        "contexts": [{"name": instance.name, "context": {"cluster": instance.name, "user": name}}],
        "current-context": instance.name,
    }
    file = instance.settings / f"{name}.kubeconfig"
    file.touch(mode=0o600)
    file.write_text(json.dumps(config, indent=1))
