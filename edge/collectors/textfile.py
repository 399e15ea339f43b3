"""Metrics that other programs leave in `*.prom` files, parsed again only when a file has changed."""

import glob
import os
from collections.abc import Iterable
from dataclasses import dataclass

from common.errors import FormatError
from common.sample import MetricMeta, MetricType
from edge.collectors.base import GAUGE, UNTYPED, Collector, Desc, Reading, Skip, flag
from edge.collectors.files import list_dir, read_bytes

MTIME = Desc("node_textfile_mtime_seconds", GAUGE, "Unixtime mtime of textfiles successfully read.", ("file",))
ERROR = Desc("node_textfile_scrape_error", GAUGE, "1 if there was an error opening or reading a file, 0 otherwise")
MAX_SERIES = 50_000
"""Most series taken of all files together; files beyond are refused as a whole."""


@dataclass(frozen=True, slots=True)
class TextfileOptions:
    """Flags of the textfile collector."""

    directories: tuple[str, ...] = flag(
        "collector.textfile.directory",
        (),
        "Directory to read text files with metrics from, supports glob matching. (repeatable)",
    )


Row = tuple[str, tuple[str, ...], tuple[str, ...], float]
"""Sample name, label names, label values, value."""


@dataclass(frozen=True, slots=True)
class Content:
    """What one file says: families in order, and the rows of each."""

    mtime: float
    families: tuple[tuple[MetricMeta, tuple[Row, ...]], ...]
    rows: int


def family_of(name: str, types: dict[str, MetricType]) -> str:
    """The declared family that a sample belongs to: itself, or of `x_bucket`, `x_sum`, `x_count` the x."""
    if name in types:
        return name
    for suffix in ("_bucket", "_sum", "_count"):
        base = name.removesuffix(suffix)
        if base != name and types.get(base) in (MetricType.HISTOGRAM, MetricType.SUMMARY):
            return base
    return name


def parse_file(data: bytes, mtime: float) -> Content:
    """The content of a file; FormatError for bad syntax, a timestamp, a series given twice."""
    from common.exposition import parse as exposition  # most agents have no such file

    types: dict[str, MetricType] = {}
    helps: dict[str, str] = {}
    rows: dict[str, list[Row]] = {}
    seen: set[object] = set()
    for entry in exposition.parse(data if data.endswith(b"\n") else data + b"\n", exposition.Format.TEXT):
        if isinstance(entry, exposition.Type):
            types[entry.metric] = entry.type
        elif isinstance(entry, exposition.Help):
            helps[entry.metric] = entry.text
        elif isinstance(entry, exposition.Series):
            if entry.timestamp is not None:
                raise FormatError(f"{entry.labels}: timestamps are not supported in text files")
            if entry.labels in seen:
                raise FormatError(f"{entry.labels} is given twice")
            seen.add(entry.labels)
            name = entry.labels.name
            pairs = entry.labels.without_name().pairs
            row = (name, tuple(key for key, _ in pairs), tuple(_as_written(*pair) for pair in pairs), entry.value)
            rows.setdefault(family_of(name, types), []).append(row)
    families = tuple(
        (MetricMeta(name, types.get(name, UNTYPED), helps.get(name, "")), tuple(found)) for name, found in rows.items()
    )
    return Content(mtime, families, len(seen))


def _as_written(key: str, value: str) -> str:
    """Bounds as node_exporter prints them: the parser gives them Prometheus 3's `.0`, which scrapers add themselves."""
    return value.removesuffix(".0") if key in ("le", "quantile") else value


class TextfileCollector(Collector):
    """node_textfile_* and whatever the files hold"""

    name = "textfile"
    options_type = TextfileOptions
    descs = (MTIME, ERROR)
    options: TextfileOptions

    def _prepare(self) -> None:
        self._files: dict[str, tuple[tuple[int, int, int], Content | str]] = {}
        self._descs: dict[tuple[str, tuple[str, ...], MetricType, str], Desc] = {}
        self._merged: tuple[list[tuple[str, Content]], list[Reading], bool] = ([], [], False)

    def collect(self, skip: Skip) -> list[Reading]:
        failed = False
        files: list[tuple[str, Content]] = []
        known, self._files = self._files, {}
        series = 0
        for path in self._paths(skip):
            if path is None:
                failed = True
                continue
            try:
                entry = self._read(path, known.get(path))
            except OSError as err:
                skip(path, err)
                failed = True
                continue
            self._files[path] = entry
            content = entry[1]
            if isinstance(content, str):
                skip(path, FormatError(content))
                failed = True
            elif series + content.rows > MAX_SERIES:
                skip(path, FormatError(f"more than {MAX_SERIES} series in all text files"))
                failed = True
            else:
                series += content.rows
                files.append((path, content))
        readings, inconsistent = self._merge(files, skip)
        readings = [*readings, *((MTIME, (path,), content.mtime) for path, content in files)]
        readings.append((ERROR, (), 1.0 if failed or inconsistent else 0.0))
        return readings

    def _paths(self, skip: Skip) -> Iterable[str | None]:
        """Paths of the `*.prom` files; None for a directory that cannot be listed."""
        for pattern in self.options.directories:
            for directory in sorted(glob.glob(pattern)) or [pattern]:  # noqa: PTH207 - the flag's own text is shown
                try:
                    names = list_dir(directory)
                except OSError as err:
                    skip(directory, err)
                    yield None
                else:
                    yield from (
                        os.path.join(directory, name)  # noqa: PTH118
                        for name in names
                        if name.endswith(".prom")
                    )

    def _read(
        self, path: str, known: tuple[tuple[int, int, int], Content | str] | None
    ) -> tuple[tuple[int, int, int], Content | str]:
        stat = os.stat(path)  # noqa: PTH116
        mark = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        if known is not None and known[0] == mark:
            return known
        try:
            return mark, parse_file(read_bytes(path), stat.st_mtime)
        except FormatError as err:
            return mark, str(err)

    def _merge(self, files: list[tuple[str, Content]], skip: Skip) -> tuple[list[Reading], bool]:
        """Readings of all files; a family that a file declares otherwise than an earlier one is left out of it."""
        before, readings, inconsistent = self._merged
        if len(before) == len(files) and all(a[1] is b[1] for a, b in zip(before, files, strict=True)):
            return readings, inconsistent
        declared: dict[str, MetricMeta] = {}
        sources: dict[str, list[str]] = {}
        for path, content in files:
            for meta, _ in content.families:
                sources.setdefault(meta.name, []).append(path)
        readings, inconsistent, self._descs = [], False, {}
        for path, content in files:
            for meta, rows in content.families:
                first = declared.setdefault(meta.name, meta)
                if first.type is not meta.type or (first.help and meta.help and first.help != meta.help):
                    skip(f"{path} {meta.name}", FormatError("type or help differs from that of an earlier file"))
                    inconsistent = True
                    continue
                text = first.help or "Metric read from " + ", ".join(sources[meta.name])
                for name, labels, values, value in rows:
                    readings.append((self._desc(name, meta, text, labels), values, value))
        self._merged = (files, readings, inconsistent)
        return readings, inconsistent

    def _desc(self, name: str, meta: MetricMeta, text: str, labels: tuple[str, ...]) -> Desc:
        key = (name, labels, meta.type, text)
        desc = self._descs.get(key)
        if desc is None:
            desc = self._descs[key] = Desc(name, meta.type, text, labels, family=meta.name)
        return desc
