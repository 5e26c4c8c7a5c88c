"""The names under which results of tasks are looked up: functions of one name in one stage never share a result.

Usually that is the name of the task. Where different functions of a stage share one, their code tells them apart, with
the values in their closures: the order in which they are wired is another one after the next edit.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from pipedag_airflow.cache.auto_version import code_version
from pipedag_airflow.errors import AutoVersionError, DuplicateNameError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pipedag_airflow.core.flow import Flow
    from pipedag_airflow.core.task import UnboundTask

__all__ = ["identity_names"]


def identity_names(flow: Flow) -> dict[str, str]:
    """Return the name under which the results of each task of a flow are looked up, by its id.

    Raises:
        DuplicateNameError: if functions of one name in one stage cannot be told apart.
    """
    namesakes: dict[tuple[str, str], dict[UnboundTask, None]] = {}
    for task in flow.tasks.values():
        namesakes.setdefault((task.stage.name, task.name), {})[task.unbound] = None
    names = {
        (stage, function): name
        for (stage, _), functions in namesakes.items()
        for function, name in zip(functions, _told_apart(stage, list(functions)), strict=True)
    }
    return {node: names[task.stage.name, task.unbound] for node, task in flow.tasks.items()}


def _told_apart(stage: str, functions: Sequence[UnboundTask]) -> Iterator[str]:
    """Yield for each function a name that no other one has; only those that do the very same are numbered."""
    if len(functions) == 1:
        yield functions[0].name
        return
    seen: Counter[str] = Counter()
    for function in functions:
        code = _code(stage, function)
        seen[code] += 1
        yield f"{function.name}#{code}" + (f"#{seen[code]}" if seen[code] > 1 else "")


def _code(stage: str, function: UnboundTask) -> str:
    try:
        return code_version(function.fn, function.input_type).version
    except AutoVersionError as error:
        raise DuplicateNameError(
            f"Stage {stage!r} has different functions of the name {function.name!r}. Which stored result belongs to "
            f"which, their code would tell, but not all of it can be followed: {error.reason}. Give each of them a "
            'name of its own: @materialize(name="...").'
        ) from error
