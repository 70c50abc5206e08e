"""Settings of kernelspecs for pods, as hypothesis draws them: all that is accepted, and nothing else."""

from __future__ import annotations

import string
from typing import Any

from hypothesis import strategies as st

_LOWER = string.ascii_lowercase + string.digits
_MIB = 1 << 20

_name = st.text(_LOWER, min_size=1, max_size=40)
_label = st.text(_LOWER + string.ascii_uppercase, min_size=1, max_size=63)
_image = st.builds("registry.example/{}:{}".format, _name, st.text(_LOWER, min_size=1, max_size=20))
_memory = st.integers(64 * _MIB, 1024 * _MIB)
_folder = st.integers(_MIB, 256 * _MIB)

_toleration = st.fixed_dictionaries(
    {"key": _name, "operator": st.just("Exists")},
    optional={"effect": st.sampled_from(["NoSchedule", "NoExecute", "PreferNoSchedule"])},
)
_affinity = st.builds(
    lambda key, value: {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [
                    {"matchExpressions": [{"key": key, "operator": "In", "values": [value]}]}
                ]
            }
        }
    },
    _name,
    _label,
)
_spread = st.builds(
    lambda skew: {
        "maxSkew": skew,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": {"app": "integr8s"}},
    },
    st.integers(1, 5),
)
_volume = st.one_of(
    st.fixed_dictionaries({"config_map": _name}),
    st.fixed_dictionaries({"claim": _name}),
    st.builds(lambda image, target: {"image": image, "target": target}, _image, _name),
)


def _shown_at(volume: dict[str, str]) -> str:
    return volume.get("target") or volume.get("config_map") or volume["claim"]


#: `runtime_class` is left out: a server knows the class, or refuses the pod.
pod_settings: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "image": _image,
        "relay": st.sampled_from(["injected", "built-in"]),
        "memory": _memory,
        "memory_request": st.integers(_MIB, 256 * _MIB),
        "cpus": st.floats(0.01, 2),
        "cpu_request": st.floats(0.001, 0.1),
        "file_size": st.integers(64 * 1024, 256 * _MIB),
        "tmp_size": _folder,
        "home_size": _folder,
        "life": st.floats(1, 86400),
        "node_selector": st.dictionaries(_name, _label, max_size=3),
        "tolerations": st.lists(_toleration, max_size=3),
        "affinity": _affinity,
        "topology_spread": st.lists(_spread, max_size=1),
        "queue": _label,
        "read_only": st.lists(_volume, max_size=4, unique_by=_shown_at),
        "transport": st.sampled_from(["ipc", "tcp"]),
        "sign": st.booleans(),
    },
)
