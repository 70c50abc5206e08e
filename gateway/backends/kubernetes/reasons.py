"""What a pod's status says, as sentences: why it does not start, and how it has ended. Pure functions.

The words are Kubernetes': kubelet's and scheduler's reasons in the status
(https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/,
https://kubernetes.io/docs/concepts/workloads/pods/disruptions/#pod-disruption-conditions).
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

from ..base import Ending
from . import names
from .api import ApiError, Object

#: Why a container's image is not there -> whether it is not going to come by itself, or not soon.
_PULL = {
    "ErrImagePull": False,
    "ImagePullBackOff": True,
    "ErrImageNeverPull": True,
    "InvalidImageName": True,
}
#: What a container waits for that is not going to come.
_START = frozenset(
    {
        "CreateContainerConfigError",
        "CreateContainerError",
        "RunContainerError",
        "CrashLoopBackOff",
        "StartError",
    }
)

#: Conditions by which something else than the kernel or its gateway ends a pod -> a clause.
_DISRUPTIONS = {
    "PreemptionByScheduler": "a pod of a higher priority took its place",
    "DeletionByTaintManager": "its node does not answer, or is to be emptied",
    "EvictionByEvictionAPI": "its node is being emptied",
    "DeletionByPodGC": "its node is gone",
    "TerminationByKubelet": "its node had to give up something",
}

#: Exit statuses from here on are signals, as container runtimes tell them.
_SIGNALLED = 128
#: What a relay says that got a SIGTERM, as from a kubelet that ends its pod.
_ASKED_TO_END = _SIGNALLED + signal.SIGTERM


def is_running(pod: Object) -> bool:
    """Whether the relay has been started."""
    return any("running" in state for _, state in _states(pod, "containerStatuses"))


def has_ended(pod: Object) -> bool:
    """Whether nothing of it runs any more, and nothing will."""
    return _phase(pod) in ("Succeeded", "Failed")


def is_being_deleted(pod: Object) -> bool:
    """Whether somebody has asked for its end."""
    return "deletionTimestamp" in pod["metadata"]


def is_out_of_reach(pod: Object) -> bool:
    """Whether its node has not been heard of for so long that the cluster says so (some 50 s)."""
    return any(
        condition.get("type") == "Ready" and condition.get("reason") == "NodeNotReady"
        for condition in _conditions(pod)
    )


def trouble(pod: Object) -> tuple[str, bool] | None:
    """Why it does not start, as a sentence, and whether it never will; None where nothing is known."""
    for condition in _conditions(pod):
        if condition.get("type") == "PodScheduled" and condition.get("reason") == "Unschedulable":
            return f"The cluster has no place for it: {_message(condition)}.", False
    for name, state in (*_states(pod, "initContainerStatuses"), *_states(pod, "containerStatuses")):
        waiting = state.get("waiting", {})
        reason, message = waiting.get("reason", ""), _message(waiting)
        if reason in _PULL:
            image = next((each["image"] for each in _containers(pod) if each["name"] == name), "?")
            why = f"({reason}): {message or 'see its name'}"
            return f"The image {image} cannot be had {why}.", _PULL[reason]
        if reason in _START:
            return f"Its container {name!r} cannot be started ({reason}): {message}.", True
    return None


def ending(pod: Object) -> Ending:
    """How a pod that has ended, or is being ended, came to that."""
    status = pod.get("status", {})
    reason, message = status.get("reason", ""), _message(status)
    if reason == "DeadlineExceeded":
        life = pod["spec"].get("activeDeadlineSeconds")
        return Ending(f"it reached its maximum life of {life} s", expired=True)
    if reason == "Evicted":
        return Ending(f"its node evicted it: {message}")
    if reason in ("NodeLost", "NodeShutdown", "Terminated"):
        return Ending(f"its node is gone ({reason}): {message}")
    for condition in _conditions(pod):
        if condition.get("type") == "DisruptionTarget" and condition.get("status") == "True":
            why = _DISRUPTIONS.get(condition.get("reason", ""), "the cluster ended it")
            return Ending(f"{why} ({_message(condition)})")
    for name, state in (*_states(pod, "initContainerStatuses"), *_states(pod, "containerStatuses")):
        ended = state.get("terminated")
        if ended and ended.get("exitCode") == _ASKED_TO_END and is_being_deleted(pod):
            continue  # by that deletion
        if ended and (ended.get("exitCode") != 0 or name == names.CONTAINER):
            return Ending(_terminated(pod, name, ended))
    if is_out_of_reach(pod):
        return Ending("its node does not answer")
    if is_being_deleted(pod):
        return Ending("its pod was deleted")
    words = ", ".join(filter(None, (_phase(pod), reason, message)))
    return Ending(f"its pod ended ({words})")


def refusal(error: ApiError) -> str:
    """Why the API server did not take a pod, as a sentence that says what to do."""
    text = str(error)
    if "exceeded quota" in text:
        return f"The namespace's quota is used up. End a kernel, or have the quota raised. {text}"
    if error.status in (403, 422):
        return f"The cluster does not admit the pod. {text}"
    return text


def _terminated(pod: Object, name: str, ended: dict[str, Any]) -> str:
    code = ended.get("exitCode")
    if ended.get("reason") == "OOMKilled":
        limit = next(
            (each["resources"]["limits"]["memory"] for each in _containers(pod) if each["name"] == name), "?"
        )
        return f"it used more than its {_size(limit)} of memory"
    if isinstance(code, int) and code > _SIGNALLED:
        try:
            return f"it was killed by {signal.Signals(code - _SIGNALLED).name}"
        except ValueError:
            pass  # no signal of that number
    what = "its first process" if name == names.CONTAINER else f"its container {name!r}"
    said = _message(ended)
    return f"{what} ended with exit status {code}" + (f": {said}" if said else "")


def _size(text: str) -> str:
    """A memory limit as `podspec` writes it, in MiB."""
    return f"{int(text) / 2**20:g} MiB" if text.isdecimal() else text


def _phase(pod: Object) -> str:
    return str(pod.get("status", {}).get("phase", "Pending"))


def _conditions(pod: Object) -> list[dict[str, Any]]:
    conditions: list[dict[str, Any]] = pod.get("status", {}).get("conditions") or []
    return conditions


def _containers(pod: Object) -> list[dict[str, Any]]:
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def _states(pod: Object, kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for status in pod.get("status", {}).get(kind) or []:
        yield status["name"], status.get("state", {})


def _message(thing: dict[str, Any]) -> str:
    """Its message as a clause: one line, and without a full stop."""
    return " ".join(str(thing.get("message", "")).split()).rstrip(".")
