"""Relabelling as in Prometheus: `relabel_configs`, `metric_relabel_configs` and their like, applied to label sets."""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING

from common.config import FieldError, option
from common.errors import FormatError
from common.labels import Labels, compile_regex, is_legacy_label_name

if TYPE_CHECKING:
    from common.regex import Match, Pattern

MAX_COMPILED = 4096
"""Regular expressions kept compiled; least recently used go first."""

DEFAULT_REGEX = "(.*)"
DEFAULT_REPLACEMENT = "$1"
DEFAULT_SEPARATOR = ";"

# A variable in a template: $$ (a dollar), ${name}, $name.
_VARIABLE = re.compile(r"\$(?:(\$)|\{(\w+)\}|(\w+))")
_LEGACY_TEMPLATE = re.compile(r"(?:(?:[a-zA-Z_]|\$(?:\{\w+\}|\w+))+\w*)+\Z", re.ASCII)


class Action(StrEnum):
    """What a relabelling step does."""

    REPLACE = "replace"
    KEEP = "keep"
    DROP = "drop"
    KEEP_EQUAL = "keepequal"
    DROP_EQUAL = "dropequal"
    HASHMOD = "hashmod"
    LABEL_MAP = "labelmap"
    LABEL_DROP = "labeldrop"
    LABEL_KEEP = "labelkeep"
    LOWERCASE = "lowercase"
    UPPERCASE = "uppercase"


_EQUALITY = (Action.KEEP_EQUAL, Action.DROP_EQUAL)
_CASE = (Action.LOWERCASE, Action.UPPERCASE)
_WITH_TARGET = (Action.REPLACE, Action.HASHMOD, *_EQUALITY, *_CASE)


def parse_action(text: str) -> Action:
    """The action of this name, in any case; ValueError says which there are."""
    if not text:
        raise ValueError("relabel action cannot be empty")
    try:
        return Action(text.lower())
    except ValueError:
        raise ValueError(f'unknown relabel action "{text}"; known: {", ".join(Action)}') from None


def _parse_regex(text: str) -> str:
    _compiled(text)
    return text


@dataclass(frozen=True, slots=True)
class RelabelConfig:
    """One step of relabelling."""

    source_labels: tuple[str, ...] = field(default=(), metadata=option("labels whose values are joined"))
    separator: str = field(default=DEFAULT_SEPARATOR, metadata=option("what joins them"))
    regex: str = field(
        default=DEFAULT_REGEX, metadata=option("RE2 expression that must match the whole value", parse=_parse_regex)
    )
    modulus: int = field(default=0, metadata=option("modulus of the hash, for hashmod"))
    target_label: str = field(default="", metadata=option("label to set; may hold $1 and so on for replace"))
    replacement: str = field(default=DEFAULT_REPLACEMENT, metadata=option("value to set, with $1 and so on"))
    action: Action = field(default=Action.REPLACE, metadata=option("what to do", parse=parse_action))

    def __post_init__(self) -> None:
        validate(self)


def validate(config: RelabelConfig, legacy_names: bool = False) -> None:
    """Raise a FieldError for fields that don't fit the action; `legacy_names` forbids label names that need quotes."""

    def valid(name: str) -> bool:
        return is_legacy_label_name(name) if legacy_names else name != ""

    def valid_template(name: str) -> bool:
        return _LEGACY_TEMPLATE.match(name) is not None if legacy_names else name != ""

    action, target = config.action, config.target_label
    if config.modulus < 0:
        raise FieldError("modulus", f"expected a number above 0, got {config.modulus}")
    if action is Action.HASHMOD and config.modulus == 0:
        raise FieldError("modulus", "relabel configuration for hashmod requires non-zero modulus")
    if action in _WITH_TARGET:
        if not target:
            raise FieldError("target_label", f"relabel configuration for {action} action requires 'target_label' value")
        if not (valid_template(target) if action is Action.REPLACE and "$" in target else valid(target)):
            raise FieldError("target_label", f"\"{target}\" is invalid 'target_label' for {action} action")
    if action in _CASE and config.replacement != DEFAULT_REPLACEMENT:
        raise FieldError("replacement", f"'replacement' can not be set for {action} action")
    if action is Action.LABEL_MAP and not valid_template(config.replacement):
        raise FieldError("replacement", f"\"{config.replacement}\" is invalid 'replacement' for {action} action")
    rest = (config.separator, config.replacement, config.modulus) != (DEFAULT_SEPARATOR, DEFAULT_REPLACEMENT, 0)
    if action in _EQUALITY and (rest or config.regex != DEFAULT_REGEX):
        raise FieldError(
            "action", f"{action} action requires only 'source_labels' and 'target_label', and no other fields"
        )
    if action in (Action.LABEL_DROP, Action.LABEL_KEEP) and (rest or config.source_labels or target):
        raise FieldError("action", f"{action} action requires only 'regex', and no other fields")


