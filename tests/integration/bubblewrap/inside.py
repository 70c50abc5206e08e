"""Everything that the tests of the contract ask of a sandbox, gathered by one script in it."""

SCRIPT = r"""
import glob, pwd, socket, stat, time

def read(path):
    try:
        return open(path, "rb").read(4096).decode(errors="replace")
    except OSError as error:
        return type(error).__name__

def attempt(function, *arguments):
    try:
        return repr(function(*arguments))
    except OSError as error:
        return type(error).__name__

def mounts():
    for line in open("/proc/self/mountinfo"):
        head, _, tail = line.partition(" - ")
        fields = head.split()
        yield fields[4], fields[5].split(","), tail.split()[0], tail.split()[2].split(",")

def set_user_id_programs():
    for path in glob.glob("/usr/bin/*"):
        if os.stat(path).st_mode & (stat.S_ISUID | stat.S_ISGID) if os.path.exists(path) else False:
            yield path

def devices():
    for top, _, names in os.walk("/dev"):
        for path in (os.path.join(top, name) for name in names):
            mode = os.lstat(path).st_mode
            if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
                yield path

def files_that_can_be_made():
    made = []
    for top, folders, _ in os.walk("/"):
        if top == "/proc":
            folders[:] = [name for name in folders if not name.isdigit()]
        if top.count("/") > 3:
            folders[:] = []
        try:
            with open(os.path.join(top, "made-by-a-test"), "x"):
                made.append(top)
            os.unlink(os.path.join(top, "made-by-a-test"))
        except OSError:
            pass
    return made

# The relay closes itself as soon as it has started the kernel, before it passes any request on.
deadline = time.monotonic() + 10
while read("/proc/1/environ") != "PermissionError" and time.monotonic() < deadline:
    time.sleep(0.01)

status = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
tell({
    "ids": [*os.getresuid(), *os.getresgid()],
    "groups": os.getgroups(),
    "capabilities": {name: status[name].strip() for name in status if name.startswith("Cap")},
    "no_new_privs": status["NoNewPrivs"].strip(),
    "seccomp": status["Seccomp"].strip(),
    "parent": os.getppid(),
    "init": read("/proc/1/cmdline").split("\0"),
    "init_environment": read("/proc/1/environ"),
    "init_memory": attempt(open, "/proc/1/mem", "rb"),
    "processes": sorted(int(name) for name in os.listdir("/proc") if name.isdigit()),
    "namespaces": {name: os.readlink(f"/proc/self/ns/{name}") for name in os.listdir("/proc/self/ns")},
    "cgroup": read("/proc/self/cgroup"),
    "interfaces": [line.split(":")[0].strip() for line in open("/proc/net/dev") if ":" in line],
    "routes": read("/proc/net/route").splitlines()[1:],
    "terminal": attempt(os.open, "/dev/tty", os.O_RDWR),
    "environment": dict(os.environ),
    "home": os.getcwd(),
    "user": pwd.getpwuid(os.getuid()).pw_name,
    "hostname": socket.gethostname(),
    "top": sorted(os.listdir("/")),
    "etc": sorted(os.listdir("/etc")),
    "homes": sorted(os.listdir("/home")),
    "accounts": read("/etc/passwd"),
    "mounts": list(mounts()),
    "made": files_that_can_be_made(),
    "devices": sorted(devices()),
    "masked": {path: read(path) for path in glob.glob("/proc/k*") + ["/proc/interrupts", "/proc/timer_list"]},
    "masked_folders": {path: os.listdir(path) for path in glob.glob("/proc/[adfs]*") if os.path.isdir(path)},
    "kernel_settings": attempt(open, "/proc/sys/kernel/hostname", "w"),
    "core": read("/proc/sys/kernel/core_pattern"),
    "descriptors": {fd: attempt(os.readlink, f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")},
    "set_user_id": {path: os.statvfs(path).f_flag & os.ST_NOSUID for path in set_user_id_programs()},
    "sys": sorted(os.path.join(top, name) for top, _, names in os.walk("/sys") for name in names),
})
"""
