"""The words of Transact-SQL: names, strings and comments are told from code.

Comments nest, names stand in brackets or quotes, strings in apostrophes; whatever ends them is doubled within them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["COMMENT", "Word", "code_words", "shape_of"]

_TOKEN = re.compile(
    r"""
      (?P<line_comment> --[^\r\n]* )
    | (?P<comment> /\* )
    | (?P<quoted> '(?: [^'] | '' )*'? | \[(?: [^\]] | \]\] )*\]? | "(?: [^"] | "" )*"? )
    | (?P<word> [@\#]*[^\W\d][\w@$\#]* )
    | (?P<parenthesis> [()] )
    """,
    re.VERBOSE,
)


#: What stands in a shape for a character of a comment, and of a string or a quoted name.
COMMENT, _QUOTED = "\0", "\1"
_MARKS = {"line_comment": COMMENT, "comment": COMMENT, "quoted": _QUOTED}


@attrs.frozen
class Word:
    """A word of the code that stands in no quotes.

    Args:
        text: The word in upper case.
        start: Where it begins.
        end: Where it ends.
        depth: In how many parentheses it stands.
    """

    text: str
    start: int
    end: int
    depth: int


def code_words(sql: str) -> Iterator[Word]:
    """Yield the words of a text that are neither in strings nor in comments nor quoted names."""
    depth = 0
    for kind, start, end in _tokens(sql):
        if kind == "parenthesis":
            depth += 1 if sql[start] == "(" else -1
        elif kind == "word":
            yield Word(sql[start:end].upper(), start, end, depth)


def shape_of(sql: str) -> str:
    """Return a text of the same length in which every character of a comment, string or quoted name is a mark.

    No line of the result begins within one of them.
    """
    parts, position = [], 0
    for kind, start, end in _tokens(sql):
        if kind in _MARKS:
            parts += [sql[position:start], _MARKS[kind] * (end - start)]
            position = end
    return "".join([*parts, sql[position:]])


def _tokens(sql: str) -> Iterator[tuple[str, int, int]]:
    position = 0
    while (match := _TOKEN.search(sql, position)) is not None:
        kind = str(match.lastgroup)
        position = _end_of_comment(sql, match.end()) if kind == "comment" else match.end()
        yield kind, match.start(), position


def _end_of_comment(sql: str, position: int) -> int:
    depth = 1
    for mark in re.finditer(r"/\*|\*/", sql[position:]):
        depth += 1 if mark[0] == "/*" else -1
        if depth == 0:
            return position + mark.end()
    return len(sql)