def relabel(labels: Labels, configs: Iterable[RelabelConfig], legacy_names: bool = False) -> Labels | None:
    """`labels` after all steps in order, or None where one drops them."""
    values = dict(labels.pairs)
    for config in configs:
        if not _step(values, config, legacy_names):
            return None
    return Labels(values.items())


@lru_cache(MAX_COMPILED)
def _compiled(pattern: str) -> "Pattern":
    try:
        return compile_regex(pattern)
    except FormatError as err:
        raise ValueError(str(err)) from None


def _set(values: dict[str, str], name: str, value: str) -> None:
    if value:
        values[name] = value
    else:
        values.pop(name, None)


def _step(values: dict[str, str], config: RelabelConfig, legacy_names: bool) -> bool:
    """Apply one step to `values`; False drops them."""
    regex = _compiled(config.regex)
    match config.action:
        case Action.LABEL_MAP:
            for name, value in list(values.items()):
                if found := regex.fullmatch(name):
                    _set(values, expand(config.replacement, found), value)
            return True
        case Action.LABEL_DROP:
            for name in [name for name in values if regex.fullmatch(name)]:
                del values[name]
            return True
        case Action.LABEL_KEEP:
            for name in [name for name in values if not regex.fullmatch(name)]:
                del values[name]
            return True
        case _:
            joined = config.separator.join([values.get(name, "") for name in config.source_labels])
            return _step_on_value(values, config, regex, joined, legacy_names)


def _step_on_value(
    values: dict[str, str], config: RelabelConfig, regex: "Pattern", value: str, legacy_names: bool
) -> bool:
    target = config.target_label
    match config.action:
        case Action.KEEP:
            return regex.fullmatch(value) is not None
        case Action.DROP:
            return regex.fullmatch(value) is None
        case Action.KEEP_EQUAL:
            return values.get(target, "") == value
        case Action.DROP_EQUAL:
            return values.get(target, "") != value
        case Action.HASHMOD:
            digest = hashlib.md5(value.encode(errors="surrogateescape"), usedforsecurity=False).digest()
            _set(values, target, str(int.from_bytes(digest[8:], "big") % config.modulus))
        case Action.LOWERCASE:
            _set(values, target, value.lower())
        case Action.UPPERCASE:
            _set(values, target, value.upper())
        case _:
            if found := regex.fullmatch(value):
                name = expand(target, found)
                if is_legacy_label_name(name) if legacy_names else name:
                    _set(values, name, expand(config.replacement, found))
    return True


def expand(template: str, found: "Match") -> str:
    """`template` with `$1`, `${1}`, `$name` and `${name}` replaced as by Go's regexp; unknown ones are empty."""
    if "$" not in template:
        return template

    def value(variable: re.Match[str]) -> str:
        dollar, braced, bare = variable.groups()
        if dollar:
            return "$"
        name = braced or bare
        try:
            return found.group(int(name) if name.isascii() and name.isdecimal() else name) or ""
        except (IndexError, KeyError, OverflowError):
            return ""

    return _VARIABLE.sub(value, template)
