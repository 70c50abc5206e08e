"""Log lines and figures."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator

import pytest

from gateway.observability import (
    JsonFormatter,
    Metrics,
    PlainFormatter,
    bind,
    configure_logging,
    redact,
    redact_uri,
)

SECRET = "s3cret+/with=signs"  # noqa: S105  # a test's


def record(message: str, *args: object, **members: object) -> logging.LogRecord:
    made = logging.LogRecord("gateway.test", logging.WARNING, "file.py", 1, message, args, None)
    made.__dict__.update(members)
    return made


@pytest.fixture(autouse=True)
def no_ids() -> Iterator[None]:
    yield
    bind(request_id="", kernel_id="")


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("/api?token=abc", "/api?token=[redacted]"),
        ("/api?a=b&token=abc&c=d", "/api?a=b&token=[redacted]&c=d"),
        ("/api?TOKEN=abc", "/api?TOKEN=[redacted]"),
        ("/api?token=", "/api?token="),
        ("/api?mytoken=abc", "/api?mytoken=abc"),
        ("/t/abc/api/kernels", "/t/[redacted]/api/kernels"),
        ("/base/t/abc", "/base/t/[redacted]"),
        ("/kernelspecs/python3/logo.png", "/kernelspecs/python3/logo.png"),
        ("Authorization: token abc", "Authorization: token [redacted]"),
        ("{'Authorization': 'Bearer abc'}", "{'Authorization': 'Bearer [redacted]'}"),
        ("the token is not valid", "the token is not valid"),
        ("Send 'Authorization: token <token>' or '?token=<token>'", None),
        ("ws_url=ws://<host>/t/<token>.", None),
    ],
)
def test_credentials_are_taken_out_wherever_a_url_or_header_carries_them(text: str, redacted: str | None):
    assert redact(text) == (text if redacted is None else redacted)


@pytest.mark.parametrize(
    ("uri", "redacted"),
    [
        ("/api?token=abc'def", "/api?token=[redacted]"),
        ('/api?token=a"b;c?d/e=f', "/api?token=[redacted]"),
        ("/api?token=abc'def&c='d'#e", "/api?token=[redacted]&c='d'#e"),
        ("/api?a=b?token=abc'def", "/api?a=b?token=[redacted]"),
        ("/api?token=wrong&token=right", "/api?token=[redacted]&token=[redacted]"),
        ("/api?%74o%6Ben=abc", "/api?%74o%6Ben=[redacted]"),
        ("/api?mytoken=abc", "/api?mytoken=abc"),
        ("/api/kernels?name='token'", "/api/kernels?name='token'"),
        ("/base/t/abc'd\"e;f/api?a=b", "/base/t/[redacted]/api?a=b"),
        ("/t/abc'def?token=a'b", "/t/[redacted]?token=[redacted]"),
    ],
)
def test_credentials_are_taken_out_of_a_uri_up_to_its_own_separators(uri: str, redacted: str):
    assert redact_uri(uri) == redacted
    assert redact(redacted) == redacted


@pytest.mark.parametrize("formatter", [PlainFormatter([SECRET]), JsonFormatter([SECRET])])
def test_a_known_secret_is_taken_out_of_messages_fields_and_tracebacks(formatter: logging.Formatter):
    try:
        raise ValueError(f"no {SECRET}, please")
    except ValueError:
        line = formatter.format(
            record("%s %s", SECRET, "s3cret%2B%2Fwith%3Dsigns", exc_info=sys.exc_info(), fields={"a": SECRET})
        )
    assert "s3cret" not in line
    assert "ValueError" in line


def test_a_plain_line_ends_with_the_ids_that_there_are():
    assert PlainFormatter().format(record("a %s", "b")).endswith("WARNING gateway.test  a b")
    bind(request_id="r1")
    assert PlainFormatter().format(record("a")).endswith("a [request=r1]")
    bind(kernel_id="k1")
    assert PlainFormatter().format(record("a")).endswith("a [request=r1 kernel=k1]")


FORGED = "ended:\n2026-01-01 00:00:00,000 INFO    gateway.access  200 GET /api\r\x1b[2J\x9b1m\u2028\u202e"


def test_a_plain_record_is_one_line_and_moves_no_cursor():
    line = PlainFormatter().format(record("kernel x died: %s, é, a\\nb", FORGED))
    assert line.isprintable()
    assert "ended:\\n2026-01-01" in line
    assert "\\r\\x1b[2J\\x9b1m\\u2028\\u202e, é, a\\nb" in line  # what is escaped already stays


def test_a_traceback_keeps_its_lines_and_none_of_them_can_pass_for_a_record():
    try:
        raise ValueError(FORGED)
    except ValueError:
        text = PlainFormatter().format(
            record("failed", exc_info=sys.exc_info(), stack_info=f"Stack:\n{FORGED}")
        )
    first, *others = text.split("\n")
    assert first.endswith("failed")
    assert "    Traceback (most recent call last):" in others
    assert "        raise ValueError(FORGED)" in others
    assert sum("2026-01-01" in line for line in others) == 2
    assert all(line.startswith("    ") and line.isprintable() for line in others)


def test_a_json_line_is_one_object_with_time_level_ids_and_fields():
    bind(request_id="r1", kernel_id="k1")
    line = JsonFormatter().format(record("a\nb", fields={"status": 200}))
    assert "\n" not in line
    entry = json.loads(line)
    assert entry.pop("time").endswith("+00:00")
    assert entry == {
        "level": "warning",
        "logger": "gateway.test",
        "message": "a\nb",
        "request": "r1",
        "kernel": "k1",
        "status": 200,
    }


def test_configuring_replaces_what_was_configured():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    first, second = io.StringIO(), io.StringIO()
    try:
        configure_logging(first)
        configure_logging(second, logging.ERROR)
        logging.getLogger("gateway.test").error("once")
        logging.getLogger("gateway.test").info("not at all")
    finally:
        root.handlers[:], root.level = handlers, level
    assert first.getvalue() == ""
    assert second.getvalue().count("\n") == 1


def test_the_gauge_of_kernels_has_every_state_and_follows_the_kernels():
    metrics, states = Metrics(), ["idle", "idle", "dead"]
    metrics.watch_kernels(lambda: states)
    text = metrics.text().decode()
    assert 'jupyter_gateway_kernels{state="idle"} 2.0' in text
    assert 'jupyter_gateway_kernels{state="busy"} 0.0' in text
    states.remove("dead")
    assert 'jupyter_gateway_kernels{state="dead"} 0.0' in metrics.text().decode()


def test_two_gateways_in_one_process_do_not_mix():
    one, two = Metrics(), Metrics()
    one.websocket_messages.labels("in").inc()
    assert 'messages_total{direction="in"} 1.0' in one.text().decode()
    assert 'messages_total{direction="in"}' not in two.text().decode()
