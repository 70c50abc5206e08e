"""What a Status says, whoever has made it."""

from __future__ import annotations

import json

import pytest

from gateway.transport import exec_status
from gateway.transport.exec_status import LARGEST_STATUS, LAST_WORDS, ExecEnd
from tests.support.exec_server import exit_status


def encoded(status: object) -> bytes:
    return json.dumps(status).encode()


def failure(**members: object) -> bytes:
    return encoded({"metadata": {}, "status": "Failure"} | members)


def code(said: object, reason: object = "ExitCode") -> bytes:
    """A Status with one cause that may be an exit code."""
    causes = [{"reason": reason, "message": said}]
    return failure(reason="NonZeroExitCode", message="the server's words", details={"causes": causes})


def test_success_is_an_orderly_end() -> None:
    end = exec_status.read(encoded(exit_status(0)))
    assert end == ExecEnd(0)
    assert end.is_orderly


@pytest.mark.parametrize("number", [1, 3, 137, 4294967295])
def test_an_exit_code_is_read_from_its_cause(number: int) -> None:
    end = exec_status.read(encoded(exit_status(number)), b"what it said\n")
    assert (end.code, end.reason, end.last_words) == (number, "NonZeroExitCode", "what it said")
    assert not end.is_orderly
    assert str(end) == f"the command ended with exit code {number}; it last wrote: what it said"


def test_an_exit_code_is_found_among_other_causes() -> None:
    causes = [{"reason": "Other", "message": "9"}, {"reason": "ExitCode", "message": "7"}]
    end = exec_status.read(failure(reason="NonZeroExitCode", details={"causes": causes}))
    assert end.code == 7


def test_a_reason_of_the_servers_own_is_no_exit_code() -> None:
    end = exec_status.read(failure(reason="NotFound", message='container "x" not found', code=404))
    assert end == ExecEnd(None, "NotFound", 'container "x" not found')
    assert str(end) == 'the API server ended the stream: container "x" not found'


def test_a_failure_without_a_word_is_told_as_one() -> None:
    assert str(exec_status.read(failure())) == "the API server ended the stream: it does not say why"


HOSTILE = {
    "nothing": b"",
    "no JSON": b"exit status 1",
    "no UTF-8": b'{"status": "\xff"}',
    "what only Python reads": b'{"status": NaN}',
    "cut off": encoded(exit_status(1))[:-1],
    "trailing data": encoded(exit_status(0)) + b"{}",
    "nested without end": b"[" * 60_000,
    "as large as may be read, and more": b" " * LARGEST_STATUS + encoded(exit_status(0)),
    "a list": b"[]",
    "a string": b'"Success"',
    "null": b"null",
    "a status that is a list": encoded({"status": ["Success"]}),
    "a status in another case": encoded({"status": "success"}),
    "no status": encoded({"reason": "NonZeroExitCode"}),
    "a reason that is a number": failure(reason=1, message=2),
    "details that are a list": failure(reason="NonZeroExitCode", details=[]),
    "causes that are an object": failure(
        reason="NonZeroExitCode", details={"causes": {"reason": "ExitCode"}}
    ),
    "a cause that is a string": failure(reason="NonZeroExitCode", details={"causes": ["ExitCode"]}),
    "a code that is a number": code(1),
    "a code that is no number": code("one"),
    "a code in other digits": code("१"),
    "a code that is negative": code("-1"),
    "a code that is nothing": code(""),
    "a code that no process has": code("9" * 11),
    "a code of 0, which is a success": code("0"),
    "a code without its reason": code("1", "Other"),
}


@pytest.mark.parametrize("status", HOSTILE.values(), ids=HOSTILE.keys())
def test_what_is_no_status_is_neither_an_orderly_end_nor_an_exit_code(status: bytes) -> None:
    end = exec_status.read(status)
    assert end.code is None
    assert str(end).startswith("the API server ended the stream: ")


def test_a_status_of_the_largest_size_is_read() -> None:
    status = encoded(exit_status(0))
    assert exec_status.read(status + b" " * (LARGEST_STATUS - len(status))).code == 0


def test_what_is_said_is_bounded_and_commands_no_terminal() -> None:
    end = exec_status.read(
        failure(reason="r" * 5000, message="\x1b[2J\nnext " + "m" * 5000), b"\x1b]0;\xff\n" * 100
    )
    assert len(end.reason) == 100
    assert len(end.message) == 1000
    assert end.message.startswith("\N{REPLACEMENT CHARACTER}[2J next mmm")
    assert len(end.last_words) < LAST_WORDS
    assert str(end).isprintable()


def test_the_body_of_an_answer_has_a_message_where_it_is_a_status() -> None:
    assert exec_status.message_of(failure(message="pods is forbidden")) == "pods is forbidden"
    for body in (b"", b"Unauthorized", b"[]", failure(), failure(message=3), failure(message="x" * 70_000)):
        assert exec_status.message_of(body) == ""
