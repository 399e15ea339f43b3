"""Which pattern alerts call for."""

import pytest

from common.config import load
from common.errors import ConfigError
from common.labels import Labels
from common.panel.config import DEFAULT_INDICATORS, IndicatorConfig, check_indicators, choose
from common.panel.patterns import PatternName


def alert(name: str, **labels: str) -> Labels:
    return Labels.of({"alertname": name, **labels})


def test_the_default_lamp_is_on_gpio17_and_dark_without_alerts() -> None:
    (lamp,) = DEFAULT_INDICATORS
    assert (lamp.name, lamp.pin) == ("alerts", 17)
    assert choose(lamp, []) == (PatternName.OFF, "")


def test_any_firing_alert_makes_the_default_lamp_blink_and_says_which() -> None:
    assert choose(DEFAULT_INDICATORS[0], [alert("HotSoc", severity="warning")]) == (
        PatternName.BLINK_SLOW,
        "1 firing: HotSoc",
    )


def test_a_critical_alert_blinks_faster_than_a_warning_beside_it() -> None:
    firing = [alert("A", severity="warning"), alert("B", severity="critical")]
    assert choose(DEFAULT_INDICATORS[0], firing)[0] is PatternName.BLINK_FAST


def test_an_indicator_with_labels_ignores_other_alerts() -> None:
    config = IndicatorConfig("kitchen", 4, labels={"room": "kitchen"}, firing=PatternName.ON)
    assert choose(config, [alert("A", room="cellar")])[0] is PatternName.OFF
    assert choose(config, [alert("A", room="kitchen")])[0] is PatternName.ON


def test_many_alerts_are_named_up_to_five() -> None:
    firing = [alert(f"A{i}") for i in range(7)]
    assert choose(DEFAULT_INDICATORS[0], firing)[1] == "7 firing: A0, A1, A2, A3, A4, …"


def test_a_pin_beyond_the_header_is_a_located_error() -> None:
    with pytest.raises(ConfigError, match=r"f.yml:2:6: pin: expected a GPIO number from 0 to 27, got 42"):
        load(IndicatorConfig, "name: x\npin: 42\n", "f.yml")


def test_two_indicators_on_one_pin_are_refused_by_both_names() -> None:
    with pytest.raises(ValueError, match='"a" and "b" share GPIO4'):
        check_indicators([IndicatorConfig("a", 4), IndicatorConfig("b", 4)])


def test_two_indicators_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match='two indicators are named "a"'):
        check_indicators([IndicatorConfig("a", 4), IndicatorConfig("a", 5)])
