"""Packing: whole records into rows of a fixed length, as few as a best fit finds."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Lay records into rows, each record whole, by best fit decreasing (Johnson, 1974).

    The longest record comes first; each goes into the row in which it leaves the least room. It
    depends on the lengths alone.

    Args:
        lengths: lengths of the records, each from 1 to `capacity`.
        capacity: length of a row.

    Returns:
        The records of each row by their index, ascending; rows by their first record.

    Raises:
        ValueError: if a record does not fit into a row.
    """
    rows: list[list[int]] = []
    by_room: dict[int, list[int]] = {}  # rows that have so much room left
    rooms: list[int] = []  # those there are, ascending
    for record in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        length = lengths[record]
        if not 0 < length <= capacity:
            raise ValueError(f"record {record} has a length of {length}, not 1 to {capacity}")
        place = bisect_left(rooms, length)
        if place < len(rooms):
            room = rooms[place]
            row = by_room[room].pop()
            if not by_room[room]:
                del by_room[room], rooms[place]
        else:
            room, row = capacity, len(rows)
            rows.append([])
        rows[row].append(record)
        if left := room - length:
            if left not in by_room:
                by_room[left] = []
                insort(rooms, left)
            by_room[left].append(row)
    return sorted(map(sorted, rows))
