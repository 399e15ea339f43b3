"""Keys of the application's shared objects, and how handlers are wrapped."""

from collections.abc import Awaitable, Callable

from aiohttp import web

from hub.api.state import ApiState

STATE: web.AppKey[ApiState] = web.AppKey("state", ApiState)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
