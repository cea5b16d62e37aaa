"""mosec: a Rust front end, one worker process, raw bytes both ways."""

from engine import MAX_BATCH, WAIT_S, Engine
from mosec import Server, Worker


class Model(Worker):
    def __init__(self):
        super().__init__()
        self.engine = Engine()

    def deserialize(self, data):
        return data

    def serialize(self, data):
        return data

    def forward(self, data):
        return self.engine.run_bytes(data) if MAX_BATCH > 1 else self.engine.run_bytes([data])[0]


if __name__ == "__main__":
    server = Server()
    server.append_worker(Model, num=1, max_batch_size=MAX_BATCH, max_wait_time=max(1, round(WAIT_S * 1e3)))
    server.run()
