"""Keeping stages locked beyond the end of a run."""

from __future__ import annotations

from contextlib import ExitStack
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from pipedag_airflow.backend.lock import Lease

__all__ = ["StageLockContext"]

_open: ContextVar[tuple[StageLockContext, ...]] = ContextVar("stage_lock_contexts", default=())


class StageLockContext:
    """Keeps the stages of the runs within its block locked until the block ends.

    Another run within the block may have them, too: then it is that one which keeps them. They are renewed for as long
    as the process is at work. Should it be stopped for longer than ``lease_seconds``, others may take them over;
    :meth:`Result.get` gives what its run has made in any case.

    Example:
        ::

            with StageLockContext():
                result = flow.run()
                df = result.get(task)
    """

    def __init__(self) -> None:
        self._releases = ExitStack()
        #: The ids of the runs within the block that are over.
        self.ended: set[str] = set()

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

    def keep(self, run_id: str, release: Callable[[], Any]) -> None:
        """Note that a run has ended, and what releases its stages when the block ends."""
        self.ended.add(run_id)
        self._releases.callback(release)

    @classmethod
    def has_ended(cls, lease: Lease) -> bool:
        """Say whether a lease is only kept by an open context, so that a run within it may take it over."""
        return any(lease.owner.run_id in context.ended for context in _open.get())

    def __enter__(self) -> Self:
        _open.set((*_open.get(), self))
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _open.set(tuple(context for context in _open.get() if context is not self))
        self._releases.close()
