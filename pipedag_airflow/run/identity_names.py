"""The names under which results of tasks are looked up: functions of one name in one stage never share a result.

Usually that is the name of the task. Where different functions of a stage share one, their own code tells them apart,
with the values in their closures: the order in which they are wired is another one after the next edit.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from pipedag_airflow.cache.auto_version import own_code
from pipedag_airflow.errors import AutoVersionError, DuplicateNameError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pipedag_airflow.core.flow import Flow
    from pipedag_airflow.core.task import UnboundTask

__all__ = ["IdentityNames"]


class IdentityNames:
    """The name under which the results of each task of a flow are looked up, by its id.

    Code is looked at when one of the functions that share a name is asked for: what cannot be told apart concerns
    nobody else.

    Args:
        flow: The flow.
    """

    def __init__(self, flow: Flow) -> None:
        self._tasks = flow.tasks
        self._namesakes: dict[tuple[str, str], dict[UnboundTask, None]] = {}
        for task in flow.tasks.values():
            self._namesakes.setdefault((task.stage.name, task.name), {})[task.unbound] = None
        self._names: dict[tuple[str, str], dict[UnboundTask, str]] = {}

    def __getitem__(self, node: str) -> str:
        """Return the name of a task.

        Raises:
            DuplicateNameError: if there are functions of its name in its stage that cannot be told apart.
        """
        task = self._tasks[node]
        place = task.stage.name, task.name
        if len(self._namesakes[place]) == 1:
            return task.name
        if place not in self._names:
            self._names[place] = _told_apart(task.stage.name, self._namesakes[place])
        return self._names[place][task.unbound]


def _told_apart(stage: str, functions: Iterable[UnboundTask]) -> dict[UnboundTask, str]:
    """Return for each function a name that no other one has; only those that do the very same are numbered."""
    codes = {function: _code(stage, function) for function in functions}
    modules: dict[str, set[str]] = {}
    for function, code in codes.items():
        modules.setdefault(code, set()).add(function.fn.__module__)
    seen: Counter[str] = Counter()
    names = {}
    for function, code in codes.items():
        # In another module the same code may mean something else by the names in it.
        name = f"{function.name}#{code}" + (f"#{function.fn.__module__}" if len(modules[code]) > 1 else "")
        seen[name] += 1
        names[function] = name + (f"#{seen[name]}" if seen[name] > 1 else "")
    return names


def _code(stage: str, function: UnboundTask) -> str:
    try:
        return own_code(function.fn, function.input_type)
    except AutoVersionError as error:
        raise DuplicateNameError(
            f"Stage {stage!r} has different functions of the name {function.name!r}. Which stored result belongs to "
            f"which, their code would tell, but not all of it can be followed: {error.reason}. Give each of them a "
            'name of its own: @materialize(name="...").'
        ) from error
