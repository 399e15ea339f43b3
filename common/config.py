"""YAML to frozen dataclasses, with every error located: `file:line:col: key.path: what was expected, what was found`.

A configuration class is a frozen dataclass. Its field types say what is accepted:

    str int float bool Path, an Enum, Duration (`30s`), Size (`512MB`), X | None, tuple[X, ...], dict[str, X],
    and other configuration classes.

`field(metadata=option(...))` gives a field its documentation, another key, or a parser of its own. A class may
define `__post_init__` that raises ValueError (located at the mapping) or FieldError (located at the field), and
`UNSUPPORTED`, a mapping of keys that are known but not honoured to the reason. The defaults live on the fields;
`describe` lists them.
"""

import dataclasses
import difflib
import enum
import math
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, NewType, TypeVar, Union, get_args, get_origin

import yaml

from common.errors import ConfigError
from common.units import format_duration, parse_duration, parse_size

Duration = NewType("Duration", int)
"""Milliseconds, written as a Prometheus duration."""

Size = NewType("Size", int)
"""Bytes, written as a Prometheus size (powers of 1024)."""

MAX_FILE_BYTES = 16 * 2**20
MAX_NODES = 200_000
MAX_DEPTH = 64
MAX_ERRORS = 50

T = TypeVar("T")
_TAG = "tag:yaml.org,2002:"


