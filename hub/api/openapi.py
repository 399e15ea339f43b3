"""`openapi.yaml`: the description of the whole HTTP surface, completed from `openapi.yml` beside this module."""

import asyncio
import copy
from functools import lru_cache
from importlib.resources import files
from typing import Any

import yaml
from aiohttp import web

from common.flags import program_version
from hub.api.keys import STATE

FORM = "application/x-www-form-urlencoded"
VERSIONS = {"3.1": "3.1.0", "3.2": "3.2.0"}
_JSON = "application/json"

Node = dict[str, Any]


def document(prefix: str = "", version: str = "3.1.0") -> Node:
    """The document for a hub below this path, as JSON values of the caller's own."""
    spec = copy.deepcopy(_template())
    spec["openapi"] = version
    spec["info"]["version"] = program_version()
    spec["servers"] = [{"url": prefix or "/"}]
    components = spec["components"]
    for response in components["responses"].values():
        _complete(response)
    for path in spec["paths"].values():
        for operation in list(path.values()):
            _operation(operation)
        if path.get("get", {}).pop("x-form", False):
            path["post"] = _posted(path["get"], components["parameters"])
        if path.get("post", {}).pop("x-put", False):
            path["put"] = {**path["post"], "operationId": path["post"]["operationId"] + "ByPut"}
    return spec


@lru_cache(maxsize=1)
def _template() -> Node:
    text = files("hub.api").joinpath("openapi.yml").read_text("utf-8")
    spec: Node = yaml.safe_load(text)
    return spec


def _operation(operation: Node) -> None:
    responses = operation["responses"]
    for response in responses.values():
        _complete(response)
    for code in operation.pop("x-errors", ()):
        responses[str(code)] = {"$ref": f"#/components/responses/{code}"}


def _complete(response: Node) -> None:
    """Put the envelope around a response's data, or the schema of errors."""
    if "x-data" in response:
        properties = {
            "status": {"const": "success"},
            "data": response.pop("x-data"),
            "warnings": {"$ref": "#/components/schemas/Texts"},
            "infos": {"$ref": "#/components/schemas/Texts"},
        }
        schema = {
            "type": "object",
            "required": ["status", "data"],
            "additionalProperties": False,
            "properties": properties,
        }
        response["content"] = {_JSON: {"schema": schema}}
    if response.pop("x-error", False):
        response["content"] = {_JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}


def _posted(operation: Node, parameters: Node) -> Node:
    """The same operation with its parameters in a form."""
    found = [
        parameters[each["$ref"].rpartition("/")[2]] if "$ref" in each else each
        for each in operation.get("parameters", ())
    ]
    schema = {
        "type": "object",
        "properties": {each["name"]: each["schema"] for each in found},
        "required": [each["name"] for each in found if each.get("required")],
    }
    return {
        **{key: value for key, value in operation.items() if key != "parameters"},
        "operationId": operation["operationId"] + "ByPost",
        "requestBody": {"required": True, "content": {FORM: {"schema": schema}}},
    }


class _Dumper(yaml.SafeDumper):
    """Writes what is shared in full each time: not every reader of OpenAPI knows YAML's aliases."""

    def ignore_aliases(self, data: object) -> bool:
        return True


@lru_cache(maxsize=4)
def _text(prefix: str, version: str) -> bytes:
    return yaml.dump(document(prefix, version), Dumper=_Dumper, sort_keys=False, allow_unicode=True).encode()


async def openapi(request: web.Request) -> web.StreamResponse:
    """The document as YAML; `openapi_version=3.2` asks for that version."""
    state = request.app[STATE]
    version = VERSIONS.get(request.query.get("openapi_version", ""), VERSIONS["3.1"])
    # Making the text takes longer than the event loop should wait.
    loop = asyncio.get_running_loop()
    body = await loop.run_in_executor(state.executor, _text, state.web.route_prefix.rstrip("/"), version)
    return web.Response(body=body, headers={"Content-Type": "application/yaml; charset=utf-8"})
