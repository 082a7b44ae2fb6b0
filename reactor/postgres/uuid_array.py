"""UUIDs by the hundred, sent as a uuid[] in one piece.

Signals know rows by number, and psycopg takes a list of UUIDs one by one: to make an object of each and to pack that
by itself takes eight times as long.
"""

import struct
from collections.abc import Iterator, Sequence
from typing import overload
from uuid import UUID

import psycopg
from psycopg.adapt import Dumper
from psycopg.pq import Format

_UUID_OID = 2950
_UUID_ARRAY_OID = 2951
# an array on the wire: dimensions, whether it holds nulls, the type, then the size and first index of each dimension
_EMPTY = struct.pack(">iii", 0, 0, _UUID_OID)
_HEADER = struct.Struct(">iiiii")
_ELEMENT = struct.pack(">i", 16)
"""Before each element: its size in bytes."""


class Uuids(Sequence[UUID]):
    """UUIDs, given as numbers."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, index: int) -> UUID: ...

    @overload
    def __getitem__(self, index: slice) -> "Uuids": ...

    def __getitem__(self, index: int | slice) -> "UUID | Uuids":
        if isinstance(index, slice):
            return Uuids(self.numbers[index])
        return UUID(int=self.numbers[index])

    def __iter__(self) -> Iterator[UUID]:
        return (UUID(int=number) for number in self.numbers)


class _UuidsDumper(Dumper):
    format = Format.BINARY
    oid = _UUID_ARRAY_OID

    def dump(self, obj: Uuids) -> bytes:
        if not obj.numbers:
            return _EMPTY
        elements = [_ELEMENT + number.to_bytes(16, "big") for number in obj.numbers]
        return _HEADER.pack(1, 0, _UUID_OID, len(elements), 1) + b"".join(elements)


psycopg.adapters.register_dumper(Uuids, _UuidsDumper)
