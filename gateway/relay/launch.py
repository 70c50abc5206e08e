"""What CONTROL start asks for, checked, and how it becomes a running kernel.

A kernel is told where to listen by its connection file. Over `ipc` the places are Unix sockets in the
run directory, which ipykernel (like jupyter_client) names `path-PORT` and some other kernels
`path:PORT`; both are watched for. Each restart is a new generation with paths of its own, so that
nothing of the last one can be mistaken for it. `tcp` is the sandbox's own loopback, for kernels that
know nothing else.
"""

import os

from .process import KernelProcess, LaunchError, spawn
from .quickjson import dumps

PORT_NAMES = ("shell", "iopub", "stdin", "control", "hb")
#: Bytes of a Unix socket's path: 108 with its end (unix(7)), less what libzmq and kernels may add.
MAX_SOCKET_PATH = 103
_LONGEST_NAME = "/k99999-5"


class Launch:
    """A valid start command. Raises `LaunchError` that names the member at fault."""

    def __init__(self, members: dict[str, object], environment: dict[str, str]) -> None:
        """`environment` is what the sandbox itself gives its kernel; the command's goes before it."""
        self.argv = _texts(members.get("argv"))
        self.env = {**environment, **_environment(members.get("env"))}
        self.cwd = members.get("cwd")
        self.interrupt_mode = members.get("interrupt_mode", "signal")
        self.transport = members.get("transport", "ipc")
        self.sign = members.get("sign", False)
        if not isinstance(self.cwd, str) or not self.cwd.startswith("/") or "\0" in self.cwd:
            raise LaunchError("A kernel cannot start: 'cwd' must be an absolute path.")
        if self.interrupt_mode not in ("signal", "message"):
            raise LaunchError("A kernel cannot start: 'interrupt_mode' must be 'signal' or 'message'.")
        if self.transport not in ("ipc", "tcp"):
            raise LaunchError("A kernel cannot start: 'transport' must be 'ipc' or 'tcp'.")
        if not isinstance(self.sign, bool):
            raise LaunchError("A kernel cannot start: 'sign' must be true or false.")


class Running:
    """A launched kernel: its process, and where it is going to listen."""

    def __init__(
        self, process: KernelProcess, ip: str, ports: dict[str, int], key: str, is_tcp: bool
    ) -> None:
        self.process = process
        self.key = key
        self._ip = ip
        self._ports = ports
        self._is_tcp = is_tcp

    def endpoints(self) -> dict[str, str] | None:
        """Where to connect, by channel; None while the kernel has not begun to bind.

        The first socket that appears tells how the kernel writes its paths. (A TCP port cannot be seen
        without connecting, which zmq repeats by itself.)
        """
        if self._is_tcp:
            return {name: f"tcp://{self._ip}:{port}" for name, port in self._ports.items()}
        for separator in "-:":
            if any(os.path.exists(f"{self._ip}{separator}{port}") for port in self._ports.values()):
                return {name: f"ipc://{self._ip}{separator}{port}" for name, port in self._ports.items()}
        return None


def run(launch: Launch, run_dir: str, generation: int) -> Running:
    """Write the connection file and launch the kernel; raises `LaunchError`."""
    is_tcp = launch.transport == "tcp"
    if is_tcp:
        ip, ports = "127.0.0.1", _free_ports()
    else:
        ip, ports = f"{run_dir}/k{generation}", {name: n for n, name in enumerate(PORT_NAMES, 1)}
    key = os.urandom(32).hex() if launch.sign else ""
    path = f"{run_dir}/kernel-{generation}.json"
    connection: dict[str, str | int] = {
        "transport": str(launch.transport),
        "ip": ip,
        **{f"{name}_port": port for name, port in ports.items()},
        "key": key,
        "signature_scheme": "hmac-sha256",
    }
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(file, "w") as stream:
            stream.write(dumps(connection))
    except OSError as error:
        raise LaunchError(
            f"The kernel's connection file {path!r} cannot be written: {error.strerror}."
        ) from None
    argv = [argument.replace("{connection_file}", path) for argument in launch.argv]
    # As jupyter_client does: ipykernel ends when this process, its parent, has gone.
    env = {**launch.env, "JPY_PARENT_PID": str(os.getpid())}
    return Running(spawn(argv, env, str(launch.cwd)), ip, ports, key, is_tcp)


def make_run_dir(path: str) -> None:
    """Make the folder for sockets, for this user alone; raises `LaunchError`."""
    if not path.startswith("/") or len(os.fsencode(path + _LONGEST_NAME)) > MAX_SOCKET_PATH:
        raise LaunchError(
            f"The run directory {path!r} must be an absolute path of at most "
            f"{MAX_SOCKET_PATH - len(_LONGEST_NAME)} bytes: a Unix socket's path may not be longer."
        )
    try:
        if not os.path.isdir(path):
            os.mkdir(path, 0o700)
        os.chmod(path, 0o700)
    except OSError as error:
        raise LaunchError(f"The run directory {path!r} cannot be made: {error.strerror}.") from None


def _free_ports() -> dict[str, int]:
    # Not at the top of the module: importing it takes longer than launching a kernel over ipc.
    import socket

    # All are held until the last is found, so that they differ.
    listeners: list[socket.socket] = []
    try:
        for _ in PORT_NAMES:
            listeners.append(socket.create_server(("127.0.0.1", 0)))
        return {name: listener.getsockname()[1] for name, listener in zip(PORT_NAMES, listeners, strict=True)}
    except OSError as error:
        raise LaunchError(
            f"A kernel cannot start: the sandbox has no free TCP port on its loopback: {error.strerror}."
        ) from None
    finally:
        for listener in listeners:
            listener.close()


def _texts(value: object) -> list[str]:
    if not isinstance(value, list) or not value or not all(_is_text(item) for item in value) or not value[0]:
        raise LaunchError("A kernel cannot start: 'argv' must be a list of texts, the program first.")
    return value


def _environment(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not all(
        name and "=" not in name and _is_text(name) and _is_text(text) for name, text in value.items()
    ):
        raise LaunchError("A kernel cannot start: 'env' must map names to texts.")
    return value


def _is_text(value: object) -> bool:
    if not isinstance(value, str) or "\0" in value:
        return False
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        return False
    return True
