"""One REST call."""

from __future__ import annotations

import json
import urllib.request
from typing import Any


def rest(port: int, token: str, method: str, path: str, body: Any = None) -> Any:
    """The JSON of the answer, or None. Raises `OSError`, which an HTTP error is too."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}",
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"token {token}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310  # loopback
        data = answer.read()
    return json.loads(data) if data else None
