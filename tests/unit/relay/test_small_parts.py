"""The relay's parts that hold no descriptor: requests, pace, brake, readiness."""

from __future__ import annotations

import json

from gateway.relay import brake, pace, requests
from gateway.relay.brake import Brake
from gateway.relay.outbound import _join_published
from gateway.relay.pace import Pace
from gateway.relay.readiness import INTERVAL, PATIENCE, Readiness
from gateway.relay.requests import Request, Requests
from gateway.wire import v1
from gateway.wire.window import GRACE_BYTES


def remembered(*ids: str) -> Requests:
    table = Requests()
    for number, msg_id in enumerate(ids, 1):
        table.add(msg_id, Request(number, 1, "shell", b"{}"), wants_reply=True)
    return table


# -- requests ---------------------------------------------------------------------------------------


def test_a_request_is_done_with_its_reply_and_its_idle_in_either_order() -> None:
    table = remembered("a", "b")
    table.replied("a")
    assert table.take_done() == []
    table.idle("a")
    assert table.take_done() == [1]
    table.idle("b")
    table.replied("b")
    assert table.take_done() == [2]
    assert len(table) == 0


def test_what_wants_no_reply_is_done_with_its_idle() -> None:
    table = Requests()
    table.add("comm", Request(1, 1, "shell", b"{}"), wants_reply=False)
    table.idle("comm")
    assert table.take_done() == [1]


def test_answers_to_nothing_are_ignored() -> None:
    table = remembered("a")
    table.replied("other")
    table.idle("other")
    assert len(table) == 1
    assert table.take_done() == []


def test_what_is_outstanding_can_be_taken_once_with_whether_it_was_replied_to() -> None:
    table = remembered("a", "b")
    table.replied("b")
    assert [(r.sequence, replied) for r, replied in table.take_all()] == [(1, False), (2, True)]
    assert table.take_all() == []
    assert table.take_done() == [1, 2]


def test_a_second_request_with_the_same_id_takes_the_first_ones_place() -> None:
    table = remembered("a", "a")
    assert table.take_done() == [1]
    table.replied("a")
    table.idle("a")
    assert table.take_done() == [2]


def test_remembered_headers_are_bounded() -> None:
    table = Requests()
    for number in range(1, 1001):
        table.add(str(number), Request(number, 1, "shell", b"x" * 65536), wants_reply=True)
    assert len(table) * 65536 <= requests.MAX_BYTES
    assert table.take_done()[0] == 1, "the oldest goes first"


# -- pace -------------------------------------------------------------------------------------------


def test_a_lone_message_never_waits() -> None:
    follower = Pace()
    for second in range(1000):
        assert follower.taken(1, float(second)) is None


def test_a_stream_is_let_gather_for_at_most_5_ms() -> None:
    follower = Pace()
    now = 1.0
    for _ in range(pace.HOT - 1):
        assert follower.taken(1, now) is None
        now += 0.0001
    for _ in range(20):
        until = follower.taken(pace.HOT // 2, now)
        assert until == now + pace.GATHER == now + 0.005
        now = until
    assert follower.taken(1, now + 1) is None, "a silence ends the stream"


def test_short_cells_one_after_the_other_are_no_stream() -> None:
    follower = Pace()
    for step in range(3000):
        assert follower.taken(1, step * 0.00035) is None


def test_a_batch_that_is_large_already_does_not_wait() -> None:
    follower = Pace()
    for step in range(100):
        assert follower.taken(pace.LARGE, step * 0.001) is None


# -- brake ------------------------------------------------------------------------------------------


def test_the_kernel_stops_beyond_the_window_and_goes_on_below_half_of_it() -> None:
    follower = Brake()
    assert not follower.update(1000, 1000, 0)
    assert follower.update(1001, 1000, 0)
    assert follower.on
    assert not follower.update(501, 1000, 0)
    assert follower.update(500, 1000, 0)
    assert not follower.on


def test_the_kernel_stops_when_the_transport_is_behind() -> None:
    follower = Brake()
    assert not follower.update(0, 1 << 30, brake.MAX_UNSENT)
    assert follower.update(0, 1 << 30, brake.MAX_UNSENT + 1)
    assert not follower.update(0, 1 << 30, brake.MAX_UNSENT // 2 + 1)
    assert follower.update(0, 1 << 30, brake.MAX_UNSENT // 2)


def test_an_interrupt_lets_go_for_some_bytes_and_not_without_end() -> None:
    follower = Brake()
    follower.update(2000, 1000, 0)
    follower.release(2000, 0)
    follower.update(2000 + GRACE_BYTES, 1000, 0)
    assert not follower.on
    follower.update(2001 + GRACE_BYTES, 1000, 0)
    assert follower.on


def test_what_an_interrupt_lets_go_ends_with_the_next_stop() -> None:
    follower = Brake()
    follower.release(0, 0)
    follower.update(1 + GRACE_BYTES, 1000, 0)
    follower.update(0, 1000, 0)
    follower.update(1001, 1000, 0)
    assert follower.on


# -- readiness --------------------------------------------------------------------------------------


class Asker:
    def __init__(self) -> None:
        self.asked = 0
        self.readiness = Readiness(0.0, self.ask)

    def ask(self) -> None:
        self.asked += 1


def test_a_welcome_is_enough() -> None:
    asker = Asker()
    assert not asker.readiness.ready
    asker.readiness.welcomed()
    assert asker.readiness.ready
    assert asker.readiness.due is None
    assert asker.asked == 0


def test_without_a_welcome_the_kernel_is_asked_until_an_idle_is_heard() -> None:
    asker = Asker()
    readiness = asker.readiness
    assert readiness.due == PATIENCE
    readiness.tick()
    assert (asker.asked, readiness.due) == (1, None), "one that boots slowly is not asked twice"
    readiness.replied(now=3.0)
    assert readiness.due == 3.0 + INTERVAL
    readiness.tick()
    readiness.idle()
    assert readiness.ready
    readiness.replied(now=4.0)
    assert (asker.asked, readiness.due) == (2, None)


# -- the v1 layout ----------------------------------------------------------------------------------


def test_published_messages_are_joined_as_the_codec_joins_them() -> None:
    header = json.dumps({"msg_type": "stream"}).encode()
    for parts in (
        [header, b"{}", b"{}", b'{"text": "x"}'],
        [b"", b"", b"", b""],
        [header, b"{}", b"{}", b"{}", b"buffer", b""],
    ):
        assert _join_published(parts) == v1.join("iopub", parts)
