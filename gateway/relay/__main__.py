"""The relay's entry, run as a script by its path (see the package's docstring for the command line)."""

import sys

# Nothing is on the path but the standard library; the folder that holds `gateway` also holds zmq.
sys.path.insert(0, __file__.rsplit("/", 3)[0])

from gateway.relay.boot import main

if __name__ == "__main__":
    main(sys.argv[1:])
