"""Trying whether a database allows what a run needs."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import sqlalchemy as sa

from pipedag_airflow.backend.table.sql import ddl
from pipedag_airflow.backend.table.sql.transaction import SQLTransaction
from pipedag_airflow.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipedag_airflow.backend.table.sql.store import SQLTableStore

__all__ = ["check_database"]

#: A stage of this name is never built.
_STAGE = "pipedag_check"


def check_database(store: SQLTableStore, instance_id: str) -> str:
    """Connect, read the metadata or make them, and make a schema; all of it is rolled back.

    Where DDL takes part in no transaction, the metadata stay, as after a first run, and the schema is dropped.

    Args:
        store: The store.
        instance_id: Whose metadata they should be.

    Returns:
        What was tried.

    Raises:
        StoreError: if the database cannot be reached, or refuses; the message says what to grant.
        ConfigError: if the metadata belong to another instance, or were written by a newer release.
    """
    schema, metadata_schema = store.schema(_STAGE), store.metadata_tables.schema
    creates = not store.avoid_drop_create_schema
    with store.connection() as connection:
        with _advice(
            store, f"the metadata schema {metadata_schema!r} can neither be read nor made", "read and write it"
        ):
            SQLTransaction(store, connection).set_up(instance_id)
        if creates:
            with _advice(store, f"no schema can be made (tried: {schema!r})", "make schemas"):
                connection.execute(ddl.CreateSchema(schema))
                if not store.transactional_ddl:
                    connection.execute(ddl.DropSchema(schema))
        connection.rollback()
    made = "a schema can be made" if creates else "schemas are left to others"
    return f"{store.address}: connected, the metadata are those of instance {instance_id!r}, {made}"


@contextmanager
def _advice(store: SQLTableStore, problem: str, need: str) -> Iterator[None]:
    try:
        yield
    except sa.exc.DBAPIError as error:
        raise StoreError(
            f"In the database {store.address} {problem}: {error.orig}. Allow the user of the URL to {need}, or let "
            "somebody else make all schemas and set table_store.args.avoid_drop_create_schema: true."
        ) from error
