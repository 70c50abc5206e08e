"""The legacy codec, against the readers and writers of the clients themselves and against hostile peers."""

from __future__ import annotations

import base64
import json
import struct
import tracemalloc
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jupyter_client.session import Session
from jupyter_kernel_client.utils import deserialize_msg_from_ws_default, serialize_msg_to_ws_default
from jupyter_server.services.kernels.connection.base import (
    deserialize_binary_message,
    serialize_binary_message,
)

from gateway.wire import legacy, v1
from gateway.wire.legacy import BuffersInTextError, ShapeError, TooLargeError
from gateway.wire.strict_json import NotJsonError
from gateway.wire.v1 import (
    MessageError,
    OffsetError,
    PartCountError,
    TruncatedMessageError,
    UnknownChannelError,
)

MEMBERS = ("header", "parent_header", "metadata", "content")

HEADER = {"msg_id": "a-1", "msg_type": "stream", "session": "s", "date": "2026-11-23T18:00:00.000000Z"}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
objects = st.dictionaries(st.text(), json_values, max_size=3)
headers = st.builds(
    lambda extra, msg_id, msg_type: extra | {"msg_id": msg_id, "msg_type": msg_type},
    objects,
    st.text(),
    st.text(),
)
buffers = st.lists(st.binary(max_size=20), max_size=4)


@st.composite
def messages(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "header": draw(headers),
        "parent_header": draw(objects),
        "metadata": draw(objects),
        "content": draw(objects),
        "buffers": draw(buffers),
        "channel": draw(st.sampled_from(v1.CHANNELS)),
    }


def as_v1(message: dict[str, Any], ensure_ascii: bool = True) -> bytes:
    parts = [
        json.dumps(message[member], ensure_ascii=ensure_ascii).encode(errors="surrogatepass")
        for member in MEMBERS
    ]
    return v1.join(message["channel"], parts + message["buffers"])


def read_v1(data: bytes) -> dict[str, Any]:
    channel, parts = v1.unpack(data)
    read = dict(zip(MEMBERS, map(json.loads, parts[:4]), strict=True))
    return read | {"buffers": parts[4:], "channel": channel}


def message(**members: Any) -> dict[str, Any]:
    plain = {"header": HEADER, "parent_header": {}, "metadata": {}, "content": {}, "buffers": []}
    return plain | {"channel": "iopub"} | members


def binary(text: bytes | None = None, sent: Sequence[bytes] = ()) -> bytearray:
    """A legacy binary frame as this test writes it, to be spoiled."""
    parts = [json.dumps({"header": HEADER, "channel": "shell"}).encode() if text is None else text, *sent]
    offsets = [4 * (len(parts) + 1)]
    for part in parts[:-1]:
        offsets.append(offsets[-1] + len(part))
    return bytearray(struct.pack(f">{len(parts) + 1}I", len(parts), *offsets) + b"".join(parts))


def with_word(index: int, value: int) -> bytes:
    """A frame with two buffers and one word of its table replaced: 0 is the count, then come the offsets."""
    frame = binary(sent=[b"one", b"two"])
    struct.pack_into(">I", frame, 4 * index, value)
    return bytes(frame)


# -- kernel to client ---------------------------------------------------------------------------------


@given(messages(), st.booleans())
def test_a_client_reads_what_the_kernel_wrote(sent: dict[str, Any], ensure_ascii: bool) -> None:
    payload, is_binary = legacy.to_legacy(as_v1(sent, ensure_ascii))
    assert is_binary == bool(sent["buffers"])
    read = json.loads(payload) if not is_binary else deserialize_binary_message(payload)
    assert {member: read[member] for member in sent} == sent
    assert read["msg_id"] == sent["header"]["msg_id"]
    assert read["msg_type"] == sent["header"]["msg_type"]


@given(messages().filter(lambda m: m["buffers"]))
def test_jupyter_kernel_client_reads_our_binary_frames(sent: dict[str, Any]) -> None:
    read = deserialize_msg_from_ws_default(legacy.to_legacy(as_v1(sent)).payload)
    assert {member: read[member] for member in sent} == sent


@given(messages())
def test_the_text_form_has_everything_but_the_buffers(sent: dict[str, Any]) -> None:
    read = json.loads(legacy.to_legacy_text(as_v1(sent)).decode())
    assert {member: read[member] for member in sent} == sent | {"buffers": []}


