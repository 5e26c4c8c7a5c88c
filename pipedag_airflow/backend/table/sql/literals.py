"""Queries as text: printed values and texts mean what they mean when a driver binds them.

A table is created from a query as text, because databases take no parameters there. SQLAlchemy prints a date as a bare
string, which makes a column of text, and takes ``':x'`` in a text for a parameter without a value, which makes it NULL.
"""

from __future__ import annotations

import datetime as dt
import math
import re
import uuid
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.sql import visitors

__all__ = ["in_message", "printable"]

#: A log is read by people: no more characters of a statement are shown.
_SHOWN = 4_000

_CASTED = (sa.Date, sa.DateTime, sa.Time, sa.Interval, sa.Uuid, sa.Float, sa.Double)


def printable(query: sa.sql.ClauseElement) -> sa.sql.ClauseElement:
    """Return a query of the same meaning that can be compiled with its values as literals.

    Values other than numbers and strings are cast to their types. In texts, a colon that introduces no bound parameter
    stays as it was written.
    """
    if all(_replacement(element) is None for element in visitors.iterate(query)):
        return query
    return cast("sa.sql.ClauseElement", visitors.replacement_traverse(query, {}, _replacement))


def _replacement(element: Any, **_: Any) -> Any:
    if isinstance(element, sa.sql.expression.TextClause):
        return _as_written(element)
    if isinstance(element, sa.BindParameter) and not element.expanding:
        return _typed(element)
    return None


def _as_written(clause: sa.sql.expression.TextClause) -> sa.sql.expression.TextClause | None:
    binds = clause.compile().binds
    unbound = [re.escape(name) for name, bind in binds.items() if bind.required]
    if not unbound:
        return None
    colon = re.compile(rf"(?<![:\w\\]):(?=(?:{'|'.join(unbound)})(?![:\w$]))")
    bound = [bind for bind in binds.values() if not bind.required]
    return sa.text(colon.sub(r"\\:", clause.text)).bindparams(*bound)


def _typed(bind: sa.BindParameter[Any]) -> sa.Cast[Any] | None:
    # A type of the user's own may bind its values as something else, and is left alone.
    text = _text(bind.value) if type(bind.type) in _CASTED else None
    if text is None:
        return None
    aware = isinstance(bind.value, dt.datetime) and bind.value.tzinfo is not None
    return sa.cast(sa.literal(text), sa.DateTime(timezone=True) if aware else bind.type)


def _text(value: Any) -> str | None:
    if isinstance(value, (dt.date, dt.time)):
        return value.isoformat()
    if isinstance(value, dt.timedelta):
        # Up to version 14 PostgreSQL reads 32 bits of each number.
        hours, rest = divmod(abs(value), dt.timedelta(hours=1))
        sign = "-" if value < dt.timedelta() else ""
        return f"{sign}{hours} hours {sign}{rest.seconds} seconds {sign}{rest.microseconds} microseconds"
    if isinstance(value, uuid.UUID) or (isinstance(value, float) and not math.isfinite(value)):
        return str(value)
    return None


def in_message(statement: str) -> str:
    """Return a statement as it is shown in a message: of a very long one the beginning, and how long it is."""
    text = statement.strip()
    if len(text) <= _SHOWN:
        return f"\nThe statement:\n{text}"
    return f"\nThe statement, of which these are the first {_SHOWN:,} of {len(text):,} characters:\n{text[:_SHOWN]}"
