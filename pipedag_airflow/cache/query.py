"""The text of a query: the same in every generation, literals as they are."""

from __future__ import annotations

import copy
import re
from functools import lru_cache
from typing import Any

import attrs
import sqlalchemy as sa

from pipedag_airflow.backend.table.sql.frames.sqlalchemy import as_query
from pipedag_airflow.backend.table.sql.literals import printable
from pipedag_airflow.cache.script import without_generations

__all__ = ["QueryTexts", "executed_text", "query_texts"]

#: What stands in place of a stored table is between these while a query is compiled, and between braces in the end:
#: queries have braces of their own, as DuckDB writes structs with them.
_OPEN, _OR, _CLOSE = "\ue000", "\ue002", "\ue001"
_BRACES = str.maketrans({_OPEN: "{", _CLOSE: "}"})
#: A stored table by its name or its identity.
_TABLE = re.compile(f"{_OPEN}([^{_OPEN}{_OR}{_CLOSE}]*){_OR}([^{_OPEN}{_OR}{_CLOSE}]*){_CLOSE}")
_OURS = re.compile(f"{_OPEN}[^{_OPEN}{_CLOSE}]*{_CLOSE}")


@attrs.frozen
class QueryTexts:
    """A query as text, which is the same wherever the tables that it reads are stored.

    The schema of a table's generation changes whenever the table is made anew, and its physical name may be an older
    one; neither is part of what the query says.

    Args:
        shown: For people: stored tables stand under their logical names.
        compared: What the query is compared by, in which no name of a stored table counts. These stand under their
            stages and identities, so that a table that is merely renamed changes nothing, and two that change places
            do.
    """

    shown: str
    compared: str


def query_texts(query: sa.sql.ClauseElement, dialect: sa.Dialect, schemas: dict[str, str] | None = None) -> QueryTexts:
    """Return the texts of a query, which is compiled once for both.

    Args:
        query: A selectable or a text; a bare table or alias stands for all of its rows.
        dialect: The dialect of the database.
        schemas: For each stage the schema that its readers see: generations that the user wrote into the query by hand
            stand under the names of their stages, too. See :func:`without_generations`.
    """
    compiled: Any = _compiled(query, _logical_dialect(dialect))
    marked = without_generations(str(compiled), schemas or {})
    shown, compared = _TABLE.sub(rf"{_OPEN}\1{_CLOSE}", marked), _TABLE.sub(rf"{_OPEN}\2{_CLOSE}", marked)
    for name, mark in compiled.aliases.items():
        shown = shown.replace(compiled.preparer.quote(mark), compiled.preparer.quote(name))
    # A text within the query may call a table by its name: then the name counts.
    called = [f"{mark} {name}" for name, mark in compiled.aliases.items() if _says(compared, name)]
    return QueryTexts(shown.translate(_BRACES), "\n".join([compared, *called]).translate(_BRACES))


def _says(text: str, name: str) -> bool:
    own_words = _OURS.sub("{}", text)
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", own_words, re.IGNORECASE) is not None


def executed_text(query: sa.sql.ClauseElement, dialect: sa.Dialect) -> str:
    """Return a query as the database gets it, in which tables stand under their names in this very run.

    Args:
        query: A selectable or a text; a bare table or alias stands for all of its rows.
        dialect: The dialect of the database.
    """
    return str(_compiled(query, dialect))


def _compiled(query: sa.sql.ClauseElement, dialect: sa.Dialect) -> sa.Compiled:
    return printable(as_query(query)).compile(dialect=dialect, compile_kwargs={"literal_binds": True})


@lru_cache(maxsize=16)
def _logical_dialect(dialect: sa.Dialect) -> sa.Dialect:
    """Return a dialect whose compiler writes stored tables by their logical names and what identifies them."""
    logical = copy.copy(dialect)
    base: Any = dialect.statement_compiler

    class LogicalCompiler(base):  # type: ignore[misc]  # the base is the dialect's, known only at run time
        """Renders tables that a task received by what they are, not by where they are stored."""

        #: How the aliases are called that were given to tables for the task, by their names.
        aliases: dict[str, str]

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.aliases = {}
            super().__init__(*args, **kwargs)

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
            mark = self.truncated_names.setdefault((ident_class, name), _marked(len(self.truncated_names)))
            if isinstance(name, sa.sql.elements.conv):
                self.aliases[str(name)] = mark
            return mark

    logical.statement_compiler = LogicalCompiler
    return logical


def _place(table: Any) -> str | None:
    """Return a stored table by its stage, name and identity; None for all others."""
    location = getattr(table, "info", {}).get("pipedag")
    if location is None:
        return None
    identity = location.name if location.key is None else location.key
    return f"{_marked(location.stage)}.{_marked(f'{location.name}{_OR}{identity}')}"


def _marked(what: str | int) -> str:
    return f"{_OPEN}{what}{_CLOSE}"
