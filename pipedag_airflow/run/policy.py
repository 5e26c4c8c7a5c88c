"""What a run takes as valid: the one table of what each mode does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from pipedag_airflow.config import CacheValidationMode
from pipedag_airflow.core.auto_version import AUTO_VERSION
from pipedag_airflow.errors import FreshInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pipedag_airflow.cache.decision import Decision
    from pipedag_airflow.config import ConfigContext
    from pipedag_airflow.core.task import Task

__all__ = ["EFFECTS", "CachePolicy", "Effect"]


def _no_task(task: Task) -> bool:
    del task
    return False


def _every_task(task: Task) -> bool:
    del task
    return True


def _reads_fresh_input(task: Task) -> bool:
    return task.unbound.cache is not None


@attrs.frozen
class Effect:
    """What a mode does.

    Args:
        forces: Says which tasks run although their results may be valid, under new identities.
        ignores_fresh_input: Whether results stay valid whatever their cache functions would return.
        refuses_fresh_input: Whether it is an error if a task with a cache function is not valid.
    """

    forces: Callable[[Task], bool] = _no_task
    ignores_fresh_input: bool = False
    refuses_fresh_input: bool = False


EFFECTS: Mapping[CacheValidationMode, Effect] = {
    CacheValidationMode.NORMAL: Effect(),
    CacheValidationMode.IGNORE_FRESH_INPUT: Effect(ignores_fresh_input=True),
    CacheValidationMode.ASSERT_NO_FRESH_INPUT: Effect(ignores_fresh_input=True, refuses_fresh_input=True),
    CacheValidationMode.FORCE_FRESH_INPUT: Effect(forces=_reads_fresh_input),
    CacheValidationMode.FORCE_CACHE_INVALID: Effect(forces=_every_task),
}


@attrs.frozen
class CachePolicy:
    """What one run takes as valid, the same in all of its steps.

    Args:
        mode: The mode.
        ignore_task_version: Whether tasks that have a version run even though it is unchanged.
    """

    mode: CacheValidationMode
    ignore_task_version: bool = False

    @classmethod
    def of(cls, config: ConfigContext) -> CachePolicy:
        """Return what a configuration says.

        Raises:
            ConfigError: if it contradicts itself.
        """
        return cls(config.effective_mode, config.ignore_task_version)

    @property
    def ignores_fresh_input(self) -> bool:
        """Whether results stay valid whatever their cache functions would return."""
        return EFFECTS[self.mode].ignores_fresh_input

    def why_forced(self, task: Task) -> str | None:
        """Say why a task runs although its result may be valid; None if it is not forced."""
        if EFFECTS[self.mode].forces(task):
            return f"cache_validation_mode is {self.mode.value}"
        # AUTO_VERSION is the code of the task, which always counts.
        versioned = task.unbound.version is not None and task.unbound.version is not AUTO_VERSION
        if self.ignore_task_version and versioned and not task.unbound.lazy:
            return "ignore_task_version is set"
        return None

    def check_may_run(self, task: Task, decision: Decision) -> None:
        """Refuse to run a task that would read fresh input in a run that must not.

        Raises:
            FreshInputError: if it has a cache function and is not valid, in the mode ``ASSERT_NO_FRESH_INPUT``.
        """
        if EFFECTS[self.mode].refuses_fresh_input and task.unbound.cache is not None:
            raise FreshInputError(
                f"Task {task.id!r} has a cache function and is not valid, so it would read fresh input, but "
                f"cache_validation_mode is {self.mode.value!r}. It {decision}. Nothing was stored, and readers see "
                "what they saw before. To let it read its source, run in the mode 'normal'."
            )
