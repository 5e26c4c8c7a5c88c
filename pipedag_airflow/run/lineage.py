"""What a step reads and makes, in names that everybody knows: those of readers, not of generations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from pipedag_airflow.backend.metadata import ObjectKind, ObjectRecord
from pipedag_airflow.cache.script import script_text
from pipedag_airflow.run.versions import tables_in

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from pipedag_airflow.backend.table.sql.store import SQLTableStore
    from pipedag_airflow.run.session import RunSession
    from pipedag_airflow.run.snapshot import Snapshot

__all__ = ["Dataset", "Lineage"]


@attrs.frozen
class Dataset:
    """A table or view.

    Args:
        namespace: The database, in the words of OpenLineage.
        name: The table in it, likewise.
        columns: Names and types of its columns; none where they are not known.
        rows: How many it has; None where that is not known.
    """

    namespace: str
    name: str
    columns: tuple[tuple[str, str], ...] = ()
    rows: int | None = None


@attrs.define
class Lineage:
    """The tables that a step has read and made, as far as it came, by name.

    Args:
        inputs: What it has read.
        outputs: What it has made, published or found valid.
        queries: The queries and scripts that it has executed.
    """

    inputs: dict[str, Dataset] = attrs.field(factory=dict)
    outputs: dict[str, Dataset] = attrs.field(factory=dict)
    queries: str = ""

    def reads(self, snapshot: Snapshot, arguments: Mapping[str, Any], within: Collection[str] = ()) -> None:
        """Note the tables among the arguments of a task.

        Args:
            snapshot: What the task reads.
            arguments: Its arguments, with descriptors of tables.
            within: Names of stages whose tables are left out: what runs as one reads nothing of its own.
        """
        store = snapshot.session.store
        for table in tables_in(arguments):
            if table.external is not None:
                place = (table.external.schema, table.external.name)
                self._note(self.inputs, Dataset(store.lineage_namespace, store.lineage_name(*place)))
            elif table.stage not in within:
                self._note(self.inputs, _dataset(store, snapshot.object(ObjectKind.TABLE, table)))

    def makes(self, store: SQLTableStore, stored: Iterable[ObjectRecord]) -> None:
        """Note tables that were made, published or found valid."""
        for table in stored:
            if table.kind is ObjectKind.TABLE:
                self._note(self.outputs, _dataset(store, table))

    def executes(self, session: RunSession, queries: str) -> None:
        """Note queries, as they would read the tables that readers see."""
        store, stages = session.store, list(session.plan.stage_by_name)
        self.queries += script_text(queries, store.generation_stems(stages), store.shown_schemas(stages))

    def _note(self, noted: dict[str, Dataset], dataset: Dataset) -> None:
        noted[dataset.name] = dataset


def _dataset(store: SQLTableStore, table: ObjectRecord) -> Dataset:
    name = store.lineage_name(*store.shown_place(table.stage, table.name))
    columns = tuple((column, kind) for column, kind, _ in table.facts["columns"])
    return Dataset(store.lineage_namespace, name, columns, table.rows)
