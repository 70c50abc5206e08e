"""What the attempts of let_through.toml would be good for is shut."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cluster.deployed import Deployed
from tests.conformance.backend.visit import found_inside

pytestmark = [pytest.mark.requires("cluster", "pod-users"), pytest.mark.gen_test(timeout=300)]


async def test_the_symbols_of_the_kernel_have_no_addresses(there: Deployed) -> None:
    code = (
        "with open('/proc/kallsyms') as file:\n    tell(sorted({int(line.split()[0], 16) for line in file}))"
    )
    async with there.backend("symbols") as backend:
        addresses: list[int] = await found_inside(backend, code)
    assert addresses in ([0], [])


#: Asks for whatever lies there whether it could be opened to write; what is its own shows that it asks well.
_WALK = """
import os
def writable(top):
    found = []
    for folder, folders, files in os.walk(top):
        for name in files:
            path = os.path.join(folder, name)
            if not os.path.islink(path) and os.access(path, os.W_OK):
                found.append(path)
    return found
tell({top: writable(top) for top in ("/sys", "/proc/fs", "/proc/sys", "/proc/irq", "/proc/bus", OWN)})
"""


async def test_nothing_of_the_machines_settings_can_be_written(there: Deployed) -> None:
    own = "/proc/self/task"
    async with there.backend("settings") as backend:
        found: dict[str, Any] = await found_inside(backend, f"OWN = {own!r}\n{_WALK}")
    assert found.pop(own)
    assert {top: paths for top, paths in found.items() if paths} == {}
