"""What may stand in an exported program's archive (``.pt2``) that poise opens.

``torch.export.load`` is no plain reader. It unpickles example inputs, tensor subclasses and custom objects, falls
back to full pickles where the safe reader refuses one, loads compiled libraries that lie in the archive, evaluates
symbolic sizes as expressions, and turns names of functions into functions. Each of these runs whatever the archive
says. So an archive is looked through first, and refused unless it holds just a graph of ATen operators, raw tensors,
and example inputs that the safe reader takes.

This keeps files of arbitrary code out; it is no proof against a file made with malice by someone who knows torch
well. A model file is to be trusted as code is.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from poise.runtimes.signature import Place

EXPECTED = "a .pt2 file, made by torch.export.save"

_MEMBER = re.compile(
    r"models/model\.json|data/weights/(weight_\d+|model_weights_config\.json)"
    r"|data/constants/(tensor_\d+|model_constants_config\.json)|data/sample_inputs/model\.pt"
    r"|archive_format|archive_version|byteorder|version|\.data/(version|serialization_id)"
)
_CONFIGS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
_TARGET = re.compile(
    r"torch\.ops\.aten\.(?!from_file\b)\w+\.\w+|torch\.sym_\w+"
    r"|torch\.ops\.higher_order\.(wrap_with_set_grad_enabled|wrap_with_autocast|cond)"
    r"|_operator\.(getitem|add|sub|mul|neg|pos|floordiv|truediv|mod|pow|eq|ne|lt|le|gt|ge|and_|or_|not_)"
    r"|math\.(ceil|floor|trunc|sqrt)"
)
_FUNCTIONS = (
    "Symbol|Integer|Rational|Float|Add|Mul|Pow|Max|Min|Mod|floor|ceiling|Equality|Unequality|Eq|Ne|Lt|Le|Gt|Ge"
    "|LessThan|StrictLessThan|GreaterThan|StrictGreaterThan|And|Or|Not|true|false|oo|int_oo"
    "|FloorDiv|ModularIndexing|Where|PythonMod|CleanDiv|CeilToInt|FloorToInt|CeilDiv|LShift|RShift|PowByNatural"
    "|FloatPow|FloatTrueDiv|IntTrueDiv|TruncToFloat|TruncToInt|RoundToInt|RoundDecimal|ToFloat|Identity"
    "|positive|nonnegative|nonzero|integer|True|False|None"
)
_EXPRESSION = re.compile(rf"(?:\b(?:{_FUNCTIONS}|[suzif]+\d+)\b|'[a-z]+\d+'|\d+(?:\.\d+)?|[-+*/(),=<> ])*")


def check_archive(path: Path, place: Place, torch: Any) -> None:
    """Look through an archive before torch does.

    Raises:
        ConfigError: no archive of an exported program, or one that holds more than a graph and tensors.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _check_members(archive, place, torch)
    except (zipfile.BadZipFile, OSError, ValueError, KeyError, RecursionError) as error:
        raise place.error(f"not an exported program: {error}", EXPECTED) from None


def _check_members(archive: zipfile.ZipFile, place: Place, torch: Any) -> None:
    members = {name.partition("/")[2]: name for name in archive.namelist()}
    if len(members) != len(archive.namelist()):
        raise place.error("a member of the archive stands twice", EXPECTED)
    if "models/model.json" not in members:
        raise place.error("not an exported program: it has no models/model.json", EXPECTED)
    for member in members:
        if not _MEMBER.fullmatch(member):
            raise place.error(f"the archive has {member!r}", "a graph and plain tensors only")
    for config in _CONFIGS:
        if config in members and any(
            value is True
            for key, value in _walk(json.loads(archive.read(members[config])))
            if key == "use_pickle"
        ):
            raise place.error(f"{config} names a pickle", "plain tensors only")
    _check_graph(json.loads(archive.read(members["models/model.json"])), place)
    examples = members.get("data/sample_inputs/model.pt")
    data = b"" if examples is None else archive.read(examples)
    if data:
        try:
            torch.load(io.BytesIO(data), weights_only=True)
        except Exception as error:  # whatever: it is not what the safe reader takes
            words = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise place.error(f"its example inputs are not plain tensors: {words}", EXPECTED) from None


def _check_graph(graph: Any, place: Place) -> None:
    for key, value in _walk(graph):
        if key == "target" and isinstance(value, str) and not _TARGET.fullmatch(value):
            raise place.error(f"the graph calls {value[:80]!r}", "ATen operators only")
        if key == "expr_str" and not (isinstance(value, str) and _EXPRESSION.fullmatch(value)):
            raise place.error(f"the graph has the size {str(value)[:80]!r}", "arithmetic of sizes only")


def _walk(tree: Any) -> Iterator[tuple[str, Any]]:
    """Return every (key, value) of a JSON tree."""
    left = [tree]
    while left:
        node = left.pop()
        if isinstance(node, dict):
            yield from node.items()
            left.extend(node.values())
        elif isinstance(node, list):
            left.extend(node)
