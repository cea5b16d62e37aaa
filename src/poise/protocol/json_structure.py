"""What the structure of a request's JSON may be, held before it is decoded: decoded it takes many times the memory."""

from __future__ import annotations

import re

from poise.errors import TooLargeError

JSON_DEPTH = 16
TENSORS = 64

_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_ONE_KIND = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(sorted(set(range(256)) - set(b"[]{}")))
_SPARE_OBJECTS = 64


def check_structure(text: bytes, depth: int = JSON_DEPTH, tensors: int = TENSORS) -> None:
    """Refuse JSON that is nested deeper than ``depth``, or has more objects than ``tensors`` inputs and outputs need.

    Text that is no JSON passes, or is refused for what it seems to be.

    Raises:
        TooLargeError: such JSON.
    """
    objects = text.count(b"{")
    most = _SPARE_OBJECTS + 4 * tensors  # an input, an output, and the parameters of each
    if objects <= most and objects + text.count(b"[") <= depth:
        return
    bare = _STRING.sub(b"", text)
    if objects > most and bare.count(b"{") > most:
        raise TooLargeError(f"got JSON of more than {most} objects, expected at most {tensors} tensors")
    brackets = bare.translate(_ONE_KIND, _NO_BRACKETS)
    if brackets.count(b"[") != brackets.count(b"]"):
        return
    for _ in range(depth):
        if not brackets:
            return
        brackets = brackets.replace(b"[]", b"")  # the innermost of each nest
    if brackets:
        raise TooLargeError(f"got JSON that is nested too deeply, expected at most {depth} levels")
