"""The secrets that this process has come to know: whatever it writes down or logs itself, they are hidden in it.

Passwords of the configuration are known once a part of it is built, those of a connection once it was looked up.
"""

from __future__ import annotations

import json
import traceback
from typing import TYPE_CHECKING
from urllib.parse import quote, quote_plus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["KnownSecrets", "cause_without_secrets", "known_secrets", "without_secrets"]

#: A shorter one is part of many a word: hiding it would make texts unreadable and tell what it is. As in Airflow.
_SHORTEST = 5
_STARS = "***"


class KnownSecrets:
    """A growing set of texts that must not be shown."""

    def __init__(self) -> None:
        self._forms: tuple[str, ...] = ()
        self._listeners: list[Callable[[str], None]] = []

    def learn(self, secrets: Iterable[str]) -> None:
        """Hide secrets from now on, also where they are escaped.

        Args:
            secrets: Passwords, tokens, keys; those of less than five characters are left out.
        """
        forms = {form for secret in secrets if len(secret) >= _SHORTEST for form in _forms(secret)}
        new = forms.difference(self._forms)
        # The longest first: a login contains its password. Exchanged whole: another thread may be reading.
        self._forms = tuple(sorted({*self._forms, *new}, key=len, reverse=True))
        for form in sorted(new):
            for listener in self._listeners:
                listener(form)

    def hidden(self, text: str) -> str:
        """Replace known secrets in a text by stars."""
        for form in self._forms:
            text = text.replace(form, _STARS)
        return text

    def tell(self, listener: Callable[[str], None]) -> None:
        """Let somebody else hide the secrets, too.

        Args:
            listener: Is called with every form of every secret, those that are known already included.
        """
        self._listeners.append(listener)
        for form in self._forms:
            listener(form)


def _forms(secret: str) -> Iterator[str]:
    """Give a secret as it is, as it stands in a URL, and as it stands in JSON and in the repr of a text."""
    yield secret
    yield quote(secret, safe="")
    yield quote(secret, safe=" +")  # SQLAlchemy's way
    yield quote_plus(secret)
    yield json.dumps(secret)[1:-1]
    yield json.dumps(secret, ensure_ascii=False)[1:-1]
    yield repr(secret)[1:-1]


known_secrets = KnownSecrets()
"""Those of this process."""


def without_secrets(text: str) -> str:
    """Return a text with stars in the place of the secrets that this process knows."""
    return known_secrets.hidden(text)


def cause_without_secrets(error: BaseException) -> BaseException | None:
    """Return what another error may be raised from: a chained error is printed, too.

    Args:
        error: An error of somebody else's, such as a driver's.

    Returns:
        The error; nothing if its text, or that of one that it is chained to, has a secret that this process knows.
    """
    # Without stack frames: their lines are code.
    shown = "".join(traceback.format_exception(error, limit=0))
    return error if without_secrets(shown) == shown else None
