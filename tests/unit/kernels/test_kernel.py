"""A kernel over scripted relays: what it tells its clients, and what it brings back."""

from __future__ import annotations

import asyncio
import dataclasses
import logging

import pytest

from gateway.backends.base import BackendError
from gateway.kernels.attachment import SessionTakenError
from gateway.kernels.errors import KernelGoneError, KernelStateError
from gateway.wire import framing, messages
from gateway.wire.framing import Kind
from tests.support.backend_double import BackendDouble
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


@pytest.mark.gen_test
async def test_the_relay_is_told_what_to_start_in_the_sandboxs_environment_and_home():
    backend = BackendDouble()
    async with kernel_over(backend) as kernel:
        assert kernel.execution_state == "starting"
        relay = await backend.next_relay()
        start = await relay.hear_control("start")
        assert start["argv"] == ["python3", "-f", "{connection_file}"]
        assert start["env"] == {"HOME": "/home/double", "PATH": "/usr/bin", "GREETING": "hello"}
        assert start["cwd"] == "/home/double"
        assert (start["interrupt_mode"], start["transport"], start["sign"]) == ("signal", "ipc", False)
        relay.answer(start)
        await kernel.wait_ready()
        assert kernel.execution_state == "idle"


@pytest.mark.gen_test
async def test_the_model_has_the_members_and_the_time_format_that_clients_parse():
    async with running() as (kernel, _, _):
        kernel.attach("s")
        assert kernel.model() == {
            "id": "0f0e0d0c-0b0a-4908-8706-050403020100",
            "name": "python3",
            "last_activity": "2026-01-02T03:04:05.000678Z",
            "execution_state": "idle",
            "connections": 1,
        }


@pytest.mark.gen_test
async def test_the_state_follows_the_relay():
    async with running() as (kernel, _, relay):
        relay.say(Kind.STATE, payload=b"\x02")
        await became(kernel, "busy")
        relay.say(Kind.STATE, payload=b"\x01")
        await became(kernel, "idle")


@pytest.mark.gen_test
async def test_a_client_may_attach_and_send_before_there_is_a_sandbox():
    backend = BackendDouble()
    backend.held = asyncio.Event()
    async with kernel_over(backend) as kernel:
        attachment = kernel.attach("s")
        sending = asyncio.ensure_future(attachment.send(request()))
        backend.held.set()
        relay = await backend.next_relay()
        start = await relay.hear_control("start")
        relay.answer(start)
        await sending
        assert (await relay.hear(Kind.MESSAGE)).payload == request()


@pytest.mark.gen_test
async def test_a_sandbox_that_cannot_be_made_leaves_a_dead_kernel_with_the_reason():
    backend = BackendDouble()
    backend.error = BackendError("bubblewrap is not installed.")
    async with kernel_over(backend) as kernel:
        attachment = kernel.attach("s")
        await kernel.wait_ready()
        assert kernel.execution_state == "dead"
        assert kernel.model()["reason"] == "The kernel did not start: bubblewrap is not installed."
        await attachment.send(request())
        told = await seen(attachment, 4)
        assert told[0][1:] == ("status", {"execution_state": "dead"})
        assert_ended(told[1:], "bubblewrap is not installed")


@pytest.mark.gen_test
async def test_a_kernel_that_does_not_start_says_what_the_relay_said_and_leaves_no_sandbox():
    backend = BackendDouble()
    async with kernel_over(backend) as kernel:
        relay = await backend.next_relay()
        relay.answer(await relay.hear_control("start"), "No module named ipykernel")
        await kernel.wait_ready()
        assert kernel.reason == "The kernel did not start: No module named ipykernel"
        assert backend.made[0].destroyed


@pytest.mark.gen_test
async def test_a_sandbox_that_ends_while_its_kernel_starts_says_why():
    backend = BackendDouble()
    async with kernel_over(backend) as kernel:
        sandbox = await backend.next_sandbox()
        await sandbox.relay.hear_control("start")
        sandbox.die("it used more than its memory")
        await kernel.wait_ready()
        assert kernel.reason == "The kernel did not start: it used more than its memory."


@pytest.mark.gen_test
async def test_a_kernel_that_died_is_restarted_in_its_sandbox_and_clients_are_told():
    async with running() as (kernel, backend, relay):
        attachment = kernel.attach("s")
        await open_route(relay)
        relay.say_json(Kind.DIED, {"reason": "It was killed by SIGSEGV."})
        control = await relay.hear_control("restart")
        assert kernel.execution_state == "autorestarting"
        assert kernel.reason == "It was killed by SIGSEGV."
        assert await seen(attachment, 1) == [("iopub", "status", {"execution_state": "restarting"})]
        relay.answer(control)
        await became(kernel, "idle")
        assert len(backend.made) == 1
        assert kernel.reason is None


