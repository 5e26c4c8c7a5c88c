"""Write docs/types.md from the cases that the tests hold each database to: python docs/make_types.py."""

from __future__ import annotations

import html
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipedag_airflow.testing.type_cases import CASES, NUMPY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipedag_airflow.testing.type_cases import Case, NumpyCase

DATABASES = {"duckdb": "DuckDB", "postgresql": "PostgreSQL"}
PAGE = Path(__file__).with_name("types.md")
_LONGEST = 60

_BEGIN = """# Types

What a column of a frame is when it comes back from the database. Each cell is a test with the values that stand in its
row; `make test` fails if this page says anything else. The page is made by `python docs/make_types.py`.

*Exact*: the same type and the same values. A type in the cell: the column comes back as that, and below the table
stands why. *Refused*: an error before anything is stored, which names the table and the column, and says what to do.

A `type_map` of a table chooses another type for a column; what a query makes has the types that the database gives it.
Types that frames do not have (UUID, JSON, INET, ...) are read from PostgreSQL as text.
"""
_ARROW = """
## polars, and pandas with Arrow's dtypes

`input_type=polars.DataFrame`, `polars.LazyFrame`, or `(pandas.DataFrame, "arrow")`. The types are polars' own words;
with pandas they are the Arrow types that polars has for them. Those with a \\* are not there in pandas.
"""
_NUMPY = """
## pandas with numpy's dtypes

`input_type=pandas.DataFrame`. What is read has pandas' nullable dtypes, and Arrow's where numpy has none. The index is
not stored.
"""


class _Notes:
    """Reasons, each with a number."""

    def __init__(self) -> None:
        self._reasons: dict[str, int] = {}

    def number(self, reason: str) -> int:
        """Return the number of a reason."""
        return self._reasons.setdefault(reason, len(self._reasons) + 1)

    def lines(self) -> Iterator[str]:
        """Return the list of the reasons."""
        yield ""
        yield from (f"{number}. {reason}" for reason, number in self._reasons.items())


def page() -> str:
    """Return the page."""
    lines = [_BEGIN, _ARROW, *_table(CASES, _polars_row), _NUMPY, *_table(NUMPY, _numpy_row)]
    return "\n".join(lines) + "\n"


def _table(cases: dict[str, dict[str, Any]], row: Any) -> Iterator[str]:
    notes = _Notes()
    yield f"| column | type | values | {' | '.join(DATABASES.values())} |"
    yield "|" + "---|" * (3 + len(DATABASES))
    for name, case in cases["duckdb"].items():
        cells = [row(cases[dialect][name], notes) for dialect in DATABASES]
        star = "" if getattr(case, "in_pandas", True) else " \\*"
        yield f"| {name}{star} | {_code(case.dtype)} | {_values(case.values)} | {' | '.join(cells)} |"
    yield from notes.lines()


def _polars_row(case: Case, notes: _Notes) -> str:
    if case.refused:
        return f"refused: {case.refused}"
    if not case.why:
        return "exact"
    back = case.dtype if case.back is None else case.back
    return f"{_code(back)} ({notes.number(case.why)})"


def _numpy_row(case: NumpyCase, notes: _Notes) -> str:
    return f"{_code(case.back)} ({notes.number(case.why)})" if case.why else "exact"


def _code(text: object) -> str:
    return f"`{text.__name__ if isinstance(text, type) else text}`"


def _values(values: list[Any]) -> str:
    shown = ", ".join(map(repr, values)).replace("datetime.", "")
    cut = shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 3]}..."
    return f"<code>{html.escape(cut, quote=False).replace('|', '&#124;')}</code>"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
