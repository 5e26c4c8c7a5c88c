"""What becomes one operator: each task, a stage with all that is nested in it, or the whole flow.

The nearer one wins, as for other settings. But what runs as one process cannot be taken apart again: a stage that asks
for more operators than the stage or flow around it has is an error.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Self

import attrs

from pipedag_airflow.errors import ConfigError

if TYPE_CHECKING:
    from pipedag_airflow.core.plan import Plan, PlanStage
    from pipedag_airflow.provider.settings import Settings

__all__ = ["MANY_OPERATORS", "Unit", "units", "warn_of_many"]

log = logging.getLogger(__name__)

_OF_A_FLOW = ("task", "stage", "flow")
_OF_A_STAGE = ("task", "stage")

#: Airflow's scheduler looks at all operators of a run in each of its rounds; with more than these it shows.
MANY_OPERATORS = 500


@attrs.frozen
class Unit:
    """What one operator runs.

    Args:
        id: Id of the operator: the name of the stage, or of the flow.
        stages: The stages, the outermost first.
        whole_flow: Whether it is all of the flow.
    """

    id: str
    stages: tuple[PlanStage, ...]
    whole_flow: bool = False

    @classmethod
    def of(cls, plan: Plan, stage: PlanStage) -> Self:
        """Return a stage with all that is nested in it."""
        inner = (other for other in plan.stages if plan.is_inside(other.name, stage.name))
        return cls(stage.name, (stage, *inner))

    @property
    def has_tasks(self) -> bool:
        """Whether there is anything to run."""
        return any(stage.tasks for stage in self.stages)

    @property
    def reads(self) -> list[str]:
        """Names of the stages that are read from outside, sorted."""
        own = {stage.name for stage in self.stages}
        return sorted({name for stage in self.stages for name in stage.reads} - own)

    @property
    def nodes(self) -> list[str]:
        """Ids of the tasks, in plan order within each stage."""
        return [node for stage in self.stages for node in stage.tasks]


def units(settings: Settings, plan: Plan) -> dict[str, Unit]:
    """Return what runs as one operator, by the names of all stages in it; other stages have operators of their own.

    Raises:
        ConfigError: if a granularity does not exist, or contradicts that of what is around.
    """
    whole = _checked(f"flow {plan.flow!r}", settings.granularity(), _OF_A_FLOW) or "task"
    flow_unit = Unit(plan.flow, plan.stages, whole_flow=True)
    found: dict[str, Unit] = {}
    inherited: dict[str | None, str] = {None: whole}
    for stage in plan.stages:
        said = _checked(f"stage {stage.name!r}", settings.granularity(stage.name), _OF_A_STAGE)
        inherited[stage.name] = said or inherited[stage.parent]
        around = flow_unit if whole == "flow" else found.get(stage.parent or "")
        if around is not None:
            _check_fits(plan, stage, said, around)
            found[stage.name] = around
        elif inherited[stage.name] == "stage":
            found[stage.name] = Unit.of(plan, stage)
    return found


def warn_of_many(dag_id: str, operators: int) -> None:
    """Say so if a DAG has more operators than the scheduler is quick with."""
    if operators > MANY_OPERATORS:
        log.warning(
            "DAG %s has %s operators. Beyond %s Airflow's scheduler takes seconds for each step of a run: let stages "
            "run as one operator each, by granularity: stage in airflow of pipedag.yaml or airflow={'granularity': "
            "'stage'} of the flow or of its largest stages; or give each stage a DAG of its own, by split: stage.",
            dag_id,
            operators,
            MANY_OPERATORS,
        )


def _checked(owner: str, said: str | None, known: tuple[str, ...]) -> str | None:
    if said is None:
        return None
    if str(said).lower() not in known:
        raise ConfigError(f"airflow.granularity of {owner} is {said!r}, but must be one of {', '.join(known)}.")
    return str(said).lower()


def _check_fits(plan: Plan, stage: PlanStage, said: str | None, around: Unit) -> None:
    if said is None or (said == "stage" and not around.whole_flow):
        return
    owner = f"flow {around.id!r}" if around.whole_flow else f"stage {around.id!r} around it"
    raise ConfigError(
        f"airflow.granularity of stage {stage.name!r} of flow {plan.flow!r} is {said!r}, but the {owner} runs as one "
        f"operator, with all that is in it. Take the setting from the stage, or let the {owner} have another one."
    )
