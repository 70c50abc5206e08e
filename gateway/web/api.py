"""What the gateway says of itself and of its caller: version, status, identity, and its own description."""

from __future__ import annotations

import datetime
import importlib.resources
import json
from typing import Any

from .. import __version__
from ..errors import HttpError
from .base import ApiHandler

#: What a caller may do, by resource, in the words of jupyter_server's `permissions`.
_PERMISSIONS = {
    "api": ("read",),
    "kernels": ("read", "write", "execute"),
    "kernelspecs": ("read",),
    "sessions": ("read", "write"),
}


class VersionHandler(ApiHandler):
    """`/api`."""

    async def on_get(self) -> None:
        self.answer({"version": __version__})


class StatusHandler(ApiHandler):
    """`/api/status`: the caller's kernels and connections, and when anything last happened on them."""

    async def on_get(self) -> None:
        kernels = self.web.kernels_of(self.identity)
        started: datetime.datetime = self.settings["started"]
        self.answer(
            {
                "started": _timestamp(started),
                "last_activity": _timestamp(max([started, *(kernel.last_activity for kernel in kernels)])),
                "kernels": len(kernels),
                "connections": sum(kernel.connections for kernel in kernels),
            }
        )


class IdentityHandler(ApiHandler):
    """`/api/me`: who the caller is, and which of the `permissions` they ask about they have."""

    async def on_get(self) -> None:
        asked = self._asked_permissions()
        name = self.identity.name
        self.answer(
            {
                "identity": {
                    "username": name,
                    "name": name,
                    "display_name": name,
                    "initials": name[:1].upper() or None,
                    "avatar_url": None,
                    "color": None,
                },
                "permissions": {
                    resource: [action for action in actions if action in _PERMISSIONS.get(resource, ())]
                    for resource, actions in asked.items()
                },
            }
        )

    def _asked_permissions(self) -> dict[str, list[Any]]:
        text = self.get_query_argument("permissions", "")
        try:
            asked = json.loads(text) if text else {}
        except (ValueError, RecursionError):
            asked = None
        if not isinstance(asked, dict) or not all(isinstance(actions, list) for actions in asked.values()):
            raise HttpError(
                400, 'permissions is not a JSON object of lists. Ask for example for {"kernels": ["read"]}.'
            )
        return asked


class SpecHandler(ApiHandler):
    """`/api/spec.yaml`: the OpenAPI document, which tests hold to what the router does."""

    async def on_get(self) -> None:
        self.set_header("Content-Type", "application/yaml")
        self.write(openapi_document())


def openapi_document() -> bytes:
    """The OpenAPI document as it is served."""
    return importlib.resources.files(__package__).joinpath("api.yaml").read_bytes()


def _timestamp(moment: datetime.datetime) -> str:
    """The one format that clients parse, with exactly six digits and a Z."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
