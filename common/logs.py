"""Structured logs: `log.info("event", key=value)` as logfmt lines on stderr, in Prometheus's keys."""

import logging
import sys
from datetime import UTC, datetime
from typing import IO

LEVELS = ("debug", "info", "warn", "error")
_TO_STDLIB = {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}
_NAMES = {level: name for name, level in _TO_STDLIB.items()}


def _field(value: object) -> str:
    text = str(value)
    if text and text.isprintable() and not any(c in ' "=' for c in text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
    return '"' + "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in escaped) + '"'


class LogfmtFormatter(logging.Formatter):
    """One line a record: `ts=… level=… component=… msg=… key=value …`."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as logfmt; a traceback becomes the field `traceback`."""
        stamp = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        fields: dict[str, object] = {
            "ts": stamp.replace("+00:00", "Z"),
            "level": _NAMES.get(record.levelno, record.levelname.lower()),
            "component": record.name,
            "msg": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return " ".join(f"{key}={_field(value)}" for key, value in fields.items())


class EventLog:
    """A logger whose keyword arguments become fields."""

    __slots__ = ("_logger",)

    def __init__(self, component: str) -> None:
        self._logger = logging.getLogger(component)

    def _log(self, level: int, event: str, fields: dict[str, object], exc: BaseException | None = None) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(level, "%s", event, extra={"fields": fields}, exc_info=exc)

    def debug(self, event: str, **fields: object) -> None:
        """What only a developer wants to see."""
        self._log(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: object) -> None:
        """A change of state that an operator may want to see."""
        self._log(logging.INFO, event, fields)

    def warn(self, event: str, **fields: object) -> None:
        """Something degraded that heals by itself or waits for a hint."""
        self._log(logging.WARNING, event, fields)

    def error(self, event: str, exc: BaseException | None = None, **fields: object) -> None:
        """Something failed; `exc` adds its traceback."""
        self._log(logging.ERROR, event, fields, exc)


def setup(level: str, stream: IO[str] | None = None) -> None:
    """Send all logs of `level` (one of LEVELS) and above to `stream` (stderr), replacing earlier handlers."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(LogfmtFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(_TO_STDLIB[level])
    # aiohttp logs each bad request of a client as an error with a traceback; the API counts them.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
