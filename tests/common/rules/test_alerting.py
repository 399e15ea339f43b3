"""The state machine of alerting rules, by the words of Prometheus's documentation."""

from dataclasses import replace

import pytest

from common.errors import LimitError, QueryError
from common.labels import Labels
from common.promql.ast import NumberLiteral, Span
from common.rules.alerting import AlertNaming, Change, RuleState, Surroundings, restore, series, step
from common.rules.model import AlertingRule, AlertState
from common.rules.template import parse_template
from common.sample import Millis

MINUTE = 60_000
UP = Labels.of(__name__="up", instance="a")
EXPR = NumberLiteral(1.0, Span(0, 1))


def rule(hold: int = 0, keep: int = 0, **labels: str) -> AlertingRule:
    return AlertingRule(
        "Down",
        EXPR,
        "1",
        hold,
        keep,
        {name: parse_template(text) for name, text in labels.items()},
        {"summary": parse_template("{{ $labels.instance }} at {{ $value }}")},
    )


def at(minutes: float) -> Millis:
    return Millis(int(minutes * MINUTE))


def names(state: RuleState) -> list[str]:
    return sorted(str(labels) for labels, _ in series(state, AlertNaming(rule())))


def test_without_for_an_alert_fires_at_once() -> None:
    state, events = step(rule(), RuleState(), at(0), [(UP, 0.0)])
    assert [e.change for e in events] == [Change.FIRING]
    (alert,) = state.alerts.values()
    assert alert.state is AlertState.FIRING
    assert str(alert.labels) == '{alertname="Down", instance="a"}'
    assert alert.annotations.get("summary") == "a at 0"


def test_an_annotation_may_come_to_nothing_and_a_label_not() -> None:
    empty = parse_template("{{ $labels.none }}")
    down = replace(rule(none="{{ $labels.none }}"), annotations={"b": empty, "a": parse_template("x")})
    state, _ = step(down, RuleState(), at(0), [(UP, 0.0)])
    (alert,) = state.alerts.values()
    assert alert.annotations.to_dict() == {"a": "x", "b": ""}
    assert "none" not in alert.labels


def test_an_alert_is_pending_until_for_has_passed() -> None:
    down = rule(hold=5 * MINUTE)
    state, events = step(down, RuleState(), at(0), [(UP, 0.0)])
    assert [e.change for e in events] == [Change.PENDING]
    state, events = step(down, state, at(4), [(UP, 0.0)])
    assert events == []
    state, events = step(down, state, at(5), [(UP, 0.0)])
    assert [e.change for e in events] == [Change.FIRING]
    assert next(iter(state.alerts.values())).active_at == 0


def test_a_gap_starts_the_wait_anew() -> None:
    down = rule(hold=5 * MINUTE)
    state, _ = step(down, RuleState(), at(0), [(UP, 0.0)])
    state, events = step(down, state, at(1), [])
    assert [e.change for e in events] == [Change.DROPPED]
    assert state.alerts == {}
    state, _ = step(down, state, at(2), [(UP, 0.0)])
    state, _ = step(down, state, at(6), [(UP, 0.0)])
    assert next(iter(state.alerts.values())).state is AlertState.PENDING


def test_a_resolved_alert_is_kept_for_fifteen_minutes_and_then_forgotten() -> None:
    state, _ = step(rule(), RuleState(), at(0), [(UP, 0.0)])
    state, events = step(rule(), state, at(1), [])
    assert [e.change for e in events] == [Change.RESOLVED]
    assert series(state, AlertNaming(rule())) == []
    state, events = step(rule(), state, at(16), [])
    assert len(state.alerts) == 1
    assert events == []
    state, _ = step(rule(), state, at(16.1), [])
    assert state.alerts == {}


def test_a_resolved_alert_that_comes_back_is_a_new_one() -> None:
    state, _ = step(rule(), RuleState(), at(0), [(UP, 0.0)])
    state, _ = step(rule(), state, at(1), [])
    state, events = step(rule(), state, at(2), [(UP, 0.0)])
    assert [e.change for e in events] == [Change.FIRING]
    assert next(iter(state.alerts.values())).active_at == at(2)


def test_keep_firing_for_bridges_a_gap() -> None:
    down = rule(keep=5 * MINUTE)
    state, _ = step(down, RuleState(), at(0), [(UP, 0.0)])
    state, events = step(down, state, at(1), [])
    assert events == []
    assert next(iter(state.alerts.values())).keep_firing_since == at(1)
    state, _ = step(down, state, at(2), [(UP, 0.0)])
    assert next(iter(state.alerts.values())).keep_firing_since is None
    state, _ = step(down, state, at(3), [])
    state, events = step(down, state, at(8), [])
    assert [e.change for e in events] == [Change.RESOLVED]


def test_the_value_and_annotations_follow_while_it_fires() -> None:
    state, _ = step(rule(), RuleState(), at(0), [(UP, 0.0)])
    state, _ = step(rule(), state, at(1), [(UP, 7.0)])
    (alert,) = state.alerts.values()
    assert (alert.value, alert.annotations.get("summary")) == (7.0, "a at 7")
    assert alert.active_at == 0


