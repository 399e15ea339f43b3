"""As much of a D-Bus client as reading properties takes (dbus.freedesktop.org/doc/dbus-specification.html).

Method calls with string arguments over a Unix socket; all types of replies are understood, sizes are bounded.
"""

import os
import socket
import struct
from typing import Any

from common.errors import RemoteError

TIMEOUT_SECONDS = 2.0
MAX_MESSAGE = 16 << 20
MAX_DEPTH = 32

_METHOD_CALL, _METHOD_RETURN, _ERROR = 1, 2, 3
_PATH, _INTERFACE, _MEMBER, _ERROR_NAME, _REPLY_SERIAL, _DESTINATION, _SIGNATURE = 1, 2, 3, 4, 5, 6, 8
_FIXED = {"y": "B", "n": "h", "q": "H", "i": "i", "u": "I", "x": "q", "t": "Q", "d": "d", "h": "I"}
_ALIGN = {"y": 1, "n": 2, "q": 2, "b": 4, "i": 4, "u": 4, "h": 4, "x": 8, "t": 8, "d": 8, "s": 4, "o": 4, "g": 1}


class DBusError(RemoteError):
    """The bus or the service refused, or answered what is no D-Bus."""


class Reader:
    """Takes values of a signature from a message's bytes; DBusError if they do not fit."""

    def __init__(self, data: bytes, little: bool, at: int = 0) -> None:
        self.data = data
        self.order = "<" if little else ">"
        self.at = at

    def values(self, signature: str) -> list[Any]:
        """The values of all complete types in the signature."""
        found: list[Any] = []
        while signature:
            kind, signature = split_type(signature)
            found.append(self.value(kind))
        return found

    def value(self, kind: str, depth: int = 0) -> Any:
        """One value: numbers, strings, lists, tuples (structs), dicts; a variant is its content."""
        if depth > MAX_DEPTH:
            raise DBusError("message is nested too deeply")
        first = kind[0]
        try:
            if first == "a":
                return self._array(kind[1:], depth)
            if first in "({":
                self._align(8)
                return tuple(self.value(inner, depth + 1) for inner in split_types(kind[1:-1]))
            if first == "v":
                return self.value(self.value("g"), depth + 1)
            self._align(_ALIGN[first])
            if first in "sog":
                return self._string("B" if first == "g" else "I")
            return self._unpack(_FIXED["u"])[0] != 0 if first == "b" else self._unpack(_FIXED[first])[0]
        except (struct.error, KeyError, IndexError) as err:
            raise DBusError(f"truncated or unknown value of type {kind[:20]!r}") from err

    def _align(self, to: int) -> None:
        self.at = (self.at + to - 1) // to * to

    def _unpack(self, form: str) -> tuple[Any, ...]:
        found = struct.unpack_from(self.order + form, self.data, self.at)
        self.at += struct.calcsize(self.order + form)
        return found

    def _string(self, length: str) -> str:
        size = self._unpack(length)[0]
        if self.at + size + 1 > len(self.data):
            raise DBusError("truncated string")
        text = self.data[self.at : self.at + size].decode("utf-8", "replace")
        self.at += size + 1
        return text

    def _array(self, kind: str, depth: int) -> Any:
        self._align(4)
        size = self._unpack("I")[0]
        self._align(8 if kind[0] in "({" else _ALIGN.get(kind[0], 4 if kind[0] == "a" else 1))
        end = self.at + size
        if end > len(self.data):
            raise DBusError("truncated array")
        items: list[Any] = []
        while self.at < end:
            before = self.at
            items.append(self.value(kind, depth + 1))
            if self.at == before:
                raise DBusError("array of nothing")
        return dict(items) if kind[0] == "{" else items


def split_type(signature: str) -> tuple[str, str]:
    """(first complete type, rest) of a signature; DBusError if there is none."""
    at = 0
    while at < len(signature) and signature[at] == "a":
        at += 1
    if at >= len(signature):
        raise DBusError(f"not a signature: {signature[:40]!r}")
    if signature[at] in "({":
        depth = 0
        for end in range(at, len(signature)):
            depth += (signature[end] in "({") - (signature[end] in ")}")
            if depth == 0:
                if end == at + 1:
                    break
                return signature[: end + 1], signature[end + 1 :]
        raise DBusError(f"not a signature: {signature[:40]!r}")
    return signature[: at + 1], signature[at + 1 :]


def split_types(signature: str) -> list[str]:
    """All complete types of a signature."""
    found: list[str] = []
    while signature:
        kind, signature = split_type(signature)
        found.append(kind)
    return found


