"""Prometheus rule files to groups of rules; every error located, all of a file's errors at once."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from common.config import MAX_FILE_BYTES, Duration, FieldError, load, option
from common.errors import ConfigError, QueryError
from common.labels import NAME, is_legacy_label_name, is_legacy_metric_name
from common.promql.ast import Expr
from common.promql.errors import ParseError
from common.promql.parser import parse
from common.promql.printer import to_text
from common.rules.model import ALERT_NAME, AlertingRule, Group, RecordingRule, Rule
from common.rules.template import Template, TemplateError, parse_template

MAX_RULES = 10_000
"""Rules a file may hold."""

_UNKNOWN_KEY = re.compile(r"(?P<key>[^.\s\]]+): unknown key")


@dataclass(frozen=True, slots=True)
class RuleConfig:
    """One rule as written."""

    expr: str = field(default="", metadata=option("PromQL expression, evaluated at every tick of its group"))
    record: str = field(default="", metadata=option("name of the series to write; makes it a recording rule"))
    alert: str = field(default="", metadata=option("name of the alert; makes it an alerting rule"))
    hold: Duration = field(default=Duration(0), metadata=option("how long it is pending before it fires", key="for"))
    keep_firing_for: Duration = field(default=Duration(0), metadata=option("how long it fires beyond its end"))
    labels: dict[str, str] = field(default_factory=dict, metadata=option("labels to add or override"))
    annotations: dict[str, str] = field(default_factory=dict, metadata=option("templates for people to read"))

    def __post_init__(self) -> None:
        """What Prometheus's rulefmt refuses, in its words."""
        if self.record and self.alert:
            raise ValueError("only one of 'record' and 'alert' must be set")
        if not self.record and not self.alert:
            raise ValueError("one of 'record' or 'alert' must be set")
        if not self.expr.strip():
            raise ValueError("field 'expr' must be set in rule")
        if self.record:
            for key, given in (
                ("annotations", bool(self.annotations)),
                ("for", self.hold != 0),
                ("keep_firing_for", self.keep_firing_for != 0),
            ):
                if given:
                    raise FieldError(key, f"invalid field '{key}' in recording rule")
            if "{" in self.record or "}" in self.record:
                raise FieldError(
                    "record",
                    f"braces present in the recording rule name; should it be in expr?: {self.record}",
                )
        for name in self.labels:
            if not name or name == NAME:
                raise FieldError("labels", f"invalid label name: {name}")
        if self.alert and ALERT_NAME in self.labels:
            raise FieldError("labels", f"invalid label name: {ALERT_NAME} is the alert's own")
        for name in self.annotations:
            if not name:
                raise FieldError("annotations", f"invalid annotation name: {name}")


@dataclass(frozen=True, slots=True)
class GroupConfig:
    """One group as written; what is None comes from the `global` section."""

    name: str = field(metadata=option("name, unique in its file"))
    interval: Duration | None = field(default=None, metadata=option("time between evaluations"))
    query_offset: Duration | None = field(default=None, metadata=option("how far in the past to evaluate"))
    limit: int = field(default=0, metadata=option("most series or alerts a rule may produce, 0 for no limit"))
    labels: dict[str, str] = field(default_factory=dict, metadata=option("labels for all rules; a rule's own win"))
    rules: tuple[RuleConfig, ...] = field(default=(), metadata=option("the rules, evaluated in this order"))

    def __post_init__(self) -> None:
        """A group needs a name and sane figures."""
        if not self.name:
            raise FieldError("name", "Groupname must not be empty")
        if self.interval is not None and self.interval <= 0:
            raise FieldError("interval", "expected a duration above 0")
        if self.limit < 0:
            raise FieldError("limit", f"expected 0 or more, got {self.limit}")


@dataclass(frozen=True, slots=True)
class RuleFileConfig:
    """A whole rule file."""

    groups: tuple[GroupConfig, ...] = field(default=(), metadata=option("groups of rules"))


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """Defaults of the `global` section (ms), parser features, and whether only pre-UTF-8 names are allowed."""

    interval: int = 60_000
    query_offset: int = 0
    features: frozenset[str] = frozenset()
    legacy_names: bool = False


def load_rule_file(path: Path, options: LoadOptions | None = None) -> list[Group]:
    """The groups of a file; ConfigError lists everything that is wrong with it."""
    try:
        data = path.read_bytes()
    except OSError as err:
        raise ConfigError(f"{path}: cannot read the rule file: {err.strerror or err}") from None
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"{path}: the file is larger than {MAX_FILE_BYTES} bytes")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as err:
        raise ConfigError(f"{path}:{data.count(10, 0, err.start) + 1}: not UTF-8") from None
    return load_rules(text, str(path), options)


def load_rules(text: str, file: str, options: LoadOptions | None = None) -> list[Group]:
    """The groups of a rule file's text; `file` stands before errors and names the groups."""
    try:
        config = load(RuleFileConfig, text, file)
    except ConfigError as err:
        raise ConfigError(_UNKNOWN_KEY.sub(r"\g<key>: field \g<key> not found", str(err))) from None
    return _Builder(text, file, options or LoadOptions()).build(config)


