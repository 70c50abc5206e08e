"""Delete the pods of one gateway, until there are none: NAMESPACE INSTANCE."""

import asyncio
import sys

from gateway.backends.kubernetes import names
from gateway.backends.kubernetes.api import Api


async def main(namespace: str, instance: str) -> None:
    # The pod's service account.
    api = await Api.connect("", "")
    pods = f"/api/v1/namespaces/{namespace}/pods"
    while found := (await api.get(pods, {"labelSelector": f"{names.INSTANCE}={instance}"}))["items"]:
        for pod in found:
            name = pod["metadata"]["name"]
            await api.delete(f"{pods}/{name}", 0)
            print("deleted", name, flush=True)
        await asyncio.sleep(1)
    await api.close()


asyncio.run(main(*sys.argv[1:]))
