"""Listed targets: URL and labels as Prometheus makes them."""

from common.config import load
from common.labels import Labels
from hub.config import HubConfig
from hub.discovery.static import JobTargets, Target, targets


def one(job: str) -> Target:
    found = targets(load(HubConfig, f"scrape_configs: [{job}]", "x"))
    (listed,) = found.values()
    (target,) = listed.active
    return target


def test_address_and_job_give_url_and_labels() -> None:
    target = one('{job_name: node, static_configs: [{targets: ["pi:9100"], labels: {room: attic}}]}')
    assert target.url == "http://pi:9100/metrics"
    assert target.labels == Labels.of(job="node", instance="pi:9100", room="attic")


def test_scheme_path_and_parameters_make_the_url() -> None:
    target = one(
        "{job_name: a, scheme: https, metrics_path: /probe, params: {module: [http, dns], target: ['a b']},"
        " static_configs: [{targets: [pi]}]}"
    )
    assert target.url == "https://pi/probe?module=http&module=dns&target=a+b"


def test_labels_with_two_underscores_steer_the_scrape_and_vanish() -> None:
    target = one(
        "{job_name: a, params: {module: [x]}, static_configs: [{targets: [pi],"
        " labels: {__metrics_path__: /m, __scheme__: https, __param_module: y, instance: me}}]}"
    )
    assert target.url == "https://pi/m?module=y"
    assert target.labels == Labels.of(job="a", instance="me")


def test_the_same_target_twice_is_one() -> None:
    found = targets(load(HubConfig, "scrape_configs: [{job_name: a, static_configs: [{targets: [pi, pi]}]}]", "x"))
    assert len(found["a"].active) == 1


def test_of_more_targets_than_the_limit_none_is_scraped_and_each_says_so() -> None:
    found = targets(
        load(HubConfig, "scrape_configs: [{job_name: a, target_limit: 1, static_configs: [{targets: [p, q]}]}]", "x")
    )
    assert {t.refusal for t in found["a"].active} == {"target_limit exceeded (number of targets: 2, limit: 1)"}
    assert len(found["a"].active) == 2


def job(text: str) -> JobTargets:
    return targets(load(HubConfig, f"scrape_configs: [{text}]", "x"))["a"]


def test_relabelling_makes_another_target_of_an_address() -> None:
    found = job(
        "{job_name: a, static_configs: [{targets: ['db:1']}], relabel_configs: ["
        "{source_labels: [__address__], target_label: __param_target},"
        "{source_labels: [__param_target], target_label: instance},"
        "{target_label: __address__, replacement: 'probe:9115'},"
        "{target_label: __metrics_path__, replacement: /probe}]}"
    )
    (target,) = found.active
    assert target.url == "http://probe:9115/probe?target=db%3A1"
    assert target.labels == Labels.of(job="a", instance="db:1")


def test_a_target_that_relabelling_drops_is_listed_as_dropped() -> None:
    found = job(
        "{job_name: a, static_configs: [{targets: [p, q]}],"
        " relabel_configs: [{source_labels: [__address__], regex: p, action: drop}]}"
    )
    assert [t.labels.get("instance") for t in found.active] == ["q"]
    assert [labels.get("__address__") for labels in found.dropped] == ["p"]


def test_a_target_that_relabelling_makes_nonsense_of_is_left_out_alone_and_says_why() -> None:
    found = job(
        "{job_name: a, static_configs: [{targets: [p, q]}],"
        " relabel_configs: [{source_labels: [__address__], regex: p, target_label: __scheme__, replacement: ftp}]}"
    )
    assert found.problems == ('target p: expected http or https as __scheme__, got "ftp"',)
    assert [t.labels.get("instance") for t in found.active] == ["q"]
