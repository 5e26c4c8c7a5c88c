"""The text of a query as its identity: the same in every generation, literals as they are."""

from __future__ import annotations

import copy
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = ["query_text"]


def query_text(query: sa.sql.ClauseElement, dialect: sa.Dialect) -> str:
    """Return a query as text in which stored tables stand under their logical names.

    The schema of a table's generation changes whenever the table is made anew, and its physical name may be an older
    one; neither is part of what the query says. What the tables hold is part of the task's identity, not of the text.

    Args:
        query: A selectable or a text.
        dialect: The dialect of the database.
    """
    logical = _logical_dialect(dialect)
    return str(query.compile(dialect=logical, compile_kwargs={"literal_binds": True}))


@lru_cache(maxsize=8)
def _logical_dialect(dialect: sa.Dialect) -> sa.Dialect:
    logical = copy.copy(dialect)
    base: Any = dialect.statement_compiler

    class LogicalCompiler(base):  # type: ignore[misc]  # the base is the dialect's, known only at run time
        """Renders tables that a task received by stage and name."""

        def visit_table(self, table: Any, *args: Any, **kwargs: Any) -> Any:
            place = getattr(table, "info", {}).get("pipedag")
            if place is None:
                return super().visit_table(table, *args, **kwargs)
            if not (kwargs.get("asfrom") or kwargs.get("ashint")):
                return ""
            stage, name = place
            return f"{{{stage}}}.{{{name}}}"

    logical.statement_compiler = LogicalCompiler
    return logical