parts_of_any_bytes = st.lists(
    st.binary(max_size=30)
    | st.sampled_from([b"{}", b"", b"{", b"}", b"\xff", b"\xed\xa0\x80", b'{"a":"\xe2"}']),
    min_size=4,
    max_size=7,
)


@given(parts_of_any_bytes, st.sampled_from(v1.CHANNELS))
def test_whatever_a_kernel_sends_a_text_frame_is_utf8(parts: list[bytes], channel: str) -> None:
    data = v1.join(channel, [b'{"a": 1%b}' % parts[0], *parts[1:]])
    legacy.to_legacy_text(data).decode()
    payload, is_binary = legacy.to_legacy(data)
    if not is_binary:
        payload.decode()


@given(st.binary(max_size=200) | st.builds(v1.join, st.just("shell"), parts_of_any_bytes))
def test_whatever_a_kernel_sends_is_a_frame_or_a_named_error(data: bytes) -> None:
    for write in (legacy.to_legacy, legacy.to_legacy_text):
        try:
            write(data)
        except MessageError:
            continue


@pytest.mark.parametrize("header", [b"", b"{", b"}", b"[]", b"null", b'"{}"', b" ", b"{}x"])
def test_a_header_that_is_no_object_is_a_named_error(header: bytes) -> None:
    with pytest.raises(ShapeError):
        legacy.to_legacy(v1.join("iopub", [header, b"{}", b"{}", b"{}"]))


@pytest.mark.parametrize("header", [b"{}", b" { } ", b' {"msg_id": "a"}\n'])
def test_space_around_and_within_a_header_is_no_fault(header: bytes) -> None:
    payload, _ = legacy.to_legacy(v1.join("iopub", [header, b"{}", b"{}", b"{}"]))
    assert json.loads(payload)["header"] == json.loads(header)


def test_a_header_cannot_pass_for_the_other_members() -> None:
    forged = HEADER | {"channel": "control", "content": {"forged": True}, "buffers": ["x"], "header": 1}
    read = json.loads(legacy.to_legacy(as_v1(message(header=forged))).payload)
    assert (read["channel"], read["content"], read["buffers"]) == ("iopub", {}, [])
    assert read["header"] == forged


def test_bytes_that_are_not_utf8_are_replaced() -> None:
    data = v1.join("iopub", [b"{}", b"{}", b"{}", b'{"text":"a\xffb"}'])
    assert json.loads(legacy.to_legacy(data).payload)["content"] == {"text": "a\ufffdb"}


