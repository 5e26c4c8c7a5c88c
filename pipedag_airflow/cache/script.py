"""SQL scripts: split into statements, and compared without the names of generations.

Strings and comments are told from code, so a separator or a schema name in them is left alone. The rules are those of
PostgreSQL and DuckDB: comments nest, a backslash is a backslash except in E'...', and text may stand between $tag$ and
$tag$.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["script_text", "split_script"]


class Piece(Enum):
    """What a part of a script is."""

    CODE = "code"
    #: A quoted name.
    NAME = "name"
    STRING = "string"
    COMMENT = "comment"


def split_script(sql: str, separator: str = ";") -> list[str]:
    """Split a script into its statements; empty ones, and ones of comments alone, are left out.

    Args:
        sql: The script.
        separator: What stands between statements; a word such as GO is not looked for within other words.

    Example:
        >>> split_script("SELECT ';'; SELECT 2")
        ["SELECT ';'", 'SELECT 2']
    """
    between = re.compile(rf"(?<!\w){re.escape(separator)}(?!\w)" if separator.isalnum() else re.escape(separator))
    statements, current, has_code = [], "", False
    for text, piece in _pieces(sql):
        parts = between.split(text) if piece is Piece.CODE else [text]
        for index, part in enumerate(parts):
            if index > 0:
                statements.append((current, has_code))
                current, has_code = "", False
            current += part
            has_code = has_code or (bool(part.strip()) and piece is not Piece.COMMENT)
    statements.append((current, has_code))
    return [statement.strip() for statement, code in statements if code]


def script_text(sql: str, schemas: dict[str, str]) -> str:
    """Return a script in which the schemas of generations stand under the names of their stages.

    Args:
        sql: The script.
        schemas: For each stage name the schema that its readers see; ``schema__g<number>`` is replaced by it, but not
            in strings and comments. (Prefixes and suffixes are part of the schema names.)
    """
    if not schemas:
        return sql
    pattern = re.compile("|".join(rf"(?<!\w){form}(?!\w)" for form in _generation_forms(schemas)))

    def logical(match: re.Match[str]) -> str:
        return "{" + next(name for name in match.groups() if name is not None) + "}"

    exchanged = (Piece.CODE, Piece.NAME)
    return "".join(pattern.sub(logical, text) if piece in exchanged else text for text, piece in _pieces(sql))


def _generation_forms(schemas: dict[str, str]) -> Iterator[str]:
    for stage in sorted(schemas, key=len, reverse=True):
        name = re.escape(stage)
        # Where the prefix or the suffix holds the stage's name, either occurrence may be the stage's.
        for found in re.finditer(f"(?={name})", schemas[stage]):
            prefix, suffix = schemas[stage][: found.start()], schemas[stage][found.start() + len(stage) :]
            yield f"{re.escape(prefix)}({name})__g\\d+{re.escape(suffix)}"


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
