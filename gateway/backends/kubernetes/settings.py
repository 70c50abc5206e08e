"""What pods are made of: the gateway's configuration, and `metadata.sandbox` of a kernelspec.

    {"metadata": {"sandbox": {
        "image": "registry.example/course:3", "relay": "built-in",
        "memory": "2GiB", "memory_request": "512MiB", "cpus": 1, "cpu_request": 0.2,
        "file_size": "10MiB", "tmp_size": "1GiB", "home_size": "1GiB", "life": 3600,
        "runtime_class": "gvisor", "priority_class": "lessons", "queue": "students",
        "node_selector": {"pool": "kernels"}, "tolerations": [{...}],
        "affinity": {...}, "topology_spread": [{...}],
        "read_only": [{"config_map": "course", "target": "texts"}, {"claim": "data"},
                      {"image": "registry.example/set:1", "target": "set"}],
        "transport": "tcp", "sign": true}}}

Limits can only be tightened. The scheduling members are handed on as the API server knows them
(https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/), which judges them; none of
them can touch what isolates. `relay` says whether the image has the relay in it, or it is injected.

Everything else is a `SpecError` that names the member, its value and what is allowed.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from .. import members

Pod = dict[str, Any]

#: A DNS subdomain, as most names in Kubernetes are (RFC 1123).
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
#: A reference of an image; the registry judges it further.
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]{0,1023}")
_LABEL = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")

_RELAYS = ("injected", "built-in")
#: Member -> the field of a volume that it becomes.
_SOURCES: Mapping[str, Callable[[str], dict[str, Any]]] = {
    "config_map": lambda name: {"configMap": {"name": name}},
    "claim": lambda name: {"persistentVolumeClaim": {"claimName": name, "readOnly": True}},
    "image": lambda reference: {"image": {"reference": reference, "pullPolicy": "IfNotPresent"}},
}


@dataclasses.dataclass(frozen=True)
class Limits:
    """Of one pod: bytes, processors, and seconds for `life`. Requests are what the scheduler sets aside."""

    memory: int
    memory_request: int
    cpus: float
    cpu_request: float
    file_size: int
    tmp_size: int
    home_size: int
    life: float


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is configured for all pods of a gateway."""

    namespace: str
    labels: Mapping[str, str]
    instance: str
    image: str
    relay_image: str
    image_pull_policy: str
    user_namespaces: bool
    orphan_timeout: int
    limits: Limits


class Volume(NamedTuple):
    """Data of a kernelspec, and where it is shown, read-only."""

    source: Mapping[str, Any]
    target: str


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a kernelspec's settings come to. `scheduling` are fields of the pod's spec."""

    image: str
    injected: bool
    limits: Limits
    scheduling: Mapping[str, Any]
    queue: str
    volumes: Sequence[Volume]


_LIMITS = frozenset(field.name for field in dataclasses.fields(Limits))


def read(settings: Mapping[str, object], configured: Settings) -> Asked:
    """What a pod with these settings is to have. Raises `SpecError`."""
    members.check_known(settings, KNOWN)
    members.check_link(settings)
    bounds = vars(configured.limits)
    limits = {name: members.tighten(name, settings[name], bounds[name]) for name in _LIMITS & settings.keys()}
    scheduling = {
        field: checked(member, settings[member])
        for member, (field, checked) in _SCHEDULING.items()
        if member in settings
    }
    return Asked(
        image=_image("image", settings.get("image", configured.image)),
        injected=_relay(settings.get("relay", "injected")) == "injected",
        limits=_with_requests(Limits(**{**bounds, **limits})),
        scheduling=scheduling,
        queue=_label("queue", settings["queue"]) if "queue" in settings else "",
        volumes=_volumes(settings.get("read_only", [])),
    )


def _with_requests(limits: Limits) -> Limits:
    """Nothing can ask for more than its limit; one that is tightened takes its request along."""
    return dataclasses.replace(
        limits,
        memory_request=min(limits.memory_request, limits.memory),
        cpu_request=min(limits.cpu_request, limits.cpus),
    )


def is_name(value: object) -> bool:
    """Whether it is the name of an object."""
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def is_label(value: object) -> bool:
    """Whether it is the value of a label, and not empty."""
    return isinstance(value, str) and _LABEL.fullmatch(value) is not None


def is_image(value: object) -> bool:
    """Whether it looks like the reference of an image."""
    return isinstance(value, str) and _IMAGE.fullmatch(value) is not None


def _name(member: str, value: object) -> str:
    if not is_name(value):
        raise members.error(member, value, "must be the name of an object of the cluster")
    return str(value)


def _label(member: str, value: object) -> str:
    if not is_label(value):
        raise members.error(
            member, value, "must be a label's value: up to 63 letters, digits, '-', '_' and '.'"
        )
    return str(value)


def _image(member: str, value: object) -> str:
    if not is_image(value):
        raise members.error(
            member, value, "must be the reference of an image, such as registry.example/course:3"
        )
    return str(value)


def _relay(value: object) -> str:
    if value not in _RELAYS:
        raise members.error("relay", value, "must be 'injected' or 'built-in'")
    return str(value)


def _object(member: str, value: object) -> object:
    if not isinstance(value, dict):
        raise members.error(member, value, "must be an object")
    return value


def _objects(member: str, value: object) -> object:
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise members.error(member, value, "must be a list of objects")
    return value


def _selector(member: str, value: object) -> object:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise members.error(member, value, "must be an object of texts")
    return value


#: Member -> the field of the pod's spec, and what it must look like.
_SCHEDULING: Mapping[str, tuple[str, Callable[[str, object], object]]] = {
    "runtime_class": ("runtimeClassName", _name),
    "priority_class": ("priorityClassName", _name),
    "node_selector": ("nodeSelector", _selector),
    "tolerations": ("tolerations", _objects),
    "affinity": ("affinity", _object),
    "topology_spread": ("topologySpreadConstraints", _objects),
}

KNOWN = _LIMITS | _SCHEDULING.keys() | {"image", "relay", "queue", "read_only", "transport", "sign"}


def _volumes(value: object) -> list[Volume]:
    if not isinstance(value, list):
        raise members.error("read_only", value, 'must be a list of {"config_map": ..., "target": ...}')
    volumes: list[Volume] = []
    for position, entry in enumerate(value):
        volume = _volume(f"read_only[{position}]", entry)
        for other in volumes:
            if members.meet(volume.target, other.target):
                raise members.error(f"read_only[{position}]", entry, f"meets the target {other.target}")
        volumes.append(volume)
    return volumes


def _volume(member: str, entry: object) -> Volume:
    kinds = [kind for kind in _SOURCES if isinstance(entry, dict) and kind in entry]
    if not isinstance(entry, dict) or len(kinds) != 1 or not entry.keys() <= {*kinds, "target"}:
        raise members.error(
            member, entry, f'must have one of {", ".join(_SOURCES)} and, if need be, "target"'
        )
    (kind,) = kinds
    named = (_image if kind == "image" else _name)(f"{member}.{kind}", entry[kind])
    target = entry.get("target", "" if kind == "image" else named)
    if not isinstance(target, str) or not target or "\0" in target or ":" in target:
        raise members.error(
            f"{member}.target", target, f"must be a path below {members.DATA}, without a colon"
        )
    return Volume(_SOURCES[kind](named), members.shown_at(member, target))