@pytest.mark.gen_test
async def test_a_kernel_that_a_client_asked_to_restart_is_restarted_as_often_as_asked():
    async with running() as (kernel, _, relay):
        for _ in range(3):
            relay.say_json(Kind.DIED, {"reason": "It ended.", "asked": "restart"})
            control = await relay.hear_control("restart")
            assert kernel.execution_state == "restarting"
            relay.answer(control)
            await became(kernel, "idle")


@pytest.mark.gen_test
async def test_a_kernel_that_keeps_dying_is_given_up():
    async with running() as (kernel, _, relay):
        relay.say_json(Kind.DIED, {"reason": "First."})
        relay.answer(await relay.hear_control("restart"))
        await became(kernel, "idle")
        relay.say_json(Kind.DIED, {"reason": "Second."})
        await became(kernel, "dead")
        assert kernel.reason == "Second. It has been restarted 1 times and is given up."


@pytest.mark.gen_test
async def test_a_kernel_that_was_stable_before_each_death_is_never_given_up():
    backend = BackendDouble()
    # Any time is long enough; the test before this one shows a kernel whose life was too short.
    async with kernel_over(backend, dataclasses.replace(SETTINGS, stable_after=0)) as kernel:
        relay = await bring_up(backend)
        await kernel.wait_ready()
        for _ in range(SETTINGS.restart_limit + 2):
            relay.say_json(Kind.DIED, {"reason": "It was killed."})
            relay.answer(await relay.hear_control("restart"))
            await became(kernel, "idle")


@pytest.mark.gen_test
async def test_requests_that_a_lost_sandbox_owed_are_ended_and_the_kernel_gets_a_new_one():
    async with running() as (kernel, backend, relay):
        attachment = await asked(kernel, relay)
        backend.made[0].die("it was killed by SIGKILL")
        new_relay = await backend.next_relay()
        assert_ended((await seen(attachment, 3))[:3], "The kernel's sandbox ended: it was killed by SIGKILL.")
        assert backend.made[0].destroyed
        number = await open_route(new_relay)
        new_relay.answer(await new_relay.hear_control("start"))
        await became(kernel, "idle")
        new_relay.say_message(request("from the new one", "iopub", "stream"), number)
        kinds = [kind for _, kind, _ in await seen(attachment, 1)]
        assert kinds[-1] in ("stream", "status")


@pytest.mark.gen_test
async def test_who_waits_for_an_answer_does_not_wait_for_a_lost_sandbox_to_be_gone():
    async with running() as (kernel, backend, relay):
        attachment = await asked(kernel, relay)
        (lost,) = backend.made
        lost.may_go.clear()
        lost.die("its node does not answer")
        assert_ended(await seen(attachment, 3), "The kernel's sandbox ended: its node does not answer.")
        assert not lost.destroyed
        lost.may_go.set()
        await bring_up(backend)
        await became(kernel, "idle")


@pytest.mark.gen_test
async def test_what_the_gateway_says_in_a_kernels_place_is_said_in_the_kernels_session():
    async with running() as (kernel, backend, relay):
        attachment = kernel.attach("s")
        await open_route(relay)
        relay.say_message(request())
        assert (await attachment.receive())[0][1] == request()
        await attachment.send(request())
        await relay.hear(Kind.MESSAGE)
        backend.made[0].die("it ended")
        await bring_up(backend)
        for _, message in await attachment.receive():
            assert messages.session_of(message) == "s"


@pytest.mark.gen_test
async def test_a_request_that_is_done_is_not_ended_again():
    async with running() as (kernel, backend, relay):
        attachment = kernel.attach("s")
        await open_route(relay)
        await attachment.send(request())
        sequence = (await relay.hear(Kind.MESSAGE)).sequence
        relay.say(Kind.DONE, payload=framing.SEQUENCE.pack(sequence))
        backend.made[0].die("it ended")
        await bring_up(backend)
        told = await seen(attachment, 1)
        assert told[0][1:] == ("status", {"execution_state": "restarting"})


@pytest.mark.gen_test
async def test_a_client_that_was_away_when_its_request_was_ended_is_told_when_it_returns():
    async with running() as (kernel, backend, relay):
        attachment = await asked(kernel, relay)
        attachment.detach()
        attachment.detach()
        backend.made[0].die("it ended")
        await bring_up(backend)
        await became(kernel, "idle")
        assert_ended(await seen(kernel.attach("s"), 3), "The kernel's sandbox ended: it ended.")
        assert kernel.attach("another").inbox.size == 0


