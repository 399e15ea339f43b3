"""Requests under way: who asks for what another is being answered waits for that answer instead of computing it too."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass

from aiohttp import web

from common.errors import QueryTimeoutError
from hub.api.body import Packed


@dataclass(frozen=True, slots=True, eq=False)
class _Flight:
    generation: int
    answer: asyncio.Future[Packed | None]


class Flights:
    """By request; bounded by the requests that the runner admits. For the event loop alone."""

    def __init__(self) -> None:
        self._under_way: dict[Hashable, _Flight] = {}

    def under_way(self, key: Hashable) -> bool:
        """Whether somebody asks for the same just now."""
        return key in self._under_way

    async def join(self, key: Hashable, holds: Callable[[int], bool], seconds: float) -> Packed | None:
        """The answer to the same request, if one is under way and ends well.

        `holds(generation)` answers whether what was read from the store since then still holds. QueryTimeoutError after
        `seconds`.
        """
        flight = self._under_way.get(key)
        if flight is None or not holds(flight.generation):
            return None
        try:
            # Shielded: that this client goes away is nothing to the others.
            return await asyncio.wait_for(asyncio.shield(flight.answer), seconds)
        except TimeoutError:
            raise QueryTimeoutError("query timed out in expression evaluation") from None

    async def lead(
        self, key: Hashable, generation: int, answer: Callable[[Callable[[Packed], None]], Awaitable[web.Response]]
    ) -> web.Response:
        """The response of `answer(told)`, which tells those who wait what is sent; nothing if it fails."""
        flight = _Flight(generation, asyncio.get_running_loop().create_future())
        packed: list[Packed] = []
        self._under_way[key] = flight
        try:
            return await answer(packed.append)
        finally:
            if self._under_way.get(key) is flight:
                del self._under_way[key]
            flight.answer.set_result(packed[0] if packed else None)


FLIGHTS: web.AppKey[Flights] = web.AppKey("flights", Flights)
