"""Nothing changed, nothing done: when a stage would look the same after a publish."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipedag_airflow.backend.metadata import ObjectKind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipedag_airflow.backend.metadata import TaskRecord
    from pipedag_airflow.run.snapshot import Snapshot

__all__ = ["is_unchanged"]


def is_unchanged(rows: Mapping[str, TaskRecord], snapshot: Snapshot) -> bool:
    """Say whether the rows of the open generation, by node, describe just what is published already."""
    before = snapshot.live_rows()
    store = snapshot.session.store
    tables = [stored for row in before.values() for stored in row.objects if stored.kind is ObjectKind.TABLE]
    if any(store.shown_place(snapshot.stage, table.name) not in snapshot.inventory.existing for table in tables):
        return False  # somebody has dropped what readers are to see
    return before.keys() == rows.keys() and all(_shows_same(before[node], row) for node, row in rows.items())


def _shows_same(before: TaskRecord, now: TaskRecord) -> bool:
    def shown(row: TaskRecord) -> Any:
        objects = {(stored.kind, stored.name, stored.container, stored.location) for stored in row.objects}
        # The memo key: a task that ran, even to the same end, must be found under its new identity next time.
        return row.position, row.memo_key, row.output, objects

    return now.state.has_output and shown(before) == shown(now)
