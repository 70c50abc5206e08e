"""Where the gateway listens, whether it may, and how it says so."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.app_listen import StartError, bind, is_loopback, tls_context, url


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def close(sockets: list[socket.socket]) -> int:
    port = int(sockets[0].getsockname()[1])
    for bound in sockets:
        bound.close()
    return port


def test_the_next_port_is_taken_where_the_first_is_in_use(taken: int) -> None:
    assert taken < close(bind("127.0.0.1", taken, 20)) <= taken + 20


def test_without_retries_a_port_in_use_is_an_error(taken: int) -> None:
    with pytest.raises(StartError, match=f"Port {taken} is in use"):
        bind("127.0.0.1", taken, 0)


def test_port_0_is_any_free_one() -> None:
    assert close(bind("127.0.0.1", 0, 5)) > 0


@pytest.mark.parametrize("ip", ["192.0.2.1", "no.such.name.invalid"])
def test_an_address_that_is_not_this_machines_is_an_error_that_names_it(ip: str) -> None:
    with pytest.raises(StartError, match=ip):
        bind(ip, 0, 0)


@pytest.mark.parametrize(
    ("ip", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),  # noqa: S104  # the address to refuse
        ("::", False),
        ("", False),
        ("192.0.2.1", False),
        ("no.such.name.invalid", False),
    ],
)
def test_what_counts_as_loopback(ip: str, loopback: bool) -> None:
    assert is_loopback(ip) is loopback


@pytest.mark.parametrize(
    ("ip", "tls", "expected"),
    [
        ("127.0.0.1", False, "http://127.0.0.1:{port}/base/"),
        ("0.0.0.0", False, "http://127.0.0.1:{port}/base/"),  # noqa: S104
        ("::1", True, "https://[::1]:{port}/base/"),
    ],
)
def test_the_url_is_one_that_this_machine_can_use(ip: str, tls: bool, expected: str) -> None:
    sockets = bind(ip, 0, 0)
    try:
        assert url(sockets, tls, "/base/") == expected.format(port=sockets[0].getsockname()[1])
    finally:
        close(sockets)


def test_no_certificate_is_no_tls() -> None:
    assert tls_context("", "", "") is None


@pytest.mark.parametrize(("keyfile", "client_ca"), [("key.pem", ""), ("", "ca.pem")])
def test_a_key_or_a_client_ca_without_a_certificate_is_an_error(keyfile: str, client_ca: str) -> None:
    with pytest.raises(StartError, match="need --certfile"):
        tls_context("", keyfile, client_ca)


@pytest.mark.parametrize("text", [None, "no certificate"])
def test_a_certificate_that_cannot_be_used_is_an_error_that_names_it(
    tmp_path: Path, text: str | None
) -> None:
    path = tmp_path / "cert.pem"
    if text is not None:
        path.write_text(text)
    with pytest.raises(StartError, match=r"cert\.pem"):
        tls_context(str(path), "", "")


def test_a_client_ca_makes_client_certificates_required(certificate: Path) -> None:
    context = tls_context(str(certificate), "", str(certificate))
    assert context is not None
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
