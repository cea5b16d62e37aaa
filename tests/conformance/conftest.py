"""The fixtures of a server as a user starts one."""

from tests.servers import arrays, expected, tiny

__all__ = ["arrays", "expected", "tiny"]
