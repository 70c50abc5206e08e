"""The relay: the first process in every sandbox, between the link on its stdin and stdout and the kernel.

It runs as::

    <python> -I -S <folder>/gateway/relay/__main__.py pipe <run_dir>            ends with its stdin
    <python> -I -S <folder>/gateway/relay/__main__.py serve <run_dir> <seconds> <bytes> outlives its gateways
    <python> -I -S <folder>/gateway/relay/__main__.py connect <run_dir>         a gateway's way to the latter
    <python> -I -S <folder>/gateway/relay/__main__.py install <other_folder>    copies <folder> there
    <python> -I -S <folder>/gateway/relay/__main__.py canary <port>             what no sandbox may reach
    <python> -I -S <folder>/gateway/relay/__main__.py probe <address> <port>    whether it is reached

where `<folder>` (in a sandbox `/opt/relay`) holds what `command.parts` lists: this package,
`gateway/wire`, `gateway/__init__.py`, and pyzmq. (What k8s/images/relay makes of it holds an
interpreter too.) `-S` keeps the `site` module out, which would look through site-packages and costs as
much as the rest of the interpreter's start. `<run_dir>` is where the kernel's
sockets and connection file go; the relay makes it, for its own user alone.

The order of things is what makes a start fast: `boot` takes the wire, reads the first frames and
launches the kernel with hardly a module imported; only then, while the kernel boots on another core,
come zmq and the rest (`relay`). So modules that `boot` needs (`boot`, `launch`, `process`,
`quickjson`) import nothing but built-in and frozen modules; a test holds them to it.

Who does what:

| module | |
|---|---|
| `boot` | takes the wire, reads HELLO and the start command, launches the kernel |
| `launch`, `quickjson` | the validated start command; connection file, endpoints |
| `process`, `output`, `memory` | the kernel's process: signals, reaping, what it prints, why it ended |
| `door`, `connect` | how links come to a relay that outlives its gateways |
| `confine`, `seccomp`, `syscalls` | what the relay of a pod takes from itself and its kernel |
| `hiding` | that the kernel reaches no process of this program |
| `loop`, `writer` | the poller; what waits for the transport |
| `sockets`, `readiness` | the kernel's ZMQ sockets, and how to know that they are heard |
| `taps`, `pace`, `brake` | which sockets are served when: a stream gathers, a slow client stops the kernel |
| `inbound`, `requests` | from the clients to the kernel, and which requests still want an answer |
| `outbound`, `voice` | from the kernel to the clients, and what the relay says in its place |
| `outbox` | sequence numbers, sessions, retention, replay |
| `life` | start, restart, interrupt, shutdown, death |
| `commands` | which commands were done, and what was answered |
| `relay`, `errors` | the link's frames, and everything above put together |
| `install` | how the relay comes into an image that has none |
| `canary`, `probe` | what a sandbox must not reach, and what shows that others do |
| `command` | the gateway's side: what a sandbox has to show, and the relay's command |

What comes from the kernel is whatever the user's code makes it: it may cost this sandbox its kernel,
never the relay an exception. What comes from the gateway is held to docs/protocol.md, and a broken
rule ends the relay, and with it the sandbox, with a named reason on stderr.
"""
