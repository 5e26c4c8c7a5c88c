"""Keeping logins out of error messages."""

from __future__ import annotations

import re
import traceback
from typing import Any
from urllib.parse import unquote

from attrs import frozen

# Up to the first "@" as databases read it, and up to the last one because people forget to escape theirs.
_LOGINS = (re.compile(r"://([^:/@]*)(?::([^@]*))?@"), re.compile(r"://([^:/@]*)(?::(.*))?@", re.DOTALL))
_SECRET_KEY = re.compile(r"password|passwd|pwd|secret|token|(?:^|_)key$", re.IGNORECASE)
_SECRET_PARAMETER = re.compile(r"[?&;][^=&;]*(?:password|passwd|pwd|secret|token|key)[^=&;]*=([^&;\s]+)", re.IGNORECASE)
_STARS = "***"


@frozen
class Secrets:
    """What must not be shown.

    Attributes:
        texts: Passwords and whole logins; hidden wherever they occur.
        users: User names; hidden where they are a word of their own, because "postgres" is also a part of "postgresql".
    """

    texts: frozenset[str]
    users: frozenset[str]

    @classmethod
    def of(cls, values: Any) -> Secrets:
        """Collect the secrets of a section.

        Args:
            values: A section of the configuration, placeholders expanded.

        Returns:
            Logins of URLs, passwords in their parameters, and arguments that are called password, token, ....
        """
        texts: set[str] = set()
        users: set[str] = set()
        _collect(values, texts, users)
        return cls(frozenset(texts - {""}), frozenset(users - {""}))

    def hidden(self, text: str) -> str:
        """Replace the secrets in a text by stars."""
        # The longest first: a login contains its password.
        for secret in sorted(self.texts, key=len, reverse=True):
            text = text.replace(secret, _STARS)
        for user in self.users:
            text = re.sub(rf"(?<!\w){re.escape(user)}(?!\w)", _STARS, text)
        return text

    def are_told_by(self, error: BaseException) -> bool:
        """Say whether an error, or one that it is chained to, shows a secret."""
        # Without stack frames: their source lines are code, and code may use the word that is somebody's user name.
        shown = "".join(traceback.format_exception(error, limit=0))
        return self.hidden(shown) != shown


def _collect(value: Any, texts: set[str], users: set[str]) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            if isinstance(item, str) and _SECRET_KEY.search(str(key)):
                texts.add(item)
            _collect(item, texts, users)
    elif isinstance(value, list):
        for item in value:
            _collect(item, texts, users)
    elif isinstance(value, str):
        _collect_url(value, texts, users)


def _collect_url(url: str, texts: set[str], users: set[str]) -> None:
    for pattern in _LOGINS:
        for user, password in pattern.findall(url):
            users |= {user, unquote(user)}
            texts |= {password, unquote(password)}
            if password:
                texts.add(f"{user}:{password}")
    for value in _SECRET_PARAMETER.findall(url):
        texts |= {value, unquote(value)}
