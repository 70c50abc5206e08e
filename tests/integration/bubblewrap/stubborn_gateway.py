"""A gateway whose sandbox's first process does what the user's code may: it stays when all else goes.

`stubborn_gateway.py <runtime dir>` prints `{"first": identity, "watcher": identity}` and waits to be killed.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import uuid
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from gateway.backends.bubblewrap import BubblewrapBackend, sweep, visible
from gateway.backends.bubblewrap.launcher import Program
from tests.conformance.backend import traces

_STAY = """
import ctypes, os, signal, time
ctypes.CDLL(None).prctl(1, 0)  # PR_SET_PDEATHSIG, none
os.write(1, b"x")
for fd in (0, 1, 2):
    os.close(fd)
while True:
    time.sleep(1)
"""


async def main(runtime_dir: str) -> None:
    backend = BubblewrapBackend(runtime_dir=runtime_dir)
    await backend.start()
    (watcher,) = traces.descendants(os.getpid())
    assert backend._launcher is not None
    sandbox = await backend._launcher.launch(
        str(uuid.uuid4()),
        visible.look(backend._rules()),
        Program([backend._python, "-I", "-c", _STAY], []),
        backend._limits(),
    )
    transport = await sandbox.connect()
    assert await transport.receive() == b"x"
    first = sweep.identity(await sandbox.started())
    print(json.dumps({"first": first, "watcher": watcher}), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
