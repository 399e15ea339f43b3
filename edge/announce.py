"""The agent's mDNS record: `_bramble._tcp` with its id, so that hubs find it (RFC 6762, RFC 6763)."""

import asyncio
import ipaddress
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from zeroconf import Error as ZeroconfError
from zeroconf import IPVersion, ServiceInfo
from zeroconf.asyncio import AsyncZeroconf

from common.clock import Clock
from common.logs import EventLog

SERVICE = "_bramble._tcp.local."
API_VERSION = "1"
CHECK_SECONDS = 15.0
WITHDRAW_SECONDS = 3.0
MAX_ADDRESSES = 16

_log = EventLog("announce")
_NOT_A_LABEL = re.compile(r"[^a-zA-Z0-9-]+")


@dataclass(frozen=True, slots=True)
class NetAddress:
    """An address of an interface that is up."""

    interface: str
    ip: str

    @property
    def version(self) -> int:
        """4 or 6."""
        return ipaddress.ip_address(self.ip).version

    @property
    def loopback(self) -> bool:
        """Whether it is reachable from this machine alone."""
        return ipaddress.ip_address(self.ip).is_loopback


@dataclass(frozen=True, slots=True)
class Plan:
    """Where to speak multicast, and which addresses to tell; none to speak on: there is no network."""

    speak_on: tuple[str, ...]
    tell: tuple[str, ...]
    version: int = 4


def plan(found: Collection[NetAddress], listen_host: str, interfaces: Sequence[str] = ()) -> Plan:
    """Where and what to announce for a server on `listen_host` (empty or unspecified: all addresses).

    Told are the addresses at which the server answers: those of real interfaces, loopback only if there is nothing
    else. Multicast goes out on the same interfaces and always on loopback, so that programs on this machine hear
    it on networks without multicast too. Link-local IPv6 is left out: it means nothing without the interface.
    """
    if interfaces:
        found = [a for a in found if a.interface in interfaces]
    usable = [a for a in found if not ipaddress.ip_address(a.ip).is_link_local or a.version == 4]
    if listen_host and not ipaddress.ip_address(listen_host).is_unspecified:
        usable = [a for a in usable if a.ip == listen_host]
    elif listen_host and ipaddress.ip_address(listen_host).version == 4:
        usable = [a for a in usable if a.version == 4]
    real = [a for a in usable if not a.loopback]
    tell = (real or usable)[:MAX_ADDRESSES]
    names = {a.interface for a in tell} | ({a.interface for a in found if a.loopback} if tell else set())
    version = 6 if names and not any(a.version == 4 and a.interface in names for a in found) else 4
    speak_on = [a.ip for a in found if a.interface in names and a.version == version]
    return Plan(tuple(dict.fromkeys(speak_on)), tuple(dict.fromkeys(a.ip for a in tell)), version)


def addresses() -> list[NetAddress]:
    """All addresses of this machine, by interface."""
    import ifaddr  # zeroconf's own way of listing interfaces

    found = []
    for adapter in ifaddr.get_adapters():
        for ip in adapter.ips:
            text = ip.ip if isinstance(ip.ip, str) else ip.ip[0]
            found.append(NetAddress(adapter.name, text))
    return found


def service_info(source_id: bytes, host: str, port: int, tell: Sequence[str]) -> ServiceInfo:
    """The record; its name and its host carry the id, so that clones with one host name don't fight."""
    label = _NOT_A_LABEL.sub("-", host.split(".")[0]).strip("-")[:40] or "agent"
    identity = source_id.hex()
    return ServiceInfo(
        SERVICE,
        f"{label}-{identity[:8]}.{SERVICE}",
        port=port,
        properties={"id": identity, "api": API_VERSION, "host": host},
        server=f"bramble-{identity[:16]}.local.",
        parsed_addresses=list(tell),
    )


class Announcer:
    """A service that announces the agent, follows changes of the network, and withdraws the record at the end."""

    name = "announce"

    def __init__(
        self,
        source_id: bytes,
        host: str,
        port: int,
        listen_host: str,
        interfaces: Sequence[str],
        clock: Clock,
        list_addresses: Callable[[], Collection[NetAddress]] = addresses,
    ) -> None:
        """`host` is the machine's name; `listen_host` the numeric address that the server listens on, empty for all."""
        self._source_id = source_id
        self._host = host
        self._port = port
        self._listen_host = listen_host
        self._interfaces = tuple(interfaces)
        self._clock = clock
        self._list = list_addresses
        self._problem = ""
        self.announced: tuple[str, ...] = ()
        """Addresses that the present record tells; empty while there is none."""

    async def run(self) -> None:
        """Keep the record up to date until cancelled."""
        zeroconf: AsyncZeroconf | None = None
        current: Plan | None = None
        try:
            while True:
                wanted = plan(self._list(), self._listen_host, self._interfaces)
                if wanted != current:
                    if zeroconf is not None:
                        await self._withdraw(zeroconf)
                        zeroconf = None
                    zeroconf = await self._announce(wanted)
                    current = wanted if zeroconf is not None else None
                await self._clock.sleep(CHECK_SECONDS)
        finally:
            if zeroconf is not None:
                await self._withdraw(zeroconf)

    async def _announce(self, wanted: Plan) -> AsyncZeroconf | None:
        if not wanted.speak_on:
            where = f" on {', '.join(self._interfaces)}" if self._interfaces else ""
            self._warn(f"no network address to announce{where}")
            return None
        zeroconf: AsyncZeroconf | None = None
        try:
            zeroconf = AsyncZeroconf(
                interfaces=list(wanted.speak_on),
                ip_version=IPVersion.V4Only if wanted.version == 4 else IPVersion.V6Only,
            )
            info = service_info(self._source_id, self._host, self._port, wanted.tell)
            sent = await zeroconf.async_register_service(info, allow_name_change=True)
            await sent
        except (OSError, ZeroconfError, TimeoutError, RuntimeError) as err:
            self._warn(str(err) or type(err).__name__)
            if zeroconf is not None:
                await self._withdraw(zeroconf)
            return None
        except asyncio.CancelledError:
            if zeroconf is not None:
                await self._withdraw(zeroconf)
            raise
        self._problem = ""
        self.announced = wanted.tell
        _log.info("announced by mDNS", name=info.name, addresses=",".join(wanted.tell), port=self._port)
        return zeroconf

    def _warn(self, problem: str) -> None:
        if problem != self._problem:
            _log.warn(
                "not announced by mDNS; give the hub this agent's address (bramble.agents), or allow multicast",
                reason=problem,
            )
        self._problem = problem

    async def _withdraw(self, zeroconf: AsyncZeroconf) -> None:
        self.announced = ()
        try:
            async with asyncio.timeout(WITHDRAW_SECONDS):
                await zeroconf.async_unregister_all_services()
                await zeroconf.async_close()
        except (OSError, ZeroconfError, TimeoutError) as err:
            _log.warn("the mDNS record could not be withdrawn; it ends by itself within two minutes", error=err)
