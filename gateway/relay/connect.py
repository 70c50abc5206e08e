"""`relay connect`: brings a stream from outside to the relay of this sandbox, and waits for its end.

The relay is handed the descriptors themselves (SCM_RIGHTS, unix(7)), so that this process copies nothing:
the relay reads and writes the exec stream's own pipes. This process ends when the relay closes the
connection, and with it the stream.
"""

import sys
import time

from .hiding import hide

#: The socket's name in the run directory.
SOCKET = "link"
#: Seconds that the relay may take until it listens: a stream may be opened as soon as its process runs.
PATIENCE = 10.0
_LOOK = 0.002


def connect(run_dir: str) -> None:
    """Hand stdin and stdout over, and return when the relay is done with them. Exits 1 with a sentence."""
    # Not at the top: the other commands start faster without. And not `socket`, which is this module and some
    # conveniences, and takes longer to import than Python to start; a cold start waits for that.
    import _socket

    connection = _socket.socket(_socket.AF_UNIX)
    both = b"".join(descriptor.to_bytes(4, sys.byteorder) for descriptor in (0, 1))
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            connection.connect(f"{run_dir}/{SOCKET}")
            connection.sendmsg([b"\0"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, both)])
            break
        except OSError as error:
            if time.monotonic() > deadline or not isinstance(
                error, FileNotFoundError | ConnectionRefusedError
            ):
                sys.exit(f"relay: no relay listens in {run_dir}: {error.strerror}")
            time.sleep(_LOOK)
    # What runs in here is under a filter of the relay's own, which this process is not.
    hide()
    try:
        connection.recv(1)
    except ConnectionError:
        return  # the relay is gone, which ends the stream as well
