"""Every socket family and network path. Connections go to the suite's witnesses only; where a socket of
a family is the attempt, it is made and closed, and nothing is sent."""

from __future__ import annotations

import array
import ctypes
import fcntl
import os
import socket
import struct

from .calls import raw
from .table import Facts, RefusedError, preparing, probe

_SIOCGIFFLAGS, _SIOCSIFADDR = 0x8913, 0x8916
_RTM_NEWLINK, _REQUEST_CREATE_ACK = 16, 0x605
_IFLA_IFNAME, _IFLA_LINKINFO, _IFLA_INFO_KIND = 3, 18, 1
_AUDIT, _XFRM, _NETFILTER, _UEVENT, _SOCK_DIAG, _GENERIC = 9, 6, 12, 15, 4, 16
_MPTCP = 262

_PATIENCE = 1.0


def talk(family: int, kind: int, address: str | tuple[str, int], facts: Facts) -> str:
    """Connect, or send a datagram; succeeded when the token comes back."""
    with socket.socket(family, kind) as talker:
        talker.settimeout(_PATIENCE)
        if kind == socket.SOCK_DGRAM:
            talker.bind(
                "" if family == socket.AF_UNIX else ("127.0.0.1" if family == socket.AF_INET else "::1", 0)
            )
            talker.sendto(b"x", address)
        else:
            talker.connect(address)
        answer = talker.recv(4096).decode()
    if answer != facts["token"]:
        raise RefusedError("somebody else answered")
    return "the token came back"


#: Families that may be modules -> what the kernel calls their sockets (/proc/net/protocols).
_PROTOCOLS = {
    **{3: "AX25", 5: "DDP", 6: "NETROM", 9: "X25", 11: "ROSE", 15: "KEY", 21: "RDS", 24: "PPPOE", 26: "LLC"},
    **{
        28: "MPLS",
        29: "RAW_CAN",
        30: "TIPC",
        31: "L2CAP",
        33: "RXRPC",
        35: "PHONET",
        36: "IEEE-802.15.4-MAC",
    },
    **{37: "CAIFSTREAM", 38: "ALG", 39: "NFC_RAW", 40: "AF_VSOCK", 41: "KCM", 42: "QIPCRTR", 43: "SMC"},
    **{44: "XDP", 45: "MCTP"},
}


def _want_loaded(facts: Facts, family: int, protocol: int = 0) -> None:
    """In the control, where an attempt goes through, it must not make the host load a module for it."""
    if not facts.get("fresh_mounts"):
        return
    if family == socket.AF_NETLINK:
        with open("/proc/net/netlink") as lines:
            loaded = str(protocol) in {line.split()[1] for line in lines}
    elif family in _PROTOCOLS:
        with open("/proc/net/protocols") as lines:
            loaded = _PROTOCOLS[family] in {line.split()[0] for line in lines}
    else:
        loaded = True
    if not loaded:
        raise RefusedError("not loaded on this machine")


def _make(facts: Facts, family: int, kind: int, protocol: int = 0) -> str:
    _want_loaded(facts, family, protocol)
    socket.socket(family, kind, protocol).close()
    return "made a socket"


