"""Routes, sessions, replay and acknowledgement over a real link (docs/protocol.md 1.3)."""

from __future__ import annotations

import json
from collections.abc import Callable

from gateway.wire.framing import Kind
from tests.integration.relay.conftest import NewRelay
from tests.integration.relay.harness import Relay, execute


def opened(relay: Relay, route: int) -> dict[str, int]:
    value: dict[str, int] = relay.until(
        lambda: [json.loads(f.payload) for f in relay.frames if f.kind is Kind.OPENED and f.route == route]
    )[0]
    return value


def test_a_reply_goes_to_its_session_and_what_is_published_to_all(fake: Callable[..., Relay]) -> None:
    relay = fake()
    relay.open(2, "two")
    opened(relay, 2)
    ids = {}
    for route in (1, 2, 1, 2):
        msg_id, data = execute("nothing")
        ids[msg_id] = route
        relay.message(data, route)
    for msg_id, route in ids.items():
        relay.until(lambda msg_id=msg_id: relay.is_idle(msg_id))
        assert [m.route for m in relay.replies(msg_id)] == [route]
        assert {m.route for m in relay.published(msg_id)} == {0}


def test_a_reply_finds_its_session_where_a_kernel_loses_identities(fake: Callable[..., Relay]) -> None:
    relay = fake("anonymous")
    relay.open(2, "two")
    msg_id, data = execute("nothing")
    relay.message(data, 2)
    relay.until(lambda: relay.is_idle(msg_id))
    assert [m.route for m in relay.replies(msg_id)] == [2]


def test_the_outputs_of_a_session_survive_its_route(fake: Callable[..., Relay]) -> None:
    relay = fake()
    relay.acknowledging.clear()
    msg_id, data = execute("sleep 300")
    relay.message(data)
    relay.until(lambda: relay.published(msg_id))  # it is busy
    relay.close_route(1)
    relay.open(2, "watcher")
    relay.until(lambda: relay.is_idle(msg_id))
    before = len(relay.heard)
    relay.open(3, "one", acknowledge=False)
    assert opened(relay, 3) == {"sequence": 0, "lost": 0}
    relay.until(lambda: any(m.route == 3 and m.kind == "execute_reply" for m in relay.heard))
    again = [m for m in relay.heard[before:] if m.route == 3]
    assert [m.sequence for m in again] == sorted(m.sequence for m in again)
    assert {"execute_reply", "status"} <= {m.kind for m in again if m.parent_id == msg_id}
    first = {m.sequence for m in relay.heard[:before]}
    assert {m.sequence for m in again} <= first, "what is sent again keeps its number"


def test_what_was_acknowledged_is_not_sent_again(fake: Callable[..., Relay]) -> None:
    relay = fake()
    relay.run("flood 100")
    last = relay.heard[-1].sequence
    relay.acknowledge(1, last)
    relay.close_route(1)
    relay.open(2, "one")
    assert opened(relay, 2) == {"sequence": last, "lost": 0}
    relay.run("nothing", route=2)
    assert not [m for m in relay.heard if m.route == 2 and m.sequence <= last]


def test_a_session_that_was_away_for_too_much_is_told_what_it_has_lost(new_relay: NewRelay) -> None:
    relay = new_relay(window=1 << 20)
    relay.answer(relay.start_fake())
    msg_id, data = execute("bulk 4")
    relay.message(data)
    relay.until(lambda: relay.published(msg_id))
    relay.close_route(1)
    relay.until(lambda: relay.is_idle(msg_id))
    relay.open(2, "one", acknowledge=False)
    lost = opened(relay, 2)["lost"]
    notice = relay.until(lambda: [m for m in relay.heard if "were dropped" in m.content.get("text", "")])[0]
    assert (notice.route, notice.parent_id, notice.content["name"]) == (2, msg_id, "stderr")
    assert str(lost) in notice.content["text"]
    again = [m for m in relay.heard if m.route == 2 and m.parent_id == msg_id and m is not notice]
    # Busy, 4096 streams, reply and idle were for it; some of the first may have been acknowledged.
    acknowledged = 4099 - lost - len(again)
    assert 0 <= acknowledged < 1500
    assert lost > 2000
    assert again[-1].content == {"execution_state": "idle"}


def test_numbers_rise_by_one_on_the_wire_also_when_nobody_listens(fake: Callable[..., Relay]) -> None:
    relay = fake()
    relay.open(2, "two")
    relay.message(execute("flood 50")[1], 2)
    relay.close_route(2)
    relay.close_route(1)
    relay.open(3, "three")
    relay.run("nothing", route=3)
    fresh: list[int] = []
    for message in relay.heard:
        if not fresh or message.sequence > fresh[-1]:
            fresh.append(message.sequence)
    assert fresh == list(range(1, len(fresh) + 1))


def test_requests_that_are_sent_again_are_not_run_again(fake: Callable[..., Relay]) -> None:
    relay = fake()
    msg_id, data = execute("nothing")
    number = relay.message(data)
    relay.until(lambda: relay.is_idle(msg_id))
    relay._sequence = number - 1
    assert relay.message(data) == number
    relay.run("nothing")
    assert len(relay.replies(msg_id)) == 1
