"""Tables that a task stores while its function runs: ``Table(...).materialize()``.

Each is stored in a transaction of its own, under a name in the database that nothing else has: neither another process
that runs the same task, nor a task that claims the same name, can write over it. What is recorded of it is recorded
with the result of the task; without that, nobody ever sees it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import attrs

from pipedag_airflow.backend.table.sql.names import marked
from pipedag_airflow.errors import PipedagError
from pipedag_airflow.run.crash import crash_point
from pipedag_airflow.run.decide import reusable
from pipedag_airflow.run.emptied import check_rows, emptied_places
from pipedag_airflow.run.ground import check_inputs
from pipedag_airflow.run.outputs import Output, check_names, new_output, renamed, store_output
from pipedag_airflow.run.snapshot import location_of
from pipedag_airflow.run.sources import tables_read, with_sources

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pipedag_airflow.backend.metadata import ObjectRecord
    from pipedag_airflow.core.containers import Table
    from pipedag_airflow.core.task import Task
    from pipedag_airflow.run.session import RunSession
    from pipedag_airflow.run.snapshot import Snapshot

__all__ = ["Materializer", "NotAheadError"]

log = logging.getLogger(__name__)


class NotAheadError(Exception):
    """A table would have to be stored, but the function is called only to see its queries."""


@attrs.define
class Materializer:
    """Stores tables during one call of a task's function.

    Args:
        session: The run.
        task: The task.
        snapshot: What the step had read.
        ahead: Whether the function is called only to see its queries: then tables are found, but never stored.
    """

    session: RunSession
    task: Task
    snapshot: Snapshot
    ahead: bool = False
    #: What was materialized in this call, by the id of the user's container, and by that of the reference given for it.
    known: dict[int, Output] = attrs.field(factory=dict)
    #: Whether something would have had to be stored ahead, even if the function caught the error.
    refused: bool = False
    _task_hash: str = ""
    _references: dict[int, tuple[Table[Any], Any]] = attrs.field(factory=dict)
    _made: list[ObjectRecord] = attrs.field(factory=list)

    def begin_call(self, task_hash: str) -> Materializer:
        """Forget what another call of the function has materialized; this one's results are identified by the hash."""
        self._task_hash = task_hash
        self.known.clear()
        self._references.clear()
        return self

    def materialize(self, table: Table[Any]) -> Any:
        """Store a table, unless it is stored already, and return a reference to it for queries.

        Raises:
            DuplicateNameError: if this call has materialized another table of the name.
            CacheError: if a crash of the server has emptied an input.
            StaleRunError: if this run lost the stage.
            LockError: if it is not known whether it did.
            StoreError: if the database refuses; also what storing a returned table raises.
        """
        if id(table) in self._references:
            return self._references[id(table)][1]
        before = list(dict.fromkeys(self.known.values()))
        output = new_output(
            self.session, self.task, table, f"materialize[{len(before)}]", self._task_hash, len(before), before
        )
        output.container.locate(self.task.stage.name, self.snapshot.generation.number, output.cache_key)
        check_names(self.task, [*before, output])
        output.stored = self._found(output) or self._store(output)
        reference = self.session.store.reference_like(table.obj, location_of(output.stored[0]))
        self._references[id(table)] = table, reference
        self.known[id(table)] = self.known[id(reference)] = output
        return reference

    def _found(self, output: Output) -> list[ObjectRecord]:
        found = reusable(output, self.snapshot) if self.task.unbound.lazy else None
        if found is None:
            return []
        number, node = self.snapshot.generation.number, self.task.id
        return [attrs.evolve(stored, generation=number, node=node) for stored in renamed(output, found)]

    def _store(self, output: Output) -> list[ObjectRecord]:
        if self.ahead:
            self.refused = True
            raise NotAheadError(f"table {output.name} is to be stored")
        location = marked(output.name, self.session.store.identifier_limit)
        beside = [stored for other in self.known.values() for stored in other.stored]
        self.session.confirm_lease(self.task.stage.name)
        with self.session.store.transaction() as transaction:
            transaction.metadata.check_fence(self.snapshot.stage, self.snapshot.generation.number)
            (made,) = store_output(
                self.session, transaction, self.task, output, self.snapshot.generation.number, location
            )
            check_inputs(transaction, self.snapshot)
            tables = tables_read(self.task, self.snapshot)
            check_rows(self.task, tables, emptied_places(transaction, tables), self.snapshot)
        crash_point("execute.materialized")
        self._made.append(made)
        log.info("%s: table %s, %s rows, materialized in %s", self.task.id, output.name, made.rows, made.container)
        return [with_sources(made, self.task, self.snapshot, beside)]

    def drop_unless_in(self, objects: Iterable[ObjectRecord]) -> None:
        """Drop what was stored, but is no part of the task's result in the end.

        If that fails, it goes with the schema of its generation.
        """
        kept = {(stored.container, stored.location) for stored in objects}
        needless = [stored for stored in self._made if (stored.container, stored.location) not in kept]
        if not needless:
            return
        try:
            with self.session.store.transaction() as transaction:
                transaction.drop_objects(str(needless[0].container), [str(stored.location) for stored in needless])
        except PipedagError as error:
            log.warning("%s: what it had materialized was not dropped: %s", self.task.id, error)
