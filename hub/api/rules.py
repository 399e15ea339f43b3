"""`rules` and `alerts`."""

import hashlib

from aiohttp import web

from common.labels import Labels, Matcher, match_all
from common.rules.format import exponent
from common.rules.model import Alert, AlertingRule, AlertState, GroupStatus, RuleStatus
from common.times import rfc3339
from hub.api import encode
from hub.api.envelope import bad_parameter, success
from hub.api.keys import STATE
from hub.api.params import Form, integer, match_params, read_form


def alert_json(alert: Alert) -> dict[str, object]:
    """One alert as the API shows it."""
    out: dict[str, object] = {
        "labels": alert.labels.to_dict(),
        "annotations": alert.annotations.to_dict(),
        "state": alert.state.value,
        "activeAt": rfc3339(alert.active_at),
    }
    if alert.keep_firing_since is not None:
        out["keepFiringSince"] = rfc3339(alert.keep_firing_since)
    out["value"] = exponent(alert.value)
    return out


def live(status: RuleStatus) -> list[Alert]:
    """The rule's alerts that are pending or firing."""
    return [alert for alert in status.alerts if alert.state is not AlertState.INACTIVE]


def _rule(status: RuleStatus, with_alerts: bool) -> dict[str, object]:
    rule = status.rule
    common: dict[str, object] = {
        "health": status.health,
        **({"lastError": status.last_error} if status.last_error else {}),
        "evaluationTime": status.duration,
        "lastEvaluation": rfc3339(status.last_evaluation),
    }
    if not isinstance(rule, AlertingRule):
        labels = {"labels": dict(rule.labels)} if rule.labels else {}
        return {"name": rule.name, "query": rule.query, **labels, **common, "type": "recording"}
    return {
        "state": status.state.value,
        "name": rule.name,
        "query": rule.query,
        "duration": encode.seconds(rule.hold),
        "keepFiringFor": encode.seconds(rule.keep_firing),
        "labels": {name: template.source for name, template in rule.labels.items()},
        "annotations": {name: template.source for name, template in rule.annotations.items()},
        "alerts": [alert_json(alert) for alert in live(status)] if with_alerts else None,
        **common,
        "type": "alerting",
    }


def _labels_of(status: RuleStatus) -> Labels:
    rule = status.rule
    if isinstance(rule, AlertingRule):
        return Labels.of({name: template.source for name, template in rule.labels.items()})
    return Labels.of(rule.labels)


def _token(status: GroupStatus) -> str:
    return hashlib.sha1(status.group.key.encode(), usedforsecurity=False).hexdigest()


class _Filter:
    def __init__(self, form: Form) -> None:
        self.kind = form.get("type", "").lower()
        if self.kind not in ("", "alert", "record"):
            raise bad_parameter("type", f'not supported value "{self.kind}"')
        self.names = set(form.getall("rule_name[]", []))
        self.groups = set(form.getall("rule_group[]", []))
        self.files = set(form.getall("file[]", []))
        self.sets: list[list[Matcher]] = [list(each) for each in match_params(form, named=False)]

    def group(self, status: GroupStatus) -> bool:
        group = status.group
        return (not self.groups or group.name in self.groups) and (not self.files or group.file in self.files)

    def rule(self, status: RuleStatus) -> bool:
        alerting = isinstance(status.rule, AlertingRule)
        if self.kind and alerting != (self.kind == "alert"):
            return False
        if self.names and status.rule.name not in self.names:
            return False
        labels = _labels_of(status)
        return not self.sets or any(match_all(each, labels) for each in self.sets)


async def rules(request: web.Request) -> web.StreamResponse:
    """Rule groups; `type`, `rule_name[]`, `rule_group[]`, `file[]`, `match[]`, `exclude_alerts`, paging narrow it."""
    form = await read_form(request)
    wanted = _Filter(form)
    hide = form.get("exclude_alerts", "").lower()
    if hide not in ("", "true", "false", "1", "0", "t", "f"):
        raise bad_parameter(
            "exclude_alerts", f'error converting exclude_alerts: strconv.ParseBool: parsing "{hide}": invalid syntax'
        )
    limit_text, token = form.get("group_limit", ""), form.get("group_next_token", "")
    if token and not limit_text:
        raise bad_parameter("group_next_token", "group_limit needs to be present in order to paginate over the groups")
    limit = 0
    if limit_text:
        try:
            limit = integer(limit_text)
        except ValueError as err:
            problem = str(err).replace("Atoi", "ParseInt", 1)
            raise bad_parameter("group_limit", f"group_limit needs to be a valid number: {problem}") from None
        if limit <= 0:
            raise bad_parameter("group_limit", "group_limit needs to be greater than 0")
    statuses = list(request.app[STATE].rules.groups())
    if token:
        tokens = [_token(status) for status in statuses]
        if token not in tokens:
            problem = f"invalid group_next_token '{token}'. were rule groups changed?"
            raise bad_parameter("group_next_token", problem)
        statuses = statuses[tokens.index(token) :]
    groups: list[dict[str, object]] = []
    data: dict[str, object] = {"groups": groups}
    for status in filter(wanted.group, statuses):
        chosen = [_rule(rule, hide not in ("true", "1", "t")) for rule in status.rules if wanted.rule(rule)]
        if not chosen:
            continue
        if limit and len(groups) == limit:
            data["groupNextToken"] = _token(status)
            break
        group = status.group
        groups.append(
            {
                "name": group.name,
                "file": group.file,
                "rules": chosen,
                "interval": encode.seconds(group.interval),
                "limit": group.limit,
                "evaluationTime": status.duration,
                "lastEvaluation": rfc3339(status.last_evaluation),
            }
        )
    return success(encode.text(data))


async def alerts(request: web.Request) -> web.StreamResponse:
    """All pending and firing alerts."""
    found = [
        alert_json(alert) for group in request.app[STATE].rules.groups() for rule in group.rules for alert in live(rule)
    ]
    return success(encode.text({"alerts": found}))
