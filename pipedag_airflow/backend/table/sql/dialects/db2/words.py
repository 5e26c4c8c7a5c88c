"""With which words statements begin."""

from __future__ import annotations

import sqlparse

__all__ = ["first_words"]


def first_words(text: str) -> set[str]:
    """Return the first word of each statement of a text, in capitals; comments are passed over."""
    words = (statement.token_first(skip_cm=True) for statement in sqlparse.parse(text))
    return {word.normalized.upper() for word in words if word is not None}