@probe("sockets", "the host's loopback cannot be reached (IPv4)")
def connect_to_the_host_by_ipv4(facts: Facts) -> str:
    return talk(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", facts["tcp4"]), facts)


@probe("sockets", "the host's loopback cannot be reached (IPv6)")
def connect_to_the_host_by_ipv6(facts: Facts) -> str:
    return talk(socket.AF_INET6, socket.SOCK_STREAM, ("::1", facts["tcp6"]), facts)


@probe("sockets", "nor by IPv4 inside IPv6")
def connect_to_the_host_by_mapped_ipv4(facts: Facts) -> str:
    return talk(socket.AF_INET6, socket.SOCK_STREAM, ("::ffff:127.0.0.1", facts["tcp4"]), facts)


@probe("sockets", "nor by datagrams (IPv4)")
def send_a_datagram_to_the_host_by_ipv4(facts: Facts) -> str:
    return talk(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", facts["udp4"]), facts)


@probe("sockets", "nor by datagrams (IPv6)")
def send_a_datagram_to_the_host_by_ipv6(facts: Facts) -> str:
    return talk(socket.AF_INET6, socket.SOCK_DGRAM, ("::1", facts["udp6"]), facts)


@probe("sockets", "a Unix socket of the host cannot be reached by its path")
def connect_to_the_host_by_a_path(facts: Facts) -> str:
    return talk(socket.AF_UNIX, socket.SOCK_STREAM, facts["unix"], facts)


@probe("sockets", "nor one of packets")
def connect_to_the_host_by_packets(facts: Facts) -> str:
    return talk(socket.AF_UNIX, socket.SOCK_SEQPACKET, facts["unix_packet"], facts)


@probe("sockets", "nor one of datagrams")
def send_a_datagram_to_the_host_by_a_path(facts: Facts) -> str:
    return talk(socket.AF_UNIX, socket.SOCK_DGRAM, facts["unix_dgram"], facts)


@probe("sockets", "not even where the folder of the socket is shown")
def connect_to_a_shown_socket(facts: Facts) -> str:
    return talk(socket.AF_UNIX, socket.SOCK_STREAM, facts["shown_stream"], facts)


@probe("sockets", "nor by packets")
def connect_to_a_shown_socket_by_packets(facts: Facts) -> str:
    return talk(socket.AF_UNIX, socket.SOCK_SEQPACKET, facts["shown_packet"], facts)


@probe("sockets", "nor by a datagram")
def send_a_datagram_to_a_shown_socket(facts: Facts) -> str:
    return talk(socket.AF_UNIX, socket.SOCK_DGRAM, facts["shown_dgram"], facts)


@probe("sockets", "nor by another name for it, by a descriptor")
def connect_to_a_shown_socket_by_a_descriptor(facts: Facts) -> str:
    descriptor = os.open(facts["shown_stream"], os.O_PATH)
    return talk(socket.AF_UNIX, socket.SOCK_STREAM, f"/proc/self/fd/{descriptor}", facts)


@probe("sockets", "one with an abstract name cannot be reached")
def connect_to_the_host_by_an_abstract_name(facts: Facts) -> str:
    return talk(socket.AF_UNIX, socket.SOCK_STREAM, facts["abstract"], facts)


@probe("sockets", "nor one of datagrams with an abstract name")
def send_a_datagram_to_the_host_by_an_abstract_name(facts: Facts) -> str:
    return talk(socket.AF_UNIX, socket.SOCK_DGRAM, facts["abstract_dgram"], facts)


@probe("sockets", "there is no network interface but loopback")
def find_another_interface(facts: Facts) -> str:
    others = [name for _, name in socket.if_nameindex() if name != "lo"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        for name in others:
            request = fcntl.ioctl(asker, _SIOCGIFFLAGS, struct.pack("16sH14x", name.encode(), 0))
            if struct.unpack_from("H", request, 16)[0] & 1:
                return f"{name} is up"
    raise RefusedError("none other is up")


@probe("sockets", "there is no route to anywhere")
def find_a_route(facts: Facts) -> str:
    """Connecting a datagram socket sends nothing; the address is one for documentation (RFC 5737)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.connect(("192.0.2.77", 9))
        return f"a route by {asker.getsockname()[0]}"


def make_interface(name: str) -> str:
    """By the routing socket (rtnetlink(7)); of the first kind that the kernel has. Returns the kind."""
    errors = []
    for kind in ("veth", "dummy", "bridge"):
        body = struct.pack("=BxHiII", 0, 0, 0, 0, 0) + _attribute(_IFLA_IFNAME, name.encode() + b"\0")
        body += _attribute(_IFLA_LINKINFO, _attribute(_IFLA_INFO_KIND, kind.encode() + b"\0"))
        header = struct.pack("=IHHII", 16 + len(body), _RTM_NEWLINK, _REQUEST_CREATE_ACK, 1, 0)
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as asker:
            asker.settimeout(_PATIENCE)
            asker.send(header + body)
            answer = asker.recv(4096)
        (code,) = struct.unpack_from("=i", answer, 16)
        if code == 0:
            return kind
        errors.append(OSError(-code, os.strerror(-code)))
    raise errors[0]


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


@probe("sockets", "no network interface can be made")
def make_a_network_interface(facts: Facts) -> str:
    return f"made a {make_interface(f'esc{os.getpid()}')}"


@probe("sockets", "the loopback interface cannot be changed")
def change_an_interface(facts: Facts) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        address = struct.pack("16sHH4s8x", b"lo:7", socket.AF_INET, 0, socket.inet_aton("127.0.0.7"))
        fcntl.ioctl(asker, _SIOCSIFADDR, address)
    return "gave it an address"


@probe("sockets", "no raw IP packets")
def make_a_raw_socket(facts: Facts) -> str:
    return _make(facts, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)


@probe("sockets", "no raw IPv6 packets")
def make_a_raw_ipv6_socket(facts: Facts) -> str:
    return _make(facts, socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)


@probe("sockets", "no echo requests")
def make_a_ping_socket(facts: Facts) -> str:
    return _make(facts, socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)


@probe("sockets", "no multipath TCP, whose paths a filter does not see")
def make_a_multipath_socket(facts: Facts) -> str:
    return _make(facts, socket.AF_INET, socket.SOCK_STREAM, _MPTCP)


@probe("sockets", "no packets below IP")
def make_a_packet_socket(facts: Facts) -> str:
    return _make(facts, socket.AF_PACKET, socket.SOCK_RAW, 0)


@probe("sockets", "no packets past the network stack")
def make_an_xdp_socket(facts: Facts) -> str:
    return _make(facts, 44, socket.SOCK_RAW)


@probe("sockets", "no way to the hypervisor")
def make_a_hypervisor_socket(facts: Facts) -> str:
    return _make(facts, 40, socket.SOCK_STREAM)


@probe("sockets", "no use of the kernel's ciphers")
def make_a_cipher_socket(facts: Facts) -> str:
    return _make(facts, 38, socket.SOCK_SEQPACKET)


@probe("sockets", "no rare families")
def make_a_socket_of_a_rare_family(facts: Facts) -> str:
    """AX.25, X.25, Bluetooth, CAN, TIPC, RDS, PPP over Ethernet, LLC, SMC, key management and the like."""
    errors: list[Exception] = []
    for family in sorted(set(_PROTOCOLS) - {38, 40, 44}):  # those have a row of their own
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET):
            try:
                return _make(facts, family, kind, 2 if family == 15 else 0) + f" of family {family}"
            except (OSError, RefusedError) as error:
                errors.append(error)
    raise errors[0]


@probe("sockets", "the kernel's list of sockets cannot be asked for")
def list_the_sockets_of_others(facts: Facts) -> str:
    return _make(facts, socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG)


@probe("sockets", "the kernel's packet filter cannot be spoken to")
def speak_to_the_packet_filter(facts: Facts) -> str:
    return _make(facts, socket.AF_NETLINK, socket.SOCK_RAW, _NETFILTER)


@probe("sockets", "nor its encryption of packets")
def speak_to_packet_encryption(facts: Facts) -> str:
    return _make(facts, socket.AF_NETLINK, socket.SOCK_RAW, _XFRM)


@probe("sockets", "nor its audit")
def speak_to_the_audit(facts: Facts) -> str:
    return _make(facts, socket.AF_NETLINK, socket.SOCK_RAW, _AUDIT)


@probe("sockets", "nor its news of devices")
def listen_to_news_of_devices(facts: Facts) -> str:
    _want_loaded(facts, socket.AF_NETLINK, _UEVENT)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _UEVENT) as listener:
        listener.bind((0, 1))
    return "listening"


@probe("sockets", "nor its generic families")
def speak_to_generic_families(facts: Facts) -> str:
    return _make(facts, socket.AF_NETLINK, socket.SOCK_RAW, _GENERIC)


@probe("sockets", "a pair of sockets is of the Unix family only")
def make_a_pair_of_another_family(facts: Facts) -> str:
    """The kernel knows pairs of two families; without the other (TIPC) this is as good as not having it."""
    _want_loaded(facts, 30)
    pair = array.array("i", [0, 0])
    raw(facts, "socketpair", 30, socket.SOCK_STREAM, 0, ctypes.create_string_buffer(pair.tobytes(), 8))
    return "made a pair"


@probe("sockets", "ports that belong to the system cannot be had")
def listen_on_a_port_of_the_system(facts: Facts) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind(("127.0.0.1", 80))
    return "bound port 80"


@probe("sockets", "packets cannot be marked for another route")
def mark_packets(facts: Facts) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as marker:
        marker.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 7)
    return "marked them"


@probe("sockets", "the answer of a stranger cannot be taken (transparent proxy)")
def take_the_place_of_another_address(facts: Facts) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as taker:
        taker.setsockopt(socket.SOL_IP, 19, 1)  # IP_TRANSPARENT
    return "may bind to any address"


@probe("sockets", "another process's credentials cannot be claimed")
def claim_the_credentials_of_another(facts: Facts) -> str:
    with preparing("a pair of sockets"):
        one, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    claimed = struct.pack("3i", facts["relay_pid"], os.getuid(), os.getgid())
    one.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, claimed)])
    return f"claimed to be the process {facts['relay_pid']}"