def _pad(data: bytearray, to: int) -> None:
    data.extend(bytes(-len(data) % to))


def _put_string(data: bytearray, text: str) -> None:
    _pad(data, 4)
    raw = text.encode()
    data += struct.pack("<I", len(raw)) + raw + b"\0"


def encode_call(
    serial: int, destination: str, path: str, interface: str, member: str, arguments: tuple[str, ...]
) -> bytes:
    """A method call with string arguments, little-endian; an empty destination is left out."""
    body = bytearray()
    for argument in arguments:
        _put_string(body, argument)
    fields = bytearray()
    for code, kind, text in (
        (_PATH, "o", path),
        (_INTERFACE, "s", interface),
        (_MEMBER, "s", member),
        (_DESTINATION, "s", destination),
    ):
        if text:
            _pad(fields, 8)
            fields += bytes([code, 1]) + kind.encode() + b"\0"
            _put_string(fields, text)
    if arguments:
        _pad(fields, 8)
        signature = "s" * len(arguments)
        fields += bytes([_SIGNATURE, 1]) + b"g\0" + bytes([len(signature)]) + signature.encode() + b"\0"
    head = bytearray(struct.pack("<cBBBIII", b"l", _METHOD_CALL, 0, 1, len(body), serial, len(fields))) + fields
    _pad(head, 8)
    return bytes(head + body)


class Connection:
    """A connection to a bus or a service's own socket. Not for two threads at once."""

    def __init__(self, address: str, is_bus: bool = True) -> None:
        """Connect, authenticate as this user and, on a bus, say hello; OSError or DBusError if that fails."""
        self._serial = 0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self._socket.settimeout(TIMEOUT_SECONDS)
            self._socket.connect(address)
            user = str(os.getuid()).encode().hex()
            self._socket.sendall(b"\0AUTH EXTERNAL " + user.encode() + b"\r\n")
            answer = self._line()
            if not answer.startswith(b"OK "):
                raise DBusError(f"authentication was refused: {answer[:60]!r}")
            self._socket.sendall(b"BEGIN\r\n")
            if is_bus:
                bus = "org.freedesktop.DBus"
                self.call(bus, "/org/freedesktop/DBus", bus, "Hello")
        except BaseException:
            self._socket.close()
            raise

    def close(self) -> None:
        """Close the connection; idempotent."""
        self._socket.close()

    def call(self, destination: str, path: str, interface: str, member: str, *arguments: str) -> list[Any]:
        """The values that a method returns; DBusError with the service's own words if it fails."""
        self._serial += 1
        self._socket.sendall(encode_call(self._serial, destination, path, interface, member, arguments))
        while True:
            kind, fields, body, little = self._message()
            if fields.get(_REPLY_SERIAL) != self._serial:
                continue  # signals, and answers nobody waits for any more
            values = Reader(body, little).values(fields.get(_SIGNATURE, ""))
            if kind == _METHOD_RETURN:
                return values
            raise DBusError(f"{member}: {fields.get(_ERROR_NAME, 'error')}: {values[0] if values else ''}")

    def property(self, destination: str, path: str, interface: str, name: str) -> Any:
        """The value of a property."""
        return self.call(destination, path, "org.freedesktop.DBus.Properties", "Get", interface, name)[0]

    def _line(self) -> bytes:
        line = b""
        while not line.endswith(b"\r\n"):
            byte = self._socket.recv(1)
            if not byte or len(line) > 4096:
                raise DBusError("no answer to the authentication")
            line += byte
        return line

    def _message(self) -> tuple[int, dict[int, Any], bytes, bool]:
        head = self._exactly(16)
        if head[0] not in b"lB":
            raise DBusError("not a D-Bus message")
        little = head[0] == ord("l")
        order = "<" if little else ">"
        size, _, count = struct.unpack(order + "III", head[4:16])
        padded = (count + 7) & ~7
        if size + padded > MAX_MESSAGE:
            raise DBusError(f"message of {size + padded} bytes: more than {MAX_MESSAGE} are not read")
        rest = self._exactly(padded + size)
        fields = dict(Reader(head + rest[:count], little, at=12).value("a(yv)"))
        return head[1], fields, rest[padded:], little

    def _exactly(self, size: int) -> bytes:
        parts = bytearray()
        while len(parts) < size:
            data = self._socket.recv(min(size - len(parts), 1 << 16))
            if not data:
                raise DBusError("the connection was closed")
            parts += data
        return bytes(parts)
