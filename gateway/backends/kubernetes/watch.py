"""The pods of one gateway as the API server has them: listed once, then followed.

A list tells the version of the cluster's state that it is of, and a watch goes on from there
(https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes). Bookmarks keep
that version young while nothing happens. Where the server has forgotten it (410 Gone, or an ERROR event that
says so), or says anything else that cannot be gone on from, all is listed again; what has vanished meanwhile
is told like a deletion. A server that is away is asked again, less and less often.

A list comes in pages, between which the event loop turns, so that a long one holds nobody up.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Mapping
from typing import Any

from .api import Api, ApiError, Object

#: Pods of one page.
_PAGE = 100
#: Seconds after which the server ends a watch and another begins.
_WATCH = 290
#: Seconds between two tries while the server is away, at first and at most.
_FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 5.0

#: Told with a pod as it is now, or as it was before it was deleted.
Told = Callable[[Object, bool], None]


class PodWatch:
    """Follows the pods that a label selector selects."""

    def __init__(
        self, api: Api, path: str, selector: str, told: Told, log: logging.Logger | logging.LoggerAdapter[Any]
    ) -> None:
        """`told(pod, deleted)` is called for every pod of a list, and for each change from then on."""
        self._api = api
        self._path = path
        self._selector = selector
        self._told = told
        self._log = log
        self._pods: dict[str, Object] = {}
        self._version = ""
        self._task: asyncio.Task[None] | None = None

    @property
    def pods(self) -> Mapping[str, Object]:
        """Name -> pod."""
        return self._pods

    async def start(self) -> None:
        """List, and follow from there. Raises `ApiError` where the list cannot be had."""
        await self._list()
        self._task = asyncio.create_task(self._follow())

    async def close(self) -> None:
        """Follow no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _list(self) -> None:
        found: dict[str, Object] = {}
        query: dict[str, object] = {"labelSelector": self._selector, "limit": _PAGE}
        while True:
            page = await self._api.get(self._path, query)
            for pod in page.get("items", []):
                found[pod["metadata"]["name"]] = pod
            metadata = page["metadata"]
            if not metadata.get("continue"):
                break
            query["continue"] = metadata["continue"]
        self._version = metadata["resourceVersion"]
        gone = [pod for name, pod in self._pods.items() if name not in found]
        self._pods = found
        for pod in gone:
            self._told(pod, True)
        for pod in found.values():
            self._told(pod, False)

    async def _follow(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            try:
                if not self._version:
                    await self._list()
                await self._watch()
                pause = _FIRST_PAUSE
                continue
            except ApiError as error:
                if error.status in (400, 410):
                    self._version = ""  # it has forgotten that version, or the rest of a list
                self._log.warning("the watch of pods is broken and begins again: %s", error)
            except Exception:
                # An event of a shape that nobody knows: what follows it is not to be missed.
                self._version = ""
                self._log.exception("the watch of pods failed and begins again")
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311  # only to spread
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _watch(self) -> None:
        query = {"labelSelector": self._selector, "resourceVersion": self._version}
        events = self._api.watch(self._path, query, _WATCH)
        async with contextlib.aclosing(events):
            async for event in events:
                self._on_event(event["type"], event["object"])

    def _on_event(self, kind: str, thing: Object) -> None:
        if kind == "ERROR":
            raise ApiError(
                f"The API server ended the watch: {thing.get('message')}", status=int(thing.get("code", 0))
            )
        self._version = thing["metadata"]["resourceVersion"]
        if kind == "BOOKMARK":
            return
        name = thing["metadata"]["name"]
        if kind == "DELETED":
            self._pods.pop(name, None)
        else:
            self._pods[name] = thing
        self._told(thing, kind == "DELETED")
