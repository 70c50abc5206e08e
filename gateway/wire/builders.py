"""Kernel messages that we write ourselves: what a kernel would have said if it still could.

Time and ids come from the caller; an id has to be unique among all messages of all kernels. `session` should
be the kernel's own (`session_of` reads it off one of its messages): JupyterLab gives up what it still has in
hand from one session as soon as a message of another one arrives (@jupyterlab/services 7.6,
kernel/default.ts, `_assertCurrentMessage`), which would lose the last outputs of a kernel that died.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from . import strict_json, v1

if TYPE_CHECKING:
    import datetime

#: Version of the messaging protocol that these messages follow.
PROTOCOL_VERSION = "5.3"

#: What `status` may say: the words that JupyterLab accepts; it refuses the message of any other.
STATES = frozenset({"starting", "idle", "busy", "restarting", "dead"})

_EMPTY = b"{}"
_REQUEST = "_request"
_REPLY = "_reply"


def _random_id() -> str:
    return os.urandom(16).hex()


def status(
    state: str,
    now: datetime.datetime,
    *,
    parent: bytes = _EMPTY,
    session: str = "",
    new_id: Callable[[], str] = _random_id,
) -> bytes:
    """A `status` on iopub, as a v1 message. `parent` is the header of the request it belongs to.

    "autorestarting" is told as "restarting", from which clients conclude that nobody asked for it.
    """
    if state == "autorestarting":
        state = "restarting"
    if state not in STATES:
        raise ValueError(f"{state!r} is not an execution state")
    return _message("iopub", "status", {"execution_state": state}, parent, now, session, new_id)


def stream(
    name: str,
    text: str,
    now: datetime.datetime,
    *,
    parent: bytes = _EMPTY,
    session: str = "",
    new_id: Callable[[], str] = _random_id,
) -> bytes:
    """A `stream` on iopub ("stdout" or "stderr"), as a v1 message."""
    return _message("iopub", "stream", {"name": name, "text": text}, parent, now, session, new_id)


def error(
    channel: str,
    header: bytes,
    ename: str,
    reason: str,
    now: datetime.datetime,
    *,
    session: str = "",
    new_id: Callable[[], str] = _random_id,
) -> bytes | None:
    """An error reply to the request of that header, as a v1 message; None where it is no request.

    `channel` is where it was asked, `ename` the error's name and `reason` a sentence for the user.
    """
    kind = _message_type(header)
    if kind is None or not kind.endswith(_REQUEST):
        return None
    content: dict[str, object] = {
        "status": "error",
        "ename": ename,
        "evalue": reason,
        "traceback": [f"{ename}: {reason}"],
    }
    reply = kind.removesuffix(_REQUEST) + _REPLY
    return _message(channel, reply, content, header, now, session, new_id)


def ending(
    channel: str,
    header: bytes,
    reason: str,
    now: datetime.datetime,
    *,
    ename: str = "KernelDied",
    replied: bool = False,
    session: str = "",
    new_id: Callable[[], str] = _random_id,
) -> list[tuple[str, bytes]]:
    """What ends a request whose kernel is gone: pairs of a channel and a v1 message, in this order.

    The arguments are those of `error`. A request on shell or control gets the reason on stderr, an error
    reply of its own type (none if it was `replied` to before) and idle. What is sent there without
    wanting a reply, such as a comm message, gets idle, which is all that its sender waits for. An
    input_reply gets nothing, and neither does a header that cannot be read, for nobody can be waiting.
    """
    kind = _message_type(header)
    if kind is None or channel not in ("shell", "control"):
        return []
    pairs = []
    if kind.endswith(_REQUEST):
        text = reason + "\n"
        pairs.append(("iopub", stream("stderr", text, now, parent=header, session=session, new_id=new_id)))
        if not replied and (
            reply := error(channel, header, ename, reason, now, session=session, new_id=new_id)
        ):
            pairs.append((channel, reply))
    pairs.append(("iopub", status("idle", now, parent=header, session=session, new_id=new_id)))
    return pairs


def session_of(message: bytes) -> str:
    """The session of a v1 message's sender, "" if it does not say."""
    try:
        header = _load_header(v1.unpack(message).parts[0])
    except v1.MessageError:
        return ""
    session = header.get("session")
    return session if isinstance(session, str) else ""


def _message_type(header: bytes) -> str | None:
    kind = _load_header(header).get("msg_type")
    return kind if isinstance(kind, str) else None


def _load_header(header: bytes) -> dict[str, Any]:
    """The header's members, none if it is not a JSON object."""
    try:
        value = strict_json.parse(header)
    except strict_json.NotJsonError:
        return {}
    return value if isinstance(value, dict) else {}


def _message(
    channel: str,
    kind: str,
    content: dict[str, object],
    parent: bytes,
    now: datetime.datetime,
    session: str,
    new_id: Callable[[], str],
) -> bytes:
    header = {
        "msg_id": new_id(),
        "msg_type": kind,
        "username": "",
        "session": session,
        # The protocol's dates are ISO 8601 in UTC.
        "date": now.isoformat().replace("+00:00", "Z"),
        "version": PROTOCOL_VERSION,
    }
    parts = [strict_json.dump(header), parent, _EMPTY, strict_json.dump(content)]
    return v1.join(channel, parts)
