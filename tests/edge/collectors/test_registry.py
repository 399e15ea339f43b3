import argparse

import pytest

from common.errors import ConfigError
from common.testing import FakeClock
from edge.collectors.base import Collector, Paths
from edge.collectors.cpu import FREQUENCY as CPUINFO_FREQUENCY
from edge.collectors.registry import COLLECTORS, add_flags, build_collectors, option_fields, paths_from


def parse(*args: str) -> dict[str, object]:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_flags(parser)
    return vars(parser.parse_args(args))


def names(built: list[Collector]) -> list[str]:
    found = [collector.name for collector in built]
    for collector in built:
        collector.close()
    return found


def test_only_given_flags_appear() -> None:
    assert parse() == {}


def test_a_collector_can_be_switched_off() -> None:
    assert "cpu" not in names(build_collectors(parse("--no-collector.cpu"), FakeClock()))


def test_disable_defaults_leaves_what_is_named() -> None:
    given = parse("--collector.disable-defaults", "--collector.loadavg")
    assert names(build_collectors(given, FakeClock())) == ["loadavg"]


def test_options_reach_their_collector() -> None:
    given = parse("--collector.disable-defaults", "--collector.cpu", "--no-collector.cpu.guest")
    (cpu,) = build_collectors(given, FakeClock())
    assert cpu.options.guest is False


def test_paths_are_injectable() -> None:
    given = parse("--path.procfs=p", "--path.sysfs=s", "--path.rootfs=r", "--path.udev.data=u")
    assert paths_from(given) == Paths("p", "s", "r", "u")


@pytest.mark.parametrize(
    "given",
    [{"collector.cpu": "yes"}, {"collector.cpu.info": 1}, {"collector.netdev.device-include": ["a"]}],
)
def test_a_value_of_the_wrong_type_is_named(given: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(given))):
        build_collectors(given, FakeClock())


def test_a_bad_regular_expression_names_its_flag() -> None:
    with pytest.raises(ConfigError, match=r"--collector.netdev.device-exclude: not a regular expression"):
        build_collectors(parse("--collector.netdev.device-exclude=("), FakeClock())


def test_names_of_collectors_and_flags_are_unique_and_helps_given() -> None:
    assert len({c.name for c in COLLECTORS}) == len(COLLECTORS)
    flags = [declared for c in COLLECTORS for declared, _, _ in option_fields(c) if not declared.hidden]
    assert len({f.name for f in flags}) == len(flags)
    assert all(f.help for f in flags)


def test_every_known_family_has_one_type_and_help() -> None:
    seen: dict[str, tuple[object, ...]] = {}
    for collector in COLLECTORS:
        for desc in collector.descs:
            if desc is CPUINFO_FREQUENCY:
                continue  # only given while cpufreq, which has the name too, is off
            assert seen.setdefault(desc.name, (desc.type, desc.help)) == (desc.type, desc.help), desc.name
