"""The subset of Go templates."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.labels import Labels
from common.rules.template import Context, TemplateError, parse_template

CONTEXT = Context(
    labels=Labels.of(instance="pi-1:9100", job="node"),
    value=0.98765,
    external_labels=Labels.of(site="garden"),
    external_url="http://hub:9090",
)


def expand(text: str) -> str:
    return parse_template(text).expand(CONTEXT)


@pytest.mark.parametrize(
    ("text", "output"),
    [
        ("", ""),
        ("plain } text {", "plain } text {"),
        ("{{ $labels.instance }} is hot", "pi-1:9100 is hot"),
        ("{{$labels.instance}}{{.Labels.job}}", "pi-1:9100node"),
        ("{{ $labels.nothing }}", ""),
        ("{{ $value }}", "0.98765"),
        ("{{ .Value }}", "0.98765"),
        ("{{ $externalLabels.site }}", "garden"),
        ("{{ $externalURL }}", "http://hub:9090"),
        ("{{ $value | humanizePercentage }}", "98.77%"),
        ('{{ printf "%.2f" $value }}', "0.99"),
        ('{{ $value | printf "%.0f" }} C', "1 C"),
        ('{{ printf "%s=%q %5.1f|%-5s|%%" $labels.job $labels.job $value "x" }}', 'node="node"   1.0|x    |%'),
        ('{{ printf "%d" $value }}', "%!d(float64=0.98765)"),
        ('{{ reReplaceAll ":.*" "" $labels.instance }}', "pi-1"),
        ('{{ reReplaceAll "(a)b" "x$1" "ab" }}', "xa"),
        ('{{ reReplaceAll "(?P<first>a)b" "${first}-$9$$" "ab" }}', "a-$"),
        ('{{ reReplaceAll "a*" "x" "baac" }}', "xbxcx"),
        ('{{ reReplaceAll "a." "x" "ab\\na\\n" }}', "x\na\n"),
        ("{{ $labels.job | toUpper }}", "NODE"),
        ('{{ "aa bb CC" | title }}', "Aa Bb CC"),
        ("{{ $labels.instance | stripPort }}", "pi-1"),
        ('{{ index $labels "job" }}', "node"),
        ("{{ ($value | humanize) }}", "987.6m"),
        ("a  {{- $labels.job -}}  b", "anodeb"),
        ("a{{/* a comment */}}b", "ab"),
        ("{{ `raw \\n` }}", "raw \\n"),
        ('{{ "tab\\t" }}', "tab\t"),
        ("{{ 1 }}", "1"),
        ("{{ 1e6 }}", "1e+06"),
        ('{{ printf "%v %g" 1234567.5 1e6 }}', "1.2345675e+06 1e+06"),
    ],
)
def test_supported_templates_expand_as_in_prometheus(text: str, output: str) -> None:
    assert expand(text) == output


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{{", "unclosed action"),
        ("{{ $labels.x", "unclosed action"),
        ("{{ if gt $value 0.9 }}x{{ end }}", "`if` in a template is not supported yet"),
        ('{{ range query "up" }}{{ end }}', "`range` in a template is not supported yet"),
        ("{{ query }}", "the template function `query` is unknown or not supported yet"),
        ("{{ $labels.quantile * 100 }}", r"unexpected '\*' in a template action"),
        ("{{ $x }}", 'undefined variable "\\$x"'),
        ("{{ humanize }}", "wrong number of arguments for humanize: want 1, got 0"),
        ("{{ $value | $value }}", "expected a function after `|`"),
        ("{{ }}", "missing value"),
        ("{{ ($value }}", "unclosed parenthesis"),
        ("{{/* never closed", "unclosed comment"),
        ("{{ $value $value }}", "unexpected"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(text: str, problem: str) -> None:
    with pytest.raises(TemplateError, match=problem):
        parse_template(text)


def test_a_function_that_refuses_its_argument_is_an_error_when_expanded() -> None:
    with pytest.raises(TemplateError, match=r'error calling humanize: strconv\.ParseFloat: parsing "node"'):
        expand("{{ $labels.job | humanize }}")


@pytest.mark.parametrize("text", ["{{ .Foo }}", "{{ $labels.a.b }}", "{{ $.labels.x }}"])
def test_a_field_that_is_not_there_is_an_error_when_expanded_as_in_go(text: str) -> None:
    template = parse_template(text)
    with pytest.raises(TemplateError, match="field"):
        template.expand(CONTEXT)


def test_an_endless_text_is_refused() -> None:
    with pytest.raises(TemplateError, match="longer than"):
        expand("x" * 20_000)


def test_catastrophic_regexes_are_no_danger() -> None:
    assert expand('{{ reReplaceAll "(a+)+$" "" "' + "a" * 5_000 + 'b" }}').endswith("b")


@given(st.text(alphabet='{}$.|()"` \n\\-/*labelsvaue0', max_size=60))
def test_any_text_expands_or_is_refused(text: str) -> None:
    try:
        parse_template(text).expand(CONTEXT)
    except TemplateError:
        return


@pytest.mark.conformance
def test_upstream_cases_expand_alike_or_are_refused(shared: Path) -> None:
    cases = json.loads((shared / "promql/data/template.json").read_text())["cases"]
    expanded = 0
    for case in cases:
        if case.get("html") or "input" in case or "query_result" in case:
            continue
        try:
            output = expand(case["text"])
        except TemplateError:
            continue
        assert not case.get("should_fail"), case
        assert output == case["output"], case
        expanded += 1
    assert expanded >= 15