@pytest.mark.gen_test
async def test_a_restart_keeps_the_sandbox():
    async with running() as (kernel, backend, relay):
        restarting = asyncio.ensure_future(kernel.restart())
        control = await relay.hear_control("restart")
        assert kernel.execution_state == "restarting"
        relay.say(Kind.STATE, payload=b"\x02")  # of the kernel that is about to end
        relay.say(Kind.STATE, payload=b"\x03")
        relay.answer(control)
        await restarting
        assert kernel.execution_state == "idle"
        assert len(backend.made) == 1


@pytest.mark.gen_test
async def test_a_restart_that_fails_in_the_sandbox_takes_a_new_one():
    async with running() as (kernel, backend, relay):
        restarting = asyncio.ensure_future(kernel.restart())
        relay.answer(await relay.hear_control("restart"), "it does not answer")
        await bring_up(backend)
        await restarting
        assert kernel.execution_state == "idle"
        assert [sandbox.destroyed for sandbox in backend.made] == [True, False]


@pytest.mark.gen_test
async def test_a_dead_kernel_can_be_restarted():
    backend = BackendDouble()
    backend.error = BackendError("Not now.")
    async with kernel_over(backend) as kernel:
        await kernel.wait_ready()
        with pytest.raises(KernelStateError, match="Not now"):
            await kernel.restart()
        backend.error = None
        restarting = asyncio.ensure_future(kernel.restart())
        await bring_up(backend)
        await restarting
        assert "reason" not in kernel.model()


@pytest.mark.gen_test
async def test_an_interrupt_goes_to_the_relay_and_is_refused_when_there_is_nothing_to_interrupt():
    async with running() as (kernel, _, relay):
        interrupting = asyncio.ensure_future(kernel.interrupt())
        relay.answer(await relay.hear_control("interrupt"))
        await interrupting
        restarting = asyncio.ensure_future(kernel.restart())
        control = await relay.hear_control("restart")
        with pytest.raises(KernelStateError, match="restarting"):
            await kernel.interrupt()
        relay.answer(control)
        await restarting


@pytest.mark.gen_test
async def test_a_second_attachment_of_a_session_takes_it_over():
    async with running() as (kernel, _, relay):
        older = kernel.attach("s")
        first = await open_route(relay)
        newer = kernel.attach("s")
        assert (await relay.hear(Kind.CLOSE)).route == first
        with pytest.raises(SessionTakenError):
            await older.receive()
        older.detach()
        assert kernel.connections == 1
        newer.detach()
        assert kernel.connections == 0


@pytest.mark.gen_test
async def test_a_deleted_kernel_ends_its_attachments_and_is_asked_to_shut_down_first():
    async with running() as (kernel, _, relay):
        attachment = kernel.attach("s")
        deleting = asyncio.ensure_future(kernel.shutdown())
        relay.answer(await relay.hear_control("shutdown"))
        await deleting
        with pytest.raises(KernelGoneError):
            await attachment.receive()
        with pytest.raises(KernelGoneError):
            await attachment.send(request())
        with pytest.raises(KernelGoneError):
            kernel.attach("t")
        with pytest.raises(KernelGoneError):
            await kernel.restart()


@pytest.mark.parametrize("op", ["start", "restart"])
@pytest.mark.gen_test
async def test_a_kernel_that_hangs_while_it_starts_can_be_deleted_at_once(op):
    backend = BackendDouble()
    async with kernel_over(backend) as kernel:
        relay = await backend.next_relay()
        control = await relay.hear_control("start")
        restarting = None
        if op == "restart":
            relay.answer(control)
            await kernel.wait_ready()
            restarting = asyncio.ensure_future(kernel.restart())
            await relay.hear_control("restart")
        await asyncio.wait_for(kernel.shutdown(), 0.5)
        if restarting is not None:
            with pytest.raises(KernelGoneError):
                await restarting


@pytest.mark.gen_test
async def test_hostile_log_text_is_escaped(caplog):
    async with running() as (_, _, relay):
        with caplog.at_level(logging.INFO):
            relay.say(Kind.LOG, payload=b"\x1b[31mred\rline\n")
            relay.say(Kind.PING, payload=framing.SEQUENCE.pack(1))
            await relay.hear(Kind.PONG)
        text = "".join(record.getMessage() for record in caplog.records)
        assert "\\x1b[31mred" in text
        assert "\x1b" not in text
