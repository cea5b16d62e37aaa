"""MLServer: uvicorn and FastAPI in front, its adaptive batching, base64 in the protocol's JSON.

Its REST server has no binary tensors; base64 is the shortest form of an item in JSON.
"""

import base64

from engine import Engine
from mlserver import MLModel
from mlserver.types import InferenceResponse, ResponseOutput


class Model(MLModel):
    async def load(self):
        self.engine = Engine()
        return True

    async def predict(self, payload):
        items = payload.inputs[0].data.root
        answers = self.engine.run_bytes([base64.b64decode(item) for item in items])
        return InferenceResponse(
            model_name=self.name,
            outputs=[
                ResponseOutput(
                    name="logits",
                    shape=[len(answers), 1],
                    datatype="BYTES",
                    data=[base64.b64encode(answer).decode() for answer in answers],
                )
            ],
        )
