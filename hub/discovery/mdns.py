"""Finds agents by mDNS service discovery (RFC 6762, RFC 6763): a hint of where they are, never of whether they live."""

import asyncio
import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence

import ifaddr  # zeroconf's own way of listing interfaces
from zeroconf import Error as ZeroconfError
from zeroconf import ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from common.clock import Clock
from common.frames.model import SourceId
from common.logs import EventLog
from hub.config import join_address
from hub.fleet import MAX_ADDRESSES, Announced

SERVICE = "_bramble._tcp.local."
API_VERSION = "1"
MAX_WAITING = 4096
RESOLVE_MS = 3_000
CHECK_SECONDS = 15.0

_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?\Z")
_ID = re.compile(r"[0-9a-f]{32}\Z")
_log = EventLog("mdns")


def read_record(
    server: str, port: int | None, addresses: Sequence[str], text: Mapping[str, str | None]
) -> Announced | str:
    """An agent from its SRV, A/AAAA and TXT records, or what is wrong with them."""
    key = text.get("id") or ""
    if not _ID.match(key):
        return f"TXT id is not 32 hex digits: {key[:40]!r}"
    if (version := text.get("api") or API_VERSION) != API_VERSION:
        return f"it speaks version {version[:8]!r} of the agents' interface, this hub {API_VERSION}: update one of them"
    if not port or not 0 < port < 65536:
        return f"SRV port is {port}"
    host = text.get("host") or server.rstrip(".").removesuffix(".local")
    if not _HOST.match(host):
        return f"host name is not one: {host[:40]!r}"
    usable = sorted(filter(_usable, dict.fromkeys(addresses)), key=_preference)
    if not usable:
        return "it has no usable address"
    return Announced(
        SourceId(bytes.fromhex(key)), host, port, tuple(join_address(a, port) for a in usable[:MAX_ADDRESSES])
    )


def _usable(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    scoped = isinstance(parsed, ipaddress.IPv4Address) or not parsed.is_link_local or parsed.scope_id is not None
    return scoped and not parsed.is_unspecified and not parsed.is_multicast


def _preference(address: str) -> tuple[bool, bool, bool]:
    parsed = ipaddress.ip_address(address)
    return parsed.is_loopback, parsed.is_link_local, parsed.version == 6


def interfaces() -> tuple[str, ...]:
    """IPv4 addresses of this machine, loopback included, sorted; multicast goes out on each."""
    return tuple(
        sorted(
            ip.ip for adapter in ifaddr.get_adapters() for ip in adapter.ips if isinstance(ip.ip, str) and ip.is_IPv4
        )
    )


class MdnsBrowser:
    """A service that reports every agent seen and follows changes of the network; `problem` says why it can't."""

    name = "mdns"

    def __init__(
        self,
        seen: Callable[[Announced], None],
        clock: Clock,
        list_interfaces: Callable[[], tuple[str, ...]] = interfaces,
    ) -> None:
        self._seen = seen
        self._clock = clock
        self._list = list_interfaces
        self._names: asyncio.Queue[str] = asyncio.Queue(MAX_WAITING)
        self._complained: dict[str, str] = {}
        self.problem = ""
        self.dropped = 0
        """Changes not looked at because MAX_WAITING others were waiting."""

    async def run(self) -> None:
        """Browse until cancelled; where multicast is not to be had say so, and look again."""
        while True:
            found = await asyncio.to_thread(self._list)
            problem = await self._browse(found) if found else "no network interface is up"
            told = problem and f"mDNS is not available: {problem}"
            if told and told != self.problem:
                _log.warn("no mDNS here: agents are found by static addresses only (bramble.agents)", error=problem)
            self.problem = told
            if problem:
                await self._clock.sleep(CHECK_SECONDS)

    async def _browse(self, found: tuple[str, ...]) -> str:
        """Browse on these interfaces until they change; why it can't be, else an empty text."""
        try:
            zeroconf = AsyncZeroconf(interfaces=list(found))
        except (OSError, RuntimeError, ZeroconfError) as err:
            return getattr(err, "strerror", None) or str(err)
        if self.problem:
            _log.info("mDNS works now", interfaces=",".join(found))
            self.problem = ""
        browser = AsyncServiceBrowser(zeroconf.zeroconf, [SERVICE], handlers=[self._changed])
        try:
            async with asyncio.TaskGroup() as group:
                resolving = group.create_task(self._resolve_all(zeroconf))
                while await asyncio.to_thread(self._list) == found:
                    await self._clock.sleep(CHECK_SECONDS)
                resolving.cancel()
        finally:
            await browser.async_cancel()
            await zeroconf.async_close()
        _log.info("the network changed: looking for agents anew")
        return ""

    async def _resolve_all(self, zeroconf: AsyncZeroconf) -> None:
        while True:
            await self._resolve(zeroconf, await self._names.get())

    def _changed(self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        if state_change is ServiceStateChange.Removed:
            return
        try:
            self._names.put_nowait(name)
        except asyncio.QueueFull:
            self.dropped += 1

    async def _resolve(self, zeroconf: AsyncZeroconf, name: str) -> None:
        info = AsyncServiceInfo(SERVICE, name)
        if not await info.async_request(zeroconf.zeroconf, RESOLVE_MS):
            return
        found = read_record(info.server or "", info.port, info.parsed_scoped_addresses(), info.decoded_properties)
        if isinstance(found, Announced):
            self._complained.pop(name, None)
            self._seen(found)
        elif self._complained.get(name) != found:
            if len(self._complained) >= MAX_WAITING:
                self._complained.clear()
            self._complained[name] = found
            _log.warn("announcement ignored", name=name, reason=found)
