"""Targets that the configuration lists: pure."""

from dataclasses import dataclass, replace
from urllib.parse import urlencode

from common.labels import EMPTY, Labels
from common.relabel import relabel
from common.units import format_duration, parse_duration
from hub.config import HubConfig, ScrapeConfig, parse_address

ADDRESS = "__address__"
SCHEME = "__scheme__"
METRICS_PATH = "__metrics_path__"
SCRAPE_INTERVAL = "__scrape_interval__"
SCRAPE_TIMEOUT = "__scrape_timeout__"
PARAM = "__param_"


@dataclass(frozen=True, slots=True)
class Target:
    """One exporter to scrape; interval and timeout are ms."""

    job: ScrapeConfig
    url: str
    labels: Labels
    discovered: Labels
    interval: int
    timeout: int
    sample_limit: int
    label_limit: int
    label_name_limit: int
    label_value_limit: int
    body_limit: int
    native: bool = False
    """Whether native histograms are asked for and kept."""
    classic: bool = False
    """Whether classic parts of native histograms are kept too."""
    convert: bool = False
    """Whether classic histograms become native ones with custom buckets."""
    refusal: str = ""
    """Why it is not scraped; each of its scrapes fails by that."""

    @property
    def source_labels(self) -> Labels:
        """Labels that the store adds to each row; none where a sample may lack some of them.

        That is where metric relabelling, or the target itself (an honoured label without a value), may take them away.
        """
        return EMPTY if self.job.metric_relabel_configs or self.job.honor_labels else self.labels

    @property
    def key(self) -> tuple[str, str, Labels]:
        """What makes it the same target after a reload."""
        return self.job.job_name, self.url, self.labels


@dataclass(frozen=True, slots=True)
class JobTargets:
    """Targets of one job; `problems` say why others that are listed are none, `dropped` are discovered labels."""

    active: tuple[Target, ...] = ()
    dropped: tuple[Labels, ...] = ()
    problems: tuple[str, ...] = ()


def targets(config: HubConfig) -> dict[str, JobTargets]:
    """Targets by job name, relabelled."""
    return {job.job_name: _of_job(config, job) for job in config.scrape_configs}


def _of_job(config: HubConfig, job: ScrapeConfig) -> JobTargets:
    found: dict[tuple[str, str, Labels], Target] = {}
    dropped: list[Labels] = []
    problems: list[str] = []
    for group in job.static_configs:
        for address in group.targets:
            discovered = Labels.of(_discovered(config, job, address, group.labels))
            try:
                target = _target(config, job, discovered)
            except ValueError as err:
                problems.append(f"target {address}: {err}")
                continue
            if target is None:
                dropped.append(discovered)
            else:
                found.setdefault(target.key, target)
    limit, refusal = config.limit(job, "target_limit"), ""
    if 0 < limit < len(found):
        refusal = f"target_limit exceeded (number of targets: {len(found)}, limit: {limit})"
    active = tuple(replace(target, refusal=refusal) for target in found.values())
    return JobTargets(active, tuple(dropped), tuple(problems))


def _discovered(config: HubConfig, job: ScrapeConfig, address: str, own: dict[str, str]) -> dict[str, str]:
    return {
        "job": job.job_name,
        SCHEME: job.scheme.value,
        METRICS_PATH: job.metrics_path,
        SCRAPE_INTERVAL: format_duration(config.interval(job)),
        SCRAPE_TIMEOUT: format_duration(config.timeout(job)),
        **{PARAM + name: values[0] for name, values in job.params.items() if values},
        **own,
        ADDRESS: address,
    }


def _target(config: HubConfig, job: ScrapeConfig, discovered: Labels) -> Target | None:
    """The target after relabelling; None if that drops it, ValueError if its labels make no target."""
    relabelled = relabel(discovered, job.relabel_configs)
    if relabelled is None:
        return None
    labels = relabelled.to_dict()
    address = labels.get(ADDRESS, "")
    if not address:
        return None
    parse_address(address)
    if labels.get(SCHEME) not in ("http", "https"):
        raise ValueError(f'expected http or https as {SCHEME}, got "{labels.get(SCHEME, "")}"')
    interval, timeout = (parse_duration(labels.get(name, "")) for name in (SCRAPE_INTERVAL, SCRAPE_TIMEOUT))
    if not 0 < timeout <= interval:
        raise ValueError(f"expected a scrape timeout above 0 and at most the interval, got {timeout} of {interval} ms")
    params = {name: list(values) for name, values in job.params.items()}
    for name, value in labels.items():
        if name.startswith(PARAM):
            key = name.removeprefix(PARAM)
            params[key] = [value, *params.get(key, [])[1:]]
    query = urlencode(params, doseq=True)
    path = "/" + labels.get(METRICS_PATH, "").removeprefix("/")
    kept = {name: value for name, value in labels.items() if not name.startswith("__")}
    return Target(
        job=job,
        url=f"{labels[SCHEME]}://{address}{path}{'?' + query if query else ''}",
        labels=Labels.of({"instance": address, **kept}),
        discovered=discovered,
        interval=interval,
        timeout=timeout,
        sample_limit=config.limit(job, "sample_limit"),
        label_limit=config.limit(job, "label_limit"),
        label_name_limit=config.limit(job, "label_name_length_limit"),
        label_value_limit=config.limit(job, "label_value_length_limit"),
        body_limit=config.limit(job, "body_size_limit"),
        native=config.wants(job, "scrape_native_histograms"),
        classic=config.wants(job, "always_scrape_classic_histograms"),
        convert=config.wants(job, "convert_classic_histograms_to_nhcb"),
    )
