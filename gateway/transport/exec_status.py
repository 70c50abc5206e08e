"""How a command that ran by `pods/exec` ended: what the server says of it, and what the command said last.

The server's word is a Status (meta/v1), one JSON object on the error channel. It is the API server's, and
still bounded here. What the command wrote to its stderr comes from the sandbox's user.

Facts, from k8s.io/apiserver 0.36 (pkg/util/proxy/streamtranslator.go) and cri-streaming
(remotecommand/exec.go): success is `"status": "Success"`; an exit code is a Failure with the reason
NonZeroExitCode, and among its `details.causes` one with the reason ExitCode and the code as its message;
every other Failure is the server's own (no such container, no kubelet), with a reason for programs and a
message for people.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..wire import strict_json

#: Bytes of a Status that is read.
LARGEST_STATUS = 64 * 1024
#: Bytes kept of what the command wrote last to its stderr.
LAST_WORDS = 2000
#: Characters of the server's message, and of its reason.
_LONGEST_MESSAGE, _LONGEST_REASON = 1000, 100
#: Digits of an exit code; Windows has codes of 32 bits.
_MOST_DIGITS = 10


@dataclass(frozen=True)
class ExecEnd:
    """The end of a command. As text, a sentence for a log."""

    #: The exit code; None where the server has a reason of its own to end the stream.
    code: int | None
    #: The server's reason, a word for programs such as InternalError; may be empty.
    reason: str = ""
    #: The server's message; may be empty.
    message: str = ""
    #: The end of what the command wrote to its stderr; may be empty.
    last_words: str = ""

    @property
    def is_orderly(self) -> bool:
        return self.code == 0

    def __str__(self) -> str:
        if self.code is None:
            said = f"the API server ended the stream: {self.message or self.reason or 'it does not say why'}"
        else:
            said = f"the command ended with exit code {self.code}"
        return f"{said}; it last wrote: {self.last_words}" if self.last_words else said


def read(status: bytes | memoryview, last_words: bytes = b"") -> ExecEnd:
    """The end that this Status tells. One that cannot be read is a reason of the server's own."""
    words = legible(last_words.decode(errors="replace").strip())
    if len(status) > LARGEST_STATUS:
        return ExecEnd(None, message=f"its status has more than {LARGEST_STATUS} bytes", last_words=words)
    try:
        members = strict_json.parse(bytes(status))
    except strict_json.NotJsonError as error:
        return ExecEnd(None, message=f"its status cannot be read: {error}", last_words=words)
    if _member(members, "status") == "Success":
        return ExecEnd(0, last_words=words)
    reason = text(members, "reason", _LONGEST_REASON)
    code = _exit_code(members) if reason == "NonZeroExitCode" else None
    return ExecEnd(code, reason, text(members, "message", _LONGEST_MESSAGE), words)


def message_of(body: bytes) -> str:
    """The message of a Status that came as the body of an HTTP answer; empty where it is none."""
    if len(body) > LARGEST_STATUS:
        return ""
    try:
        return text(strict_json.parse(body), "message", _LONGEST_MESSAGE)
    except strict_json.NotJsonError:
        return ""


def line(body: bytes) -> str:
    """A body that is text, on one line."""
    return legible(body[:_LONGEST_MESSAGE].decode(errors="replace").strip())


def text(value: Any, name: str, longest: int) -> str:
    """A member that is a string, fit for a log; empty where there is none."""
    member = _member(value, name)
    return legible(member[:longest]) if isinstance(member, str) else ""


def legible(said: str) -> str:
    """On one line, and without what would command the terminal that shows it."""
    said = " ".join(said.splitlines())
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in said)


def _exit_code(status: Any) -> int | None:
    causes = _member(_member(status, "details"), "causes")
    for cause in causes if isinstance(causes, list) else ():
        code = _member(cause, "message")
        if _member(cause, "reason") == "ExitCode" and isinstance(code, str):
            # A 0 would make an orderly end of what the server calls none.
            return int(code) or None if _is_number(code) else None
    return None


def _is_number(code: str) -> bool:
    return len(code) <= _MOST_DIGITS and code.isascii() and code.isdecimal()


def _member(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None