def test_rule_labels_override_and_templates_see_the_sample() -> None:
    down = rule(severity="page", instance="{{ $labels.instance }}-x", site="{{ $externalLabels.site }}")
    state, _ = step(down, RuleState(), at(0), [(UP, 0.0)], around=Surroundings(Labels.of(site="garden")))
    (alert,) = state.alerts.values()
    assert str(alert.labels) == '{alertname="Down", instance="a-x", severity="page", site="garden"}'


def test_a_label_whose_template_fails_says_so_and_the_alert_still_fires() -> None:
    down = rule(level="{{ $labels.instance | humanize }}")
    state, _ = step(down, RuleState(), at(0), [(UP, 0.0)])
    (alert,) = state.alerts.values()
    assert alert.labels.get("level").startswith("<error expanding template: error calling humanize")


def test_two_alerts_with_equal_labels_fail_the_rule() -> None:
    down = rule(instance="same")
    with pytest.raises(QueryError, match="same labelset after applying alert labels"):
        step(down, RuleState(), at(0), [(UP, 0.0), (UP.merge({"instance": "b"}), 0.0)])


def test_more_alerts_than_the_limit_fail_the_rule() -> None:
    with pytest.raises(LimitError, match="exceeded limit of 1 with 2 alerts"):
        step(rule(), RuleState(), at(0), [(UP, 0.0), (UP.merge({"instance": "b"}), 0.0)], limit=1)


def test_alerts_and_their_for_state_are_series() -> None:
    state, _ = step(rule(hold=MINUTE), RuleState(), at(2), [(UP, 0.0)])
    assert names(state) == [
        'ALERTS_FOR_STATE{alertname="Down", instance="a"}',
        'ALERTS{alertname="Down", alertstate="pending", instance="a"}',
    ]
    assert [value for _, value in series(state, AlertNaming(rule()))] == [1.0, 120.0]
    state, _ = step(rule(hold=MINUTE), state, at(3), [(UP, 0.0)])
    assert 'ALERTS{alertname="Down", alertstate="firing", instance="a"}' in names(state)


def test_what_is_remembered_of_label_sets_changes_nothing() -> None:
    samples = [UP.merge({"instance": each}) for each in "abc"]
    constant, changing = rule(hold=MINUTE, severity="page"), rule(severity="{{ $value }}")
    for down in (constant, changing):
        naming = AlertNaming(down)
        state, other = RuleState(), RuleState()
        for minute, vector in enumerate(([0, 1, 2], [2, 0], [1, 2, 0], [2, 1], [])):
            found = [(samples[each], minute * 1.0) for each in vector]
            state, events = step(down, state, at(minute), found, naming=naming)
            copies = [(Labels(sample.pairs), value) for sample, value in found]
            other, others = step(down, other, at(minute), copies)
            assert (state, events) == (other, others)
            assert series(state, naming) == series(other, AlertNaming(down))


def test_a_label_whose_template_is_a_comment_is_left_out() -> None:
    state, _ = step(rule(note="{{/* nothing */}}", x="y"), RuleState(), at(0), [(UP, 0.0)])
    assert str(next(iter(state.alerts))) == '{alertname="Down", instance="a", x="y"}'


def test_nothing_is_written_before_the_old_state_was_restored() -> None:
    state, _ = step(rule(), RuleState(restored=False), at(0), [(UP, 0.0)])
    assert series(state, AlertNaming(rule())) == []


FOR_STATE = Labels.of(__name__="ALERTS_FOR_STATE", alertname="Down", instance="a")


@pytest.mark.parametrize(
    ("pending_before", "active_at"),
    [
        (5, -5),  # 25 of 30 minutes were left: waits on as if the outage had not been
        (25, -20),  # 5 were left, less than the grace of 10: waits the grace again
        (40, -50),  # it had fired: fires in the next step
    ],
)
def test_a_restart_gives_the_time_pending_back(pending_before: int, active_at: int) -> None:
    slow = rule(hold=30 * MINUTE)
    state, _ = step(slow, RuleState(restored=False), at(0), [(UP, 0.0)])
    stored = {FOR_STATE: (at(-10), -(pending_before + 10) * 60.0)}
    after = restore(slow, state, at(0), stored, grace=10 * MINUTE)
    assert after.restored
    (alert,) = after.alerts.values()
    assert alert.active_at == at(active_at)


def test_rules_that_wait_less_than_the_grace_are_not_restored() -> None:
    quick = rule(hold=5 * MINUTE)
    state, _ = step(quick, RuleState(restored=False), at(0), [(UP, 0.0)])
    after = restore(quick, state, at(0), {FOR_STATE: (at(-1), -3600.0)}, grace=10 * MINUTE)
    assert next(iter(after.alerts.values())).active_at == 0
    assert after.restored
