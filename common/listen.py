"""The listening socket, and what to do when it can't be had."""

import errno
import socket

from common.errors import BrambleError

BACKLOG = 256
UNSENT_MS = 60_000
"""After this long without progress the kernel drops a connection with unsent data (tcp(7), TCP_USER_TIMEOUT)."""


class StartError(BrambleError):
    """The program can't start; the text says what to do."""


def bind(host: str, port: int, rival: str) -> socket.socket:
    """A listening socket; no host means IPv4 and IPv6. May look up a host name.

    StartError where it can't be had; `rival` names who may have the port ("Prometheus or another bramble-hub").
    """
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        if host:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            found.sort(key=lambda item: item[0] != socket.AF_INET)
            return _listen(found[0][0], found[0][4])
        try:
            return _listen(socket.AF_INET6, ("::", port), both=True)
        except OSError as err:
            if err.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                raise
            return _listen(socket.AF_INET, ("0.0.0.0", port))
    except socket.gaierror as err:
        raise StartError(
            f"cannot listen on {where}: no such host ({err.strerror}): give an address of this machine, "
            f"or :{port} for all, with --web.listen-address"
        ) from None
    except OSError as err:
        raise StartError(f"cannot listen on {where}: {_advice(err, port, rival)}") from None


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


def _advice(err: OSError, port: int, rival: str) -> str:
    if err.errno == errno.EADDRINUSE:
        return (
            f"port {port} is in use, perhaps by {rival}: stop that program, "
            "or choose another port with --web.listen-address=:PORT"
        )
    if err.errno == errno.EACCES:
        return (
            f"port {port} needs the capability CAP_NET_BIND_SERVICE: "
            "choose one from 1024 on with --web.listen-address=:PORT"
        )
    if err.errno == errno.EADDRNOTAVAIL:
        return (
            "that is not an address of this machine: see `ip address`, or listen on all with "
            f"--web.listen-address=:{port}"
        )
    return err.strerror or str(err)