@pytest.mark.parametrize("cut", range(6))
def test_what_is_looked_at_in_pieces_is_as_it_is_in_one(cut: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(legacy, "_PIECE", 7 + cut)
    valid = '{"text": "\u00e9 \u20ac \U0001f600 plain"}'.encode() * 20
    for content in (valid, valid.replace(b" plain", b"\xff\xe2\x82"), valid[:-5] + b"\xf0\x9f"):
        text = legacy.to_legacy_text(v1.join("iopub", [b"{}", b"{}", b"{}", content]))
        assert content.decode(errors="replace").encode() in text


def test_a_header_that_is_too_long_to_be_one_is_refused() -> None:
    def written(size: int) -> bytes:
        header = b'{"a":"' + b"x" * (size - 8) + b'"}'
        return legacy.to_legacy(v1.join("iopub", [header, b"{}", b"{}", b"{}"])).payload

    assert len(written(legacy.MAX_HEADER)) > 2 * legacy.MAX_HEADER - 10
    with pytest.raises(TooLargeError):
        written(legacy.MAX_HEADER + 1)


def test_a_text_is_repaired_as_long_as_it_does_not_grow_beyond_its_bound() -> None:
    def written(faults: int) -> bytes:
        return legacy.to_legacy_text(v1.join("iopub", [b"{}", b"{}", b"{}", b"\xff" * faults]))

    assert written(legacy.MAX_GROWTH // 2).count("\ufffd".encode()) == legacy.MAX_GROWTH // 2
    with pytest.raises(TooLargeError):
        written(legacy.MAX_GROWTH // 2 + 1)


@pytest.mark.parametrize(
    ("content", "times"),
    [
        pytest.param(b"\xff" * (16 << 20), 3, id="nothing but faults"),
        pytest.param("\U0001f600".encode() + b"x" * (16 << 20), 3, id="one character beyond the 16-bit ones"),
        pytest.param(b"\xff" + b"x" * (16 << 20), 5, id="one fault"),
    ],
)
def test_what_a_large_text_costs_is_a_small_multiple_of_it(content: bytes, times: int) -> None:
    data = v1.join("iopub", [b"{}", b"{}", b"{}", content])
    tracemalloc.start()
    try:
        legacy.to_legacy(data)
    except TooLargeError:
        pass
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    # The part, the text, and what it becomes, in pieces and joined.
    assert peak < times * len(data)


def test_a_frame_that_four_byte_offsets_cannot_describe_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = as_v1(message(buffers=[b"x" * 100]))
    size = len(legacy.to_legacy(data).payload)
    monkeypatch.setattr(legacy, "MAX_BINARY", size)
    assert legacy.to_legacy(data).binary
    monkeypatch.setattr(legacy, "MAX_BINARY", size - 1)
    with pytest.raises(TooLargeError):
        legacy.to_legacy(data)


# -- the text form, for clients that a binary frame ends ----------------------------------------------


def widget_update(**content: Any) -> dict[str, Any]:
    data = {"method": "update", "state": {"width": "9"}, "buffer_paths": [["value"]]}
    return message(content={"comm_id": "c", "data": data} | content, buffers=[b"\x89PNG"])


def test_a_widget_is_not_told_of_buffers_that_it_does_not_get() -> None:
    read = json.loads(legacy.to_legacy_text(as_v1(widget_update())))
    assert read["content"]["data"] == {"method": "update", "state": {"width": "9"}, "buffer_paths": []}
    assert read["buffers"] == []


def test_a_message_that_has_no_buffers_keeps_its_content_as_it_is() -> None:
    sent = widget_update() | {"buffers": []}
    read = json.loads(legacy.to_legacy_text(as_v1(sent)))
    assert read["content"] == sent["content"]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b'{"data": {"buffer_paths": [["value"]]}', id="cut"),
        pytest.param(b'{"data": {"buffer_paths": [NaN]}}', id="not strict JSON"),
        pytest.param(b'{"data": {"buffer_paths": [], "x": 1e999}}', id="a number beyond Python's"),
        pytest.param(b'{"data": {"buffer_paths": [\xff]}}', id="not UTF-8"),
        pytest.param(b'{"data": {"buffer_paths": ' + b"[" * 100_000, id="nested too deep"),
        pytest.param(b'{"data": ["buffer_paths"]}', id="a list for data"),
        pytest.param(b'["buffer_paths"]', id="a list"),
        pytest.param(b'{"buffer_paths": 1}', id="elsewhere"),
    ],
)
def test_content_that_is_not_a_widgets_is_left_alone(content: bytes) -> None:
    text = legacy.to_legacy_text(v1.join("iopub", [b"{}", b"{}", b"{}", content, b"buffer"]))
    assert content.decode(errors="replace").encode() in text


def test_content_is_parsed_up_to_its_bound_and_not_beyond() -> None:
    def paths(size: int) -> list[object]:
        start, end = b'{"data":{"buffer_paths":[1],"x":"', b'"}}'
        content = start + b"x" * (size - len(start) - len(end)) + end
        text = legacy.to_legacy_text(v1.join("iopub", [b"{}", b"{}", b"{}", content, b"buffer"]))
        found: list[object] = json.loads(text)["content"]["data"]["buffer_paths"]
        return found

    assert paths(legacy.MAX_REWRITTEN_CONTENT) == []
    assert paths(legacy.MAX_REWRITTEN_CONTENT + 1) == [1]


def test_nbclient_keeps_running_a_cell_that_shows_a_widget() -> None:
    # What nbclient does with each buffer (client.py, _get_buffer_data) needs bytes, which JSON has not.
    read = json.loads(legacy.to_legacy_text(as_v1(widget_update())))
    assert [base64.b64encode(buffer) for buffer in read["buffers"]] == []


# -- client to kernel ---------------------------------------------------------------------------------


@given(messages())
def test_a_kernel_reads_what_a_client_wrote(sent: dict[str, Any]) -> None:
    text = {member: value for member, value in sent.items() if member != "buffers"}
    frame: str | bytes = json.dumps(sent) if not sent["buffers"] else serialize_binary_message(sent)
    assert read_v1(legacy.from_legacy(frame)) == sent
    assert read_v1(legacy.from_legacy(json.dumps(text))) == sent | {"buffers": []}


