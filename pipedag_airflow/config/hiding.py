"""Secrets in what a task or a command logs, prints or raises are hidden before it leaves the process.

Airflow hides them, too, in the log of the task. But its LocalExecutor copies all that a task sends into the log of the
scheduler, and there it hides nothing.
"""

from __future__ import annotations

import logging
import sys
import traceback
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING, Any, TextIO, cast

from pipedag_airflow.config.known_secrets import without_secrets
from pipedag_airflow.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["hidden_secrets"]


@contextmanager
def hidden_secrets() -> Iterator[None]:
    """Hide the secrets that the process knows in what is logged, printed and raised within the block.

    Raises:
        RunError: in place of an error that tells a secret, but whose text cannot be exchanged.
        Exception: whatever is raised within the block, with stars in its text.
    """
    handlers = logging.getLogger().handlers[:]
    for handler in handlers:
        handler.addFilter(_hide_in_record)
    try:
        with redirect_stdout(_hiding(sys.stdout)), redirect_stderr(_hiding(sys.stderr)):
            yield
    except Exception as error:
        _hide_in_error(error)
        shown = _text(error)
        if without_secrets(shown) == shown:
            raise
        raise RunError(without_secrets(shown)).with_traceback(error.__traceback__) from None
    finally:
        for handler in handlers:
            handler.removeFilter(_hide_in_record)


class _HidingStream:
    """A stream for text in front of another one; whatever it cannot do itself, that one does."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        return self._stream.write(without_secrets(text))

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)


def _hiding(stream: TextIO) -> TextIO:
    return cast("TextIO", _HidingStream(stream))


def _hide_in_record(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    shown = without_secrets(message)
    if shown != message:
        record.msg, record.args = shown, ()
    if record.exc_info is not None and record.exc_info[1] is not None:
        _hide_in_error(record.exc_info[1])
    return True


def _hide_in_error(error: BaseException) -> None:
    """Exchange the arguments and notes of an error, and of all that it is chained to."""
    for link in _chain(error):
        link.args = tuple(without_secrets(arg) if isinstance(arg, str) else arg for arg in link.args)
        if hasattr(link, "__notes__"):
            link.__notes__ = [without_secrets(note) for note in link.__notes__]


def _chain(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        link = waiting.pop()
        if link is None or any(link is known for known in found):
            continue
        found.append(link)
        waiting += [link.__cause__, link.__context__]
        if isinstance(link, BaseExceptionGroup):
            waiting += link.exceptions
    return found


def _text(error: BaseException) -> str:
    # Without stack frames: their lines are code, and in the file already.
    return "".join(traceback.format_exception(error, limit=0)).strip()
