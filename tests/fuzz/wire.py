"""The tiny service as the protocol sees it, for fuzzers that have no pytest."""

from pathlib import Path

from poise.files import open_service
from poise.protocol.wire import wire_of

WIRE = wire_of(open_service(Path(__file__).resolve().parents[1] / "data" / "tiny").service, max_items=100)
