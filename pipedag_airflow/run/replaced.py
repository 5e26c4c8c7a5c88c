"""What a generation has made already, and then makes anew or does not need: it is dropped when its row is replaced.

Nothing would describe it any more. A script would find it in its way, a publish that archives a table of its name
would, and its schema could never go.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipedag_airflow.run.publication import place_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pipedag_airflow.backend.metadata import TaskRecord
    from pipedag_airflow.backend.table.sql.transaction import SQLTransaction

__all__ = ["drop_replaced"]


def drop_replaced(transaction: SQLTransaction, earlier: Iterable[TaskRecord], rows: Iterable[TaskRecord] = ()) -> None:
    """Drop what rows of an open generation describe in its schema, unless the rows that replace them do so, too.

    What a view of a stage within this one shows stays: readers of that one see it.

    Args:
        transaction: The transaction that replaces them.
        earlier: Rows of one generation.
        rows: What replaces them, as far as it may have the same tables.
    """
    kept = {place_of(stored) for row in rows for stored in row.objects}
    of_their_own = [row for row in earlier if row.twin is None]
    for stage, number in {(row.stage, row.generation) for row in of_their_own}:
        schema = transaction.store.generation_schema(stage, number)
        made = {place_of(stored) for row in of_their_own for stored in row.objects if stored.container == schema}
        if made - kept:
            needless = made - kept - transaction.places.shown_by_others(stage)
            transaction.drop_objects(schema, [name for _, name in needless])
