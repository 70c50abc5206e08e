"""Sessions over HTTP: `/api/sessions` and below, with jupyter_server's shapes, codes and rules.

- POST answers 201 with the session of that path and type, also where it was there already.
- PATCH renames (`path`, `name`, `type`), and gives the session another kernel: one that runs
  (`kernel.id`) or a new one (`kernel.name`). The kernel it had is then shut down. A session is changed by
  one PATCH at a time.
- DELETE shuts the session's kernel down, at once; a PATCH that is starting another finds the session gone.
"""

from __future__ import annotations

from typing import Any

from ..errors import HttpError
from ..kernels.errors import NoSuchKernelError
from ..kernels.kernel import Kernel
from . import body
from .base import ApiHandler
from .sessions import Session


class SessionsHandler(ApiHandler):
    """`/api/sessions`."""

    async def on_get(self) -> None:
        self.answer([session.model() for session in self.sessions.of(self.identity)])

    async def on_post(self) -> None:
        members = self.json_body()
        path = body.required_text(members, "path")
        kind = body.required_text(members, "type")
        name = body.text(members, "name") or ""
        kernel_id, kernel_name = _wanted_kernel(members)
        owner = self.identity.name
        async with self.sessions.making(owner, path, kind):
            session = self.sessions.find(self.identity, path, kind)
            if session is None:
                if kernel_id is not None:
                    kernel = self.web.kernel_of(self.identity, kernel_id)
                else:
                    kernel = await self.starts.start(kernel_name, owner)
                session = self.sessions.add(owner, path, name, kind, kernel)
        self.set_header("Location", self.url("api", "sessions", session.id))
        self.answer(session.model(), 201)


class SessionHandler(ApiHandler):
    """`/api/sessions/{session_id}`."""

    async def on_get(self, session_id: str) -> None:
        self.answer(self.sessions.get(self.identity, session_id).model())

    async def on_patch(self, session_id: str) -> None:
        session = self.sessions.get(self.identity, session_id)
        members = self.json_body()
        path = body.text(members, "path")
        name = body.text(members, "name")
        kind = body.text(members, "type")
        kernel_id, kernel_name = _wanted_kernel(members)
        async with session.changing:
            self.sessions.get(self.identity, session_id)  # it may have ended before its turn came
            before = session.kernel
            if kernel_id is not None:
                session.kernel = self.web.kernel_of(self.identity, kernel_id)
            elif kernel_name is not None:
                session.kernel = await self._start_for(session, kernel_name)
            session.path = session.path if path is None else path
            session.name = session.name if name is None else name
            session.type = session.type if kind is None else kind
            self.sessions.changed(session.kernel)
            if session.kernel is not before:
                await self._end(before)
        self.answer(session.model())

    async def on_delete(self, session_id: str) -> None:
        session = self.sessions.get(self.identity, session_id)
        self.sessions.remove(session)
        await self._end(session.kernel)
        self.set_status(204)

    async def _start_for(self, session: Session, kernel_name: str) -> Kernel:
        """A new kernel for the session; raises `HttpError` 404 and leaves none where that ends meanwhile."""
        kernel = await self.starts.start(kernel_name, self.identity.name)
        try:
            self.sessions.get(self.identity, session.id)
        except HttpError:
            await self._end(kernel)
            raise
        return kernel

    async def _end(self, kernel: Kernel) -> None:
        try:
            await self.web.kernels.delete(kernel.id)
        except NoSuchKernelError:
            return  # someone else has shut it down, which is what was wanted


def _wanted_kernel(members: dict[str, Any]) -> tuple[str | None, str | None]:
    """The id and the kernelspec name in a request's member `kernel`; the id goes first where both are."""
    wanted = body.nested(members, "kernel")
    return body.text(wanted, "id") or None, body.text(wanted, "name") or None
