"""`features`: what this hub can do, in the categories of Prometheus's endpoint of the same name."""

from aiohttp import web

from common.promql.engine import DELAYED_NAME_REMOVAL, PER_STEP_STATS, TYPE_AND_UNIT_LABELS
from common.promql.signatures import AGGREGATORS, FEATURES, FUNCTIONS
from common.rules.template import FUNCTIONS as TEMPLATE_FUNCTIONS
from hub.api import encode
from hub.api.envelope import success
from hub.api.keys import STATE

_OPERATORS = ("+", "-", "*", "/", "%", "^", "==", "!=", "<", "<=", ">", ">=", "and", "or", "unless", "atan2")


def supported(
    enabled: frozenset[str], *, lifecycle: bool = False, admin: bool = False, remote_write: bool = False
) -> dict[str, dict[str, bool]]:
    """Features by category and name; `enabled` are the names given to --enable-feature."""
    experimental = "promql-experimental-functions" in enabled
    return {
        "api": {
            "admin": admin,
            "exclude_alerts": True,
            "label_values_match": True,
            "lifecycle": lifecycle,
            "query_stats": True,
            "query_warnings": True,
            "remote_write_receiver": remote_write,
            "rule_group_pagination": True,
        },
        "promql": {
            "at_modifier": True,
            "negative_offset": True,
            "offset": True,
            "subqueries": True,
            **{
                name.removeprefix("promql-").replace("-", "_"): name in enabled
                for name in sorted({*FEATURES, DELAYED_NAME_REMOVAL, PER_STEP_STATS, TYPE_AND_UNIT_LABELS})
            },
        },
        "promql_functions": {name: experimental or not FUNCTIONS[name].experimental for name in sorted(FUNCTIONS)},
        "promql_operators": {
            **dict.fromkeys(_OPERATORS, True),
            **{name: experimental or not AGGREGATORS[name].experimental for name in sorted(AGGREGATORS)},
        },
        "rules": {"keep_firing_for": True, "limit": True, "query_offset": True},
        "templating_functions": dict.fromkeys(sorted(TEMPLATE_FUNCTIONS), True),
    }


async def features(request: web.Request) -> web.StreamResponse:
    """See `supported`."""
    state = request.app[STATE]
    found = supported(
        state.engine.options.features,
        lifecycle=state.lifecycle is not None,
        admin=state.admin is not None,
        remote_write=state.receiver is not None,
    )
    return success(encode.text(found))
