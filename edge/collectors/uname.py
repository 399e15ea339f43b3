"""What the kernel calls itself and the machine (uname(2))."""

import os

from edge.collectors.base import GAUGE, Collector, Desc, Reading, Skip
from edge.collectors.files import read_attr

LABELS = ("sysname", "release", "version", "machine", "nodename", "domainname")
INFO = Desc("node_uname_info", GAUGE, "Labeled system information as provided by the uname system call.", LABELS)


class UnameCollector(Collector):
    """node_uname_info"""

    name = "uname"
    descs = (INFO,)

    def _prepare(self) -> None:
        self._live = self.paths.live

    def collect(self, skip: Skip) -> list[Reading]:
        host = os.uname()
        if self._live:
            sysname, release, version, nodename = host.sysname, host.release, host.version, host.nodename
        else:
            sysname = self._kernel("ostype", host.sysname)
            release = self._kernel("osrelease", host.release)
            version = self._kernel("version", host.version)
            nodename = self._kernel("hostname", host.nodename)
        domain = self._kernel("domainname", "(none)")
        return [(INFO, (sysname, release, version, host.machine, nodename, domain), 1.0)]

    def _kernel(self, name: str, default: str) -> str:
        try:
            return read_attr(self.paths.proc("sys/kernel", name))
        except OSError:
            return default
