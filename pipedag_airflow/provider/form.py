"""The form that triggers a run: parameters of each DAG, and what the steps of a run make of their values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import attrs
from airflow.sdk import Param

from pipedag_airflow.config import CacheValidationMode
from pipedag_airflow.core.selector import Selection, select
from pipedag_airflow.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipedag_airflow.config import ConfigContext
    from pipedag_airflow.core.plan import Plan
    from pipedag_airflow.provider.settings import Settings

__all__ = ["FLOW", "RUN_OF", "STAGE", "RunOptions", "with_form"]

#: The parameter by which the DAG of a stage is told which run of the flow it is a part of.
RUN_OF = "run_of"

_SYNTAX = """\
One selection a line; empty: all.

| write | for |
|---|---|
| `stage:clean` | a stage with all that is nested in it; it is published |
| `clean.orders` | a task: it runs even if it is valid, and is **not** published |
| `+clean.orders`, `clean.orders+` | with all that it depends on, or that depends on it |
| `tag:nightly` | what has the tag |
| `state:invalid` | what is not valid |
| `a,b` | what is in both |
"""
_EXCLUDE = "In the same form, what is left out. A stage of which a task is left out is not published."
_INSTANCE = "The complete set of data that the run works on, by its name in pipedag.yaml."
_RUN_OF = "Set by the DAG of the flow: its run that this one is a part of. Leave it empty to run the stage by itself."
_DRY_RUN = "Nothing runs: the log and the XCom of the first operator say what would run, and why."
_FAIL_FAST = (
    "After the first failure no further task begins; those that would have fail and say so. Otherwise all goes on that "
    "does not need what failed."
)
_GRANULARITY = """\
| what becomes one process | |
|---|---|
| `as built` | what is one operator in the DAG |
| `stage` | a stage with all that is nested in it: its begin does it all |
| `flow` | the whole flow: the first begin does it all |

