"""A network that does not enforce policies is noticed, by a gateway that runs and by a doctor."""

from __future__ import annotations

import pytest

from tests.cluster.deployed import Deployed, own_cluster
from tests.cluster.disruptive.stopped import stopped
from tests.cluster.test_proof import HASTY, diagnosis, operator, own, running, why_no_kernel_starts

__all__ = ["own"]

pytestmark = [pytest.mark.requires("cluster", "own-cluster"), pytest.mark.gen_test(timeout=180)]


async def test_a_network_that_ignores_the_exact_policy_is_noticed(own: Deployed) -> None:
    """As the specification says of K3s' Flannel: the policy is there, and pods are connected all the same."""
    async with running(own, **HASTY) as made:
        with stopped("felix"):
            _forget_rules()
            said = await why_no_kernel_starts(made)
            found = await diagnosis(own, **operator(), **HASTY)
    assert "the cluster's network does not enforce policies" in said
    assert (found["policy"].ok, found["control"].ok) == (True, True)
    assert (found["egress"].ok, found["ingress"].ok) == (False, False)
    assert "K3s includes Flannel by default, which does not enforce policies" in found["egress"].remedy

    async def isolated() -> bool:
        return bool((await diagnosis(own))["egress"].ok)

    for _ in range(20):
        if await isolated():
            return
    pytest.fail("felix does not enforce again")


def _forget_rules() -> None:
    """What felix has told the node's packet filter, of both families."""
    for family in ("iptables", "ip6tables"):
        script = f"{family}-save | grep -v -e cali | {family}-restore"
        own_cluster().run("sh", "-euc", script)
