"""The base of all engines."""

from __future__ import annotations

import difflib
import inspect
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipedag_airflow.cache.decision import Decision
    from pipedag_airflow.run.result import FinalTaskState
    from pipedag_airflow.run.session import RunSession

__all__ = ["OrchestrationEngine", "Outcome"]


_FLOW_RUN_ARGUMENTS = (
    "config",
    "orchestration_engine",
    "fail_fast",
    "ignore_cache_function",
    "cache_validation_mode",
    "ignore_task_version",
    "exclude",
    "inputs",
)


@attrs.define
class Outcome:
    """What an engine reports of a run.

    Args:
        successful: Whether every selected node is done.
        values: The results by node id.
        states: The final states by node id.
        exception: The first exception, if there was one.
        underlying: An object of the engine's own.
        decisions: Why tasks ran or were valid, by node id, as far as the engine knows.
    """

    successful: bool
    values: dict[str, Any]
    states: dict[str, FinalTaskState]
    exception: Exception | None = None
    underlying: Any = None
    decisions: dict[str, Decision] = attrs.field(factory=dict)


class OrchestrationEngine(ABC):
    """Calls the steps of the run protocol in an order that the plan admits.

    For each stage ``begin``, then ``execute`` for the tasks that begin did not find valid, then ``publish``. Keyword
    arguments of :meth:`run` beyond the first two are the engine's options.
    """

    @abstractmethod
    def run(self, session: RunSession, nodes: Sequence[str]) -> Outcome:
        """Run the given nodes of the plan, which are in plan order."""

    def check_arguments(self, arguments: Mapping[str, Any]) -> None:
        """Refuse arguments that the engine does not know.

        Raises:
            TypeError: naming the argument and the nearest one that is known.
        """
        known = list(inspect.signature(self.run).parameters)[2:]
        for name in arguments:
            if name in known:
                continue
            choices = [*known, *_FLOW_RUN_ARGUMENTS]
            near = difflib.get_close_matches(name, choices, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else f" Flow.run() knows: {', '.join(choices)}."
            raise TypeError(f"Neither Flow.run() nor {type(self).__name__} knows the argument {name!r}.{hint}")
