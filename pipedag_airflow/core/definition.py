"""Which flow and which stages are open in a ``with`` block right now."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipedag_airflow.core.flow import Flow
    from pipedag_airflow.core.stage import Stage

__all__ = ["close_flow", "close_stage", "current_flow", "current_stage", "open_flow", "open_stage"]

_flow: ContextVar[Flow | None] = ContextVar("flow", default=None)
_stages: ContextVar[tuple[Stage, ...]] = ContextVar("stages", default=())


def current_flow() -> Flow | None:
    """Return the flow whose ``with`` block is open, if any."""
    return _flow.get()


def current_stage() -> Stage | None:
    """Return the innermost open stage, if any."""
    stages = _stages.get()
    return stages[-1] if stages else None


def open_flow(flow: Flow) -> None:
    """Note that the flow's block was entered."""
    _flow.set(flow)
    _stages.set(())


def close_flow() -> None:
    """Note that the flow's block was left."""
    _flow.set(None)
    _stages.set(())


def open_stage(stage: Stage) -> None:
    """Note that the stage's block was entered."""
    _stages.set((*_stages.get(), stage))


def close_stage(stage: Stage) -> None:
    """Note that the stage's block was left."""
    _stages.set(tuple(open_stage for open_stage in _stages.get() if open_stage is not stage))
