"""A kernel whose relay is hostile, whose client is heavy, or which ends while it is being changed."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from gateway.backends.base import BackendError
from gateway.kernels.attachment import ClientBehindError
from gateway.kernels.clients import MAX_MISSED
from gateway.kernels.outstanding import MAX_HEADER, MAX_HEADERS, Outstanding, Request
from gateway.wire.framing import Kind
from gateway.wire.window import reach
from tests.support.backend_double import BackendDouble
from tests.support.patience import until
from tests.unit.kernels.scripted import (
    SETTINGS,
    asked,
    assert_ended,
    became,
    bring_up,
    kernel_over,
    open_route,
    request,
    running,
    seen,
)


@pytest.mark.parametrize("asked", [None, "restart", "shutdown"])
@pytest.mark.gen_test
async def test_a_death_that_is_told_while_a_kernel_is_deleted_brings_nothing_back(asked):
    async with running() as (kernel, backend, relay):
        deleting = asyncio.ensure_future(kernel.shutdown())
        control = await relay.hear_control("shutdown")
        relay.say_json(Kind.DIED, {"reason": "It ended.", "asked": asked})
        relay.answer(control)
        await deleting
        assert kernel.execution_state == "dead"
        assert len(backend.made) == 1


@pytest.mark.parametrize("asked", [None, "restart"])
@pytest.mark.gen_test
async def test_a_death_that_is_told_a_thousand_times_is_dealt_with_once(asked):
    async with running() as (kernel, _, relay):
        await asyncio.sleep(0.01)  # the tasks of link and kernel begin one after the other
        before = len(asyncio.all_tasks())
        for _ in range(1000):
            relay.say_json(Kind.DIED, {"reason": "It ended.", "asked": asked})
        control = await relay.hear_control("restart")
        assert len(asyncio.all_tasks()) <= before + 1
        relay.answer(control)
        await became(kernel, "idle")


@pytest.mark.parametrize("asked", [None, "restart"])
@pytest.mark.gen_test
async def test_a_death_that_crosses_a_restart_is_dealt_with_by_that(asked):
    async with running() as (kernel, _, relay):
        restarting = asyncio.ensure_future(kernel.restart())
        control = await relay.hear_control("restart")
        relay.say_json(Kind.DIED, {"reason": "It ended.", "asked": asked})
        relay.say(Kind.STATE, payload=b"\x03")
        relay.answer(control)
        await restarting
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(relay.hear_control("restart"), 0.1)
        assert kernel.execution_state == "idle"


@pytest.mark.gen_test
async def test_a_death_that_is_told_with_the_answer_to_a_restart_is_another():
    async with running() as (kernel, _, relay):
        restarting = asyncio.ensure_future(kernel.restart())
        control = await relay.hear_control("restart")
        relay.say(Kind.STATE, payload=b"\x03")
        relay.answer(control)
        relay.say_json(Kind.DIED, {"reason": "It ended at once."})
        await restarting
        relay.answer(await relay.hear_control("restart"))
        # What follows the first death is still at work when this one is told.
        relay.say_json(Kind.DIED, {"reason": "It ended again."})
        await became(kernel, "dead")
        assert kernel.reason == "It ended again. It has been restarted 1 times and is given up."


@pytest.mark.gen_test
async def test_deaths_and_restarts_without_end_cost_one_task():
    async with running() as (kernel, _, relay):
        await asyncio.sleep(0.01)  # the tasks of link and kernel begin one after the other
        before = len(asyncio.all_tasks())
        restarting = asyncio.ensure_future(kernel.restart())
        control = await relay.hear_control("restart")
        for _ in range(1000):
            relay.say_json(Kind.DIED, {"reason": "It ended."})
            relay.say(Kind.STATE, payload=b"\x03")
        await asyncio.sleep(0.1)
        assert len(asyncio.all_tasks()) <= before + 3
        relay.answer(control)
        await restarting


@pytest.mark.gen_test
async def test_a_death_that_is_told_with_the_answer_to_the_start_has_its_reason():
    backend = BackendDouble()
    async with kernel_over(backend, dataclasses.replace(SETTINGS, restart_limit=0)) as kernel:
        relay = await backend.next_relay()
        start = await relay.hear_control("start")
        relay.answer(start)
        relay.say_json(Kind.DIED, {"reason": "It ended at once."})
        await became(kernel, "dead")
        assert kernel.reason == "It ended at once. It has been restarted 0 times and is given up."


@pytest.mark.gen_test
async def test_a_kernel_that_was_given_up_stays_dead_when_its_sandbox_ends_too():
    async with running() as (kernel, backend, relay):
        relay.say_json(Kind.DIED, {"reason": "First."})
        relay.answer(await relay.hear_control("restart"))
        await became(kernel, "idle")
        relay.say_json(Kind.DIED, {"reason": "Second."})
        await became(kernel, "dead")
        backend.made[0].die("it was killed by SIGKILL")
        await until(lambda: backend.made[0].destroyed)
        assert (kernel.execution_state, len(backend.made)) == ("dead", 1)
        assert kernel.reason == "Second. It has been restarted 1 times and is given up."


@pytest.mark.gen_test
async def test_a_kernel_that_has_had_its_life_is_dead_and_its_clients_are_told():
    async with running() as (kernel, backend, relay):
        attachment = await asked(kernel, relay)
        backend.made[0].die("it reached its maximum life of 1 s", expired=True)
        told = await seen(attachment, 4)
        assert_ended(told[:3], "The kernel's sandbox ended: it reached its maximum life of 1 s.")
        assert told[3] == ("iopub", "status", {"execution_state": "dead"})
        assert kernel.reason == "The kernel's sandbox ended: it reached its maximum life of 1 s."
        assert len(backend.made) == 1
        restarting = asyncio.ensure_future(kernel.restart())
        await bring_up(backend)
        await restarting


@pytest.mark.gen_test
async def test_a_kernel_that_has_had_its_life_is_given_up_where_nobody_is_there_to_be_told():
    backend, over = BackendDouble(), []
    async with kernel_over(backend, on_over=over.append) as kernel:
        await bring_up(backend)
        await kernel.wait_ready()
        backend.made[0].die("it reached its maximum life of 1 s", expired=True)
        await became(kernel, "dead")
        assert over == [kernel]


@pytest.mark.gen_test
async def test_a_kernel_that_is_deleted_while_its_sandbox_is_taken_down_leaves_none():
    async with running() as (kernel, backend, relay):
        closing, close = asyncio.Event(), relay.transport.close

        async def slow_close() -> None:
            if not closing.is_set():
                closing.set()
                await asyncio.sleep(60)
            await close()

        relay.transport.close = slow_close
        backend.made[0].die("it ended")
        await asyncio.wait_for(closing.wait(), 2)
        await kernel.shutdown()
        assert [sandbox.destroyed for sandbox in backend.made] == [True]
        assert relay.transport.closed


@pytest.mark.gen_test
async def test_requests_to_a_dead_kernel_wait_for_their_sender_and_cost_a_bystander_no_more_than_the_window():
    backend = BackendDouble()
    backend.error = BackendError("Not now.")
    async with kernel_over(backend) as kernel:
        await kernel.wait_ready()
        sender, bystander = kernel.attach("s"), kernel.attach("t")

        async def send_many() -> None:
            while True:
                await sender.send(request())

        sending = asyncio.ensure_future(send_many())
        await until(lambda: sender.inbox.size >= SETTINGS.window)
        full = sender.inbox.size
        for _ in range(10):
            await asyncio.sleep(0)
        assert sender.inbox.size == full < 1.1 * SETTINGS.window
        assert bystander.inbox.size < 1.1 * SETTINGS.window
        assert await sender.receive()
        await until(lambda: sender.inbox.size != 0)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


@pytest.mark.gen_test
async def test_a_client_that_was_cut_off_hears_the_end_of_its_request_when_it_comes_back():
    async with running() as (kernel, backend, relay):
        slow = kernel.attach("s")
        number = await open_route(relay)
        bound = reach(SETTINGS.window, SETTINGS.max_message)
        for _ in range(bound // SETTINGS.max_message + 1):
            relay.say_message(bytes(SETTINGS.max_message), number)
        await until(lambda: slow.inbox.is_closed)
        await slow.send(request())
        await relay.hear(Kind.MESSAGE)
        backend.made[0].die("it was killed by SIGKILL")
        await bring_up(backend)
        await became(kernel, "idle")
        assert slow.inbox.size < bound + 2 * SETTINGS.max_message
        assert await slow.receive()
        with pytest.raises(ClientBehindError):
            await slow.receive()
        slow.detach()
        assert_ended(await seen(kernel.attach("s"), 3), "it was killed by SIGKILL")


@pytest.mark.gen_test
async def test_a_request_to_a_dead_kernel_whose_header_no_client_would_send_is_not_answered():
    backend = BackendDouble()
    backend.error = BackendError("Not now.")
    async with kernel_over(backend) as kernel:
        await kernel.wait_ready()
        attachment = kernel.attach("s")
        await attachment.send(request(msg_type="x" * MAX_HEADER + "_request"))
        assert attachment.inbox.size == 0


def test_requests_without_an_answer_are_kept_within_a_bound_and_the_oldest_go_first():
    outstanding = Outstanding()
    header = b"h" * 1024
    for number in range(10_000):
        outstanding.add(number, Request("s", "shell", header + str(number).encode()))
    outstanding.done([9_999, 3, 123_456])
    kept = outstanding.take_all()
    assert sum(len(each.header) for each in kept) <= MAX_HEADERS
    assert kept[-1].header.endswith(b"9998")
    assert len(kept) > 3000
    assert outstanding.take_all() == []


@pytest.mark.gen_test
async def test_what_waits_for_clients_that_are_away_is_bounded_and_the_newest_are_told():
    backend = BackendDouble()
    backend.error = BackendError("Not now.")
    async with kernel_over(backend) as kernel:
        await kernel.wait_ready()
        for number in range(200):
            attachment = kernel.attach(f"s{number}")
            attachment.detach()
            for _ in range(3):
                await attachment.send(request(msg_type="x" * 20_000 + "_request"))
        sizes = [kernel.attach(f"s{number}").inbox.size for number in range(200)]
        assert sizes[-1] > 0
        assert sum(sizes) <= MAX_MISSED
