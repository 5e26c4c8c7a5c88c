"""Calling a task's function."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipedag_airflow.core.containers import materialize_now
from pipedag_airflow.core.task import Task, running_task
from pipedag_airflow.run.inputs import bind

if TYPE_CHECKING:
    from pipedag_airflow.run.materializing import Materializer
    from pipedag_airflow.run.session import RunSession

__all__ = ["call_function"]


def call_function(
    session: RunSession,
    task: Task,
    arguments: dict[str, Any],
    open_generations: dict[str, int],
    materializer: Materializer,
) -> Any:
    """Call the function of a task with loaded arguments.

    Within the call stages know their schemas, tables can be stored at once, and calls of other tasks run their plain
    functions.

    Raises:
        Exception: whatever the function raises, with a note that names the task.
    """
    bound = bind(task, arguments)
    session.store.let_go()
    token = running_task.set(task)
    storing = materialize_now.set(materializer.materialize)
    try:
        with session.stage_schemas(open_generations), session.config:
            return task.unbound.fn(*bound.args, **bound.kwargs)
    except Exception as error:
        error.add_note(f"(raised by task {task.id!r} of flow {task.flow.name!r})")
        raise
    finally:
        materialize_now.reset(storing)
        running_task.reset(token)
