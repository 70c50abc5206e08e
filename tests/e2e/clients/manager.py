"""The manager that notebooks/README.md has for nbclient and papermill.

jupyter_client asks a manager whether its kernel lives where the first answer takes more than a second. That
is not among the methods of jupyter_server's (2.21), and the one that it inherits asserts what is not so.
"""

from jupyter_server.gateway.managers import GatewayKernelManager


class PatientKernelManager(GatewayKernelManager):
    async def _async_is_alive(self) -> bool:
        return await self.is_alive()
