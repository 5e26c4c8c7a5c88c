"""How a table store takes the scripts of users apart, and executes what they consist of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlparse

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = ["StoreScripting"]

#: ``START TRANSACTION`` begins with a word that begins nothing else.
_TRANSACTION_CONTROL = {"BEGIN", "START", "COMMIT", "END", "ROLLBACK", "ABORT"}


class StoreScripting:
    """The part of :class:`SQLTableStore` that is about scripts."""

    def batches(self, script: str) -> list[str] | None:
        """Return what of a script is sent at once, where the database has rules of its own for that.

        None where the separator of the script says it.
        """
        del script
        return None

    def controls_transaction(self, statement: str) -> bool:
        """Say whether a statement of a script begins or ends a transaction."""
        words = (parsed.token_first(skip_cm=True) for parsed in sqlparse.parse(statement))
        return any(word is not None and word.normalized in _TRANSACTION_CONTROL for word in words)

    def run_statement(self, connection: sa.Connection, statement: str) -> None:
        """Execute a statement of a script."""
        # Without parameters, so that no driver takes a % for the place of one.
        connection.exec_driver_sql(statement, execution_options={"no_parameters": True})
