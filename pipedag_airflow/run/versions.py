"""The arguments of a task that looks at two versions of its stage."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from pipedag_airflow.backend.metadata import ObjectKind
from pipedag_airflow.core.containers import RawSql, Table
from pipedag_airflow.core.stage_versions import StageVersionsTask
from pipedag_airflow.core.values import deep_map

if TYPE_CHECKING:
    from pipedag_airflow.core.task import Task
    from pipedag_airflow.run.snapshot import Snapshot

__all__ = ["say_what_readers_see", "tables_in", "with_versions"]


log = logging.getLogger(__name__)


def with_versions(task: Task, arguments: dict[str, Any], snapshot: Snapshot) -> dict[str, Any]:
    """Return the arguments with the tables of the two versions, by their names; descriptors like those beside them."""
    unbound = task.unbound
    if not isinstance(unbound, StageVersionsTask):
        return arguments
    made = {str(table.name): table for table in tables_in(arguments[unbound.made])}
    published = _published(task, snapshot)
    if arguments[unbound.published] == StageVersionsTask.SAME_NAMES:
        published = {name: table for name, table in published.items() if name in made}
    return arguments | {unbound.made: made, unbound.published: published}


def tables_in(value: Any) -> list[Table[Any]]:
    """Return the tables in a value, those of scripts included; descriptors."""
    found: list[Table[Any]] = []

    def note(leaf: Any) -> Any:
        if isinstance(leaf, Table):
            found.append(leaf)
        elif isinstance(leaf, RawSql):
            found.extend(leaf.table(name) for name in leaf.table_names)
        return leaf

    deep_map(value, note)
    return found


def _published(task: Task, snapshot: Snapshot) -> dict[str, Table[Any]]:
    """Return what readers see, without what the task itself had made, and what somebody has dropped since."""
    found: dict[str, Table[Any]] = {}
    for node, row in snapshot.live_rows().items():
        for stored in row.objects:
            if stored.kind is not ObjectKind.TABLE or node == task.id or not snapshot.is_intact(stored):
                continue
            table: Table[Any] = Table(name=stored.name)
            found[stored.name] = table
            table.locate(stored.stage, stored.generation, stored.cache_key)
    return found


def say_what_readers_see(task: Task, snapshot: Snapshot) -> None:
    """Say what it means for readers that a task failed which guards its stage."""
    if isinstance(task.unbound, StageVersionsTask):
        shown = "nothing yet, as before" if snapshot.live is None else f"generation {snapshot.live} as before"
        # A line of the log, and no note on the error: Airflow does not show these.
        log.error("%s failed, so stage %s is not published; readers see %s", task.id, snapshot.stage, shown)
