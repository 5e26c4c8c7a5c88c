"""A query that another library wrote as text, with stored tables in it that SQLAlchemy knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.sql.compiler import SQLCompiler

__all__ = ["Composed"]


class Composed(sa.sql.expression.ClauseElement):
    """A query in pieces: texts in the database's own SQL, which are final, and the tables between them.

    The tables are written by whoever compiles the query: under their places when it is executed, under what they are
    when it is compared.

    Args:
        pieces: Texts and tables, in their order.
        columns: What the query calls its columns.
    """

    inherit_cache = False

    def __init__(self, pieces: Sequence[str | sa.Table], columns: Sequence[str]) -> None:
        self.pieces = tuple(pieces)
        self.columns = tuple(columns)


@compiles(Composed)
def _composed(query: Composed, compiler: SQLCompiler, **options: Any) -> str:
    def written(piece: str | sa.Table) -> str:
        if isinstance(piece, sa.Table):
            return compiler.process(piece, asfrom=True, **options)
        # A percent sign is written as the driver wants it, as in SQLAlchemy's own texts.
        return str(compiler.post_process_text(piece))  # type: ignore[no-untyped-call]  # SQLAlchemy does not annotate it

    return "".join(map(written, query.pieces))
