"""Text of a file to a frozen value, strictly: every error names the file, the field, its line and what was expected.

YAML is read by ruamel.yaml as YAML 1.2 (so ``no`` is a word, not false), which keeps line numbers and refuses
duplicate keys; JSON by the standard library with a hook that refuses duplicate keys and NaN.
"""

from __future__ import annotations

import json
import re
from typing import Any, TypeVar

import msgspec
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from poise.errors import ConfigError

T = TypeVar("T")

_SEGMENT = re.compile(r"\.([^.\[]+)|\[(\d+)\]|(\[\.\.\.\])")
_AT = re.compile(r"^(?P<what>.*?)(?: - at `(?P<key>key in )?\$(?P<path>[^`]*)`)?$", re.DOTALL)
_NAMED = re.compile(r"(?P<field>(?:[a-z_]+\.)*[A-Za-z0-9_]+): (?P<rest>.*)", re.DOTALL)
MAX_DEPTH = 32
MAX_NODES = 1_000_000
"""Mappings, lists and values of a document, aliases counted as often as they are used."""


def decode_yaml(text: str, type_: type[T], source: str) -> T:
    """Decode a YAML document into a value of ``type_``; ``source`` is the file's name in errors.

    Raises:
        ConfigError: broken YAML, a duplicate or unknown key, a wrong type or a value out of range.
    """
    yaml = YAML(typ="rt", pure=True)
    yaml.allow_duplicate_keys = False
    try:
        tree = yaml.load(text)
    except DuplicateKeyError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        key = re.search(r'found duplicate key "?([^"\s]+)"?', str(error.problem))
        field = key[1] if key else None
        raise ConfigError(
            "duplicate key", file=source, line=line, field=field, expected="each key once"
        ) from None
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        problem = error.problem or "broken YAML"
        raise ConfigError(f"not YAML: {problem}", file=source, line=line) from None
    except (YAMLError, ValueError, RecursionError, NotImplementedError) as error:
        raise ConfigError(f"not YAML: {str(error).splitlines()[0]}", file=source) from None
    return convert(_plain(tree, source, [MAX_NODES]), type_, source, lines=tree)


def decode_json(data: bytes | str, type_: type[T], source: str) -> T:
    """Decode a JSON document into a value of ``type_``.

    Raises:
        ConfigError: broken JSON, a duplicate or unknown key, a wrong type or a value out of range.
    """
    try:
        tree = json.loads(data, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise ConfigError(f"not JSON: {error.msg}", file=source, line=error.lineno) from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"not JSON: {error}", file=source) from None
    return convert(tree, type_, source)


def convert(tree: Any, type_: type[T], source: str, *, lines: Any = None) -> T:
    """Convert plain builtins into a value of ``type_``, naming file, field and line when it does not fit.

    Raises:
        ConfigError: as ``decode_yaml``.
    """
    try:
        return msgspec.convert(tree, type_)
    except msgspec.ValidationError as error:
        match = _AT.match(str(error))
        what, path = (match["what"], match["path"] or "") if match else (str(error), "")
        keys = _locate(tree, msgspec.inspect.type_info(type_), path)
        named = _NAMED.match(what)  # a check of the whole says itself which field it means
        if named:
            keys, what = [*keys, *named["field"].split(".")], named["rest"]
        unknown = re.search(r"unknown field `([^`]+)`", what)
        missing = re.search(r"missing required field `([^`]+)`", what)
        expected = None
        if unknown:
            known = _fields_of(_type_at(type_, keys))
            keys = [*keys, unknown[1]]
            what, expected = f"unknown field {unknown[1]!r}", "one of " + ", ".join(known) if known else None
        elif missing:
            what, expected = f"missing field {missing[1]!r}", "it to be given"
        elif what.startswith("Invalid enum value"):
            choices = _type_at(type_, keys)
            if isinstance(choices, msgspec.inspect.LiteralType):
                what = "got " + what.removeprefix("Invalid enum value ")
                expected = "one of " + ", ".join(str(value) for value in choices.values)
        raise ConfigError(
            _plain_words(what),
            file=source,
            line=_line(lines, keys),
            field=_dotted(keys) or None,
            expected=expected,
        ) from None


_WORDS = {
    "str": "text", "int": "a whole number", "float": "a number", "bool": "true or false",
    "object": "a mapping", "array": "a list", "null": "nothing (null)",
}  # fmt: skip


def _plain_words(message: str) -> str:
    def words(match: re.Match[str]) -> str:
        return " or ".join(_WORDS.get(name, name) for name in match[1].split(" | "))

    message = re.sub(r"`([a-z]+(?: \| [a-z]+)*)`", words, message)
    lowered = message[:1].lower() + message[1:]
    return lowered if message.startswith(("Expected", "Invalid", "Object")) else message


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"duplicate key {key!r}, expected each key once")
        found[key] = value
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"got {name}, expected a finite number")


