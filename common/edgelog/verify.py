"""Checks the files of an agent's log: lengths, checksums, content, and what refers to what. Reads only; needs numpy."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from common.edgelog.reader import segment_files
from common.edgelog.segment import HEADER_SIZE, Scan, decode_trailer, header_source, scan, trailer_length, whole_schema
from common.errors import FormatError
from common.frames.codec import decode
from common.frames.model import SchemaHash, decode_schema
from common.tsdb.verify import Report
from common.units import format_size

IDENTITY = "identity.json"


def verify_log(path: Path) -> Iterator[Report]:
    """A report for each file of the log in `path`. Segments that retention removes meanwhile are left out."""
    source, report = _identity(path / IDENTITY)
    yield report
    files = segment_files(path)
    segments = [each for _, each in files if each.suffix == ".seg"]
    keys: dict[tuple[int, int], bytes] = {}
    for _, each in files:
        try:
            if each.suffix == ".bad":
                yield Report(each.name, format_size(each.stat().st_size), notes=["set aside as unreadable"])
            else:
                yield verify_segment(each.name, each.read_bytes(), source, keys, newest=each == segments[-1])
        except FileNotFoundError:
            continue
        except OSError as err:
            yield Report(each.name, problems=[f"cannot be read: {err.strerror or err}"])
    for former in sorted(path.glob("former-*")):
        yield Report(former.name, notes=["of the device that this log was copied from; verify it by its own name"])


def _identity(path: Path) -> tuple[bytes | None, Report]:
    report = Report(path.name)
    try:
        source = bytes.fromhex(json.loads(path.read_text("utf-8"))["id"])
    except FileNotFoundError:
        report.notes.append("missing; the next start takes the id from the segments")
        return None, report
    except (OSError, ValueError, KeyError, TypeError) as err:
        report.problems.append(f"no identity: {err}; the next start takes the id from the segments")
        return None, report
    report.content = f"device {source.hex()}"
    return source, report


def verify_segment(
    name: str, data: bytes, source: bytes | None, keys: dict[tuple[int, int], bytes], newest: bool
) -> Report:
    """A segment. `keys` are frames by (epoch, sequence number), of this log so far; it is added to."""
    report = Report(name)
    found = scan(data)
    owner = header_source(data)
    if owner is None:
        (report.notes if newest and len(data) < HEADER_SIZE else report.problems).append("its header is damaged or cut")
    elif source is not None and owner != source:
        report.problems.append(f"is of device {owner.hex()}")
    report.problems += [f"bytes {start} to {end}: no frame or schema whose checksum holds" for start, end in found.bad]
    if found.end < len(data):
        text = f"{len(data) - found.end} bytes after the last whole frame"
        if newest:
            report.notes.append(f"{text}: a write under way, or a crash (the next start cuts them off)")
        else:
            report.problems.append(text)
    elif not found.trailer:
        report.notes.append("no trailer: it is being written, or ended in a crash")
    samples = _frames(data, found, keys, report)
    _trailer(data, found, report)
    report.content = f"{format_size(len(data))}, {len(found.entries)} frames, {samples} samples"
    return report


def _frames(data: bytes, found: Scan, keys: dict[tuple[int, int], bytes], report: Report) -> int:
    rows: dict[SchemaHash, int] = {}
    samples = 0
    for entry in found.entries:
        where = f"frame {entry.epoch:016x}/{entry.seq} at byte {entry.offset}"
        head = data[entry.offset : entry.offset + 16]
        if keys.setdefault((entry.epoch, entry.seq), head) != head:
            report.problems.append(f"{where}: another frame has this number")
        try:
            frame = decode(data[entry.offset : entry.offset + entry.length])
            digest = frame.header.schema
            if frame.header.rows:
                if digest not in rows:
                    place = found.schemas.get(digest)
                    whole = whole_schema(data, found, digest)
                    if place is None or whole is None or place[0] > entry.offset:
                        raise FormatError(f"schema {digest.hex()} does not stand before it")
                    rows[digest] = decode_schema(whole).rows
                if rows[digest] != frame.header.rows:
                    raise FormatError(f"{frame.header.rows} rows, {rows[digest]} in its schema")
        except FormatError as err:
            report.problems.append(f"{where}: {err}")
            continue
        samples += frame.values.size if frame.presence is None else int(np.count_nonzero(frame.presence))
    return samples


def _trailer(data: bytes, found: Scan, report: Report) -> None:
    length = trailer_length(data[-8:]) if found.trailer and found.end == len(data) else None
    if length is None:
        return
    said, seen = decode_trailer(data[-length:]), found.summary
    if said != seen:
        report.problems.append(f"its trailer tells of {said.frames} frames, or of others, than the {seen.frames} here")