@dataclass(slots=True)
class _Builder:
    text: str
    file: str
    options: LoadOptions
    errors: list[str] = field(default_factory=list)
    nodes: dict[tuple[int, int], dict[str, yaml.Node]] = field(default_factory=dict)

    def build(self, config: RuleFileConfig) -> list[Group]:
        self.nodes = dict(_rule_nodes(self.text))
        seen: set[str] = set()
        groups: list[Group] = []
        if sum(len(group.rules) for group in config.groups) > MAX_RULES:
            raise ConfigError(f"{self.file}: more than {MAX_RULES} rules in one file")
        for i, group in enumerate(config.groups):
            if group.name in seen:
                self.fail(f"groups[{i}].name", f'groupname: "{group.name}" is repeated in the same file', i, -1, "name")
            seen.add(group.name)
            rules = [self.rule(rule, group.labels, i, j) for j, rule in enumerate(group.rules)]
            groups.append(
                Group(
                    file=self.file,
                    name=group.name,
                    interval=self.options.interval if group.interval is None else group.interval,
                    rules=tuple(rule for rule in rules if rule is not None),
                    query_offset=self.options.query_offset if group.query_offset is None else group.query_offset,
                    limit=group.limit,
                )
            )
        if self.errors:
            raise ConfigError("\n".join(self.errors))
        return groups

    def fail(self, path: str, message: str, group: int, rule: int, key: str, name: str = "") -> None:
        """Record an error at the value of `key`, or of `name` in the mapping there."""
        node = self.nodes.get((group, rule), {}).get(key)
        node = _children(node).get(name, node)
        where = f":{node.start_mark.line + 1}:{node.start_mark.column + 1}" if node is not None else ""
        self.errors.append(f"{self.file}{where}: {path}: {message}")

    def rule(self, config: RuleConfig, group_labels: Mapping[str, str], i: int, j: int) -> Rule | None:
        path = f"groups[{i}].rules[{j}]"
        if self.options.legacy_names:
            self.check_names(config, path, i, j)
        expr = self.expression(config.expr, f"{path}.expr", i, j)
        labels = {**group_labels, **config.labels}
        if config.record:
            if expr is None:
                return None
            return RecordingRule(config.record, expr, to_text(expr), labels)
        templates = self.templates(labels, "label", path, "labels", i, j)
        annotations = self.templates(config.annotations, "annotation", path, "annotations", i, j)
        if expr is None:
            return None
        return AlertingRule(
            config.alert, expr, to_text(expr), config.hold, config.keep_firing_for, templates, annotations
        )

    def check_names(self, config: RuleConfig, path: str, i: int, j: int) -> None:
        if config.record and not is_legacy_metric_name(config.record):
            self.fail(f"{path}.record", f"invalid recording rule name: {config.record}", i, j, "record")
        for key, word, names in (("labels", "label", config.labels), ("annotations", "annotation", config.annotations)):
            for name in names:
                if not is_legacy_label_name(name):
                    self.fail(f"{path}.{key}", f"invalid {word} name: {name}", i, j, key)

    def expression(self, query: str, path: str, i: int, j: int) -> Expr | None:
        try:
            return parse(query, self.options.features)
        except ParseError as err:
            where = self.inside(self.nodes.get((i, j), {}).get("expr"), err.problems[0].start, query)
            self.errors.append(f"{self.file}:{where}: {path}: could not parse expression: {err}")
        except QueryError as err:
            self.fail(path, f"could not parse expression: {err}", i, j, "expr")
        return None

    def inside(self, node: yaml.Node | None, offset: int, query: str) -> str:
        """Line and column in the file of a byte offset inside an expression; the expression's start where folded."""
        if node is None:
            return "1:1"
        line, column = node.start_mark.line, node.start_mark.column
        before = query.encode()[: max(0, offset)].decode(errors="ignore")
        inner_line, inner_column = before.count("\n"), len(before) - (before.rfind("\n") + 1)
        style = getattr(node, "style", None)
        if style == "|":
            rows = self.text.splitlines()
            at = line + 1 + inner_line
            content = query.splitlines()[inner_line] if inner_line < len(query.splitlines()) else ""
            indent = rows[at].find(content) if at < len(rows) and content else 0
            return f"{at + 1}:{max(0, indent) + inner_column + 1}"
        if style != ">" and node.start_mark.line == node.end_mark.line:
            return f"{line + 1}:{column + inner_column + 1 + (1 if style else 0)}"
        return f"{line + 1}:{column + 1}"

    def templates(
        self, texts: Mapping[str, str], word: str, path: str, key: str, i: int, j: int
    ) -> dict[str, Template]:
        out: dict[str, Template] = {}
        for name, text in texts.items():
            try:
                out[name] = parse_template(text)
            except TemplateError as err:
                self.fail(f"{path}.{key}.{name}", f'{word} "{name}": {err}', i, j, key, name)
        return out


def _rule_nodes(text: str) -> Iterator[tuple[tuple[int, int], dict[str, yaml.Node]]]:
    """Nodes of the values of each rule by (group, rule) index, of each group by (group, -1)."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    groups = _children(root).get("groups")
    if not isinstance(groups, yaml.SequenceNode):
        return
    for i, group in enumerate(groups.value):
        keys = _children(group)
        yield (i, -1), keys
        rules = keys.get("rules")
        if isinstance(rules, yaml.SequenceNode):
            for j, rule in enumerate(rules.value):
                yield (i, j), _children(rule)


def _children(node: yaml.Node | None) -> dict[str, yaml.Node]:
    if not isinstance(node, yaml.MappingNode):
        return {}
    return {key.value: value for key, value in node.value if isinstance(key, yaml.ScalarNode)}
