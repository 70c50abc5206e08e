"""A pod's status becomes a sentence. The statuses are those of a real cluster, cut down to what is read."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.backends.base import Ending
from gateway.backends.kubernetes import reasons
from gateway.backends.kubernetes.api import ApiError


def pod(deleted: bool = False, **status: Any) -> dict[str, Any]:
    metadata = {"name": "kernel-1", **({"deletionTimestamp": "2026-01-01T00:00:00Z"} if deleted else {})}
    container = {
        "name": "kernel",
        "image": "registry.example/a:1",
        "resources": {"limits": {"memory": "67108864"}},
    }
    injector = {"name": "relay", "image": "registry.example/relay:1"}
    spec = {"containers": [container], "initContainers": [injector], "activeDeadlineSeconds": 60}
    return {"metadata": metadata, "spec": spec, "status": status}


def container(state: dict[str, Any], name: str = "kernel") -> list[dict[str, Any]]:
    return [{"name": name, "state": state}]


def condition(kind: str, reason: str, message: str = "said.", status: str = "True") -> list[dict[str, str]]:
    return [{"type": kind, "reason": reason, "message": message, "status": status}]


#: Of a pod whose node is not heard of: only one of the two has changed, and without a word.
READY_TAKEN_BACK = [{"type": "Ready", "status": "False"}, {"type": "ContainersReady", "status": "True"}]

ENDINGS = {
    "deadline": (
        pod(phase="Failed", reason="DeadlineExceeded", message="Pod was active too long"),
        Ending("it reached its maximum life of 60 s", expired=True),
    ),
    "disk": (
        pod(
            phase="Failed",
            reason="Evicted",
            message='Usage of EmptyDir volume "tmp" exceeds the limit "1Mi". ',
        ),
        Ending('its node evicted it: Usage of EmptyDir volume "tmp" exceeds the limit "1Mi"'),
    ),
    "memory": (
        pod(
            phase="Failed",
            containerStatuses=container({"terminated": {"reason": "OOMKilled", "exitCode": 137}}),
        ),
        Ending("it used more than its 64 MiB of memory"),
    ),
    "signal": (
        pod(
            phase="Failed", containerStatuses=container({"terminated": {"reason": "Error", "exitCode": 139}})
        ),
        Ending("it was killed by SIGSEGV"),
    ),
    "exit": (
        pod(phase="Succeeded", containerStatuses=container({"terminated": {"exitCode": 0}})),
        Ending("its first process ended with exit status 0"),
    ),
    "injection": (
        pod(
            phase="Failed",
            initContainerStatuses=container(
                {"terminated": {"exitCode": 1, "message": "no\n room."}}, "relay"
            ),
        ),
        Ending("its container 'relay' ended with exit status 1: no room"),
    ),
    "preempted": (
        pod(True, phase="Running", conditions=condition("DisruptionTarget", "PreemptionByScheduler")),
        Ending("a pod of a higher priority took its place (said)"),
    ),
    "node lost": (
        pod(True, phase="Running", conditions=condition("DisruptionTarget", "DeletionByTaintManager")),
        Ending("its node does not answer, or is to be emptied (said)"),
    ),
    "out of reach": (
        pod(phase="Running", conditions=READY_TAKEN_BACK),
        Ending("its node does not answer"),
    ),
    "deleted": (pod(True, phase="Running"), Ending("its pod was deleted")),
    "deleted and ended": (
        pod(True, phase="Failed", containerStatuses=container({"terminated": {"exitCode": 143}})),
        Ending("its pod was deleted"),
    ),
    "deleted behind its end": (
        pod(
            True,
            phase="Failed",
            containerStatuses=container({"terminated": {"reason": "OOMKilled", "exitCode": 137}}),
        ),
        Ending("it used more than its 64 MiB of memory"),
    ),
    "told to end": (
        pod(phase="Failed", containerStatuses=container({"terminated": {"exitCode": 143}})),
        Ending("it was killed by SIGTERM"),
    ),
    "anything": (pod(phase="Failed", reason="Odd", message="so."), Ending("its pod ended (Failed, Odd, so)")),
}


@pytest.mark.parametrize(("status", "ending"), ENDINGS.values(), ids=ENDINGS)
def test_how_it_ended(status: dict[str, Any], ending: Ending) -> None:
    assert reasons.ending(status) == ending


TROUBLES = {
    "no place": (
        pod(conditions=condition("PodScheduled", "Unschedulable", "0/1 nodes are available.", "False")),
        ("The cluster has no place for it: 0/1 nodes are available.", False),
    ),
    "no image": (
        pod(containerStatuses=container({"waiting": {"reason": "ImagePullBackOff", "message": "not found"}})),
        ("The image registry.example/a:1 cannot be had (ImagePullBackOff): not found.", True),
    ),
    "no relay": (
        pod(
            initContainerStatuses=container(
                {"waiting": {"reason": "ErrImageNeverPull", "message": "absent"}}, "relay"
            )
        ),
        ("The image registry.example/relay:1 cannot be had (ErrImageNeverPull): absent.", True),
    ),
    "no start": (
        pod(containerStatuses=container({"waiting": {"reason": "CreateContainerError", "message": "bad"}})),
        ("Its container 'kernel' cannot be started (CreateContainerError): bad.", True),
    ),
    "on its way": (pod(containerStatuses=container({"waiting": {"reason": "ContainerCreating"}})), None),
    "no image yet": (
        pod(containerStatuses=container({"waiting": {"reason": "ErrImagePull", "message": "no route"}})),
        ("The image registry.example/a:1 cannot be had (ErrImagePull): no route.", False),
    ),
    "new": (pod(), None),
}


@pytest.mark.parametrize(("status", "trouble"), TROUBLES.values(), ids=TROUBLES)
def test_why_it_does_not_start(status: dict[str, Any], trouble: tuple[str, bool] | None) -> None:
    assert reasons.trouble(status) == trouble


def test_what_runs_has_ended_or_is_lost() -> None:
    running = pod(phase="Running", containerStatuses=container({"running": {}}))
    assert reasons.is_running(running)
    assert not reasons.is_running(
        pod(phase="Pending", initContainerStatuses=container({"running": {}}, "relay"))
    )
    assert not reasons.has_ended(running)
    assert reasons.has_ended(pod(phase="Failed"))
    assert reasons.is_being_deleted(pod(True))
    assert not reasons.is_out_of_reach(running)
    assert reasons.is_out_of_reach(pod(phase="Running", conditions=READY_TAKEN_BACK))
    starting = [{**each, "status": "False", "reason": "ContainersNotReady"} for each in READY_TAKEN_BACK]
    assert not reasons.is_out_of_reach(pod(phase="Pending", conditions=starting))
    well = [{**each, "status": "True"} for each in READY_TAKEN_BACK]
    assert not reasons.is_out_of_reach(pod(phase="Running", conditions=well))


@pytest.mark.parametrize(
    ("status", "message", "words"),
    [
        (403, 'pods "x" is forbidden: exceeded quota: executors', "quota is used up"),
        (422, "spec.hostNetwork: Forbidden", "does not admit"),
        (500, "etcd is away", "etcd is away"),
    ],
)
def test_a_refusal_says_what_to_do(status: int, message: str, words: str) -> None:
    sentence = reasons.refusal(ApiError(message, status=status))
    assert words in sentence
    assert message in sentence
