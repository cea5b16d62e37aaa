"""The fixtures of a server as a user starts one."""

from tests.servers import arrays, server, tiny

__all__ = ["arrays", "server", "tiny"]
