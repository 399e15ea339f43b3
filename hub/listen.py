"""The listening socket, and what to do when it can't be had."""

import errno
import socket

from common.errors import BrambleError

BACKLOG = 256


class StartError(BrambleError):
    """The hub can't start; the text says what to do."""


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; no host means all addresses, IPv4 and IPv6. StartError where that can't be."""
    try:
        if not host:
            try:
                return _listen(socket.AF_INET6, ("::", port), dual=True)
            except OSError as err:
                if err.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                    raise
                return _listen(socket.AF_INET, ("0.0.0.0", port))
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        return _listen(found[0][0], found[0][4])
    except socket.gaierror as err:
        raise StartError(
            f"cannot listen on {host}: no such host ({err.strerror}): "
            "give an address of this machine with --web.listen-address"
        ) from None
    except OSError as err:
        raise StartError(f"cannot listen on port {port}: {_advice(err, port)}") from None


def _listen(family: int, where: tuple[object, ...], dual: bool = False) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if dual else 1)
        sock.bind(where)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def _advice(err: OSError, port: int) -> str:
    match err.errno:
        case errno.EADDRINUSE:
            return (
                "it is in use, perhaps by Prometheus or another bramble-hub: stop that program, "
                "or choose another port with --web.listen-address=:PORT"
            )
        case errno.EACCES:
            return f"port {port} needs the capability CAP_NET_BIND_SERVICE: choose one from 1024 on"
        case errno.EADDRNOTAVAIL:
            return "that is not an address of this machine: see `ip address`, or leave the host out"
    return err.strerror or str(err)
