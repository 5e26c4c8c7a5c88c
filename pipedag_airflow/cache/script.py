"""SQL scripts: split into statements, and compared without the names of generations.

The lexer of sqlparse tells strings and comments from code, so a separator or a schema name in them is left alone.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import TYPE_CHECKING, Any

from sqlparse import lexer
from sqlparse import tokens as kinds

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
        separator: What stands between statements.

    Example:
        >>> split_script("SELECT ';'; SELECT 2")
        ["SELECT ';'", 'SELECT 2']
    """
    statements, current, has_code = [], "", False
    for text, piece in _pieces(sql):
        parts = text.split(separator) if piece is Piece.CODE else [text]
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
    pattern = re.compile("|".join(f"(?<![A-Za-z0-9_]){form}(?![A-Za-z0-9_])" for form in _generation_forms(schemas)))

    def logical(match: re.Match[str]) -> str:
        return "{" + next(name for name in match.groups() if name is not None) + "}"

    exchanged = (Piece.CODE, Piece.NAME)
    return "".join(pattern.sub(logical, text) if piece in exchanged else text for text, piece in _pieces(sql))


def _generation_forms(schemas: dict[str, str]) -> Iterator[str]:
    for stage in sorted(schemas, key=len, reverse=True):
        prefix, _, suffix = schemas[stage].partition(stage)
        yield f"{re.escape(prefix)}({re.escape(stage)})__g\\d+{re.escape(suffix)}"


def _pieces(sql: str) -> Iterator[tuple[str, Piece]]:
    """Yield pieces that together are the script; neighbouring code is one piece, as separators may span tokens."""
    code = ""
    for kind, text in lexer.tokenize(sql):
        piece = _piece(kind, text)
        if piece is Piece.CODE:
            code += text
            continue
        if code:
            yield code, Piece.CODE
            code = ""
        yield text, piece
    if code:
        yield code, Piece.CODE


def _piece(kind: Any, text: str) -> Piece:
    if kind in kinds.Comment:
        return Piece.COMMENT
    if kind is kinds.String.Symbol:
        return Piece.NAME
    if kind in kinds.String or (kind is kinds.Literal and text.startswith("$")):
        return Piece.STRING
    return Piece.CODE
