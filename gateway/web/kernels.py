"""Kernels over HTTP: `/api/kernels` and below. Shapes and codes are those of jupyter_server's REST API."""

from __future__ import annotations

from ..errors import HttpError, quoted
from ..kernels.kernel import Kernel
from . import body
from .base import ApiHandler, is_uuid


class KernelsHandler(ApiHandler):
    """`/api/kernels`."""

    _client_is_gone = False

    def on_connection_close(self) -> None:
        self._client_is_gone = True
        super().on_connection_close()

    async def on_get(self) -> None:
        self.answer([kernel.model() for kernel in self.web.kernels_of(self.identity)])

    async def on_post(self) -> None:
        members = self.json_body()
        name = body.text(members, "name")
        env = body.nested(members, "env")
        kernel = await self.starts.start(name, self.identity.name, env)
        if self._client_is_gone:
            # Nobody has learned this kernel's id, and nobody would shut it down.
            await self.web.kernels.delete(kernel.id)
            return
        self.set_header("Location", self.url("api", "kernels", kernel.id))
        self.answer(kernel.model(), 201)


class OneKernelHandler(ApiHandler):
    """What the handlers of one kernel share."""

    def kernel(self, kernel_id: str) -> Kernel:
        """The caller's kernel of that id; raises what becomes a 404."""
        if not is_uuid(kernel_id):
            raise HttpError(
                404, f"{quoted(kernel_id)} is not the id of a kernel. GET /api/kernels lists those there are."
            )
        return self.web.kernel_of(self.identity, kernel_id)


class KernelHandler(OneKernelHandler):
    """`/api/kernels/{kernel_id}`."""

    async def on_get(self, kernel_id: str) -> None:
        self.answer(self.kernel(kernel_id).model())

    async def on_delete(self, kernel_id: str) -> None:
        await self.web.kernels.delete(self.kernel(kernel_id).id)
        self.set_status(204)


class InterruptHandler(OneKernelHandler):
    """`/api/kernels/{kernel_id}/interrupt`."""

    async def on_post(self, kernel_id: str) -> None:
        await self.kernel(kernel_id).interrupt()
        self.set_status(204)


class RestartHandler(OneKernelHandler):
    """`/api/kernels/{kernel_id}/restart`."""

    async def on_post(self, kernel_id: str) -> None:
        kernel = self.kernel(kernel_id)
        await kernel.restart()
        self.answer(kernel.model())
