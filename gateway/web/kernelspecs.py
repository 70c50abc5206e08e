"""Kernelspecs over HTTP, and their logos.

Of a kernelspec's folder only what jupyter_server lists as `resources` is served: kernel.js, kernel.css and
the logos. The file is looked up in that list and never made of the request's path, so no path
leads out of the folder.
"""

from __future__ import annotations

import asyncio
import mimetypes
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jupyter_client.kernelspec import KernelSpec

from ..errors import HttpError, quoted
from .base import ApiHandler
from .body import has_utf8
from .starts import default_name

#: Bytes of a logo or script, read whole into memory.
MAX_RESOURCE = 4 * 1024 * 1024

_SCRIPTS = ("kernel.js", "kernel.css")
_LOGO = "logo-"


class KernelSpecsHandler(ApiHandler):
    """`/api/kernelspecs`."""

    async def on_get(self) -> None:
        specs = self.web.kernels.kernelspecs
        models = {name: await _model(self, name, spec) for name, spec in sorted(specs.all().items())}
        self.answer({"default": default_name(specs), "kernelspecs": models})


class KernelSpecHandler(ApiHandler):
    """`/api/kernelspecs/{name}`."""

    async def on_get(self, name: str) -> None:
        self.answer(await _model(self, name, self.web.kernels.kernelspecs.get(name)))


class ResourceHandler(ApiHandler):
    """`/kernelspecs/{name}/{resource}`. Tornado adds the ETag, and answers 304 to it."""

    async def on_get(self, name: str, resource: str) -> None:
        spec = self.web.kernels.kernelspecs.get(name)
        data = await asyncio.to_thread(_read, spec.resource_dir, resource)
        if data is None:
            raise HttpError(
                404,
                f"The kernelspec {quoted(name)} has no resource {quoted(resource)}. "
                f"GET /api/kernelspecs/{quote(name)} lists those it has.",
            )
        kind, _ = mimetypes.guess_type(resource)
        self.set_header("Content-Type", kind or "application/octet-stream")
        self.set_header("Cache-Control", "no-cache")
        self.write(data)


async def _model(handler: ApiHandler, name: str, spec: KernelSpec) -> dict[str, Any]:
    """A kernelspec as clients read it; `resources` maps a logo's name without ending to its path."""
    files = await asyncio.to_thread(_resources, spec.resource_dir)
    return {
        "name": name,
        "spec": spec.to_dict(),
        "resources": {
            file if file in _SCRIPTS else Path(file).stem: handler.url(
                "kernelspecs", quote(name), quote(file)
            )
            for file in sorted(files)
        },
    }


def _resources(folder: str) -> list[str]:
    """The names of the files in a kernelspec's folder that are served; one that is no UTF-8 has no URL."""
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return []  # a kernelspec may have no folder any more; it has no logo then
    return [
        entry.name
        for entry in entries
        if (entry.name in _SCRIPTS or entry.name.startswith(_LOGO))
        and has_utf8(entry.name)
        and entry.is_file()
    ]


def _read(folder: str, resource: str) -> bytes | None:
    """The bytes of a file that `_resources` names, or None."""
    if resource not in _resources(folder):
        return None
    try:
        with open(os.path.join(folder, resource), "rb") as file:
            data = file.read(MAX_RESOURCE + 1)
    except OSError:
        return None
    return data if len(data) <= MAX_RESOURCE else None
