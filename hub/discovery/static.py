"""Targets that the configuration lists: pure."""

from dataclasses import dataclass
from urllib.parse import urlencode

from common.labels import Labels
from hub.config import HubConfig, ScrapeConfig

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

    @property
    def key(self) -> tuple[str, str, Labels]:
        """What makes it the same target after a reload."""
        return self.job.job_name, self.url, self.labels


def targets(config: HubConfig) -> dict[str, list[Target] | str]:
    """Targets by job name; a text instead says why a job has none (as when `target_limit` is exceeded)."""
    return {job.job_name: _of_job(config, job) for job in config.scrape_configs}


def _of_job(config: HubConfig, job: ScrapeConfig) -> list[Target] | str:
    found: dict[tuple[str, str, Labels], Target] = {}
    for group in job.static_configs:
        for address in group.targets:
            target = _target(config, job, address, group.labels)
            found.setdefault(target.key, target)
    limit = config.limit(job, "target_limit")
    if limit and len(found) > limit:
        return f"target_limit exceeded (number of targets: {len(found)}, limit: {limit})"
    return list(found.values())


def _target(config: HubConfig, job: ScrapeConfig, address: str, own: dict[str, str]) -> Target:
    interval, timeout = config.interval(job), config.timeout(job)
    discovered = {
        "job": job.job_name,
        SCHEME: job.scheme.value,
        METRICS_PATH: job.metrics_path,
        SCRAPE_INTERVAL: f"{interval / 1000:g}s",
        SCRAPE_TIMEOUT: f"{timeout / 1000:g}s",
        **{PARAM + name: values[0] for name, values in job.params.items() if values},
        **own,
        ADDRESS: address,
    }
    params = {name: list(values) for name, values in job.params.items()}
    for name, value in discovered.items():
        if name.startswith(PARAM):
            key = name.removeprefix(PARAM)
            params[key] = [value, *params.get(key, [])[1:]]
    query = urlencode(params, doseq=True)
    path = discovered[METRICS_PATH] if discovered[METRICS_PATH].startswith("/") else "/" + discovered[METRICS_PATH]
    labels = {name: value for name, value in discovered.items() if not name.startswith("__")}
    return Target(
        job=job,
        url=f"{discovered[SCHEME]}://{discovered[ADDRESS]}{path}{'?' + query if query else ''}",
        labels=Labels.of({"instance": discovered[ADDRESS], **labels}),
        discovered=Labels.of(discovered),
        interval=interval,
        timeout=timeout,
        sample_limit=config.limit(job, "sample_limit"),
        label_limit=config.limit(job, "label_limit"),
        label_name_limit=config.limit(job, "label_name_length_limit"),
        label_value_limit=config.limit(job, "label_value_length_limit"),
        body_limit=config.limit(job, "body_size_limit"),
    )
