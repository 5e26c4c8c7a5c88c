"""Stored results that may still be valid, found by what they are identified by."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pipedag_airflow.backend.metadata import ObjectRecord, TaskRecord

__all__ = ["Candidates"]


class Candidates:
    """The rows of a stage that a decision may look at, the best first.

    Args:
        rows: The rows, the best first.
    """

    def __init__(self, rows: Iterable[TaskRecord]) -> None:
        self._by_call: dict[str, list[TaskRecord]] = {}
        self._by_name: dict[str, list[TaskRecord]] = {}
        self._by_output: dict[str, list[tuple[TaskRecord, ObjectRecord]]] = {}
        for row in reversed(list(rows)):
            self.add(row)

    def add(self, row: TaskRecord) -> None:
        """Add a row that is better than all others: one of the open generation."""
        if row.memo_key is not None:
            self._by_call.setdefault(row.memo_key, []).insert(0, row)
        self._by_name.setdefault(row.name, []).insert(0, row)
        for stored in row.objects:
            self._by_output.setdefault(stored.cache_key, []).insert(0, (row, stored))

    def remove(self, row: TaskRecord) -> None:
        """Take a row out."""
        for rows in (self._by_call.get(row.memo_key or "", []), self._by_name.get(row.name, [])):
            rows[:] = [other for other in rows if other is not row]
        for stored in row.objects:
            pairs = self._by_output[stored.cache_key]
            pairs[:] = [(other, found) for other, found in pairs if other is not row]

    def of_call(self, memo_key: str) -> list[TaskRecord]:
        """Return the results of the very same call."""
        return self._by_call.get(memo_key, [])

    def of_name(self, name: str) -> list[TaskRecord]:
        """Return the results of tasks of that name."""
        return self._by_name.get(name, [])

    def of_output(self, cache_key: str) -> Iterator[tuple[TaskRecord, ObjectRecord]]:
        """Yield the stored objects of that identity, with the rows that they belong to."""
        yield from self._by_output.get(cache_key, [])
