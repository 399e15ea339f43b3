"""Wi-Fi stations by nl80211; no root needed."""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from common.errors import FormatError
from edge.collectors.base import COUNTER, GAUGE, Collector, Desc, NoDataError, Reading, Skip, flag
from edge.collectors.files import read_text
from edge.collectors.nl80211 import (
    STATUS_ASSOCIATED,
    STATUS_AUTHENTICATED,
    STATUS_IBSS,
    Bss,
    Interface,
    Nl80211,
    Station,
    mac_text,
)

FREQUENCY = Desc(
    "node_wifi_interface_frequency_hertz",
    GAUGE,
    "The current frequency a WiFi interface is operating at, in hertz.",
    ("device",),
)
INFO = Desc(
    "node_wifi_station_info",
    GAUGE,
    "Labeled WiFi interface station information as provided by the operating system.",
    ("device", "bssid", "ssid", "mode"),
)


def _desc(name: str, text: str) -> Desc:
    kind = COUNTER if name.endswith("_total") else GAUGE
    return Desc(f"node_wifi_station_{name}", kind, text, ("device", "mac_address"))


STATION: tuple[tuple[str, Desc], ...] = (
    (
        "connected",
        _desc(
            "connected_seconds_total", "The total number of seconds a station has been connected to an access point."
        ),
    ),
    (
        "inactive",
        _desc("inactive_seconds", "The number of seconds since any wireless activity has occurred on a station."),
    ),
    (
        "receive_rate",
        _desc("receive_bits_per_second", "The current WiFi receive bitrate of a station, in bits per second."),
    ),
    (
        "transmit_rate",
        _desc("transmit_bits_per_second", "The current WiFi transmit bitrate of a station, in bits per second."),
    ),
    ("received_bytes", _desc("receive_bytes_total", "The total number of bytes received by a WiFi station.")),
    ("transmitted_bytes", _desc("transmit_bytes_total", "The total number of bytes transmitted by a WiFi station.")),
    ("received_packets", _desc("received_packets_total", "The total number of packets received by a WiFi station.")),
    (
        "transmitted_packets",
        _desc("transmitted_packets_total", "The total number of packets transmitted by a WiFi station."),
    ),
    ("signal", _desc("signal_dbm", "The current WiFi signal strength, in decibel-milliwatts (dBm).")),
    (
        "retries",
        _desc("transmit_retries_total", "The total number of times a station has had to retry while sending a packet."),
    ),
    (
        "failed",
        _desc("transmit_failed_total", "The total number of times a station has failed to send a packet."),
    ),
    (
        "beacon_loss",
        _desc("beacon_loss_total", "The total number of times a station has detected a beacon loss."),
    ),
)
MODES = {STATUS_AUTHENTICATED: "client", STATUS_ASSOCIATED: "client", STATUS_IBSS: "ad-hoc"}


class Wifi(Protocol):
    """Whoever knows the Wi-Fi interfaces."""

    def interfaces(self) -> list[Interface]: ...
    def bss(self, interface: Interface) -> Bss | None: ...
    def stations(self, interface: Interface) -> Sequence[Station]: ...


@dataclass(frozen=True, slots=True)
class WifiOptions:
    """Flags of the wifi collector."""

    fixtures: str = flag("collector.wifi.fixtures", "", "test fixtures to use for wifi collector metrics")


class WifiCollector(Collector):
    """node_wifi_*"""

    name = "wifi"
    default_enabled = False
    options_type = WifiOptions
    descs = (FREQUENCY, INFO, *(desc for _, desc in STATION))
    options: WifiOptions

    def collect(self, skip: Skip) -> list[Reading]:
        wifi: Wifi
        try:
            if self.options.fixtures:
                wifi = Fixtures(self.options.fixtures)
            elif self.paths.live:
                wifi = Nl80211()
            else:
                raise NoDataError("Wi-Fi is asked of the running kernel, not of files")
            interfaces = wifi.interfaces()
        except (FileNotFoundError, PermissionError) as err:
            raise NoDataError(f"there is no nl80211: {err}") from None
        readings: list[Reading] = []
        for interface in interfaces:
            readings.append((FREQUENCY, (interface.name,), interface.frequency * 1_000_000.0))
            try:
                bss = wifi.bss(interface)
                if bss is not None:
                    labels = (interface.name, bss.bssid, bss.ssid, MODES.get(bss.status, "unknown"))
                    readings.append((INFO, labels, 1.0))
                for station in wifi.stations(interface):
                    readings += station_readings(interface.name, station)
            except FileNotFoundError:
                continue
            except (OSError, FormatError) as err:
                skip(f"wifi {interface.name}", err)
        return readings


def station_readings(device: str, station: Station) -> list[Reading]:
    """Readings of what the driver says of one station."""
    found: list[Reading] = []
    for name, desc in STATION:
        value = getattr(station, name)
        if value is not None:
            found.append((desc, (device, station.mac), float(value)))
    return found


class Fixtures:
    """Upstream's JSON files, which hold the fields of the Go library github.com/mdlayher/wifi."""

    def __init__(self, directory: str) -> None:
        self._directory = directory.rstrip("/")

    def _load(self, name: str) -> Any:
        try:
            return json.loads(read_text(f"{self._directory}/{name}"))
        except ValueError as err:
            raise FormatError(f"{name}: {err}") from None

    def interfaces(self) -> list[Interface]:
        """Of `interfaces.json`, without those that have no name."""
        return [
            Interface(int(entry.get("Index", 0)), str(entry["Name"]), int(entry.get("Frequency", 0)))
            for entry in self._load("interfaces.json")
            if entry.get("Name")
        ]

    def bss(self, interface: Interface) -> Bss | None:
        """Of `NAME/bss.json`."""
        entry = self._load(f"{interface.name}/bss.json")
        return Bss(_mac(entry.get("BSSID")), str(entry.get("SSID", "")), int(entry.get("Status", 0)))

    def stations(self, interface: Interface) -> Sequence[Station]:
        """Of `NAME/stationinfo.json`; durations there are nanoseconds."""
        return [
            Station(
                mac=_mac(entry.get("HardwareAddr")),
                connected=entry.get("Connected", 0) / 1e9,
                inactive=entry.get("Inactive", 0) / 1e9,
                receive_rate=entry.get("ReceiveBitrate", 0),
                transmit_rate=entry.get("TransmitBitrate", 0),
                received_bytes=entry.get("ReceivedBytes", 0),
                transmitted_bytes=entry.get("TransmittedBytes", 0),
                received_packets=entry.get("ReceivedPackets", 0),
                transmitted_packets=entry.get("TransmittedPackets", 0),
                signal=entry.get("Signal", 0),
                retries=entry.get("TransmitRetries", 0),
                failed=entry.get("TransmitFailed", 0),
                beacon_loss=entry.get("BeaconLoss", 0),
            )
            for entry in self._load(f"{interface.name}/stationinfo.json")
        ]


def _mac(text: object) -> str:
    return mac_text(base64.b64decode(text)) if isinstance(text, str) else ""
