"""Which columns of a table may not hold NULL, by what its maker says of some of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipedag_airflow.errors import NullabilityError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipedag_airflow.core.containers import Table

__all__ = ["columns_without_null"]


def columns_without_null(table: Table[Any], columns: Sequence[str], where: str) -> list[str]:
    """Return the columns that may not hold NULL, in the order of the table.

    Args:
        table: What the maker says: ``nullable`` and ``non_nullable``, of which one implies the other.
        columns: The columns that the table has.
        where: The table for messages, such as ``Table 't' of task 'clean.t'``.

    Raises:
        NullabilityError: if a list names a column that is not there, both name the same one, neither does although both
            are given, or a column of the primary key is to be nullable.
    """
    nullable, non_nullable = table.nullable, table.non_nullable
    if nullable is None and non_nullable is None:
        return []
    for argument, named in (("nullable", nullable), ("non_nullable", non_nullable)):
        _refuse(where, set(named or ()) - set(columns), f"{argument} names columns that it does not have", columns)
    _refuse(where, set(nullable or ()) & set(non_nullable or ()), "nullable and non_nullable both name", columns)
    _refuse(
        where, set(nullable or ()) & set(table.primary_key or ()), "nullable names columns of its primary key", columns
    )
    if nullable is not None and non_nullable is not None:
        _refuse(where, set(columns) - {*nullable, *non_nullable}, "neither nullable nor non_nullable names", columns)
    if non_nullable is None:
        return [column for column in columns if column not in (nullable or ())]
    return [column for column in columns if column in non_nullable]


def _refuse(where: str, wrong: set[str], problem: str, columns: Sequence[str]) -> None:
    if wrong:
        raise NullabilityError(f"{where}: {problem}: {', '.join(sorted(wrong))}. Its columns are {', '.join(columns)}.")