class FieldError(ValueError):
    """Raised in `__post_init__`: `key` (as written in YAML) holds what `message` says."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


def option(doc: str, key: str | None = None, parse: Callable[[str], object] | None = None) -> dict[str, object]:
    """Metadata of a field: its documentation, its YAML key if not the field's name, a parser for its scalar.

    `parse` takes the scalar's text and raises ValueError with "expected …, got …".
    """
    return {"doc": doc, "key": key, "parse": parse}


def load_file(cls: type[T], path: Path) -> T:
    """`load` on a file's text; a file that can't be read is a ConfigError too."""
    try:
        data = path.read_bytes()
    except OSError as err:
        raise ConfigError(f"{path}: cannot read the file: {err.strerror or err}") from None
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"{path}: the file is larger than {MAX_FILE_BYTES} bytes")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as err:
        line = data.count(b"\n", 0, err.start) + 1
        raise ConfigError(f"{path}:{line}: not UTF-8: byte 0x{data[err.start]:02x}") from None
    return load(cls, text, str(path))


def load(cls: type[T], text: str, file: str) -> T:
    """Parse `text` into `cls`; ConfigError lists every error found, a line each, with `file` in front.

    An empty document gives the defaults. Unknown and duplicate keys are errors.
    """
    walker = _Walker(file)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as err:
        mark = err.problem_mark or err.context_mark
        where = f"{mark.line + 1}:{mark.column + 1}" if mark else "1:1"
        detail = f"{err.context}: {err.problem}" if err.context and err.problem else err.problem or err.context
        raise ConfigError(f"{file}:{where}: not YAML: {detail}") from None
    except yaml.YAMLError as err:
        raise ConfigError(f"{file}:1:1: not YAML: {' '.join(str(err).split())}") from None
    except RecursionError:
        raise ConfigError(f"{file}:1:1: nested too deeply (more than {MAX_DEPTH} levels)") from None
    result = walker.mapping(cls, node, "") if node is not None and not _is_null(node) else walker.defaults(cls)
    if walker.errors:
        raise ConfigError("\n".join(walker.errors))
    return typing.cast("T", result)


class _Failed(enum.Enum):
    FAILED = enum.auto()


_FAILED = _Failed.FAILED
"""Stands for a value whose error is already recorded."""


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == _TAG + "null"


def _found(node: yaml.Node) -> str:
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    if _is_null(node):
        return "nothing"
    text = str(node.value)
    return f'"{text if len(text) <= 60 else text[:57] + "..."}"'


@cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _key(field: "dataclasses.Field[Any]") -> str:
    return field.metadata.get("key") or field.name


@dataclass
class _Walker:
    file: str
    errors: list[str] = dataclasses.field(default_factory=list)
    visited: int = 0

    def fail(self, node: yaml.Node, path: str, message: str) -> _Failed:
        mark = node.start_mark
        where = f"{self.file}:{mark.line + 1}:{mark.column + 1}"
        if len(self.errors) < MAX_ERRORS:
            self.errors.append(f"{where}: {path}: {message}" if path else f"{where}: {message}")
        return _FAILED

    def defaults(self, cls: type) -> object:
        empty = yaml.MappingNode(_TAG + "map", [], yaml.Mark(self.file, 0, 0, 0, None, 0))
        return self.mapping(cls, empty, "")

    def value(self, kind: Any, node: yaml.Node, path: str) -> object:
        self.visited += 1
        if self.visited > MAX_NODES:
            if self.visited == MAX_NODES + 1:
                self.fail(node, path, f"more than {MAX_NODES} values (are aliases nested?)")
            return _FAILED
        if path.count(".") + path.count("[") > MAX_DEPTH:
            return self.fail(node, path[:80], f"nested too deeply (more than {MAX_DEPTH} levels)")
        origin = get_origin(kind)
        if origin in (Union, types.UnionType):
            inner = [k for k in get_args(kind) if k is not type(None)]
            if _is_null(node):
                return None
            return self.value(inner[0], node, path)
        if origin is tuple:
            return self.sequence(get_args(kind)[0], node, path)
        if origin in (dict, Mapping) or getattr(origin, "__name__", "") == "Mapping":
            return self.dictionary(get_args(kind)[1], node, path)
        if is_dataclass(kind):
            return self.mapping(typing.cast("type", kind), node, path)
        return self.scalar(kind, node, path)

    def sequence(self, kind: Any, node: yaml.Node, path: str) -> object:
        if _is_null(node):
            return ()
        if not isinstance(node, yaml.SequenceNode):
            return self.fail(node, path, f"expected a list, got {_found(node)}")
        items = [self.value(kind, item, f"{path}[{i}]") for i, item in enumerate(node.value)]
        return _FAILED if _FAILED in items else tuple(items)

    def dictionary(self, kind: Any, node: yaml.Node, path: str) -> object:
        if _is_null(node):
            return {}
        pairs = self.pairs(node, path)
        if pairs is None:
            return _FAILED
        items = {key: self.value(kind, value, f"{path}.{key}") for key, (_, value) in pairs.items()}
        return _FAILED if any(v is _FAILED for v in items.values()) else items

    def pairs(self, node: yaml.Node, path: str) -> dict[str, tuple[yaml.Node, yaml.Node]] | None:
        """Keys of a mapping with their nodes; `<<` merges, explicit keys win; duplicates are errors."""
        if not isinstance(node, yaml.MappingNode):
            self.fail(node, path, f"expected a mapping, got {_found(node)}")
            return None
        merged: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        own: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _TAG + "merge":
                sources = value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
                for source in sources:
                    if source is node:
                        self.fail(key_node, path, "merges itself")
                        continue
                    self.visited += 1
                    if self.visited <= MAX_NODES:
                        for key, pair in (self.pairs(source, path) or {}).items():
                            merged.setdefault(key, pair)
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                self.fail(key_node, path, f"expected a key, got {_found(key_node)}")
                continue
            key = key_node.value
            if key in own:
                first = own[key][0].start_mark
                self.fail(key_node, f"{path}.{key}" if path else key, f"given twice, first in line {first.line + 1}")
                continue
            own[key] = (key_node, value_node)
        return {**merged, **own}

    def mapping(self, cls: type, node: yaml.Node, path: str) -> object:
        pairs = self.pairs(node, path)
        if pairs is None:
            return _FAILED
        before = len(self.errors)
        known = {_key(f): f for f in fields(cls) if f.init}
        unsupported: Mapping[str, str] = getattr(cls, "UNSUPPORTED", {})
        values: dict[str, object] = {}
        for key, (key_node, value_node) in pairs.items():
            here = f"{path}.{key}" if path else key
            field = known.get(key)
            if field is None:
                self.unknown(key_node, here, key, known, unsupported)
                continue
            if _is_null(value_node) and _has_default(field):
                continue
            values[field.name] = self.field(cls, field, value_node, here)
        for key, field in known.items():
            if field.name not in values and not _has_default(field) and key not in pairs:
                self.fail(node, f"{path}.{key}" if path else key, "required, but missing")
        if len(self.errors) > before or _FAILED in values.values():
            return _FAILED
        try:
            return cls(**values)
        except FieldError as err:
            at = pairs[err.key][1] if err.key in pairs else node
            return self.fail(at, f"{path}.{err.key}" if path else err.key, str(err))
        except ValueError as err:
            return self.fail(node, path, str(err))

    def field(self, cls: type, field: "dataclasses.Field[Any]", node: yaml.Node, path: str) -> object:
        parse = field.metadata.get("parse")
        if parse is None:
            return self.value(_hints(cls)[field.name], node, path)
        if get_origin(_hints(cls)[field.name]) is tuple:
            if not isinstance(node, yaml.SequenceNode):
                return self.fail(node, path, f"expected a list, got {_found(node)}")
            items = [self.parsed(parse, item, f"{path}[{i}]") for i, item in enumerate(node.value)]
            return _FAILED if any(item is _FAILED for item in items) else tuple(items)
        return self.parsed(parse, node, path)

    def parsed(self, parse: Callable[[str], object], node: yaml.Node, path: str) -> object:
        if not isinstance(node, yaml.ScalarNode):
            return self.fail(node, path, f"expected a single value, got {_found(node)}")
        try:
            return parse("" if _is_null(node) else node.value)
        except ValueError as err:
            return self.fail(node, path, str(err))

    def unknown(
        self, node: yaml.Node, path: str, key: str, known: Mapping[str, object], unsupported: Mapping[str, str]
    ) -> None:
        if key in unsupported:
            self.fail(node, path, f"not supported: {unsupported[key]}")
            return
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
        hint = f", did you mean {near[0]}?" if near else f"; known keys: {', '.join(sorted(known)) or 'none'}"
        self.fail(node, path, f"unknown key{hint}")

    def scalar(self, kind: Any, node: yaml.Node, path: str) -> object:
        def wrong(expected: str) -> _Failed:
            return self.fail(node, path, f"expected {expected}, got {_found(node)}")

        if not isinstance(node, yaml.ScalarNode):
            return wrong(_EXPECTED.get(kind, "a single value"))
        text, tag = node.value, node.tag.removeprefix(_TAG)
        if _is_null(node):
            return "" if kind is str else wrong(_EXPECTED.get(kind, "a value"))
        if kind is str:
            return text
        if kind is bool:
            return text.lower() in ("true", "yes", "on") if tag == "bool" else wrong(_EXPECTED[bool])
        if kind is int:
            return _yaml_int(node) if tag == "int" else wrong(_EXPECTED[int])
        if kind is float:
            if tag not in ("int", "float"):
                return wrong(_EXPECTED[float])
            number = float(_yaml_int(node)) if tag == "int" else _yaml_float(node)
            return number if math.isfinite(number) else wrong("a finite number")
        if kind is Path:
            return Path(text)
        try:
            if kind is Duration:
                return parse_duration(text)
            if kind is Size:
                return parse_size(text)
        except ValueError as err:
            return self.fail(node, path, str(err))
        if isinstance(kind, type) and issubclass(kind, enum.Enum):
            try:
                return kind(text)
            except ValueError:
                return wrong("one of " + ", ".join(str(m.value) for m in kind))
        raise TypeError(f"{path}: configuration classes cannot hold {kind!r}")


_EXPECTED: dict[Any, str] = {
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    Path: "a path",
    Duration: "a duration like 30s",
    Size: "a size like 512MB",
}


def _yaml_int(node: yaml.ScalarNode) -> int:
    return int(yaml.SafeLoader("").construct_yaml_int(node))


def _yaml_float(node: yaml.ScalarNode) -> float:
    return float(yaml.SafeLoader("").construct_yaml_float(node))


def _has_default(field: "dataclasses.Field[Any]") -> bool:
    return field.default is not MISSING or field.default_factory is not MISSING


@dataclass(frozen=True, slots=True)
class KeyDoc:
    """One key of a configuration file, for reference pages; `path` like `scrape_configs[].job_name`."""

    path: str
    kind: str
    default: str
    doc: str


def describe(cls: type, prefix: str = "") -> list[KeyDoc]:
    """All keys of a configuration class and of the classes below it, in order; a required key has no default."""
    found: list[KeyDoc] = []
    for field in fields(cls):
        if not field.init:
            continue
        kind = _hints(cls)[field.name]
        inner = [k for k in get_args(kind) if k not in (type(None), ...)]
        plural = get_origin(kind) is tuple
        item = inner[0] if inner and get_origin(kind) is not dict else kind
        nested = is_dataclass(item) and field.metadata.get("parse") is None
        path = f"{prefix}{_key(field)}{'[]' if plural and nested else ''}"
        default = "" if nested else _default_text(kind, field)
        found.append(KeyDoc(path, _kind_text(kind, field), default, str(field.metadata.get("doc", ""))))
        if nested:
            found.extend(describe(typing.cast("type", item), f"{path}."))
    return found


def _kind_text(kind: Any, field: "dataclasses.Field[Any]") -> str:
    inner = [k for k in get_args(kind) if k not in (type(None), ...)]
    if get_origin(kind) is tuple:
        return "list" if is_dataclass(inner[0]) or field.metadata.get("parse") else f"list of {_kind_name(inner[0])}"
    if get_origin(kind) in (Union, types.UnionType):
        kind = inner[0]
    if get_origin(kind) is not None:
        return "mapping"
    return "text" if field.metadata.get("parse") and is_dataclass(kind) else _kind_name(kind)


def _kind_name(kind: Any) -> str:
    if is_dataclass(kind):
        return "mapping"
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return "one of " + ", ".join(str(member.value) for member in kind)
    return _EXPECTED.get(kind, "text").removeprefix("a ").split(" like ")[0]


def _default_text(kind: Any, field: "dataclasses.Field[Any]") -> str:
    if not _has_default(field):
        return "required"
    value = field.default if field.default is not MISSING else typing.cast("Any", field.default_factory)()
    if value is None or value in ("", (), {}):
        return ""
    if Duration in (kind, *get_args(kind)) and isinstance(value, int):
        return format_duration(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, enum.Enum):
        return str(value.value)
    return ", ".join(str(item) for item in value) if isinstance(value, tuple) else str(value)
