"""A script: its statements are executed one after the other, and what they have made is found in the catalog."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from pipedag_airflow.backend.table.sql.facts import ObjectType, ScriptFacts, TableFacts
from pipedag_airflow.backend.table.sql.literals import in_message
from pipedag_airflow.config.known_secrets import cause_without_secrets, without_secrets
from pipedag_airflow.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from pipedag_airflow.backend.table.sql.transaction import SQLTransaction

__all__ = ["refuse_names_in_text", "run_script"]


def run_script(transaction: SQLTransaction, schema: str, statements: Sequence[str], task: str) -> ScriptFacts:
    """Execute a script; see :meth:`SQLTransaction.run_script`."""
    store, connection = transaction.store, transaction.connection
    store.enter_schema(connection, schema, alone=True)
    transaction.create_schema(schema)
    before, defined_before = store.identities(connection, schema), transaction.definitions([schema])
    for number, statement in enumerate(statements, start=1):
        which = f"Statement {number} of {len(statements)} of the script of task {task!r}"
        _execute(transaction, statement, which)
    # Other tasks store their tables in the same schema meanwhile.
    there = store.list_objects(connection, [schema], own=True)
    now = store.identities(connection, schema)
    # What was only changed is not made; what was dropped and made anew is.
    made = {key: kind for key, kind in there.items() if key in now and now[key] != before.get(key)}
    columns = transaction.columns(schema)
    unlogged = store.list_unlogged(connection, [schema])
    tables = {
        name: TableFacts(
            name,
            columns.get(name, ()),
            (),
            (),
            transaction.count_rows(place, name),
            view=kind is not ObjectType.TABLE,
            unlogged=(place, name) in unlogged,
        )
        for (place, name), kind in made.items()
    }
    for name, facts in tables.items():
        transaction.log_stored(schema, name, facts)
    defined = store.list_definitions(connection, [schema], own=True)
    return ScriptFacts(tables, tuple(label for place, label in defined if (place, label) not in defined_before))


def _execute(transaction: SQLTransaction, statement: str, which: str) -> None:
    shown = in_message(statement)
    if transaction.store.controls_transaction(statement):
        text = f"{which} begins or ends a transaction. A task is one transaction as a whole: remove it.{shown}"
        raise StoreError(without_secrets(text))
    try:
        transaction.store.run_statement(transaction.connection, statement)
    except StoreError as error:
        raise StoreError(f"{which}: {error}{without_secrets(shown)}") from error
    except sa.exc.DBAPIError as error:
        text = f"{which} failed: {transaction.store.reason(error)}{shown}"
        raise StoreError(without_secrets(text)) from cause_without_secrets(error)


def refuse_names_in_text(transaction: SQLTransaction, schema: str, labels: Collection[str], task: str) -> None:
    """Refuse functions whose text names the schema of a generation: they could not find what has left it.

    Raises:
        StoreError: if there are such functions; the message names them.
    """
    naming = transaction.store.naming_in_text(transaction.connection, schema, labels)
    if naming:
        raise StoreError(
            f"The script of task {task!r} makes the {', the '.join(naming)} with a text that names the schema "
            f"{schema!r}. What is in it moves to the schema of the stage with the publish, and the text would not "
            "follow. Write an SQL function with a parsed body (RETURN ..., or BEGIN ATOMIC ... END), which follows "
            "what moves; or name the schema that readers know, which is looked up when the function is called."
        )
