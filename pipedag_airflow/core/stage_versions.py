"""Tasks that look at a stage as it is about to be published, and at what readers see of it until then."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from pipedag_airflow.core.definition import own
from pipedag_airflow.core.task import Task, TaskGetItem, UnboundTask
from pipedag_airflow.core.values import deep_map
from pipedag_airflow.errors import StageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pipedag_airflow.core.auto_version import AutoVersion
    from pipedag_airflow.core.stage import Stage

__all__ = ["StageVersionsTask", "input_stage_versions"]


def input_stage_versions(
    *,
    input_type: Any,
    name: str | None = None,
    version: str | AutoVersion | None = None,
    nout: int = 1,
) -> Callable[[Callable[..., Any]], StageVersionsTask]:
    """Make a task that receives the tables of its stage in two versions: those of this run, and the published ones.

    It is a task like any other, and runs before its stage is published, because a stage is published when all of its
    tasks are done. If it raises, the stage is not published: readers go on seeing what they saw. It may also return
    tables, a report of what changed perhaps.

    The function's first two parameters are dicts of tables by name: of the generation that this run makes, and of the
    one that readers see; the second one is empty before the first publish. Called without positional arguments, the
    task receives all tables that tasks before it in the stage make. Positional arguments name tasks of the stage
    instead: then it receives their tables, and the published ones of the same names. Keyword arguments are passed on
    to the function's further parameters.

    Args:
        input_type: Type in which the tables arrive; see :func:`materialize`.
        name: Name of the task; default is the name of the function.
        version: Version of the function. With one, the task is valid as long as the tables that it receives of this run
            are the same; without, it runs in every run.
        nout: Number of objects that the function returns.

    Raises:
        TypeError: if the function does not take two arguments by position.

    Example:
        ::

            @input_stage_versions(input_type=pl.DataFrame, version="1.0")
            def no_orders_get_lost(tables, published, tolerance=0):
                if "orders" in published:
                    lost = published["orders"].join(tables["orders"], on="id", how="anti")
                    assert len(lost) <= tolerance, f"{len(lost)} orders got lost"

            with Stage("clean"):
                clean_orders(raw)
                no_orders_get_lost(tolerance=3)
    """

    def decorate(function: Callable[..., Any]) -> StageVersionsTask:
        return StageVersionsTask(function, name=name, input_type=input_type, version=version, nout=nout)

    return decorate


class StageVersionsTask(UnboundTask):
    """What :func:`input_stage_versions` makes of a function."""

    #: What the second argument is bound to while wiring: which of the published tables are received.
    ALL = "all tables"
    SAME_NAMES = "the tables of the same names"

    def __init__(self, fn: Callable[..., Any], **options: Any) -> None:
        super().__init__(fn, **options)
        by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        names = [name for name, parameter in self.signature.parameters.items() if parameter.kind in by_position]
        if len(names) < 2:
            raise TypeError(
                f"Task {self.name!r} receives the tables of its stage and the published ones, so its function takes at "
                f"least two arguments by position: def {self.name}(tables, published), not {self.name}{self.signature}"
            )
        #: Names of the parameters that receive the two versions.
        self.made, self.published = names[:2]

    def bind(self, stage: Stage, args: tuple[Any, ...], kwargs: dict[str, Any]) -> inspect.BoundArguments:
        """Bind the tasks whose tables are received in place of these tables.

        Raises:
            StageError: if there are none, or one is of another stage.
        """
        sources = args or tuple(task for task in stage.tasks if not isinstance(own(task, "unbound"), StageVersionsTask))
        where = f"Task {self.name!r} in stage {stage.name!r}"
        if not sources:
            raise StageError(
                f"{where} looks at the tables of its stage, but no task is called before it: call it last."
            )
        for task in _tasks(sources, where):
            other = own(task, "stage")
            if other is not stage:
                raise StageError(
                    f"{where} compares two versions of its own stage, but {own(task, 'id')!r} belongs to the stage "
                    f"{other.name!r}. Pass the results of other stages as keyword arguments."
                )
        return self.signature.bind(tuple(sources), self.SAME_NAMES if args else self.ALL, **kwargs)


def _tasks(sources: tuple[Any, ...], where: str) -> Iterable[Task]:
    found: list[Task] = []

    def note(value: Any) -> Any:
        if not isinstance(value, (Task, TaskGetItem)):
            raise StageError(f"{where} takes tasks of its stage as positional arguments, and no {value!r}.")
        found.append(value if isinstance(value, Task) else own(value, "task"))
        return value

    deep_map(sources, note)
    return found
