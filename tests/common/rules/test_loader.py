"""Rule files: what loads, and what errors say."""

import json
from pathlib import Path

import pytest

from common.errors import ConfigError
from common.rules.loader import LoadOptions, load_rule_file, load_rules
from common.rules.model import AlertingRule, RecordingRule

EXAMPLES = Path(__file__).resolve().parents[3] / "hub" / "examples" / "rules.yml"

GOOD = """
groups:
- name: g
  interval: 30s
  limit: 5
  query_offset: 1m
  labels: {team: a, severity: low}
  rules:
  - record: job:up:sum
    expr: sum( up )by(job)
    labels: {x: y}
  - alert: Down
    expr: up == 0
    for: 5m
    keep_firing_for: 1m
    labels: {severity: high}
    annotations: {summary: "{{ $labels.instance }}"}
"""


def test_a_group_carries_its_settings_to_its_rules() -> None:
    (group,) = load_rules(GOOD, "r.yml")
    assert (group.name, group.interval, group.limit, group.query_offset) == ("g", 30_000, 5, 60_000)
    record, alert = group.rules
    assert isinstance(record, RecordingRule)
    assert (record.record, record.query, record.labels) == (
        "job:up:sum",
        "sum by (job) (up)",
        {"team": "a", "severity": "low", "x": "y"},
    )
    assert isinstance(alert, AlertingRule)
    assert (alert.hold, alert.keep_firing) == (300_000, 60_000)
    assert {name: template.source for name, template in alert.labels.items()} == {"team": "a", "severity": "high"}


def test_the_global_section_gives_defaults() -> None:
    (group,) = load_rules("groups: [{name: g}]", "r.yml", LoadOptions(interval=7_000, query_offset=3_000))
    assert (group.interval, group.query_offset, group.rules) == (7_000, 3_000, ())


def test_an_empty_file_has_no_groups() -> None:
    assert load_rules("", "r.yml") == []


RULE = "groups:\n- name: g\n  rules:\n"


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ("  - expr: up\n", "r.yml:4:5: groups[0].rules[0]: one of 'record' or 'alert' must be set"),
        ("  - {record: a, alert: b, expr: up}\n", "only one of 'record' and 'alert' must be set"),
        ("  - record: a\n", "r.yml:4:5: groups[0].rules[0]: field 'expr' must be set in rule"),
        (
            "  - {record: a, expr: up, for: 5m}\n",
            "r.yml:4:32: groups[0].rules[0].for: invalid field 'for' in recording rule",
        ),
        ("  - {record: a, expr: up, keep_firing_for: 5m}\n", "invalid field 'keep_firing_for' in recording rule"),
        ("  - {record: a, expr: up, annotations: {a: b}}\n", "invalid field 'annotations' in recording rule"),
        ("  - {record: 'a{b=\"c\"}', expr: up}\n", "braces present in the recording rule name; should it be in expr?"),
        ("  - {record: a, expr: up, labels: {__name__: x}}\n", "invalid label name: __name__"),
        (
            "  - record: a\n    expr: up{\n",
            (
                "r.yml:5:14: groups[0].rules[0].expr: could not parse expression: 1:4: parse error: "
                "unexpected end of input inside braces"
            ),
        ),
        (
            "  - record: a\n    expr: |\n      sum(up)\n        + )\n",
            "r.yml:7:12: groups[0].rules[0].expr: could not parse expression: 2:6: parse error",
        ),
        (
            "  - record: a\n    expr: 'up +'\n",
            "r.yml:5:16: groups[0].rules[0].expr: could not parse expression: 1:5: parse error: unexpected end",
        ),
        (
            "  - alert: a\n    expr: up\n    labels: {x: '{{ if $value }}1{{ end }}'}\n",
            'r.yml:6:17: groups[0].rules[0].labels.x: label "x": `if` in a template is not supported yet',
        ),
        (
            "  - alert: a\n    expr: up\n    anotations: {}\n",
            "r.yml:6:5: groups[0].rules[0].anotations: field anotations not found, did you mean annotations?",
        ),
        ("  - alert: a\n    expr: up\n    for: fast\n", 'expected a duration like 30s or 1h30m, got "fast"'),
        ("- name: g\n", 'r.yml:4:9: groups[1].name: groupname: "g" is repeated in the same file'),
        ("- name: ''\n", "Groupname must not be empty"),
        ("- {name: h, interval: 0s}\n", "expected a duration above 0"),
        ("- {name: h, limit: -1}\n", "expected 0 or more, got -1"),
    ],
)
def test_errors_say_where_and_what(rules: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_rules(RULE + rules, "r.yml")
    assert message in str(caught.value)


def test_all_errors_of_a_file_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        load_rules(RULE + "  - {record: a, expr: 'up{'}\n  - {record: b, expr: 'sum('}\n", "r.yml")
    assert len(str(caught.value).splitlines()) == 2


def test_a_missing_file_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yml: cannot read the rule file: No such file"):
        load_rule_file(tmp_path / "none.yml")


def test_a_file_that_is_not_utf8_is_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "r.yml"
    path.write_bytes(b"groups:\n- name: \xff\n")
    with pytest.raises(ConfigError, match=r"r\.yml:2: not UTF-8"):
        load_rule_file(path)


def test_the_shipped_rules_load() -> None:
    groups = load_rule_file(EXAMPLES)
    assert "CpuBusy" in {rule.name for group in groups for rule in group.rules}


@pytest.mark.conformance
def test_upstream_rule_files_load_or_fail_alike(shared: Path) -> None:
    folder = shared / "promql" / "data"
    cases = json.loads((folder / "rules.json").read_text())["cases"]
    wrong = []
    for case in cases:
        if case["kind"] not in ("rule-file", "check-rules"):
            continue
        # A lint finding and a file whose templates fail only when expanded both load.
        expected = case.get("ok", case.get("result") in ("ok", "lint", "duplicates"))
        options = LoadOptions(legacy_names=case.get("name_validation_scheme") == "legacy")
        try:
            load_rule_file(folder / "rules" / case["file"], options)
        except ConfigError as err:
            if expected or case.get("error_contains", "") not in str(err):
                wrong.append((case["file"], str(err)))
        else:
            if not expected:
                wrong.append((case["file"], "loaded"))
    assert wrong == []
