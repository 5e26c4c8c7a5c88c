"""What is really there of all that the metadata describe."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from pipedag_airflow.backend.metadata import ObjectKind, ObjectRecord

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pipedag_airflow.backend.table.sql.transaction import SQLTransaction
    from pipedag_airflow.config import ConfigContext

__all__ = ["Inventory", "take_inventory"]


@attrs.frozen
class Inventory:
    """The tables and views that were there at one moment; blobs are looked for when they are asked about.

    Args:
        config: The configuration, which has the blob store.
        existing: The tables, views and definitions that are there, by (schema, name).
        emptied: Those of them that have lost their rows, if they had any.
    """

    config: ConfigContext
    existing: set[tuple[str, str]]
    emptied: set[tuple[str, str]]

    def add(self, made: Iterable[ObjectRecord]) -> None:
        """Note that objects are there now."""
        for stored in made:
            if stored.kind.is_in_schema:
                self.existing.update({(str(stored.container), str(stored.location)), *stored.sources})

    def is_intact(self, stored: ObjectRecord) -> bool:
        """Say whether what a record describes is still there."""
        if stored.kind.is_in_schema:
            place = (str(stored.container), str(stored.location))
            lost = stored.rows and place in self.emptied
            return not lost and self.existing.issuperset({place, *stored.sources})
        if stored.kind is ObjectKind.BLOB:
            return bool(self.config.blob_store.exists(str(stored.location)))
        return True


def take_inventory(
    config: ConfigContext, transaction: SQLTransaction, stage: str, objects: Iterable[ObjectRecord]
) -> Inventory:
    """Look where objects of a stage are said to be, and where readers find the stage.

    Args:
        config: The configuration.
        transaction: An open transaction.
        stage: Name of the stage.
        objects: What the metadata describe.
    """
    schemas = {config.table_store.schema(stage)}
    defined = False
    for stored in objects:
        schemas.update(schema for schema, _ in stored.sources)
        defined = defined or stored.kind is ObjectKind.DEFINITION
        if stored.kind.is_in_schema:
            schemas.add(str(stored.container))
    existing = {*transaction.objects(schemas), *(transaction.definitions(schemas) if defined else ())}
    return Inventory(config, existing, transaction.emptied(schemas))
