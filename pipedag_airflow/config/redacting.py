"""Keeping logins out of error messages."""

from __future__ import annotations

import re
import traceback
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from attrs import frozen

from pipedag_airflow.core.fingerprint import fingerprint
from pipedag_airflow.core.values import dump_identity

if TYPE_CHECKING:
    from collections.abc import Iterator

# Up to the first "@" as databases read it, and up to the last one because people forget to escape theirs.
_LOGINS = (re.compile(r"://([^:/@]*)(?::([^@]*))?@"), re.compile(r"://([^:/@]*)(?::(.*))?@", re.DOTALL))
#: Names whose values are secrets, of arguments in the configuration and of tasks. Not every key is one: a primary_key
#: is none, and neither is a tokenizer.
_SECRET_NAME = re.compile(
    r"passw|pwd|passphrase|secret|credential|tokens?$|^key$"
    r"|(?:api|access|account|encryption|fernet|private|signing|storage)_?key$",
    re.IGNORECASE,
)
#: Parameters of URLs, and of the strings by which ODBC and libpq connect: there a value may be in brackets or quoted.
_SECRET_PARAMETER = re.compile(
    r"(?:^|[?&;\s])[^=&;\s]*(?:password|passwd|pwd|secret|token|key)[^=&;\s]*\s*=\s*(\{[^}]+\}|'(?:[^'\\]|\\.)+'|[^&;\s]+)",
    re.IGNORECASE,
)
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


def is_secret_name(name: str) -> bool:
    """Say whether what is called so is a secret: password, api_key, access_token, ...."""
    return _SECRET_NAME.search(name) is not None


def identity_without_secrets(values: Any) -> str:
    """Return a hash of configured data that a change of a password leaves as it is, and that does not tell it."""
    return fingerprint(Secrets.of(values).hidden(dump_identity(values, "The configuration")))


def _collect(value: Any, texts: set[str], users: set[str]) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            if is_secret_name(str(key)):
                texts.update(_texts(item))
            if key == "auth_data":
                texts.update(_passwords(item))
            _collect(item, texts, users)
    elif isinstance(value, list):
        for item in value:
            _collect(item, texts, users)
    elif isinstance(value, str):
        _collect_url(value, texts, users)


def _texts(value: Any) -> Iterator[str]:
    """Yield a secret, or those of a list."""
    if isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, str):
        yield value


def _passwords(logins: Any) -> Iterator[str]:
    """Yield the secrets of ``auth_data`` as ZooKeeper's client takes it: pairs of a scheme and ``user:password``."""
    for login in logins if isinstance(logins, list) else ():
        if isinstance(login, list) and login and isinstance(login[-1], str):
            yield login[-1]
            yield login[-1].partition(":")[2]


def _collect_url(url: str, texts: set[str], users: set[str]) -> None:
    for pattern in _LOGINS:
        for user, password in pattern.findall(url):
            users |= {user, unquote(user)}
            texts |= {password, unquote(password)}
            if password:
                texts.add(f"{user}:{password}")
    # What an ODBC driver is given is one parameter of the URL, quoted as a whole.
    for text in {url, unquote(url)}:
        for value in _SECRET_PARAMETER.findall(text):
            bare = value.strip("{}'")
            texts |= {bare, unquote(bare)}