def test_jupyter_kernel_client_is_understood() -> None:
    sent = Session().msg("comm_msg", {"comm_id": "c"}) | {"channel": "shell", "buffers": [b"\0\xff", b""]}
    read = read_v1(legacy.from_legacy(serialize_msg_to_ws_default(sent)))
    assert (read["content"], read["buffers"]) == ({"comm_id": "c"}, [b"\0\xff", b""])


@given(messages())
def test_a_v1_message_is_taken_as_it_is(sent: dict[str, Any]) -> None:
    data = as_v1(sent)
    assert legacy.is_v1(data)
    assert legacy.from_legacy(data) is data


@given(messages(), st.integers(0, 600))
def test_a_legacy_frame_never_passes_for_v1_nor_v1_for_legacy(sent: dict[str, Any], count: int) -> None:
    parts = [json.dumps(sent["header"]).encode(), b"{}", b"{}", b"{}", *[b"\0"] * count]
    assert legacy.is_v1(v1.join("shell", parts))
    assert not legacy.is_v1(bytes(binary(sent=parts)))


def test_a_binary_frame_that_a_proxy_sent_as_text_is_understood() -> None:
    # jupyter_server's gateway client passes its browser's binary frames on as text; those whose offsets
    # happen to be UTF-8 arrive as text here too.
    understood = 0
    for padding in range(256):
        sent = message(channel="shell", content={"x": "x" * padding}, buffers=[b"plain"])
        frame = serialize_binary_message(sent)
        if frame.decode(errors="replace").encode() == frame:
            assert read_v1(legacy.from_legacy(frame.decode())) == sent
            understood += 1
    assert understood > 100


def test_a_v1_frame_that_a_proxy_sent_as_text_is_understood() -> None:
    sent = message(channel="shell", header={"msg_id": "i", "msg_type": "t"})
    assert read_v1(legacy.from_legacy(as_v1(sent).decode())) == sent


@pytest.mark.parametrize(
    ("msg_type", "channel"),
    [
        ("execute_request", "shell"),
        ("comm_msg", "shell"),
        ("input_reply", "stdin"),
        ("interrupt_request", "control"),
        ("shutdown_request", "control"),
        ("debug_request", "control"),
        ("create_subshell_request", "control"),
    ],
)
def test_a_message_without_a_channel_goes_where_its_type_belongs(msg_type: str, channel: str) -> None:
    for members in ({}, {"channel": None}):
        text = json.dumps({"header": HEADER | {"msg_type": msg_type}} | members)
        assert v1.check(legacy.from_legacy(text)) == channel


def test_what_may_be_left_out_becomes_an_empty_object() -> None:
    for absent in ({}, dict.fromkeys(("parent_header", "metadata", "content", "buffers"))):
        read = read_v1(legacy.from_legacy(json.dumps({"header": HEADER, "channel": "shell"} | absent)))
        assert read == message(channel="shell")


def test_a_lone_surrogate_passes() -> None:
    sent = message(channel="shell", content={"code": "\ud83d"})
    assert read_v1(legacy.from_legacy(json.dumps(sent))) == sent


