"""The fixtures of a server as a user starts one."""

from tests.servers import arrays

__all__ = ["arrays"]
