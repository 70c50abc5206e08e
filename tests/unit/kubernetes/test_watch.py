"""The watch of pods goes on, whatever the API server does, and nothing is missed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.backends.kubernetes import watch as watching
from gateway.backends.kubernetes.api import Api, ApiError
from gateway.backends.kubernetes.watch import PodWatch
from tests.unit.kubernetes.api_server import ApiServer, api_server, pod, pods, refusal

pytestmark = pytest.mark.gen_test(timeout=30)

PATH = "/api/v1/namespaces/x/pods"


class Told:
    """What a watch has told."""

    def __init__(self) -> None:
        self.news: list[tuple[str, str, bool]] = []
        self._came = asyncio.Event()

    def __call__(self, thing: dict[str, Any], deleted: bool) -> None:
        self.news.append((thing["metadata"]["name"], thing["metadata"]["resourceVersion"], deleted))
        self._came.set()

    async def until(self, *news: tuple[str, str, bool]) -> None:
        while self.news[-len(news) :] != list(news):
            self._came.clear()
            await self._came.wait()


@contextlib.asynccontextmanager
async def started(tmp_path: Path, *listed: Any) -> AsyncIterator[tuple[ApiServer, PodWatch, Told]]:
    async with api_server(tmp_path) as (server, kubeconfig):
        answers = list(listed)
        server.answer = lambda _: answers.pop(0) if len(answers) > 1 else answers[0]
        api = await Api.connect(kubeconfig, "")
        told = Told()
        watch = PodWatch(api, PATH, "a=b", told, logging.getLogger("tests.watch"))
        try:
            await watch.start()
            yield server, watch, told
        finally:
            await watch.close()
            await api.close()


def well(body: Any) -> Any:
    return 200, body, {}


def event(kind: str, thing: Any) -> dict[str, Any]:
    return {"type": kind, "object": thing}


async def test_a_list_is_told_and_then_each_change(tmp_path: Path) -> None:
    async with started(tmp_path, well(pods(pod("a"), version=5))) as (server, watch, told):
        assert told.news == [("a", "1", False)]
        server.events.put_nowait(event("MODIFIED", pod("a", 6)))
        server.events.put_nowait(event("ADDED", pod("b", 7)))
        server.events.put_nowait(event("DELETED", pod("a", 8)))
        await told.until(("a", "6", False), ("b", "7", False), ("a", "8", True))
        assert set(watch.pods) == {"b"}
        assert server.requests[0].arguments["labelSelector"] == [b"a=b"]
        assert server.requests[1].arguments["resourceVersion"] == [b"5"]


async def test_a_list_of_many_comes_in_pages(tmp_path: Path) -> None:
    first, second = pods(pod("a"), version=5, more="there"), pods(pod("b"), version=5)
    async with started(tmp_path, well(first), well(second)) as (server, watch, _):
        assert set(watch.pods) == {"a", "b"}
        assert server.requests[1].arguments["continue"] == [b"there"]


async def test_a_watch_that_ends_goes_on_from_where_it_was(tmp_path: Path) -> None:
    async with started(tmp_path, well(pods(version=5))) as (server, _, told):
        server.events.put_nowait(event("ADDED", pod("a", 6)))
        server.events.put_nowait(event("BOOKMARK", pod("", 90)))
        server.events.put_nowait(None)
        server.events.put_nowait(event("MODIFIED", pod("a", 91)))
        await told.until(("a", "6", False), ("a", "91", False))
        watches = [request for request in server.requests if "watch" in request.arguments]
        assert [request.arguments["resourceVersion"] for request in watches] == [[b"5"], [b"90"]]


async def test_a_version_that_is_forgotten_means_a_new_list_in_which_the_vanished_are_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "_FIRST_PAUSE", 0.01)
    old, new = pods(pod("a"), pod("b"), version=5), pods(pod("b", 20), version=21)
    async with started(tmp_path, well(old), well(new)) as (server, watch, told):
        gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
        server.events.put_nowait(event("ERROR", gone))
        await told.until(("a", "1", True), ("b", "20", False))
        assert set(watch.pods) == {"b"}


@pytest.mark.parametrize("strange", [{}, {"type": "ADDED"}, {"type": "ADDED", "object": {}}])
async def test_an_event_of_no_known_shape_means_a_new_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strange: dict[str, Any]
) -> None:
    monkeypatch.setattr(watching, "_FIRST_PAUSE", 0.01)
    async with started(tmp_path, well(pods(version=5)), well(pods(pod("a", 6), version=7))) as (
        server,
        _,
        told,
    ):
        server.events.put_nowait(strange)
        await told.until(("a", "6", False))


async def test_a_server_that_refuses_for_a_while_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "_FIRST_PAUSE", 0.01)
    gone = {"kind": "Status", "code": 410, "message": "old"}
    answers = [
        well(pods(version=5)),
        refusal(403, "Forbidden", "not now"),
        well(pods(pod("a", 6), version=7)),
    ]
    async with started(tmp_path, *answers) as (server, _, told):
        server.events.put_nowait(event("ERROR", gone))
        await told.until(("a", "6", False))


async def test_a_start_without_a_list_fails(tmp_path: Path) -> None:
    with pytest.raises(ApiError, match="403: no"):
        async with started(tmp_path, refusal(403, "Forbidden", "no")):
            pass
