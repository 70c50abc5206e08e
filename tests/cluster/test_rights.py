"""The gateway's account may do what the roles of k8s/manifests say, and nothing else anywhere."""

from __future__ import annotations

import itertools

import pytest

from tests.cluster.api import Api
from tests.cluster.installation import Installation

pytestmark = pytest.mark.requires("cluster")

VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")
#: Verbs that only some resources know, with those (https://kubernetes.io/docs/reference/access-authn-authz/).
SPECIAL = {
    ("", "users", "impersonate"),
    ("", "groups", "impersonate"),
    ("", "serviceaccounts", "impersonate"),
    ("rbac.authorization.k8s.io", "roles", "bind"),
    ("rbac.authorization.k8s.io", "roles", "escalate"),
    ("rbac.authorization.k8s.io", "clusterroles", "bind"),
    ("rbac.authorization.k8s.io", "clusterroles", "escalate"),
    ("certificates.k8s.io", "signers", "approve"),
    ("certificates.k8s.io", "signers", "sign"),
}

#: Group, resource, verb.
Right = tuple[str, str, str]

ALLOWED: set[Right] = {
    *(("", "pods", verb) for verb in ("get", "list", "watch", "create", "delete", "patch")),
    *(("", "pods/exec", verb) for verb in ("get", "create")),
    ("", "events", "list"),
    *(("networking.k8s.io", "networkpolicies", verb) for verb in ("get", "list")),
}

#: Where the canary is.
ALLOWED_AT_HOME: set[Right] = {("discovery.k8s.io", "endpointslices", "list")}

#: What Kubernetes lets everybody ask about himself (the role system:basic-user).
EVERYBODYS: set[Right] = {
    ("authorization.k8s.io", "selfsubjectaccessreviews", "create"),
    ("authorization.k8s.io", "selfsubjectrulesreviews", "create"),
    ("authentication.k8s.io", "selfsubjectreviews", "create"),
}


@pytest.fixture(scope="module")
def every(api: Api) -> set[Right]:
    """Each verb of each resource that the API server has, subresources too."""
    groups = api.get("/apis").object["groups"]
    places = {"": "/api/v1", **{g["name"]: f"/apis/{g['preferredVersion']['groupVersion']}" for g in groups}}
    found = {
        (group, resource["name"])
        for group, place in places.items()
        for resource in api.get(place).object["resources"]
    }
    assert len(found) > 100
    return {(*resource, verb) for resource, verb in itertools.product(found, VERBS)} | SPECIAL


def may(api: Api, account: str, namespace: str, rights: set[Right]) -> set[Right]:
    """What this ServiceAccount ("namespace:name") may do there; "" is the cluster with all namespaces."""
    allowed = set()
    for group, resource, verb in rights:
        name, _, subresource = resource.partition("/")
        attributes = {"namespace": namespace, "verb": verb, "group": group, "resource": name}
        if _allowed(api, account, {"resourceAttributes": {**attributes, "subresource": subresource}}):
            allowed.add((group, resource, verb))
    return allowed


def _allowed(api: Api, account: str, asked: dict[str, object]) -> bool:
    groups = ["", f":{account.partition(':')[0]}"]
    spec = {
        "user": f"system:serviceaccount:{account}",
        "groups": [*(f"system:serviceaccounts{group}" for group in groups), "system:authenticated"],
    }
    kind = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview"}
    answer = api.post(
        "/apis/authorization.k8s.io/v1/subjectaccessreviews", {**kind, "spec": {**spec, **asked}}
    )
    return bool(answer.object["status"]["allowed"])


def test_the_gateway_may_do_what_its_list_says_where_its_executors_are(
    api: Api, installation: Installation, every: set[Right]
) -> None:
    assert every > ALLOWED | EVERYBODYS
    assert may(api, installation.account, installation.executors, every) == ALLOWED | EVERYBODYS


def test_in_its_own_namespace_it_may_find_the_canary(
    api: Api, installation: Installation, every: set[Right]
) -> None:
    assert may(api, installation.account, installation.gateway, every) == ALLOWED_AT_HOME | EVERYBODYS


@pytest.mark.parametrize("namespace", ["default", "kube-system", ""])
def test_it_may_do_nothing_in_other_namespaces_and_in_the_cluster(
    api: Api, installation: Installation, every: set[Right], namespace: str
) -> None:
    assert may(api, installation.account, namespace, every) == EVERYBODYS


@pytest.mark.parametrize("path", ["/metrics", "/logs/", "/debug/pprof/", "/configz"])
def test_it_may_not_ask_the_api_server_about_itself(api: Api, installation: Installation, path: str) -> None:
    assert _allowed(api, installation.account, {"nonResourceAttributes": {"path": "/version", "verb": "get"}})
    assert not _allowed(api, installation.account, {"nonResourceAttributes": {"path": path, "verb": "get"}})


def test_what_the_executors_run_as_may_do_nothing(
    api: Api, installation: Installation, every: set[Right]
) -> None:
    assert may(api, f"{installation.executors}:default", installation.executors, every) == EVERYBODYS
