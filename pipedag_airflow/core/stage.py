"""A :class:`Stage`: tasks that are published together."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Self

from pipedag_airflow.core import definition
from pipedag_airflow.core.airflow_settings import STAGE_KEYS, checked_settings
from pipedag_airflow.core.definition import own
from pipedag_airflow.core.naming import METADATA, checked_tags, looks_like_generation, normalise
from pipedag_airflow.errors import StageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from types import TracebackType

    from pipedag_airflow.core.flow import Flow
    from pipedag_airflow.core.group_node import GroupNode
    from pipedag_airflow.core.task import Task

__all__ = ["Stage", "current_schemas"]

#: Gives (transaction schema, current schema) of a stage; set by the run while a task's function is called.
current_schemas: ContextVar[Callable[[str], tuple[str, str]]] = ContextVar("current_schemas")


class Stage:
    """A collection of tasks that become visible together, or not at all.

    Tasks that are called within the ``with`` block belong to the stage. Stages may be nested.

    Args:
        name: Name of the stage; case does not count. Unique within a flow.
        materialization_details: Label of the materialization details that the stage's tables use.
        tags: What the stage can be selected by, as in ``flow.run("tag:nightly")``: one tag or several.
        airflow: The look of its group in Airflow, and what holds for the operators in it, such as
            ``{"tooltip": "As the shop sends it", "pool": "warehouse"}``; see docs/airflow.md.

    Raises:
        StageError: if the name cannot be used.
        ConfigError: if ``airflow`` has a key that is unknown.
        ValueError: if a tag could not be written in a selection.

    Example:
        ::

            with Flow("flow"):
                with Stage("clean") as clean:
                    table = a_task()
    """

    def __init__(
        self,
        name: str,
        materialization_details: str | None = None,
        *,
        tags: str | Iterable[str] = (),
        airflow: Mapping[str, Any] | None = None,
    ) -> None:
        self._name = normalise(name)
        if not self._name:
            raise StageError("A stage needs a name that is not empty.")
        if looks_like_generation(self._name):
            raise StageError(
                f"The stage name {name!r} ends like the schema of a generation (__g followed by a number). "
                "Choose another name."
            )
        if self._name == METADATA:
            raise StageError(f"{METADATA!r} is the schema of the metadata and cannot be a stage. Choose another name.")
        self.materialization_details = materialization_details
        self.tags = checked_tags(f"Stage {self._name!r}", tags)
        #: What it says about its place in a DAG.
        self.airflow = checked_settings(f"Stage {self._name!r}", airflow, STAGE_KEYS)
        self.flow: Flow | None = None
        self.parent: Stage | None = None
        #: The group that the stage directly stands in, within the stage around it.
        self.group: GroupNode | None = None
        self.tasks: list[Task] = []

    @property
    def name(self) -> str:
        """The name of the stage."""
        return self._name

    @property
    def transaction_name(self) -> str:
        """The schema that the running generation of the stage writes to.

        Raises:
            LookupError: outside of a running task.
        """
        return self._schemas()[0]

    @property
    def current_name(self) -> str:
        """The schema in which the stage's data live now: the transaction schema until the stage is published.

        Raises:
            LookupError: outside of a running task.
        """
        return self._schemas()[1]

    def _schemas(self) -> tuple[str, str]:
        lookup = current_schemas.get(None)
        if lookup is None:
            raise LookupError(
                f"The stage {self.name!r} has a schema only while a task runs. "
                "Pass the stage to the task as an argument and ask for the name there."
            )
        return lookup(self.name)

    def __getitem__(self, item: str | tuple[str, int]) -> Task:
        """Return a task of the stage by its name, or by name and index where several tasks have that name.

        Raises:
            KeyError: if there is no task of that name.
            IndexError: if the index is out of bounds.
            ValueError: if several tasks have the name and no index is given.
            TypeError: if the key is neither a string nor a pair of string and int.
        """
        if isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str) and isinstance(item[1], int):
            return self.get_task(*item)
        if isinstance(item, str):
            return self.get_task(item)
        raise TypeError(f'Ask for a task by stage["name"] or stage["name", index], not by {item!r}')

    def get_task(self, name: str, index: int | None = None) -> Task:
        """Return a task of the stage by its name; see :meth:`__getitem__`."""
        matches = [task for task in self.tasks if own(task, "name") == name]
        if not matches:
            known = ", ".join(sorted({own(task, "name") for task in self.tasks})) or "none"
            raise KeyError(f"The stage {self.name!r} has no task {name!r}. Its tasks: {known}")
        if index is not None:
            if not -len(matches) <= index < len(matches):
                raise IndexError(
                    f"The stage {self.name!r} has {len(matches)} tasks {name!r}: there is no index {index}"
                )
            return matches[index]
        if len(matches) > 1:
            raise ValueError(
                f"The stage {self.name!r} has {len(matches)} tasks {name!r}: choose one by stage[{name!r}, index]"
            )
        return matches[0]

    def is_inside(self, other: Stage) -> bool:
        """Say whether the stage is nested in ``other``, at any depth."""
        parent = self.parent
        while parent is not None and parent is not other:
            parent = parent.parent
        return parent is not None

    def __enter__(self) -> Self:
        flow = definition.current_flow()
        if flow is None:
            raise StageError(f'The stage {self.name!r} stands outside of a flow: open it within "with Flow(...):".')
        if self.flow is not None:
            raise StageError(
                f"The stage {self.name!r} was opened before, in flow {self.flow.name!r}. A stage is opened once: "
                "put its tasks into one block, or make a new Stage."
            )
        flow.add_stage(self, parent=definition.current_stage())
        self.group = definition.current_group()
        definition.open_stage(self)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        definition.close_stage(self)
        if exc_type is None and self.flow is not None:
            self.flow.add_commit(self)

    def __repr__(self) -> str:
        return f"<Stage {self.name}>"
