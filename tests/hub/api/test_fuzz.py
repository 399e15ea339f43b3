"""Requests that nobody should send are answered, and never as an internal error."""

import random

import pytest
from yarl import URL

from tests.hub.api.conftest import Api


def words(*lines: str) -> list[str]:
    """The blank-separated words of all lines."""
    return [word for line in lines for word in line.split(" ")]


PATHS = words(
    "query query_range query_exemplars format_query parse_query labels label/job/values label/%FF/values series",
    "metadata targets targets/metadata rules alerts status/tsdb features",
)
PIECES = words(
    'up { } ( ) [ ] 5m 1h \' " \\ rate sum by (job) {__name__=~".+"} {a="b"} =~ .* + - / ^ 1 -1 1e400 NaN Inf @',
    "start() offset bool group_left topk(3, [5m:1m] \x00 é 😀 %FF absent( vector(1) time() and or #c info( 9999999999",
)
VALUES = words(
    "0 1 -1 NaN Inf 1e300 -1e300 x 5m 0x1 1.5 99999999999999999999 2023-01-01T00:00:00Z 2023-13-01T00:00:00Z true",
    "0000-00-00T00:00:00Z 9999-12-31T23:59:59+14:00 2023-06-30T23:59:60Z 0001-01-01T00:00:00-23:59 \x00 é %FF",
)
KEYS = words(
    "time start end step timeout limit lookback_delta stats metric limit_per_metric state scrapePool type",
    "rule_name[] group_limit group_next_token exclude_alerts file[]",
)
CODES = {200, 400, 422, 503}


@pytest.mark.parametrize("seed", range(8))
async def test_no_request_is_an_internal_error(api: Api, seed: int) -> None:
    chance = random.Random(seed)
    api.fill()
    client = await api.client()

    def some() -> str:
        return "".join(chance.choice(PIECES) for _ in range(chance.randint(1, 6)))

    for _ in range(60):
        path = chance.choice(PATHS)
        pairs = [("query", some()), ("match[]", some())] if chance.random() < 0.8 else []
        if path == "query_range" and chance.random() < 0.7:
            pairs += [("start", "1700000000"), ("end", "1700000300"), ("step", "15")]
        pairs += [(chance.choice(KEYS), chance.choice(VALUES)) for _ in range(chance.randint(0, 3))]
        # Percent signs of the pieces stay as they are: some are bytes that are not UTF-8.
        query = "&".join(f"{key}={str(URL.build(query={'x': value}))[3:].replace('%25', '%')}" for key, value in pairs)
        response = await client.get(URL(f"/api/v1/{path}?{query}", encoded=True))
        body = await response.text()
        assert response.status in CODES, (path, query, body)
        assert body.startswith('{"status":"'), (path, query, body)


async def test_a_form_that_is_not_utf8_is_400(api: Api) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    response = await (await api.client()).post("/api/v1/query", data=b"query=\xff", headers=headers)
    assert response.status == 400
    assert "error parsing form values" in (await response.json())["error"]


async def test_a_form_with_too_many_fields_is_400(api: Api) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    response = await (await api.client()).post("/api/v1/query", data=b"a=b&" * 2000, headers=headers)
    assert response.status == 400


async def test_a_charset_nobody_knows_does_not_matter(api: Api) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded; charset=bogus"}
    response = await (await api.client()).post("/api/v1/query", data=b"query=1", headers=headers)
    assert response.status == 200