@pytest.mark.parametrize(
    ("frame", "error"),
    [
        pytest.param("", NotJsonError, id="nothing"),
        pytest.param("{", NotJsonError, id="cut"),
        pytest.param('{"header": {}} {}', NotJsonError, id="something behind the message"),
        pytest.param("\ufeff{}", NotJsonError, id="a byte order mark"),
        pytest.param('{"header": NaN}', NotJsonError, id="NaN"),
        pytest.param("[" * 100_000, NotJsonError, id="nested too deep to read"),
        pytest.param("1" * 5000, NotJsonError, id="a number of too many digits"),
        pytest.param(
            json.dumps({"header": HEADER})[:-1] + ', "content": {"x": 1e999}}', NotJsonError, id="infinite"
        ),
        pytest.param("[]", ShapeError, id="a list"),
        pytest.param("null", ShapeError, id="null"),
        pytest.param("{}", ShapeError, id="no header"),
        pytest.param('{"header": []}', ShapeError, id="a list for a header"),
        pytest.param('{"header": {"msg_type": "t"}}', ShapeError, id="no msg_id"),
        pytest.param('{"header": {"msg_id": "i"}}', ShapeError, id="no msg_type"),
        pytest.param('{"header": {"msg_id": 1, "msg_type": "t"}}', ShapeError, id="a number for msg_id"),
        pytest.param(json.dumps({"header": HEADER, "channel": 1}), ShapeError, id="a number for channel"),
        pytest.param(json.dumps({"header": HEADER, "channel": "hb"}), UnknownChannelError, id="heartbeat"),
        pytest.param(json.dumps({"header": HEADER, "channel": ""}), UnknownChannelError, id="no name"),
        pytest.param(json.dumps({"header": HEADER, "content": []}), ShapeError, id="a list for content"),
        pytest.param(json.dumps({"header": HEADER, "metadata": "x"}), ShapeError, id="text for metadata"),
        pytest.param(
            json.dumps({"header": HEADER, "parent_header": 0}), ShapeError, id="a number for parent"
        ),
        pytest.param(json.dumps({"header": HEADER, "buffers": ["eA=="]}), BuffersInTextError, id="base64"),
        pytest.param(b"", TruncatedMessageError, id="no bytes"),
        pytest.param(b"\0\0\0", TruncatedMessageError, id="three bytes of the count"),
        pytest.param(b'{"header": {}}', PartCountError, id="text in a binary frame"),
        pytest.param(with_word(0, 0), PartCountError, id="a count of zero"),
        pytest.param(with_word(0, 2**32 - 1), PartCountError, id="the largest count"),
        pytest.param(with_word(0, v1.MAX_PARTS - 3), TruncatedMessageError, id="the largest count allowed"),
        pytest.param(with_word(0, v1.MAX_PARTS - 2), PartCountError, id="one part more than allowed"),
        pytest.param(with_word(1, 15), OffsetError, id="JSON that starts within the table"),
        pytest.param(with_word(1, 17), OffsetError, id="a byte between the table and the JSON"),
        pytest.param(with_word(2, 15), OffsetError, id="a part that ends before it starts"),
        pytest.param(with_word(3, 2**32 - 1), OffsetError, id="a part that ends outside"),
        pytest.param(bytes(binary(b"\xff")), NotJsonError, id="JSON that is not UTF-8"),
        pytest.param(bytes(binary(b"\xff\xfe{\0}\0")), NotJsonError, id="JSON in UTF-16"),
        pytest.param(bytes(8), PartCountError, id="v1 with a count of zero"),
        pytest.param(as_v1(message())[:-1], OffsetError, id="v1, cut"),
    ],
)
def test_each_fault_has_its_name(frame: str | bytes, error: type[MessageError]) -> None:
    with pytest.raises(MessageError) as caught:
        legacy.from_legacy(frame)
    assert type(caught.value) is error
    assert str(caught.value)


@pytest.mark.parametrize("sent", [[], [b"", b"x"]])
def test_parts_are_counted_on_both_sides_of_the_limit(sent: list[bytes]) -> None:
    frame = bytes(binary(sent=sent))
    limit = v1.JSON_PARTS + len(sent)
    assert read_v1(legacy.from_legacy(frame, max_parts=limit))["buffers"] == sent
    with pytest.raises(PartCountError):
        legacy.from_legacy(frame, max_parts=limit - 1)


@given(st.binary(max_size=200) | st.text(max_size=60) | st.text(alphabet=st.characters()).map("\0".__add__))
def test_whatever_a_client_sends_is_a_message_or_a_named_error(frame: str | bytes) -> None:
    try:
        data = legacy.from_legacy(frame)
    except MessageError:
        return
    v1.check(data)


@given(json_values, json_values, json_values)
def test_whatever_shape_a_client_sends_is_a_message_or_a_named_error(a: Any, b: Any, c: Any) -> None:
    for sent in (a, {"header": a, "content": b}, message(channel=a, content=b, buffers=c)):
        try:
            v1.check(legacy.from_legacy(json.dumps(sent)))
        except MessageError:
            continue


@given(st.data(), buffers)
def test_every_truncation_of_a_binary_frame_is_a_message_or_a_named_error(
    data: st.DataObject, sent: list[bytes]
) -> None:
    frame = bytes(binary(sent=sent))
    cut = frame[: data.draw(st.integers(0, len(frame) - 1))]
    try:
        read = read_v1(legacy.from_legacy(cut))
    except MessageError:
        return
    # The layout does not say where the last buffer ends, so only there can bytes be missing unseen.
    assert read["buffers"][:-1] == sent[:-1]
