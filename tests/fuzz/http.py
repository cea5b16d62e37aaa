"""Raw bytes to a server over HTTP/1.1, many requests on a connection, split at random; every reply is looked at."""

import contextlib
import re
import socket
import time
from collections import Counter
from collections.abc import Sequence

import numpy as np
from tests.fuzz.damage import Damage

ALLOWED = frozenset({503, 504})
"""What a server may say that is not the client's fault: it has no worker, or no time."""
PATIENCE_S = 0.05
"""How long a connection that may have more to say is waited for."""
_REPLY = re.compile(rb"HTTP/1\.1 (\d{3}) [^\r\n]*\r\n")


class FoundError(AssertionError):
    """Something that no request may bring about; ``sent`` brought it about."""

    def __init__(self, what: str, sent: Sequence[bytes]) -> None:
        super().__init__(f"{what}\nsent: {sent!r}")


def fuzz_http(address: tuple[str, int], requests: int, seed: int) -> Counter[int]:
    """Send so many requests; return how often each status came back.

    Raises:
        FoundError: a status that no client may bring about, or what is no HTTP.
    """
    rng = np.random.default_rng(seed)
    damage = Damage(rng)
    statuses: Counter[int] = Counter()
    left = requests
    while left > 0:
        batch = [damage.request() for _ in range(min(left, int(rng.integers(1, 6))))]
        left -= len(batch)
        for status in _talk(address, batch, rng):
            if status >= 500 and status not in ALLOWED:
                raise FoundError(f"status {status}", batch)
            statuses[status] += 1
    return statuses


def _talk(address: tuple[str, int], batch: Sequence[bytes], rng: np.random.Generator) -> list[int]:
    with socket.create_connection(address, 30) as client:
        data = b"".join(batch)
        with contextlib.suppress(ConnectionError):
            if rng.random() < 0.3:
                for cut in sorted(rng.integers(0, len(data) + 1, 3)):
                    client.sendall(data[: int(cut)])
                    data = data[int(cut) :]
                    time.sleep(0)
            client.sendall(data)
            if rng.random() < 0.1:  # gone in the middle
                return []
            if rng.random() < 0.5:
                client.shutdown(socket.SHUT_WR)
        return [int(status) for status in _REPLY.findall(_read(client, batch))]


def _read(client: socket.socket, batch: Sequence[bytes]) -> bytes:
    """Read until the server ends the connection, or has no more to say."""
    got = b""
    while True:
        client.settimeout(PATIENCE_S if len(_REPLY.findall(got)) else 1.0)
        try:
            data = client.recv(2**16)
        except (TimeoutError, ConnectionError):
            break
        if not data:
            break
        got += data
        if len(_REPLY.findall(got)) >= len(batch):
            break
    if got and not got.startswith(b"HTTP/1.1 "):
        raise FoundError(f"no HTTP: {got[:100]!r}", batch)
    return got
