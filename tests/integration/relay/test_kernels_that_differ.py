"""Kernels that do things their own way, and kernels that mean harm."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable

import pytest

from gateway.wire.framing import Kind
from gateway.wire.window import COST
from tests.integration.relay.conftest import NewRelay
from tests.integration.relay.harness import Relay, execute, request

Fake = Callable[..., Relay]


# -- honest differences -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "members"),
    [
        ((), {}),
        (("welcome",), {}),
        (("late",), {}),
        (("colon",), {}),
        (("colon", "welcome"), {}),
        ((), {"sign": True}),
        ((), {"transport": "tcp"}),
        (("late",), {"transport": "tcp", "sign": True}),
        (("anonymous",), {}),
    ],
    ids=lambda value: " ".join(value) or "plain",
)
def test_a_kernel_is_ready_only_when_its_output_is_heard(
    fake: Fake, options: tuple[str, ...], members: dict[str, object]
) -> None:
    relay = fake(*options, **members)
    text, status = relay.run("flood 3")
    assert (text, status) == ("0\n1\n2\n", "ok")
    assert "wrong signature" not in relay.logs()


def test_the_questions_of_the_relay_are_not_the_clients_business(fake: Fake) -> None:
    relay = fake("late")
    relay.run("nothing")
    own = [m for m in relay.heard if not m.parent or m.parent_id.startswith("relay-")]
    assert own == []
    assert relay.states()[0] == 1, "busy with the relay's own question"


def test_a_kernel_without_a_welcome_is_asked_only_as_often_as_it_answers(fake: Fake) -> None:
    relay = fake("late")
    # Each of the kernel's messages has its number; the first requests were answered without publishing.
    relay.run("nothing")
    first = min(int(m.header["msg_id"].removeprefix("fake-")) for m in relay.heard)
    assert first < 12


def test_input_reaches_the_client_also_of_other_kernels(fake: Fake) -> None:
    relay = fake()
    msg_id, data = execute("ask")
    relay.message(data)
    relay.until(lambda: [m for m in relay.heard if m.kind == "input_request"])
    relay.message(request("input_reply", {"value": "text"}, "stdin")[1])
    relay.until(lambda: relay.is_idle(msg_id))
    assert [m.content["text"] for m in relay.published(msg_id) if m.kind == "stream"] == ["text"]


def test_a_kernel_that_ignores_every_request_to_end_is_killed_within_its_grace(fake: Fake) -> None:
    relay = fake("deaf")
    assert relay.answer(relay.control("shutdown", grace=0.4))["ok"]
    assert list(relay.all_json(Kind.DIED)) == []


def test_a_kernel_that_ignores_the_request_to_end_but_not_sigterm_is_given_half_of_its_grace(
    fake: Fake,
) -> None:
    relay = fake("polite")
    began = time.monotonic()
    assert relay.answer(relay.control("shutdown", grace=3))["ok"]
    assert time.monotonic() - began >= 1.5
    assert relay.logs() == "ended by SIGTERM\n"


def test_a_kernel_that_is_stopped_for_a_slow_client_ends_by_itself_at_a_shutdown(new_relay: NewRelay) -> None:
    relay = new_relay(acknowledge=False, window=1 << 20)
    assert relay.answer(relay.start_fake())["ok"]
    relay.message(execute("bulk_and_rest 4")[1])
    relay.until_stopped()
    assert relay.answer(relay.control("shutdown", grace=20))["ok"]
    assert relay.logs() == "ended as asked\n"


def test_what_a_kernel_had_sent_when_it_was_stopped_and_died_comes_before_its_end_is_told(
    new_relay: NewRelay,
) -> None:
    # How much is with the relay when the kernel stops depends on who had the processor: at times nothing is.
    assert any(last_words(new_relay) > 1 for _ in range(10)), "more than the reason for its end"


def last_words(new_relay: NewRelay) -> int:
    """How many texts of a flood, and its end's reason, come after the kernel was stopped; none is missing."""
    relay = new_relay(acknowledge=False, window=64 << 10)
    assert relay.answer(relay.start_fake())["ok"]
    # Far more than the window, and more than is taken in one turn, is with the relay before it looks.
    msg_id, data = execute("flood 20000")
    relay.message(data)
    relay.until_stopped()
    before = len(relay.heard)
    os.kill(relay.kernel(), signal.SIGKILL)
    relay.until(lambda: list(relay.all_json(Kind.DIED)))
    words = [m for m in relay.heard[before:] if m.kind == "stream"]
    texts = [m.content["text"] for m in relay.published(msg_id) if m.kind == "stream"]
    assert texts[:-1] == [f"{number}\n" for number in range(len(texts) - 1)]
    return len(words)


