"""What a step of a task tells while it happens: an orchestrator can show it even if the step fails then."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pipedag_airflow.backend.metadata import ObjectKind
from pipedag_airflow.cache.disclosure import shown_identity
from pipedag_airflow.cache.query import executed_text
from pipedag_airflow.config.known_secrets import without_secrets
from pipedag_airflow.core.containers import RawSql, Stored, Table
from pipedag_airflow.core.values import deep_map, dump_identity

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pipedag_airflow.backend.metadata import TaskRecord
    from pipedag_airflow.backend.table.sql.store import SQLTableStore
    from pipedag_airflow.backend.table.sql.transaction import SQLTransaction
    from pipedag_airflow.core.task import Task
    from pipedag_airflow.run.outputs import Output
    from pipedag_airflow.run.session import RunSession
    from pipedag_airflow.run.snapshot import Snapshot

__all__ = ["Watcher", "previous_run", "shown_inputs", "shown_queries"]

_SHOWN = 1_000


class Watcher:
    """Is told of the step of a task; this one takes no notice."""

    def opened(self, task: Task, snapshot: Snapshot, transaction: SQLTransaction) -> None:
        """Look at what is there before the task; it was not decided yet."""

    def reopened(self, task: Task, snapshot: Snapshot) -> None:
        """Before a task runs in a stage that its run was over with; may raise what keeps it from running."""

    def reads(self, snapshot: Snapshot, arguments: Mapping[str, Any]) -> None:
        """Look at the arguments of the task, with descriptors of tables; its function was not called yet."""

    def makes(self, session: RunSession, outputs: Iterable[Output]) -> None:
        """Look at what the task's function returned; it is not stored yet."""

    def made(self, session: RunSession, row: TaskRecord) -> None:
        """Look at the result of the task, which is stored now, or was before."""


def previous_run(task: Task, snapshot: Snapshot, transaction: SQLTransaction) -> str | None:
    """Return the id of the run that made what readers see of a task; None if there is nothing."""
    row = snapshot.live_rows().get(task.id)
    if row is None or row.produced_by is None:
        return None
    return transaction.metadata.runs_of(row.stage, [row.produced_by]).get(row.produced_by)


def shown_inputs(snapshot: Snapshot, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a task for a person to read: no secrets, tables by name, generation and rows."""

    def describe(value: Any) -> Any:
        return _described(value, snapshot) if isinstance(value, Stored) else value

    shown = {}
    for name, value in arguments.items():
        text = shown_identity(name, dump_identity(deep_map(value, describe)), _SHOWN)
        try:
            shown[name] = json.loads(text)
        except ValueError:  # it is long, and was cut off
            shown[name] = text
    return shown


def _described(value: Stored, snapshot: Snapshot) -> str:
    if isinstance(value, Table) and value.external:
        return f"external table {value.external}"
    kind = type(value).__name__.lower() if not isinstance(value, RawSql) else "script"
    text = f"{kind} {value.stage}.{value.name}, generation {value.generation}"
    if isinstance(value, RawSql):
        return f"{text}: {', '.join(value.table_names)}"
    return f"{text}, {snapshot.object(ObjectKind.TABLE, value).rows} rows" if isinstance(value, Table) else text


def shown_queries(store: SQLTableStore, outputs: Iterable[Output]) -> str:
    """Return the queries and scripts among what a task made, as they are executed."""
    found = {}
    for output in outputs:
        container = output.container
        if isinstance(container, RawSql):
            found[output.name] = str(container.sql)
        elif isinstance(container, Table) and store.is_query(container.obj):
            found[output.name] = executed_text(store.as_query(container), store.engine.dialect)
    texts = (f"-- {name}\n{text.strip()}" for name, text in found.items())
    return without_secrets("\n\n".join(texts))
