"""What `bramblectl run` shows."""

from dataclasses import replace

from common.ctl.view import AgentRow, AlertRow, LampRow, View, changes, text

AGENT = AgentRow("pi:9100", "up", "", 600, 40.0, 12.3, 50.0, 48.2)
LAMP = LampRow("alerts", "GPIO17", "off", False)
QUIET = View((AGENT,), (), (LAMP,))
HOT = View((AGENT,), (AlertRow("Hot", "firing", "pi:9100", "86"),), (replace(LAMP, pattern="blink", on=True),))


def test_the_table_shows_figures_alerts_and_lamps() -> None:
    shown = text(HOT)
    assert "pi:9100  up        600       40.0  12.3 %  50.0 %      48.2 °C  1 firing" in shown
    assert "Hot    firing  pi:9100  86" in shown
    assert "alerts  GPIO17  blink    ● on" in shown


def test_a_view_is_complete_once_every_agent_has_its_figures() -> None:
    assert QUIET.complete
    assert not replace(QUIET, agents=()).complete
    assert not replace(QUIET, agents=(replace(AGENT, cpu=None),)).complete
    assert replace(QUIET, agents=(replace(AGENT, temperature=None),)).complete


def test_changes_are_a_line_each() -> None:
    assert changes(QUIET, HOT) == ["alert Hot pi:9100: inactive -> firing", "lamp alerts (GPIO17): blink"]
    assert changes(HOT, QUIET) == ["alert Hot pi:9100: firing -> inactive", "lamp alerts (GPIO17): off"]
    assert changes(QUIET, QUIET) == []
