"""The text of a query as its identity: the same in every generation, literals as they are."""

from __future__ import annotations

import copy
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from pipedag_airflow.backend.table.sql.frames.sqlalchemy import as_query
from pipedag_airflow.backend.table.sql.literals import printable
from pipedag_airflow.cache.script import script_text

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = ["executed_text", "query_text"]


def query_text(query: sa.sql.ClauseElement, dialect: sa.Dialect, schemas: dict[str, str] | None = None) -> str:
    """Return a query as text in which stored tables stand under their logical names.

    The schema of a table's generation changes whenever the table is made anew, and its physical name may be an older
    one; neither is part of what the query says. What the tables hold is part of the task's identity, not of the text.

    Args:
        query: A selectable or a text; a bare table or alias stands for all of its rows.
        dialect: The dialect of the database.
        schemas: For each stage the schema that its readers see: generations that the user wrote into the query by hand
            stand under the names of their stages, too. See :func:`script_text`.
    """
    logical = _logical_dialect(dialect)
    return script_text(executed_text(query, logical), schemas or {})


def executed_text(query: sa.sql.ClauseElement, dialect: sa.Dialect) -> str:
    """Return a query as the database gets it, in which tables stand under their names in this very run.

    Args:
        query: A selectable or a text; a bare table or alias stands for all of its rows.
        dialect: The dialect of the database.
    """
    return str(printable(as_query(query)).compile(dialect=dialect, compile_kwargs={"literal_binds": True}))


@lru_cache(maxsize=8)
def _logical_dialect(dialect: sa.Dialect) -> sa.Dialect:
    logical = copy.copy(dialect)
    base: Any = dialect.statement_compiler

    class LogicalCompiler(base):  # type: ignore[misc]  # the base is the dialect's, known only at run time
        """Renders tables that a task received by stage and name."""

        def visit_table(self, table: Any, *args: Any, **kwargs: Any) -> Any:
            rendered = super().visit_table(table, *args, **kwargs)
            return (rendered and _place(table)) or rendered  # nothing is rendered outside of FROM

        def visit_column(self, column: Any, *args: Any, **kwargs: Any) -> Any:
            # SQLAlchemy renames an alias that is called like a table beside it; our tables are not called like that.
            kwargs["ambiguous_table_name_map"] = None
            place = _place(column.table) if kwargs.get("include_table", True) else None
            if place is None:
                return super().visit_column(column, *args, **kwargs)
            return f"{place}.{super().visit_column(column, *args, **kwargs | {'include_table': False})}"

        def _truncated_identifier(self, ident_class: str, name: Any) -> Any:
            # An alias without a name is called after the physical table; its number tells it apart as well.
            if ident_class != "alias":
                return super()._truncated_identifier(ident_class, name)
            return self.truncated_names.setdefault((ident_class, name), f"{{{len(self.truncated_names)}}}")

    logical.statement_compiler = LogicalCompiler
    return logical


def _place(table: Any) -> str | None:
    """Return the logical name of a stored table; None for all others."""
    place = getattr(table, "info", {}).get("pipedag")
    if place is None:
        return None
    stage, name = place
    return f"{{{stage}}}.{{{name}}}"
