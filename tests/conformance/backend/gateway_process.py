"""A gateway as a process of its own, so that a test can kill it: `<kind> <folder> <count>`.

It makes `count` sandboxes with a kernel that stays, prints their ids as JSON, and waits to be killed, or for
the end of its stdin, and then closes.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from tests.conformance.backend import kinds
from tests.conformance.backend.visit import STAY, Visit, request


async def main(name: str, folder: str, count: int) -> None:
    backend = kinds.kind(name).make(Path(folder))
    await backend.start()
    sandboxes = [await backend.create(request(backend)) for _ in range(count)]
    if not backend.survives_gateway:
        argv = request(backend, STAY).argv
        visits = [await Visit.start(sandbox, argv) for sandbox in sandboxes]
        for visit in visits:
            await visit.until(lambda visit=visit: "here" in visit.lines)  # type: ignore[misc]
    print(json.dumps([sandbox.kernel_id for sandbox in sandboxes]), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await backend.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
    # Visits that are still open must not hold the end up.
    os._exit(0)
