"""Runs in an executor's pod, on the image's interpreter: the same kernel, reached directly in there.

Prints figures of the bare kernel as JSON.
"""

from __future__ import annotations

import json
import sys

from .. import measures
from ..targets import Bare


def main() -> None:
    bare = Bare(sys.executable)
    with bare.kernel() as client:
        times = measures.round_trips(client)
    print(json.dumps({"cold_start": measures.cold_start(bare), "zmq_round_trip": times}))


if __name__ == "__main__":
    main()
