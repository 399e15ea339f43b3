"""A small client of the hub's and the agents' HTTP interfaces; blocking, standard library only."""

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from common.errors import RemoteError

MAX_ANSWER_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Point:
    """One series of an instant query's result."""

    labels: Mapping[str, str]
    timestamp: float
    value: float


@dataclass(frozen=True, slots=True)
class Client:
    """Speaks to one program at `base` (`http://host:port`); every method raises RemoteError with the reason."""

    base: str
    timeout: float = 10.0

    def get(self, path: str, query: Mapping[str, str] | None = None) -> bytes:
        """The body of a 2xx answer."""
        url = f"{self.base}{path}" + (f"?{urllib.parse.urlencode(query)}" if query else "")
        if not url.startswith(("http://", "https://")):
            raise RemoteError(f"expected a URL like http://localhost:9090, got {self.base!r}")
        # Peers here are on this machine or this network: a proxy for the world outside must not get in between.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(url, timeout=self.timeout) as answer:
                body: bytes = answer.read(MAX_ANSWER_BYTES + 1)
        except urllib.error.HTTPError as err:
            with err:
                raise RemoteError(
                    _reason(err.read(MAX_ANSWER_BYTES)) or f"{url}: HTTP {err.code} {err.reason}"
                ) from None
        except (OSError, ValueError) as err:
            reason = err.reason if isinstance(err, urllib.error.URLError) else err
            raise RemoteError(f"{self.base} does not answer: {reason}") from None
        if len(body) > MAX_ANSWER_BYTES:
            raise RemoteError(f"{url}: the answer is larger than {MAX_ANSWER_BYTES} bytes")
        return body

    def api(self, path: str, query: Mapping[str, str] | None = None) -> Any:
        """The field `data` of a Prometheus-style JSON answer."""
        body = self.get(path, query)
        try:
            answer = json.loads(body)
            return answer["data"]
        except (ValueError, KeyError, TypeError) as err:
            raise RemoteError(f"{self.base}{path}: not an answer of a Prometheus API: {err}") from None

    def instant(self, expression: str, time: float | None = None) -> list[Point]:
        """An instant query's vector (or scalar, as one point without labels)."""
        data = self.query(expression, time)
        try:
            if data["resultType"] == "vector":
                return [Point(r["metric"], float(r["value"][0]), float(r["value"][1])) for r in data["result"]]
            if data["resultType"] == "scalar":
                return [Point({}, float(data["result"][0]), float(data["result"][1]))]
        except (KeyError, TypeError, ValueError, IndexError) as err:
            raise RemoteError(f"{self.base}: unexpected shape of a query result: {err!r}") from None
        raise RemoteError(f"expected an expression that gives a vector or scalar, got a {data['resultType']}")

    def query(self, expression: str, time: float | None = None) -> dict[str, Any]:
        """The field `data` of an instant query's answer; Unix seconds."""
        return self._data("/api/v1/query", {"query": expression} | ({"time": repr(time)} if time is not None else {}))

    def query_range(self, expression: str, start: float, end: float, step: float) -> dict[str, Any]:
        """The field `data` of a range query's answer; Unix seconds."""
        steps = {"start": repr(start), "end": repr(end), "step": repr(step)}
        return self._data("/api/v1/query_range", {"query": expression} | steps)

    def _data(self, path: str, query: Mapping[str, str]) -> dict[str, Any]:
        data = self.api(path, query)
        if not isinstance(data, dict):
            raise RemoteError(f"{self.base}{path}: not an answer of a Prometheus API")
        return data

    def ready(self) -> bool:
        """Whether `/-/ready` answers 200."""
        try:
            self.get("/-/ready")
        except RemoteError:
            return False
        return True


def _reason(body: bytes) -> str:
    try:
        answer = json.loads(body)
        return f"{answer['errorType']}: {answer['error']}"
    except (ValueError, KeyError, TypeError):
        return ""
