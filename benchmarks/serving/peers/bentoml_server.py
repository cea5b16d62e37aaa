"""BentoML: uvicorn and starlette in front, its adaptive batching, base64 in JSON.

Its servers take JSON and multipart forms only (its own binary format is refused from outside); base64 is the shortest
form of an item that it can put into batches.
"""

import base64

import bentoml
from engine import MAX_BATCH, QUEUE, TIMEOUT_S, Engine


@bentoml.service(
    workers=1,
    threads=1,
    traffic={"timeout": TIMEOUT_S, "max_concurrency": QUEUE + MAX_BATCH},
    resources={"cpu": "1"},
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
)
class Model:
    def __init__(self) -> None:
        self.engine = Engine()

    @bentoml.api(
        batchable=True, max_batch_size=MAX_BATCH, max_latency_ms=round(TIMEOUT_S * 1e3), route="/predict"
    )
    def predict(self, items: list[str]) -> list[str]:
        answers = self.engine.run_bytes([base64.b64decode(item) for item in items])
        return [base64.b64encode(answer).decode() for answer in answers]
