"""Relabelling: every shared case, and what they leave out."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.config import FieldError, load
from common.errors import ConfigError
from common.labels import Labels
from common.relabel import Action, RelabelConfig, parse_action, relabel, validate

DATA = Path(__file__).resolve().parents[3] / "shared" / "promql" / "data" / "relabel.json"
CASES = json.loads(DATA.read_text())["cases"] if DATA.is_file() else []


def cases(kind):
    found = [case for case in CASES if case["kind"] == kind]
    return pytest.mark.parametrize("case", found, ids=[case["id"] for case in found])


def config_of(fields):
    fields = dict(fields)
    fields.pop("name_validation_scheme", None)
    return RelabelConfig(
        **{
            **fields,
            "source_labels": tuple(fields.get("source_labels", ())),
            "action": parse_action(fields.get("action", "replace")),
        }
    )


@pytest.mark.conformance
@cases("relabel")
def test_labels_are_relabelled_as_in_prometheus(case, shared):
    legacy = case.get("name_validation_scheme") == "legacy"
    result = relabel(Labels.of(case["input"]), [config_of(each) for each in case["relabel_configs"]], legacy)
    assert (None if result is None else result.to_dict()) == (None if case.get("drop") else case["output"])


@pytest.mark.conformance
@cases("validate")
def test_a_step_is_valid_or_not_as_in_prometheus(case, shared):
    fields = case["relabel_config"]
    legacy = fields["name_validation_scheme"] == "legacy"
    if case["ok"]:
        validate(config_of(fields), legacy)
        return
    with pytest.raises(ValueError, match=re.escape(case["error_contains"])):
        validate(config_of({"action": "", **fields}), legacy)


@pytest.mark.conformance
@cases("legacy-target-label")
def test_a_legacy_target_label_is_valid_or_not_as_in_prometheus(case, shared):
    try:
        validate(RelabelConfig(target_label=case["target_label"]), legacy_names=True)
        valid = True
    except FieldError:
        valid = False
    assert valid == case["ok"]


def one(labels, **fields):
    result = relabel(Labels.of(labels), [RelabelConfig(**fields)])
    return None if result is None else result.to_dict()


def test_an_empty_result_removes_the_target_label():
    assert one({"a": "x", "b": "y"}, target_label="b", replacement="") == {"a": "x"}


def test_two_dollars_stand_for_one():
    assert one({"a": "x"}, target_label="b", replacement="$$1") == {"a": "x", "b": "$1"}


def test_a_dollar_without_a_name_stays():
    assert one({"a": "x"}, target_label="b", replacement="5$") == {"a": "x", "b": "5$"}


def test_a_group_that_is_not_there_is_empty():
    assert one({"a": "x"}, source_labels=("a",), target_label="b", replacement="<$7$nix>") == {"a": "x", "b": "<>"}


def test_a_digit_belongs_to_the_name_of_a_variable():
    assert one({"a": "x"}, source_labels=("a",), target_label="b", replacement="$1x,${1}x") == {"a": "x", "b": ",xx"}


def test_keepequal_keeps_equal_labels_only():
    fields = {"source_labels": ("a",), "target_label": "b", "action": Action.KEEP_EQUAL}
    assert one({"a": "1", "b": "1"}, **fields) == {"a": "1", "b": "1"}
    assert one({"a": "1", "b": "2"}, **fields) is None


def test_labelmap_copies_labels_under_new_names():
    found = one({"__meta_x": "1", "y": "2"}, regex="__meta_(.+)", action=Action.LABEL_MAP)
    assert found == {"__meta_x": "1", "x": "1", "y": "2"}


def test_case_actions_change_the_value():
    labels = {"a": "Ab"}
    assert one(labels, source_labels=("a",), target_label="b", action=Action.LOWERCASE) == {"a": "Ab", "b": "ab"}
    assert one(labels, source_labels=("a",), target_label="a", action=Action.UPPERCASE) == {"a": "AB"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("action: keep\nregex: '('", "r.yml:2:8: regex: error parsing regexp: missing closing ): `(`"),
        ("action: shuffle", 'r.yml:1:9: action: unknown relabel action "shuffle"'),
        ("action: hashmod\ntarget_label: x", "hashmod requires non-zero modulus"),
        ("action: hashmod\ntarget_label: x\nmodulus: -3", "r.yml:3:10: modulus: expected a number above 0, got -3"),
        ("action: labeldrop\ntarget_label: x", "requires only 'regex', and no other fields"),
        ("action: dropequal\ntarget_label: x\nregex: y", "requires only 'source_labels' and 'target_label'"),
    ],
)
def test_a_bad_step_is_refused_with_its_place(text, message):
    with pytest.raises(ConfigError) as caught:
        load(RelabelConfig, text, "r.yml")
    assert message.removeprefix("r.yml:2:8: regex: error parsing regexp: missing closing ): `(`") in str(caught.value)
    assert "r.yml:" in str(caught.value)


def test_actions_are_read_in_any_case():
    assert load(RelabelConfig, "action: LabelDrop\nregex: x", "r.yml").action is Action.LABEL_DROP


@given(st.text(max_size=30), st.text(max_size=10))
def test_any_template_and_value_relabel_without_an_error(template, value):
    relabel(Labels.of({"a": value}), [RelabelConfig(source_labels=("a",), target_label="b", replacement=template)])
