"""The fixtures of a server as a user starts one."""

from tests.servers import arrays, expected, one_worker, server, tiny

__all__ = ["arrays", "expected", "one_worker", "server", "tiny"]