def test_what_the_process_prints_becomes_log_lines_of_a_bounded_rate(fake: Fake) -> None:
    relay = fake()
    relay.run("print_lines 3")
    relay.until(lambda: relay.logs() == "line 0\nline 1\nline 2\n")
    relay.run("print_lines 200000")
    relay.run("nothing")
    assert len(relay.logs()) < 150_000


# -- hostile kernels --------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["malformed", "malformed 200", "strange"])
def test_what_is_no_message_is_dropped_and_the_rest_goes_on(fake: Fake, command: str) -> None:
    relay = fake()
    msg_id, data = execute(command)
    number = relay.message(data)
    relay.until(lambda: number in relay.done())
    # A forged reply may have come first.
    relay.until(lambda: [m for m in relay.replies(msg_id) if m.content.get("status") == "ok"])
    text, _ = relay.run("flood 100")
    assert text == "".join(f"{n}\n" for n in range(100))
    if command != "strange":
        assert "is no message" in relay.logs()
        assert len(relay.logs()) < 100_000
    assert relay.process.poll() is None
    assert relay.log_path.read_text() == ""


def test_a_message_that_is_too_large_is_dropped_and_told(new_relay: NewRelay) -> None:
    relay = new_relay(max_message=1 << 20)
    assert relay.answer(relay.start_fake())["ok"]
    text, status = relay.run(f"big {3 << 20}")
    assert status == "ok"
    assert text == "The kernel sent a message of 3.0 MiB. It was dropped: a message may have 1 MiB.\n"
    text, _ = relay.run(f"big {(1 << 20) - 1000}")
    assert len(text) == (1 << 20) - 1000


def test_a_reply_that_is_too_large_becomes_an_error(new_relay: NewRelay) -> None:
    relay = new_relay(max_message=1 << 20)
    assert relay.answer(relay.start_fake())["ok"]
    msg_id, data = execute(f"big_reply {2 << 20}")
    number = relay.message(data)
    relay.until(lambda: number in relay.done())
    assert relay.replies(msg_id)[0].content["ename"] == "MessageTooLarge"
    relay.until(lambda: relay.is_idle(msg_id))
    # The kernel's own idle may come on iopub before its reply is read on shell.
    told = sorted((m.content for m in relay.published(msg_id)), key=str)
    sentence = "The kernel sent a message of 2.0 MiB. It was dropped: a message may have 1 MiB.\n"
    assert told == [
        {"execution_state": "busy"},
        {"execution_state": "idle"},
        {"name": "stderr", "text": sentence},
    ]


def test_a_client_that_sends_more_than_the_kernel_takes_is_not_acknowledged(fake: Fake) -> None:
    relay = fake("mute")
    relay.message(execute("nothing")[1])
    sent = [relay.message(execute("#" * 100_000)[1]) for _ in range(400)]

    def acknowledged() -> int:
        return max(
            (int.from_bytes(f.payload, "little") for f in relay.frames if f.kind is Kind.ACK), default=0
        )

    relay.until(lambda: acknowledged() > 10)
    relay.ping()
    assert acknowledged() < sent[-1], "requests that the kernel has not taken were acknowledged"
    assert relay.answer(relay.control("restart"))["ok"]
    relay.until(lambda: acknowledged() == sent[-1])


# -- floods -----------------------------------------------------------------------------------------


