"""The protocol's datatypes in numpy's words."""

from __future__ import annotations

from typing import Any

import numpy as np

NUMPY_TYPE: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
}
"""Protocol datatype -> numpy type, for those that numpy has."""

SLOT_HEAD_BYTES = 4
"""Of a slot of BYTES, before its bytes: the length."""


def numpy_type(datatype: str, max_bytes: int | None = None) -> np.dtype[Any]:
    """Return what an element is in memory: BF16 a float32 with room to spare, BYTES a slot of ``max_bytes``."""
    if datatype == "BF16":
        return NUMPY_TYPE["FP32"]
    if datatype == "BYTES":
        return np.dtype(f"V{SLOT_HEAD_BYTES + (max_bytes or 0)}")
    return NUMPY_TYPE[datatype]
