"""Bonded network interfaces (kernel: Documentation/networking/bonding.rst)."""

from edge.collectors.base import GAUGE, Collector, Desc, NoDataError, Reading, Skip
from edge.collectors.files import read_attr

SLAVES = Desc("node_bonding_slaves", GAUGE, "Number of configured slaves per bonding interface.", ("master",))
ACTIVE = Desc("node_bonding_active", GAUGE, "Number of active slaves per bonding interface.", ("master",))


class BondingCollector(Collector):
    """node_bonding_*"""

    name = "bonding"
    descs = (SLAVES, ACTIVE)

    def collect(self, skip: Skip) -> list[Reading]:
        base = self.paths.sys("class/net")
        try:
            masters = read_attr(f"{base}/bonding_masters").split()
        except FileNotFoundError:
            raise NoDataError("the bonding module is not loaded") from None
        readings: list[Reading] = []
        for master in masters:
            try:
                slaves = read_attr(f"{base}/{master}/bonding/slaves").split()
            except FileNotFoundError:
                slaves = []
            except OSError as err:
                skip(f"{base}/{master}", err)
                continue
            active = sum(self._up(f"{base}/{master}", slave, skip) for slave in slaves)
            readings += [(SLAVES, (master,), float(len(slaves))), (ACTIVE, (master,), float(active))]
        return readings

    def _up(self, path: str, slave: str, skip: Skip) -> bool:
        # Kernels before 3.15 link the slaves as `slave_NAME`, later ones as `lower_NAME`.
        for link in ("lower_", "slave_"):
            try:
                return read_attr(f"{path}/{link}{slave}/bonding_slave/mii_status") == "up"
            except FileNotFoundError:
                continue
            except OSError as err:
                skip(f"{path}/{link}{slave}", err)
        return False
