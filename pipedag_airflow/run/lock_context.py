"""Keeping stages locked beyond the end of a run."""

from __future__ import annotations

from contextlib import ExitStack
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

__all__ = ["StageLockContext"]

_open: ContextVar[tuple[StageLockContext, ...]] = ContextVar("stage_lock_contexts", default=())


class StageLockContext:
    """Keeps the stages of the runs within its block locked until the block ends.

    Example:
        ::

            with StageLockContext():
                result = flow.run()
                df = result.get(task)
    """

    def __init__(self) -> None:
        self._releases = ExitStack()

    @classmethod
    def get(cls) -> StageLockContext:
        """Return the innermost open context.

        Raises:
            LookupError: if none is open.
        """
        if not _open.get():
            raise LookupError("No StageLockContext is open.")
        return _open.get()[-1]

    @classmethod
    def is_open(cls) -> bool:
        """Say whether a context is open."""
        return bool(_open.get())

    def at_exit(self, release: Callable[[], Any]) -> None:
        """Call a function when the block ends."""
        self._releases.callback(release)

    def __enter__(self) -> Self:
        _open.set((*_open.get(), self))
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _open.set(tuple(context for context in _open.get() if context is not self))
        self._releases.close()
