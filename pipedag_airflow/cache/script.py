"""SQL scripts: split into statements, and compared without the names of generations.

Strings and comments are told from code, so a separator or a schema name in them is left alone. The rules are those of
PostgreSQL and DuckDB: comments nest, a backslash is a backslash except in E'...', and text may stand between $tag$ and
$tag$.
"""

from __future__ import annotations

import re
from enum import Enum
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["script_text", "split_script", "without_generations"]


class Piece(Enum):
    """What a part of a script is."""

    CODE = "code"
    #: A quoted name.
    NAME = "name"
    STRING = "string"
    COMMENT = "comment"


def split_script(sql: str, separator: str = ";") -> list[str]:
    """Split a script into its statements; empty ones, and ones of comments alone, are left out.

    The body of a function between ``BEGIN ATOMIC`` and its ``END`` is not split, nor is what stands in parentheses,
    such as the commands of a rule.

    Args:
        sql: The script.
        separator: What stands between statements; a word such as GO is not looked for within other words.

    Example:
        >>> split_script("SELECT ';'; SELECT 2")
        ["SELECT ';'", 'SELECT 2']
    """
    between = rf"(?<!\w){re.escape(separator)}(?!\w)" if separator.isalnum() else re.escape(separator)
    marks = re.compile(rf"(?P<separator>{between})|(?P<left>\()|(?P<right>\))|{_BODY}")
    statements, current, has_code = [], "", False
    depth = 0  # of what ends with END; counted within the body of a function only
    parentheses = 0
    for text, piece in _pieces(sql):
        position = 0
        for mark in marks.finditer(text) if piece is Piece.CODE else ():
            if mark["opens"] or (mark["case"] and depth):
                depth += 1
            elif mark["end"] and depth:
                depth -= 1
            elif mark["left"]:
                parentheses += 1
            elif mark["right"]:
                parentheses = max(0, parentheses - 1)
            elif mark["separator"] and not depth and not parentheses:
                current += text[position : mark.start()]
                statements.append((current, has_code or bool(text[position : mark.start()].strip())))
                current, has_code, position = "", False, mark.end()
        current += text[position:]
        has_code = has_code or (bool(text[position:].strip()) and piece is not Piece.COMMENT)
    statements.append((current, has_code))
    return [statement.strip() for statement, code in statements if code]


#: The body of an SQL function, and what else ends with END within it.
_BODY = r"(?<![\w.])(?i:(?P<opens>BEGIN\s+ATOMIC)|(?P<case>CASE)|(?P<end>END))(?!\w)"


def script_text(sql: str, schemas: dict[str, str], shown: Mapping[str, str] | None = None) -> str:
    """Return a script in which the schemas of stages and of their generations stand under the names of the stages.

    Args:
        sql: The script.
        schemas: For each stage name the schema that its readers see; that and ``schema__g<number>`` are replaced, as
            a table may be in either, but not in comments. In strings it is only the latter, and only before a dot:
            what ``nextval('schema__g2.ids')`` names is no difference, but any other string is data. (Prefixes and
            suffixes are part of the schema names.)
        shown: What is to stand for each of these names; None for the name in braces, which no schema is called.
    """
    if not schemas:
        return sql
    patterns = {
        Piece.CODE: _schema_pattern(schemas, "?", r"(?!\w)"),
        Piece.NAME: _schema_pattern(_within_quotes(schemas), "?", r"(?!\w)"),
        Piece.STRING: _schema_pattern(schemas, "", r'(?="?\.)'),
    }
    stages = {form: stage for stage in schemas for form in (_doubled(stage), stage)}

    def logical(match: re.Match[str]) -> str:
        return _in_braces(match) if shown is None else shown[stages[_stage_in(match)]]

    pieces = _pieces(sql)
    return "".join(patterns[piece].sub(logical, text) if piece in patterns else text for text, piece in pieces)


def without_generations(sql: str, schemas: dict[str, str]) -> str:
    """Return a query in which the schemas of stages and of their generations stand under the names of the stages.

    They are only where a name of something within them follows: a string, or a column that is called like one, is data.

    Args:
        sql: The query.
        schemas: As for :func:`script_text`.
    """
    if not schemas:
        return sql
    in_code = _schema_pattern(schemas, "?", r"(?=\]?\.)")  # SQL Server writes names in brackets, too
    in_quotes = _schema_pattern(_within_quotes(schemas), "?", '(?="$)', before='(?<=^")')
    pieces = [*_pieces(sql), ("", Piece.CODE)]
    found = []
    for (text, piece), (following, _) in pairwise(pieces):
        if piece is Piece.CODE:
            text = in_code.sub(_in_braces, text)
        elif piece is Piece.NAME and following.startswith("."):
            text = in_quotes.sub(_in_braces, text)
        found.append(text)
    return "".join(found)


def _within_quotes(schemas: dict[str, str]) -> dict[str, str]:
    """Return the names as they stand between quotes."""
    return {_doubled(stage): _doubled(schema) for stage, schema in schemas.items()}


def _doubled(name: str) -> str:
    return name.replace('"', '""')


def _stage_in(match: re.Match[str]) -> str:
    return next(name for name in match.groups() if name is not None)


def _in_braces(match: re.Match[str]) -> str:
    return f"{{{_stage_in(match)}}}"


def _schema_pattern(schemas: dict[str, str], optional: str, follows: str, before: str = r"(?<!\w)") -> re.Pattern[str]:
    return re.compile("|".join(f"{before}{form}{follows}" for form in _schema_forms(schemas, optional)))


def _schema_forms(schemas: dict[str, str], optional: str) -> Iterator[str]:
    for stage in sorted(schemas, key=len, reverse=True):
        name = re.escape(stage)
        # Where the prefix or the suffix holds the stage's name, either occurrence may be the stage's.
        for found in re.finditer(f"(?={name})", schemas[stage]):
            prefix, suffix = schemas[stage][: found.start()], schemas[stage][found.start() + len(stage) :]
            yield f"{re.escape(prefix)}({name})(?:__g\\d+){optional}{re.escape(suffix)}"


_NOT_CODE = re.compile(
    r"""
      (?P<comment> --[^\r\n]* | /\* )
    | (?P<string>
        (?<![\w$]) [eE]'(?: [^'\\] | \\. | '' )*'?                          # escapes with backslashes
        | '(?: [^'] | '' )*'?
        | (?<![\w$]) \$(?P<tag>(?:[^\W\d]\w*)?)\$ .*? (?: \$(?P=tag)\$ | \Z )
      )
    | (?P<name> "(?: [^"] | "" )*"? )
    """,
    re.VERBOSE | re.DOTALL,
)


def _pieces(sql: str) -> Iterator[tuple[str, Piece]]:
    """Yield pieces that together are the script; what is opened and never closed reaches to the end."""
    position = 0
    while (match := _NOT_CODE.search(sql, position)) is not None:
        start, end = match.span()
        if match["comment"] == "/*":
            end = _end_of_comment(sql, end)
        if start > position:
            yield sql[position:start], Piece.CODE
        yield sql[start:end], Piece(match.lastgroup)
        position = end
    if position < len(sql):
        yield sql[position:], Piece.CODE


def _end_of_comment(sql: str, position: int) -> int:
    """Return where the comment ends that was opened just before the position; comments nest."""
    depth = 1
    for mark in re.finditer(r"/\*|\*/", sql[position:]):
        depth += 1 if mark[0] == "/*" else -1
        if depth == 0:
            return position + mark.end()
    return len(sql)
