"""Variable-length integers and texts (LEB128, zigzag), bounded when read."""

from common.errors import FrameError


def put_uvarint(out: bytearray, value: int) -> None:
    """Append `value` >= 0 in groups of seven bits, low first."""
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def put_varint(out: bytearray, value: int) -> None:
    """Append a signed number as zigzag: 0, -1, 1, -2 become 0, 1, 2, 3."""
    put_uvarint(out, value << 1 if value >= 0 else (-value << 1) - 1)


def put_text(out: bytearray, text: str) -> None:
    """Append length in bytes and UTF-8."""
    data = text.encode()
    put_uvarint(out, len(data))
    out += data


class Reader:
    """Reads what the functions above wrote; every read beyond the end is a FrameError."""

    __slots__ = ("at", "data")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def byte(self) -> int:
        """One byte."""
        if self.at >= len(self.data):
            raise FrameError("content ends too early")
        value = self.data[self.at]
        self.at += 1
        return value

    def take(self, size: int) -> bytes:
        """`size` bytes."""
        end = self.at + size
        if size < 0 or end > len(self.data):
            raise FrameError("content ends too early")
        out = self.data[self.at : end]
        self.at = end
        return out

    def uvarint(self) -> int:
        """A number below 2**70."""
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if not byte and shift:
                    raise FrameError("number is not in its shortest form")
                return value
            shift += 7
            if shift > 63:
                raise FrameError("number longer than 64 bits")

    def varint(self) -> int:
        """A signed number."""
        value = self.uvarint()
        return value >> 1 if not value & 1 else -((value + 1) >> 1)

    def count(self, size: int = 1) -> int:
        """A number of items of at least `size` bytes each that must follow: bounded by what is there."""
        value = self.uvarint()
        if value * size > len(self.data) - self.at:
            raise FrameError(f"{value} items announced, more than the content can hold")
        return value

    def text(self) -> str:
        """A UTF-8 text."""
        try:
            return self.take(self.count()).decode()
        except UnicodeDecodeError as err:
            raise FrameError(f"text is not UTF-8: {err.reason}") from None

    def end(self) -> None:
        """FrameError unless everything was read."""
        if self.at != len(self.data):
            raise FrameError(f"{len(self.data) - self.at} bytes too many")
