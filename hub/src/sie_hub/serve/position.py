"""How far the store is in the SIE stream, and what it has of the message after that.

The engine has no transaction over several tables, nor over the weeks of one: an insert makes one part per
week, and each part is there whole or not at all. So a process that dies while it writes a message may leave
any of its parts behind. The position therefore holds, beside the sequence, the highest block number of every
week of both tables at that moment. A new part of a week has a greater number than those that the week has,
and merging keeps the greatest: a week whose number is greater than the position says has got its part of the
message after the position, and must not get it again.

(The engine's own tokens against repeated inserts are not used: it notes a token before the part is in place,
so a process killed between the two would never write that part.)
"""

from dataclasses import dataclass
from typing import Final

from sie_hub.serve.admission import NOTHING_LANDED, Landed
from sie_hub.serve.engine import Connection
from sie_hub.serve.row_binary import Reader

_WEEKS: Final = """
    SELECT table, concat(table, '/', partition_id) AS week, toUInt64(max(max_block_number)) AS block,
        toUInt64(toUnixTimestamp(toDateTime(toDate(any(partition)), 'UTC'))) AS monday
    FROM system.parts
    WHERE database = 'sie' AND table IN ('rrset', 'rdata') AND active
    GROUP BY table, partition_id"""

_READ: Final = """
    SELECT argMaxIf(sequence, step, stream = {stream:String}), maxIf(step, stream = {stream:String}),
        max(step)
    FROM sie.position"""

_LANDED: Final = f"""
    WITH (
        SELECT blocks FROM sie.position WHERE stream = {{stream:String}} ORDER BY step DESC LIMIT 1
    ) AS before
    SELECT table, monday FROM ({_WEEKS}) WHERE block > before[week]"""  # noqa: S608 (constants alone)

_WRITE: Final = f"""
    INSERT INTO sie.position SELECT {{stream:String}}, {{sequence:UInt64}}, {{step:UInt64}},
        (SELECT mapFromArrays(groupArray(week), groupArray(block)) FROM ({_WEEKS}))"""  # noqa: S608


@dataclass(frozen=True, slots=True)
class _Known:
    """The position as the table has it: of which stream, and the step that wrote it."""

    stream: str
    sequence: int
    step: int


class Position:
    """The position of a store, for its only writer. Every method may raise StoreError; `doubt` afterwards."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._known: _Known | None = None

    def sequence(self, stream: str) -> int:
        """The sequence of the last message of a stream that is in the store, 0 for none."""
        if self._known is not None and self._known.stream == stream:
            return self._known.sequence
        return self._read(stream)[0]

    def landed(self, stream: str) -> Landed:
        """The weeks that have the message after the position of a stream already."""
        if self._known is not None and self._known.stream == stream:
            return NOTHING_LANDED  # this process wrote the position, and nothing since
        sequence, step, last = self._read(stream)
        if step == 0 or step < last:
            # Parts that came after this stream's position are another stream's. Counting starts now.
            self._write(stream, sequence, last + 1)
            return NOTHING_LANDED
        weeks: dict[str, set[int]] = {"rrset": set(), "rdata": set()}
        reader = Reader(self._connection.execute(_LANDED, {"stream": stream}))
        while not reader.at_end:
            weeks[reader.string().decode()].add(reader.number(8))
        return Landed(frozenset(weeks["rrset"]), frozenset(weeks["rdata"]))

    def move(self, stream: str, sequence: int) -> None:
        """Note that every message of a stream up to a sequence is in the store."""
        known = self._known
        step = known.step if known is not None else self._read(stream)[2]
        self._write(stream, sequence, step + 1)

    def doubt(self) -> None:
        """Forget what this process knows: something failed, and the tables have to be looked at."""
        self._known = None

    def _read(self, stream: str) -> tuple[int, int, int]:
        """A stream's sequence, the step that wrote it (0 when none did), and the last step of any stream."""
        reader = Reader(self._connection.execute(_READ, {"stream": stream}))
        return reader.number(8), reader.number(8), reader.number(8)

    def _write(self, stream: str, sequence: int, step: int) -> None:
        self._connection.execute(_WRITE, {"stream": stream, "sequence": sequence, "step": step})
        self._known = _Known(stream, sequence, step)
