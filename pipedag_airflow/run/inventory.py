"""What is really there of all that the metadata describe."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from pipedag_airflow.backend.metadata import ObjectKind, ObjectRecord
from pipedag_airflow.run.emptied import emptied_places, is_emptied
from pipedag_airflow.run.publication import place_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pipedag_airflow.backend.metadata import Place
    from pipedag_airflow.backend.table.sql.transaction import SQLTransaction
    from pipedag_airflow.config import ConfigContext

__all__ = ["Inventory", "take_inventory"]


@attrs.frozen
class Inventory:
    """The tables and views that were there at one moment; blobs are looked for when they are asked about.

    Args:
        config: The configuration, which has the blob store.
        existing: The tables, views and definitions that are there, by (schema, name).
        emptied: Where tables are, here or elsewhere, that a crash of the server has emptied.
    """

    config: ConfigContext
    existing: set[Place]
    emptied: set[Place]

    def add(self, made: Iterable[ObjectRecord]) -> None:
        """Note that objects are there now."""
        for stored in made:
            if stored.kind.is_in_schema:
                self.existing.update({place_of(stored), *stored.sources})
                self.emptied.discard(place_of(stored))

    def is_intact(self, stored: ObjectRecord) -> bool:
        """Say whether what a record describes is still there, and has its rows."""
        if stored.kind.is_in_schema:
            is_there = self.existing.issuperset({place_of(stored), *stored.sources})
            return is_there and not self.is_emptied(stored)
        if stored.kind is ObjectKind.BLOB:
            return bool(self.config.blob_store.exists(str(stored.location)))
        return True

    def is_emptied(self, stored: ObjectRecord) -> bool:
        """Say whether a crash of the server has emptied a table, or one that a view shows."""
        return is_emptied(stored, self.emptied)


def take_inventory(
    config: ConfigContext,
    transaction: SQLTransaction,
    stage: str,
    objects: Iterable[ObjectRecord],
    inputs: Iterable[ObjectRecord] = (),
) -> Inventory:
    """Look where objects of a stage are said to be, and where readers find the stage.

    Args:
        config: The configuration.
        transaction: An open transaction.
        stage: Name of the stage.
        objects: What the metadata describe of the stage.
        inputs: What they describe of other stages: it is looked whether a crash of the server has emptied it.
    """
    objects = list(objects)
    schemas = {config.table_store.schema(stage)}
    defined = False
    for stored in objects:
        schemas.update(schema for schema, _ in stored.sources)
        defined = defined or stored.kind is ObjectKind.DEFINITION
        if stored.kind.is_in_schema:
            schemas.add(str(stored.container))
    existing = {*transaction.objects(schemas), *(transaction.definitions(schemas) if defined else ())}
    return Inventory(config, existing, emptied_places(transaction, (*objects, *inputs)))
