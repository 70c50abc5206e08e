"""What the attempts of let_through.toml would be good for is shut."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.backends.kubernetes import names
from tests.cluster.deployed import Deployed
from tests.cluster.kubectl import Namespace
from tests.conformance.backend.visit import found_inside, script, visiting

pytestmark = [pytest.mark.requires("cluster", "pod-users"), pytest.mark.gen_test(timeout=300)]

_PORT = 80

#: Listens where everybody could come, tells who came there from inside, and stays.
_LISTEN = f"""
import socket, threading, time
server = socket.create_server(("::", {_PORT}), family=socket.AF_INET6, dualstack_ipv6=True)
def serve():
    while True:
        server.accept()[0].close()
threading.Thread(target=serve, daemon=True).start()
def comes(address):
    try:
        socket.create_connection((address, {_PORT}), 5).close()
    except OSError as error:
        return str(error)
    return ""
tell({{address: comes(address) for address in ADDRESSES}})
time.sleep(1000)
"""


async def test_who_listens_in_an_executor_is_reached_by_nobody(there: Deployed, namespace: Namespace) -> None:
    asking, ordinary = namespace.pods(asking={}, asked={})
    assert [address for address in ordinary.addresses if not asking.reaches(address)] == []
    # Nobody outside knows them before it runs, so it looks them up itself.
    looks = "import subprocess\nwords = subprocess.run(['hostname', '-I'], capture_output=True, text=True)"
    code = f"{looks}\nADDRESSES = words.stdout.split()\n{_LISTEN}"
    async with there.backend("listens") as backend, visiting(backend, script(code)) as (sandbox, visit):
        inside: dict[str, str] = await visit.found()
        (pod,) = there.pods(f"{names.KERNEL_ID}={sandbox.kernel_id}")
        addresses = [each["ip"] for each in pod["status"]["podIPs"]]
        assert inside == dict.fromkeys(addresses, "")
        assert [address for address in addresses if asking.reaches(address, _PORT)] == []


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
