"""Wi-Fi signal without netlink or root (/proc/net/wireless, net/wireless/wext-proc.c)."""

from common.errors import FormatError
from edge.collectors.base import GAUGE, Collector, Desc, NoDataError, Reading, Skip
from edge.collectors.files import read_text

SIGNAL = Desc("rpi_wifi_signal_dbm", GAUGE, "Strength of the signal from the access point.", ("device",))
RATIO = Desc("rpi_wifi_link_quality_ratio", GAUGE, "Quality of the link, of 1.", ("device",))
QUALITY = Desc("rpi_wifi_link_quality", GAUGE, "Quality of the link as the driver gives it, of 70.", ("device",))

BEST = 70.0
NOT_ASSOCIATED = -256.0


def parse_wireless(text: str, skip: Skip) -> list[Reading]:
    """Readings of interfaces that are associated: level -256 or quality 0 says that one is not."""
    readings: list[Reading] = []
    for line in text.split("\n")[2:]:
        device, colon, rest = line.partition(":")
        if not colon:
            continue
        device = device.strip()
        fields = rest.split()
        try:
            if len(fields) < 4:
                raise FormatError(f"expected status, link, level and noise, got {rest[:40]!r}")
            quality, level = float(fields[1].rstrip(".")), float(fields[2].rstrip("."))
        except ValueError as err:
            skip(f"/proc/net/wireless {device[:40]}", err)
            continue
        # Drivers with 8-bit levels give 161 to 255 for -95 to -1 dBm (include/uapi/linux/wireless.h, IW_QUAL_DBM).
        if 63 < level <= 255:
            level -= 256
        if level <= NOT_ASSOCIATED or quality <= 0:
            continue
        readings += [
            (SIGNAL, (device,), level),
            (RATIO, (device,), min(quality / BEST, 1.0)),
            (QUALITY, (device,), quality),
        ]
    return readings


class RpiWirelessCollector(Collector):
    """rpi_wifi_*"""

    name = "rpi_wireless"
    silent_without_data = True
    descs = (SIGNAL, RATIO, QUALITY)

    def collect(self, skip: Skip) -> list[Reading]:
        try:
            readings = parse_wireless(read_text(self.paths.proc("net/wireless")), skip)
        except FileNotFoundError:
            raise NoDataError("the kernel has no /proc/net/wireless") from None
        if not readings:
            raise NoDataError("no Wi-Fi interface is associated")
        return readings
