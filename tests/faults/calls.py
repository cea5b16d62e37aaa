"""Calls over gRPC beside everything else: some are waited for, some given up, some have no time."""

import random
from collections import Counter
from types import TracebackType
from typing import Self

import numpy as np
import tritonclient.grpc as grpc_client
from tests.servers import Server
from tritonclient.utils import InferenceServerException

CALLS_END = frozenset({"OK", "CANCELLED", "DEADLINE_EXCEEDED", "UNAVAILABLE"})
"""How calls may end. UNAVAILABLE: the batch it was in lost its worker once too often, or no worker was there."""
TIMEOUT_S = 120.0


class Calls:
    """A client of its own, for calls from several threads; ``statuses`` counts how they ended."""

    def __init__(self, server: Server) -> None:
        self._client = grpc_client.InferenceServerClient(server.grpc_address)
        self._service = server.service
        self.statuses: Counter[str] = Counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def call(self) -> None:
        """Ask, and hold the answer against what it should be."""
        self._ask(TIMEOUT_S)

    def hurry(self) -> None:
        """Ask, and wait for a millisecond."""
        self._ask(0.001)

    def cancel(self) -> None:
        """Ask, and give up at once."""
        _, given = _item()
        call = self._client.async_infer(self._service, given, lambda result, error: self._ended(error))
        call.cancel()

    def _ask(self, timeout_s: float) -> None:
        values, given = _item()
        try:
            answer = self._client.infer(self._service, given, client_timeout=timeout_s).as_numpy("y")
        except InferenceServerException as error:
            self._ended(error)
        else:
            right = answer is not None and np.array_equal(answer, 2 * values)
            self.statuses["OK" if right else "wrong"] += 1

    def _ended(self, error: InferenceServerException | None) -> None:
        status = "OK" if error is None else (error.status() or "no status").removeprefix("StatusCode.")
        self.statuses[status] += 1


def _item() -> tuple[np.ndarray, list[grpc_client.InferInput]]:
    values = np.array([[random.randrange(1000), 1, 2, 3]], np.float32)
    given = grpc_client.InferInput("x", [1, 4], "FP32")
    given.set_data_from_numpy(values)
    return values, [given]
