"""The messages that we write in a kernel's place."""

from __future__ import annotations

import datetime
import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire import builders, v1

NOW = datetime.datetime(2026, 11, 23, 18, 0, 0, 123, tzinfo=datetime.UTC)
REASON = "The kernel used more than its 512 MiB of memory."
REQUEST = {"msg_id": "r", "msg_type": "execute_request", "session": "s"}


def ids() -> Callable[[], str]:
    counter = itertools.count(1)
    return lambda: f"id-{next(counter)}"


def read(message: bytes) -> tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Channel, header, parent header and content."""
    channel, parts = v1.unpack(message)
    header, parent, metadata, content = map(json.loads, parts)
    assert metadata == {}
    return channel, header, parent, content


def end(header: dict[str, Any], channel: str = "shell", **options: Any) -> list[tuple[str, bytes]]:
    return builders.ending(channel, json.dumps(header).encode(), REASON, NOW, **options)


@pytest.mark.parametrize(
    ("channel", "request_type", "reply_type"),
    [
        ("shell", "execute_request", "execute_reply"),
        ("shell", "complete_request", "complete_reply"),
        ("shell", "kernel_info_request", "kernel_info_reply"),
        ("control", "shutdown_request", "shutdown_reply"),
        ("control", "debug_request", "debug_reply"),
        ("shell", "a_future_request", "a_future_reply"),
    ],
)
def test_a_request_is_ended_by_a_reason_an_error_reply_and_idle(
    channel: str, request_type: str, reply_type: str
) -> None:
    request = REQUEST | {"msg_type": request_type}
    pairs = end(request, channel, session="kernel", new_id=ids())
    said = [read(message) for _, message in pairs]
    assert [pair[0] for pair in pairs] == [channel_read for channel_read, *_ in said]
    assert [(c, header["msg_type"]) for c, header, _, _ in said] == [
        ("iopub", "stream"),
        (channel, reply_type),
        ("iopub", "status"),
    ]
    assert all(parent == request for _, _, parent, _ in said)
    assert [content for _, _, _, content in said] == [
        {"name": "stderr", "text": REASON + "\n"},
        {
            "status": "error",
            "ename": "KernelDied",
            "evalue": REASON,
            "traceback": [f"KernelDied: {REASON}"],
        },
        {"execution_state": "idle"},
    ]


def test_what_was_replied_to_is_not_replied_to_again() -> None:
    said = [read(message) for _, message in end(REQUEST, replied=True)]
    assert [header["msg_type"] for _, header, _, _ in said] == ["stream", "status"]


def test_the_name_of_the_error_is_the_callers() -> None:
    _, _, _, content = read(end(REQUEST, ename="KernelRestarted")[1][1])
    assert (content["ename"], content["evalue"]) == ("KernelRestarted", REASON)


@pytest.mark.parametrize("kind", ["comm_msg", "comm_open", "comm_close"])
def test_what_wants_no_reply_is_ended_by_idle_alone(kind: str) -> None:
    ((channel, message),) = end(REQUEST | {"msg_type": kind})
    assert channel == "iopub"
    assert read(message)[3] == {"execution_state": "idle"}


@pytest.mark.parametrize("channel", ["stdin", "iopub"])
def test_what_is_no_request_is_not_ended(channel: str) -> None:
    assert end(REQUEST | {"msg_type": "input_reply"}, channel) == []


HOSTILE = [
    b"",
    b"{",
    b"\xff",
    b"[]",
    b"null",
    b"{}",
    b'{"msg_type": 1}',
    b'{"msg_type": NaN}',
    b"[" * 100_000,
]


@pytest.mark.parametrize("header", HOSTILE, ids=range(len(HOSTILE)))
def test_a_header_that_cannot_be_read_ends_nothing(header: bytes) -> None:
    assert builders.ending("shell", header, REASON, NOW) == []


@given(st.binary(max_size=100) | st.text().map(str.encode))
def test_no_header_is_an_error(header: bytes) -> None:
    builders.ending("shell", header, REASON, NOW)


@given(st.text())
def test_any_reason_can_be_told(reason: str) -> None:
    pairs = builders.ending("shell", json.dumps(REQUEST).encode(), reason, NOW)
    assert read(pairs[0][1])[3]["text"] == reason + "\n"


def test_the_parent_is_the_requests_header_byte_for_byte() -> None:
    header = b'{ "msg_id":"r",  "msg_type": "execute_request", "future": [1.50] }'
    for _, message in builders.ending("shell", header, REASON, NOW):
        assert v1.unpack(message).parts[1] == header


def test_a_header_has_the_callers_time_and_ids_and_all_that_jupyterlab_validates() -> None:
    pairs = end(REQUEST, session="kernel", new_id=ids())
    headers = [read(message)[1] for _, message in pairs]
    assert [header["msg_id"] for header in headers] == ["id-1", "id-2", "id-3"]
    for header in headers:
        assert header["date"] == "2026-11-23T18:00:00.000123Z"
        assert header["session"] == "kernel"
        # @jupyterlab/services, kernel/validate.ts, HEADER_FIELDS.
        for member in ("username", "version", "session", "msg_id", "msg_type"):
            assert isinstance(header[member], str)


def test_ids_differ_when_nobody_gives_them() -> None:
    messages = [builders.status("idle", NOW) for _ in range(100)]
    assert len({read(message)[1]["msg_id"] for message in messages}) == 100


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ("starting", "starting"),
        ("idle", "idle"),
        ("busy", "busy"),
        ("restarting", "restarting"),
        ("autorestarting", "restarting"),
        ("dead", "dead"),
    ],
)
def test_a_state_is_told_in_a_word_that_jupyterlab_accepts(state: str, told: str) -> None:
    channel, header, parent, content = read(builders.status(state, NOW))
    assert (channel, header["msg_type"], parent) == ("iopub", "status", {})
    assert content == {"execution_state": told}


def test_a_state_that_no_client_knows_is_our_own_mistake() -> None:
    with pytest.raises(ValueError, match="is not an execution state"):
        builders.status("unknown", NOW)


def test_a_stream_belongs_to_the_request_it_is_given() -> None:
    parent = json.dumps(REQUEST).encode()
    channel, header, found, content = read(builders.stream("stdout", "text", NOW, parent=parent))
    assert (channel, header["msg_type"], found) == ("iopub", "stream", REQUEST)
    assert content == {"name": "stdout", "text": "text"}


def test_the_session_of_a_message_is_its_senders() -> None:
    assert builders.session_of(builders.status("idle", NOW, session="kernel")) == "kernel"


@pytest.mark.parametrize("header", HOSTILE, ids=range(len(HOSTILE)))
def test_a_message_that_does_not_say_its_session_has_none(header: bytes) -> None:
    assert builders.session_of(v1.join("iopub", [header, b"{}", b"{}", b"{}"])) == ""
    assert builders.session_of(header) == ""
