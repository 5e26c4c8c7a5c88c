"""What the errors of PostgreSQL say; psycopg and psycopg2 say it in different places."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = ["is_busy", "reason", "state"]

#: SQLSTATEs of a lock that was not given in time, and of a deadlock that was resolved at our cost.
_BUSY = ("55P03", "40P01")


def state(error: sa.exc.DBAPIError) -> str | None:
    """Return the SQLSTATE of an error."""
    return getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None)


def is_busy(error: sa.exc.DBAPIError) -> bool:
    """Say whether a statement failed only because of what others were doing at that moment."""
    return state(error) in _BUSY


def reason(error: sa.exc.DBAPIError) -> str:
    """Return what the server says, but not the line of the statement, in which psycopg2 puts the parameters."""
    said = getattr(error.orig, "diag", None)
    if said is None or said.message_primary is None:
        return str(error.orig)
    return "\n".join(filter(None, (said.message_primary, said.message_detail, said.message_hint, said.context)))
