"""A publish in progress: another generation of a stage becomes what readers see, by a commit or by a rollback."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from pipedag_airflow.backend.metadata import ObjectKind, ObjectRecord, TaskRecord
from pipedag_airflow.config import StageCommitTechnique

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pipedag_airflow.backend.metadata import Place
    from pipedag_airflow.backend.table.sql.store import SQLTableStore
    from pipedag_airflow.backend.table.sql.transaction import SQLTransaction
    from pipedag_airflow.config import ConfigContext

__all__ = ["Publication", "moves_tables", "place_of", "tables_of"]


@attrs.define(slots=False, kw_only=True)
class Publication:
    """A publish in progress.

    Args:
        config: The configuration.
        transaction: The transaction in which everything happens.
        run_id: The run that publishes.
        stage: Name of the stage.
        number: Number of the generation that readers are to see.
        waits: Whether to wait for readers who hold what is replaced.
        live: Number of the generation that they see until now, if there is one.
        rows: The task rows of the generation by node.
        live_rows: Those of the generation that readers see until now.
        before: The tables, views and definitions that readers see until now, by name.
        after: Those that they are to see.
        changed: Names of the tables that readers see anew.
        removed: Names of the tables that they no longer see.
    """

    config: ConfigContext
    transaction: SQLTransaction
    run_id: str
    stage: str
    number: int
    waits: bool = True
    live: int | None = None
    rows: Mapping[str, TaskRecord] = attrs.field(factory=dict)
    live_rows: Mapping[str, TaskRecord] = attrs.field(factory=dict)
    before: dict[str, ObjectRecord] = attrs.field(factory=dict)
    after: dict[str, ObjectRecord] = attrs.field(factory=dict)
    changed: list[str] = attrs.field(factory=list)
    removed: list[str] = attrs.field(factory=list)

    @property
    def store(self) -> SQLTableStore:
        """The table store."""
        store: SQLTableStore = self.config.table_store
        return store

    @property
    def schema(self) -> str:
        """The schema in which readers find the stage."""
        return self.store.schema(self.stage)

    @property
    def archive(self) -> str:
        """The schema for tables that readers no longer see: that of the generation that is live until now."""
        return self.store.generation_schema(self.stage, self.live or 0)

    def target_of(self, stored: ObjectRecord) -> Place:
        """Return where readers look for a table, view or definition."""
        if stored.kind is ObjectKind.DEFINITION:
            return self.schema, str(stored.location)
        return self.store.shown_place(self.stage, stored.name)

    @property
    def repoints(self) -> bool:
        """Whether views of others are to read what replaces the tables that they read."""
        return self.config.dependents == "repoint"


def moves_tables(config: ConfigContext) -> bool:
    """Say whether stages are published by moving tables; where the database cannot do so, it is by views."""
    store: SQLTableStore = config.table_store
    return store.moves_tables and config.stage_commit_technique is StageCommitTechnique.SCHEMA_SWAP


def tables_of(rows: Iterable[TaskRecord]) -> dict[str, ObjectRecord]:
    """Return the tables, views and definitions that tasks have made, by name."""
    return {stored.name: stored for row in rows for stored in row.objects if stored.kind.is_in_schema}


def place_of(table: ObjectRecord) -> Place:
    """Return the schema and the name under which a table is stored."""
    return str(table.container), str(table.location)