def _plain(node: Any, source: str, left: list[int], depth: int = 0) -> Any:
    """Return builtins; refuse what JSON could not say (keys that are no text, tags, anchors in loops)."""
    left[0] -= 1
    if left[0] < 0:
        raise ConfigError(f"more than {MAX_NODES} values", file=source, expected="fewer; are aliases nested?")
    if depth > MAX_DEPTH:
        raise ConfigError(f"nested deeper than {MAX_DEPTH} levels", file=source)
    if isinstance(node, dict):
        plain: dict[str, Any] = {}
        for key, value in node.items():
            if not isinstance(key, str):
                line = node.lc.key(key)[0] + 1 if isinstance(node, CommentedMap) else None
                raise ConfigError(
                    f"got key {key!r}", file=source, line=line, expected="keys that are text (quote it)"
                )
            plain[str(key)] = _plain(value, source, left, depth + 1)
        return plain
    if isinstance(node, list):
        return [_plain(value, source, left, depth + 1) for value in node]
    if node is None or isinstance(node, bool):
        return node
    for kind in (int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return str(node)


def _dotted(keys: list[str | int]) -> str:
    text = ""
    for key in keys:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else key
    return text


def _line(lines: Any, keys: list[str | int]) -> int | None:
    """Line (from 1) of the deepest key that the file really has."""
    line: int | None = None
    node = lines
    for key in keys:
        try:
            if isinstance(node, CommentedMap) and key in node:
                line = node.lc.key(key)[0] + 1
            elif isinstance(node, CommentedSeq) and isinstance(key, int):
                line = node.lc.item(key)[0] + 1
            else:
                break
            node = node[key]
        except (KeyError, IndexError, AttributeError, TypeError):
            break
    if line is None and isinstance(lines, CommentedMap):
        line = lines.lc.line + 1
    return line


def _locate(tree: Any, info: msgspec.inspect.Type, path: str) -> list[str | int]:
    """Turn msgspec's path, which hides dict keys as ``[...]``, into real keys by trying each value."""
    keys: list[str | int] = []
    for name, index, hidden in _SEGMENT.findall(path):
        info = _without_null(info)
        if name:
            keys.append(name)
            if isinstance(info, msgspec.inspect.StructType):
                info = next((f.type for f in info.fields if f.encode_name == name), msgspec.inspect.AnyType())
            tree = tree.get(name) if isinstance(tree, dict) else None
        elif index:
            keys.append(int(index))
            info = _item_type(info, int(index))
            tree = tree[int(index)] if isinstance(tree, list) and int(index) < len(tree) else None
        elif hidden and isinstance(tree, dict) and isinstance(info, msgspec.inspect.DictType):
            key = next((k for k, value in tree.items() if not _fits(value, info.value_type)), None)
            if key is None:
                break
            keys.append(key)
            tree, info = tree[key], info.value_type
        elif hidden and isinstance(tree, list):
            item = _item_type(info, 0)
            at = next((i for i, value in enumerate(tree) if not _fits(value, item)), None)
            if at is None:
                break
            keys.append(at)
            tree, info = tree[at], item
    return keys


def _item_type(info: msgspec.inspect.Type, index: int) -> msgspec.inspect.Type:
    if isinstance(info, msgspec.inspect.VarTupleType | msgspec.inspect.ListType):
        return info.item_type
    if isinstance(info, msgspec.inspect.TupleType) and index < len(info.item_types):
        return info.item_types[index]
    return msgspec.inspect.AnyType()


def _without_null(info: msgspec.inspect.Type) -> msgspec.inspect.Type:
    if isinstance(info, msgspec.inspect.UnionType):
        rest = [t for t in info.types if not isinstance(t, msgspec.inspect.NoneType)]
        if len(rest) == 1:
            return rest[0]
    return info


def _fits(value: Any, info: msgspec.inspect.Type) -> bool:
    info = _without_null(info)
    type_: Any = Any
    if isinstance(info, msgspec.inspect.StructType):
        type_ = info.cls
    elif isinstance(info, msgspec.inspect.StrType):
        type_ = str
    elif isinstance(info, msgspec.inspect.FloatType):
        type_ = float
    elif isinstance(info, msgspec.inspect.IntType):
        type_ = int
    try:
        msgspec.convert(value, type_)
    except msgspec.ValidationError:
        return False
    return True


def _type_at(type_: type, keys: list[str | int]) -> msgspec.inspect.Type:
    info: msgspec.inspect.Type = msgspec.inspect.type_info(type_)
    for key in keys:
        info = _without_null(info)
        if isinstance(info, msgspec.inspect.StructType):
            info = next((f.type for f in info.fields if f.encode_name == key), msgspec.inspect.AnyType())
        elif isinstance(info, msgspec.inspect.DictType):
            info = info.value_type
        else:
            info = _item_type(info, key if isinstance(key, int) else 0)
    return _without_null(info)


def _fields_of(info: msgspec.inspect.Type) -> list[str]:
    return [f.encode_name for f in info.fields] if isinstance(info, msgspec.inspect.StructType) else []
