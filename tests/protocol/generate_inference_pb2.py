"""Writes the Python of the protocol's messages: `python -m tests.protocol.generate_inference_pb2`."""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

PROTOCOL = Path(__file__).resolve().parents[2] / "src" / "poise" / "protocol"
PROTO = PROTOCOL / "inference.proto"
MADE = ("inference_pb2.py", "inference_pb2.pyi")

HEAD = """# Written by `make proto` from inference.proto: change that.
# ruff: noqa
# fmt: off
# mypy: disable-error-code="type-arg,no-untyped-call"
"""

_VERSION_CHECK = re.compile(r"^_runtime_version\.Validate.*?^\)\n", re.MULTILINE | re.DOTALL)
_VERSION_LINES = re.compile(
    r"^(# Protobuf Python Version: |from .* import runtime_version ).*\n", re.MULTILINE
)


def generate(folder: Path) -> None:
    """Write the files into a folder."""
    with tempfile.TemporaryDirectory() as name:
        options = [f"-I{PROTOCOL}", f"--python_out={name}", f"--pyi_out={name}", str(PROTO)]
        subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *options], check=True)
        for file in MADE:
            text = (Path(name) / file).read_text()
            if file.endswith(".py"):
                text = in_a_pool_of_its_own(text)
            (folder / file).write_text(HEAD + text)


def in_a_pool_of_its_own(text: str) -> str:
    """Keep the messages out of the pool that all of a process shares.

    Other clients of the protocol (Triton's) have messages of the same names in it, and two of a name are refused. And
    of protobuf's version only what is committed to in pyproject.toml matters, not the compiler's.
    """
    text, replaced = re.subn(r"_descriptor_pool\.Default\(\)", "_descriptor_pool.DescriptorPool()", text)
    assert replaced == 1, text
    text, checks = _VERSION_CHECK.subn("", text)
    assert checks == 1, text
    return _VERSION_LINES.sub("", text)


if __name__ == "__main__":
    generate(PROTOCOL)
