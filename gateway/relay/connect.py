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
    # Not at the top: the other commands start faster without.
    import contextlib
    import socket

    connection = socket.socket(socket.AF_UNIX)
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            connection.connect(f"{run_dir}/{SOCKET}")
            socket.send_fds(connection, [b"\0"], [0, 1])
            break
        except OSError as error:
            if time.monotonic() > deadline or not isinstance(
                error, FileNotFoundError | ConnectionRefusedError
            ):
                sys.exit(f"relay: no relay listens in {run_dir}: {error.strerror}")
            time.sleep(_LOOK)
    # What runs in here is under a filter of the relay's own, which this process is not.
    hide()
    # Where the relay is gone, that ends the stream as well.
    with contextlib.suppress(ConnectionError):
        connection.recv(1)
