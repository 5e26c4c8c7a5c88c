"""A :class:`GroupNode`: tasks that are shown together, and that may be ordered as a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from pipedag_airflow.core import definition
from pipedag_airflow.errors import GroupNodeError, StageError

if TYPE_CHECKING:
    from types import TracebackType

    from pipedag_airflow.core.stage import Stage

__all__ = ["GroupNode"]


class GroupNode:
    """Tasks, or stages, that belong together: a box in pictures and in Airflow.

    A group changes neither ids nor cache validity. It may contain stages, stand within one, and be nested.

    Args:
        label: What to write on the box.
        ordering_barrier: Whether the tasks of the group start only when all tasks before it in its stage are done, and
            those after it only when all of the group's are. Tasks of stages within that stage count.

    Raises:
        TypeError: if the label is no string.

    Example:
        ::

            with Stage("mart"):
                fill_tables()
                with GroupNode("side effects", ordering_barrier=True):
                    send_report()
                clean_up()
    """

    def __init__(self, label: str | None = None, *, ordering_barrier: bool = False) -> None:
        if label is not None and not isinstance(label, str):
            raise TypeError(f"The label of a group is a string, not {type(label).__name__}: {label!r}")
        self.label = label
        self.ordering_barrier = ordering_barrier
        #: The innermost stage around the group, and the group directly around it in that stage.
        self.stage: Stage | None = None
        self.parent: GroupNode | None = None
        #: Its tasks, by their places among the tasks of the flow.
        self.members = range(0)
        self._opened = False

    def __enter__(self) -> Self:
        """Open the group.

        Raises:
            StageError: if no flow is open.
            GroupNodeError: if the group was opened before; if it is an ordering barrier, but within no stage.
        """
        flow = definition.current_flow()
        if flow is None:
            raise StageError(f'{self!r} stands outside of a flow: open it within "with Flow(...):".')
        if self._opened:
            raise GroupNodeError(f"{self!r} was opened before. A group is opened once: make a new GroupNode.")
        self.stage, self.parent = definition.current_stage(), definition.current_group()
        if self.ordering_barrier and self.stage is None:
            raise GroupNodeError(
                f"{self!r} of flow {flow.name!r} is an ordering barrier, but stands outside of a stage: a barrier "
                "orders the tasks of one stage. Open it within the stage, or leave ordering_barrier out; stages are "
                "ordered by what they read."
            )
        self._opened = True
        self.members = range(len(flow.tasks), len(flow.tasks))
        flow.groups.append(self)
        definition.open_group(self)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        definition.close_group(self)
        flow = definition.current_flow()
        if flow is not None:
            self.members = range(self.members.start, len(flow.tasks))

    def __repr__(self) -> str:
        return f"<GroupNode {self.label or 'without label'}>"
