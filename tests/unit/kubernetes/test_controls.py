"""When a control is made, and for how long it counts; real ones are in tests/cluster/test_proof.py."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from gateway.backends.base import IsolationError
from gateway.backends.kubernetes import KubernetesBackend, settings
from gateway.backends.kubernetes.api import Api
from gateway.backends.kubernetes.proof import Canary, Controls
from gateway.backends.kubernetes.settings import Asked

pytestmark = pytest.mark.gen_test(timeout=30)

CANARY = Canary(("10.0.0.1",), 8080)
OTHER_CANARY = Canary(("10.0.0.2",), 8080)


class Counted(Controls):
    """Its controls are no pods; each ends when it is let go, as it is told."""

    def __init__(self, age: float) -> None:
        super().__init__(cast("Api", None), KubernetesBackend()._settings(), "", age)
        self.asked: list[tuple[str, Canary]] = []
        self.let_go = asyncio.Event()
        self.answer = True

    async def reaches(self, asked: Asked, canary: Canary) -> bool:
        self.asked.append((asked.image, canary))
        await self.let_go.wait()
        return self.answer


def asked(**members: Any) -> Asked:
    return settings.read(members, KubernetesBackend()._settings())


async def test_many_at_once_share_the_control_of_their_kind_and_each_kind_has_one() -> None:
    controls = Counted(age=60)
    kinds = [(asked(), CANARY), (asked(image="other:1"), CANARY), (asked(), OTHER_CANARY)]
    starts = [asyncio.create_task(controls.show(*kind)) for kind in kinds for _ in range(3)]
    await asyncio.sleep(0)
    controls.let_go.set()
    await asyncio.gather(*starts)
    assert len(controls.asked) == len({*controls.asked}) == 3
    await controls.show(asked(), CANARY)
    assert len(controls.asked) == 3


async def test_what_is_older_than_its_age_is_shown_again() -> None:
    controls = Counted(age=0)
    controls.let_go.set()
    for count in (1, 2):
        await controls.show(asked(), CANARY)
        assert len(controls.asked) == count


async def test_a_control_that_failed_shows_nothing_to_those_who_waited_for_it() -> None:
    controls = Counted(age=60)
    controls.answer = False
    controls.let_go.set()
    starts = [controls.show(asked(), CANARY) for _ in range(2)]
    found = await asyncio.gather(*starts, return_exceptions=True)
    assert [type(each) for each in found] == [IsolationError, IsolationError]
    assert len(controls.asked) == 2


async def test_who_waits_for_the_control_of_a_start_that_is_given_up_has_one_of_its_own() -> None:
    controls = Counted(age=60)
    first, second = (asyncio.create_task(controls.show(asked(), CANARY)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    controls.let_go.set()
    await second
    assert len(controls.asked) == 2
    assert first.cancelled()


async def test_a_kind_that_is_over_leaves_no_lock() -> None:
    controls = Counted(age=60)
    controls.let_go.set()
    for number in range(10):
        await controls.show(asked(image=f"course:{number}"), CANARY)
    assert len(controls.asked) == 10
    assert not controls._locks
