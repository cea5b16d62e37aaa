"""LitServe: uvicorn and FastAPI in front, one worker process, raw bytes both ways."""

from typing import Annotated

import litserve
from engine import MAX_BATCH, PORT, TIMEOUT_S, WAIT_S, Engine
from fastapi import Body, Response


class Model(litserve.LitAPI):
    def setup(self, device):
        self.engine = Engine()

    def decode_request(self, request: Annotated[bytes, Body()]):
        return request

    def batch(self, inputs):
        return inputs

    def predict(self, x):
        return self.engine.run_bytes(x if MAX_BATCH > 1 else [x])

    def unbatch(self, output):
        return output

    def encode_response(self, output) -> Response:
        return Response(output if MAX_BATCH > 1 else output[0], media_type="application/octet-stream")


if __name__ == "__main__":
    api = Model(max_batch_size=MAX_BATCH, batch_timeout=WAIT_S, api_path="/predict")
    server = litserve.LitServer(
        api, accelerator="cpu", devices=1, workers_per_device=1, timeout=TIMEOUT_S, fast_queue=True
    )
    server.run(
        host="127.0.0.1",
        port=PORT,
        num_api_servers=1,
        log_level="error",
        access_log=False,
        generate_client_file=False,
    )
