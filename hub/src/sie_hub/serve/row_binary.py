"""Reading ClickHouse's RowBinary format: values one after the other, without names or separators.

Numbers are little-endian; a string is its length as a LEB128 number and its octets; an array is its length,
likewise, and its elements.
"""


class Reader:
    """A cursor over a block of whole rows. The caller knows the columns' types."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    @property
    def at_end(self) -> bool:
        """Whether every row has been read."""
        return self._position >= len(self._data)

    def number(self, octets: int) -> int:
        """An unsigned number of 1, 2, 4 or 8 octets."""
        start = self._position
        self._position = end = start + octets
        return int.from_bytes(self._data[start:end], "little")

    def string(self) -> bytes:
        """A string."""
        length = self._length()
        start = self._position
        self._position = end = start + length
        return self._data[start:end]

    def strings(self) -> list[bytes]:
        """An array of strings."""
        return [self.string() for _ in range(self._length())]

    def _length(self) -> int:
        value = shift = 0
        while True:
            octet = self._data[self._position]
            self._position += 1
            value |= (octet & 0x7F) << shift
            if octet < 0x80:
                return value
            shift += 7
