"""Certificates for the loopback address, made by the openssl program."""

from __future__ import annotations

import functools
import ssl
import subprocess
import tempfile
from pathlib import Path


def make_certificate(path: Path) -> Path:
    """A self-signed certificate for 127.0.0.1 and its key, in one file."""
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", str(path))
    subject = ("-subj", "/CN=gateway", "-addext", "subjectAltName=IP:127.0.0.1")
    certificate = path.with_name(f"{path.name}.cert")
    command = ("openssl", "req", "-x509", *key, "-days", "2", *subject, "-out", str(certificate))
    subprocess.run(command, check=True, capture_output=True)
    path.write_text(path.read_text() + certificate.read_text())
    return path


@functools.cache
def loopback_tls() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's settings, and those of a client that trusts it alone."""
    servers = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    with tempfile.TemporaryDirectory() as folder:
        certificate = make_certificate(Path(folder, "both.pem"))
        servers.load_cert_chain(certificate)
        return servers, ssl.create_default_context(cafile=certificate)
