"""What of authentication needs no server; tests/unit/web/test_access.py has the rest."""

from __future__ import annotations

import hmac

import pytest
from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine

from gateway.auth import Authenticator, HostPolicy, Identity


@pytest.mark.parametrize("token", ["", " ", "a b", "a\n", "ä"])
def test_a_token_that_no_header_can_carry_is_refused_at_once(token: str):
    with pytest.raises(ValueError, match="printable ASCII"):
        Authenticator(token)


def test_an_identity_owns_what_carries_its_name():
    assert Identity("ann").owns("ann")
    assert not Identity("ann").owns("bob")
    assert not Identity("ann").owns("")


def test_tokens_are_compared_in_constant_time_and_all_that_were_offered(monkeypatch: pytest.MonkeyPatch):
    compared = []
    compare = hmac.compare_digest

    def noted(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return compare(one, other)

    monkeypatch.setattr("gateway.auth.hmac.compare_digest", noted)
    line = RequestStartLine("GET", "/?token=b", "HTTP/1.1")
    headers = HTTPHeaders({"Authorization": "token a", "Host": "localhost"})
    request = HTTPServerRequest(start_line=line, headers=headers)
    assert Authenticator("a").identify(request) == Identity("jupyter")
    assert compared == [(32, 32), (32, 32)]  # digests: not even the length of a token shows


@pytest.mark.parametrize(
    "host", ["", "a b", "localhost:x", "localhost:1:2", "[::1", "::1", "a@localhost", "é"]
)
def test_a_malformed_host_is_nobodys(host: str):
    assert not HostPolicy("127.0.0.1", ["a b", "é"]).allows(host)


def test_an_address_is_the_same_however_it_is_written():
    assert HostPolicy("2001:db8:0:0::1").allows("[2001:DB8::1]:8888")
    assert not HostPolicy("2001:db8:0:0::1").allows("[2001:db8::2]:8888")