def test_a_flood_arrives_whole_and_in_order(fake: Fake) -> None:
    relay = fake()
    count = 20_000
    text, _ = relay.run(f"flood {count}", seconds=60)
    assert text == "".join(f"{n}\n" for n in range(count))
    # What the process prints comes by a way of its own.
    relay.until(lambda: re.search(rf"sent {count} in", relay.logs()))


def test_the_last_words_of_a_kernel_come_before_its_end_is_told(fake: Fake) -> None:
    relay = fake()
    count = 20_000
    text, status = relay.run(f"flood_and_die {count}", seconds=60)
    assert status == "error"
    words, _, _ = text.partition("The kernel ended with exit code 1.")
    assert words == "".join(f"{number}\n" for number in range(count))


def test_a_reader_that_stalls_loses_nothing_and_costs_the_relay_no_more_than_the_window(
    new_relay: NewRelay,
) -> None:
    window = 8 << 20
    relay = new_relay(acknowledge=False, window=window)
    assert relay.answer(relay.start_fake())["ok"]
    before = relay.memory()
    msg_id, data = execute("bulk 80")
    relay.message(data)
    relay.until(lambda: relay.published(msg_id))
    # Read everything and acknowledge nothing, then stall altogether.
    relay.until_stopped()
    held = sum(len(frame.payload) + COST for frame in relay.frames if frame.kind is Kind.MESSAGE)
    assert window // 2 < held < 2 * window
    assert not relay.is_idle(msg_id)
    grown = relay.memory() - before
    relay.acknowledge(1, relay.heard[-1].sequence)
    relay.acknowledging.add(1)
    relay.until(lambda: relay.is_idle(msg_id), seconds=120)
    deadline = time.monotonic() + 60
    while len(relay.published(msg_id)) < 80 * 1024 + 2:
        assert relay.pump(1.0)
        assert time.monotonic() < deadline
    # The window, what the kernel said until it was stopped (on a busy machine that comes late), and the
    # allocator's share. All of the flood is 80 MiB, and would be held twice.
    assert grown < 8 * window


def test_a_reader_that_does_not_read_stops_the_kernel(new_relay: NewRelay) -> None:
    relay = new_relay()
    assert relay.answer(relay.start_fake())["ok"]
    before = relay.memory()
    msg_id, data = execute("bulk 80")
    relay.message(data)
    # Not a byte is read until then.
    deadline = time.monotonic() + 60
    while not relay.is_kernel_stopped():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    # What waits unsent (4 MiB), what the kernel said until it was stopped (on a busy machine that comes
    # late), and the allocator's share: a fraction of the flood, all of which would be held otherwise.
    assert relay.memory() - before < 24 << 20
    relay.until(lambda: relay.is_idle(msg_id), seconds=120)
    deadline = time.monotonic() + 60
    while len(relay.published(msg_id)) < 80 * 1024 + 2:
        assert relay.pump(1.0)
        assert time.monotonic() < deadline


@pytest.mark.parametrize("size", [10, 100_000])
def test_an_endless_flood_that_has_been_stopped_can_be_interrupted(new_relay: NewRelay, size: int) -> None:
    relay = new_relay(acknowledge=False, window=1 << 20)
    assert relay.answer(relay.start_fake())["ok"]
    msg_id, data = execute(f"endless {size}")
    relay.message(data)
    relay.until_stopped()
    assert not relay.replies(msg_id)
    assert relay.answer(relay.control("interrupt"))["ok"]
    relay.until(lambda: "interrupted" in relay.logs(), seconds=10)
    relay.acknowledge(1, relay.heard[-1].sequence)
    relay.acknowledging.add(1)
    relay.until(lambda: relay.is_idle(msg_id))


def test_commands_and_pings_are_served_while_the_kernel_is_stopped(new_relay: NewRelay) -> None:
    relay = new_relay(acknowledge=False, window=1 << 20)
    assert relay.answer(relay.start_fake())["ok"]
    relay.message(execute("endless 1000")[1])
    relay.until_stopped()
    relay.ping()
    assert relay.answer(relay.control("restart"))["ok"], "a stalled client kept the kernel from restarting"
