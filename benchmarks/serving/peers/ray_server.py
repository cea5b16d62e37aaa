"""Ray Serve: its HTTP proxy, one replica with @serve.batch, raw bytes both ways."""

import signal
import threading

import ray
from engine import MAX_BATCH, PORT, QUEUE, TIMEOUT_S, WAIT_S, Engine
from ray import serve
from starlette.requests import Request
from starlette.responses import Response


@serve.deployment(
    num_replicas=1,
    max_ongoing_requests=QUEUE + MAX_BATCH,
    max_queued_requests=MAX_BATCH,
    ray_actor_options={"num_cpus": 0.5},
)
class Model:
    def __init__(self):
        self.engine = Engine()

    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=WAIT_S)
    async def infer(self, rows):
        return self.engine.run_bytes(rows)

    async def __call__(self, request: Request):
        return Response(await self.infer(await request.body()), media_type="application/octet-stream")


if __name__ == "__main__":
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    ray.init(
        address="local",
        num_cpus=1,
        include_dashboard=False,
        logging_level="error",
        log_to_driver=False,
        object_store_memory=100 * 2**20,
    )
    serve.start(http_options={"host": "127.0.0.1", "port": PORT, "request_timeout_s": TIMEOUT_S or None})
    serve.run(Model.bind(), route_prefix="/predict")
    stop.wait()
    serve.shutdown()
    ray.shutdown()
