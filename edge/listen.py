"""The listening socket, and what to do when it can't be had."""

import errno
import socket

from common.errors import BrambleError
from edge.config import Address

BACKLOG = 128
UNSENT_MS = 60_000
"""After this long without progress the kernel drops a connection with unsent data (tcp(7), TCP_USER_TIMEOUT)."""


class StartError(BrambleError):
    """The agent can't start; the text says what to do."""


def bind(address: Address) -> socket.socket:
    """A listening socket; no host means IPv4 and IPv6. StartError where that can't be (may look up a host name)."""
    try:
        if address.host:
            found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            found.sort(key=lambda item: item[0] != socket.AF_INET)
            return _listen(found[0][0], found[0][4])
        try:
            return _listen(socket.AF_INET6, ("::", address.port), both=True)
        except OSError as err:
            if err.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                raise
            return _listen(socket.AF_INET, ("0.0.0.0", address.port))
    except socket.gaierror as err:
        raise StartError(
            f"cannot listen on {address}: no such host ({err.strerror}): give an address of this machine, "
            f"or :{address.port} for all, with --web.listen-address"
        ) from None
    except OSError as err:
        raise StartError(f"cannot listen on {address}: {_advice(err, address)}") from None


def _listen(family: int, where: "tuple[str, int] | tuple[object, ...]", both: bool = False) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNSENT_MS)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if both or where[0] == "::" else 1)
        sock.bind(where)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def _advice(err: OSError, address: Address) -> str:
    if err.errno == errno.EADDRINUSE:
        return (
            f"port {address.port} is in use, perhaps by node_exporter or another bramble-edge: stop that program, "
            "or choose another port with --web.listen-address=:PORT"
        )
    if err.errno == errno.EACCES:
        return "ports below 1024 need the capability CAP_NET_BIND_SERVICE: choose one above with --web.listen-address"
    if err.errno == errno.EADDRNOTAVAIL:
        return (
            "that is not an address of this machine: see `ip address`, or listen on all with "
            f"--web.listen-address=:{address.port}"
        )
    return err.strerror or str(err)