Tasks that a begin has done are shown as skipped; what became of them is in its log and its XCom.
"""
_IGNORE_CACHE_FUNCTION = "Results stay valid whatever their cache functions say: the mode `ignore_fresh_input`."
_IGNORE_TASK_VERSION = "Tasks that have a version run although it is unchanged."
_MODE = """\
| which results are taken as valid | |
|---|---|
| `normal` | those whose version, inputs, query and cache function say the same as when they were made |
| `ignore_fresh_input` | likewise, whatever cache functions say |
| `assert_no_fresh_input` | likewise, and a task with a cache function that would run is an error |
| `force_fresh_input` | none of tasks with a cache function |
| `force_cache_invalid` | none |
"""

# What a run does not say is for pipedag.yaml to say, which is not read as a whole where the form is made.
_CONFIGURED = "as configured"
_AS_BUILT = "as built"
#: What one process may run, beside what the DAG was built of.
STAGE, FLOW = "stage", "flow"
_COMMON = "__any__"
_PLACE = "The form of the run"


def with_form(
    settings: Settings, params: Mapping[str, Any], granularities: Sequence[str], *, part: bool = False
) -> dict[str, Any]:
    """Return the parameters of a DAG together with ours.

    Args:
        settings: What is said of the flow.
        params: The user's own parameters.
        granularities: What a run may ask to be run in one process, in place of what the DAG is built of.
        part: Whether it is the DAG of a stage, which the flow's DAG runs.

    Raises:
        ConfigError: if one of them has the name of one of ours.
    """
    form = {
        "instance": _instance(settings),
        "dry_run": _switch("Dry run", _DRY_RUN, "Run"),
        "fail_fast": _switch("Fail fast", _FAIL_FAST, "Run"),
        **({"granularity": _granularity(granularities)} if granularities else {}),
        "select": _lines("Run only", _SYNTAX),
        "exclude": _lines("Leave out", _EXCLUDE),
        "cache_validation_mode": _mode(),
        "ignore_cache_function": _switch("Ignore cache functions", _IGNORE_CACHE_FUNCTION, "Cache"),
        "ignore_task_version": _switch("Ignore task versions", _IGNORE_TASK_VERSION, "Cache"),
    }
    if part:
        form[RUN_OF] = Param(None, type=["null", "string"], title="Run of", description_md=_RUN_OF, section="Part")
    for name in params:
        if name in form or name == RUN_OF:
            raise ConfigError(
                f"The DAG of flow {settings.flow.name!r} has a parameter {name!r} of its own, but that is one of the "
                "form by which every run of a flow is asked for. Rename it."
            )
    return form | dict(params)


def _instance(settings: Settings) -> Param:
    default = settings.instance or _COMMON
    names = sorted({_COMMON, default, *settings.instances})
    # Where any name is an instance, those of the file are but examples.
    choices: dict[str, Any] = {"enum" if settings.only_known_instances else "examples": names}
    shown = {_COMMON: "the common one"}
    return Param(
        default,
        type="string",
        title="Instance",
        description_md=_INSTANCE,
        section="Run",
        values_display=shown,
        **choices,
    )


def _granularity(choices: Sequence[str]) -> Param:
    values = [_AS_BUILT, *choices]
    return Param(_AS_BUILT, type="string", enum=values, title="Granularity", description_md=_GRANULARITY, section="Run")


def _lines(title: str, description: str) -> Param:
    # The form shows a field of lines for the first type; one text will do in a call of the API.
    kinds = ["array", "string", "null"]
    return Param([], type=kinds, title=title, description_md=description, section="Selection")


def _switch(title: str, description: str, section: str) -> Param:
    return Param(False, type="boolean", title=title, description_md=description, section=section)


def _mode() -> Param:
    values = [_CONFIGURED, *map(str, CacheValidationMode)]
    title = "Cache validation mode"
    return Param(_CONFIGURED, type="string", enum=values, title=title, description_md=_MODE, section="Cache")


@attrs.frozen
class RunOptions:
    """What a run was asked for.

    Args:
        instance: The instance; None for the common one.
        select: What to run.
        exclude: What to leave out.
        dry_run: Whether it only says what would run.
        fail_fast: Whether no task begins after the first failure. The key of pipedag.yaml says what ``flow.run()``
            does with an error, and nothing of DAGs.
        granularity: What each begin is to run by itself, a stage or the flow; None for its own step alone.
        mode: Which stored results are valid; None for what is configured.
        ignore_cache_function: Whether cache functions are ignored.
        ignore_task_version: Whether unchanged versions count for nothing.
        run_of: Id of the run of the flow's DAG that it is a part of; None if it is one by itself.
    """

    instance: str | None
    select: Any = ()
    exclude: Any = ()
    dry_run: bool = False
    fail_fast: bool = False
    granularity: str | None = None
    mode: str | None = None
    ignore_cache_function: bool = False
    ignore_task_version: bool = False
    run_of: str | None = None

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> Self:
        """Read the parameters of a run, which Airflow has checked against the form."""
        mode = params["cache_validation_mode"]
        granularity = params.get("granularity", _AS_BUILT)
        return cls(
            instance=None if params["instance"] == _COMMON else params["instance"],
            select=params["select"] or (),
            exclude=params["exclude"] or (),
            dry_run=params["dry_run"],
            fail_fast=params["fail_fast"],
            granularity=None if granularity == _AS_BUILT else granularity,
            mode=None if mode == _CONFIGURED else mode,
            ignore_cache_function=params["ignore_cache_function"],
            ignore_task_version=params["ignore_task_version"],
        )

    def selection(self, plan: Plan) -> Selection:
        """Return what the run executes and publishes.

        Raises:
            SelectionError: if what was selected means nothing in this flow.
        """
        return select(plan, self.select, self.exclude)

    def configured(self, config: ConfigContext) -> ConfigContext:
        """Let what the run was asked for take the place of what is configured.

        Raises:
            ConfigError: if it contradicts itself.
        """
        from pipedag_airflow.run.launch import with_validation

        ignore_version = self.ignore_task_version or None
        return with_validation(config, self.mode, self.ignore_cache_function, ignore_version, _PLACE)
