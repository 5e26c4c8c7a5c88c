"""What each mode means, for each kind of task: a table, without a run."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

from pipedag_airflow import AUTO_VERSION, CacheValidationMode, Flow, Stage, materialize
from pipedag_airflow.cache.decision import Decision, Reason
from pipedag_airflow.errors import ConfigError, FreshInputError
from pipedag_airflow.run.launch import with_validation
from pipedag_airflow.run.policy import CachePolicy

if TYPE_CHECKING:
    from conftest import Project

    from pipedag_airflow.core.task import Task

MODES = list(CacheValidationMode)
NORMAL, ASSERT, IGNORE, FORCE_FRESH, FORCE_ALL = (
    CacheValidationMode.NORMAL,
    CacheValidationMode.ASSERT_NO_FRESH_INPUT,
    CacheValidationMode.IGNORE_FRESH_INPUT,
    CacheValidationMode.FORCE_FRESH_INPUT,
    CacheValidationMode.FORCE_CACHE_INVALID,
)

#: Kind of task by name: its arguments of materialize.
KINDS: dict[str, dict[str, Any]] = {
    f"{version or 'no version'}{', lazy' if lazy else ''}{', cache function' if cache else ''}": {
        "version": version,
        "lazy": lazy,
        "cache": (lambda: 1) if cache else None,
    }
    for version, lazy, cache in product([None, "1"], [False, True], [False, True])
}
KINDS["automatic version"] = {"version": AUTO_VERSION, "input_type": pd.DataFrame}


def task_of(kind: str) -> Task:
    with Flow("policy") as flow, Stage("one"):
        materialize(name="task", **KINDS[kind])(lambda: 1)()
    return flow["one"]["task"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ignore_version", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_what_is_forced(mode: CacheValidationMode, ignore_version: bool, kind: str) -> None:
    by_mode = mode is FORCE_ALL or (mode is FORCE_FRESH and "cache function" in kind)
    # The query or the data of a lazy task decide; an automatic version is the code, which always counts.
    by_version = ignore_version and kind in ("1", "1, cache function")

    why = CachePolicy(mode, ignore_version).why_forced(task_of(kind))

    if by_mode:
        assert why == f"cache_validation_mode is {mode.value}"
    elif by_version:
        assert why == "ignore_task_version is set"
    else:
        assert why is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", MODES)
def test_only_one_mode_refuses_to_read_and_only_fresh_input(mode: CacheValidationMode, kind: str) -> None:
    decision = Decision(False, Reason.VERSION_CHANGED, "from 1 to 2")
    policy = CachePolicy(mode)

    if mode is ASSERT and "cache function" in kind:
        with pytest.raises(FreshInputError, match=r"'one.task' has a cache function and is not valid"):
            policy.check_may_run(task_of(kind), decision)
    else:
        policy.check_may_run(task_of(kind), decision)


@pytest.mark.parametrize("mode", MODES)
def test_which_modes_ignore_what_cache_functions_say(mode: CacheValidationMode) -> None:
    assert CachePolicy(mode).ignores_fresh_input is (mode in (IGNORE, ASSERT))


def policy_of(project: Project, section: dict[str, Any], arguments: dict[str, Any]) -> CachePolicy:
    given = {"mode": None, "ignore_cache_function": False, "ignore_task_version": None} | arguments
    return CachePolicy.of(with_validation(project.config(cache_validation=section), **given))


@pytest.mark.parametrize("mode", MODES)
def test_the_configuration_says_the_mode_and_a_run_has_the_last_word(
    project: Project, mode: CacheValidationMode
) -> None:
    assert policy_of(project, {"mode": mode.value.upper()}, {}).mode is mode
    for other in MODES:
        assert policy_of(project, {"mode": mode.value}, {"mode": other}).mode is other
        assert policy_of(project, {"mode": mode.value}, {"mode": other.value.title()}).mode is other


@pytest.mark.parametrize(
    ("section", "arguments", "mode", "ignore_version"),
    [
        ({}, {}, NORMAL, False),
        ({}, {"ignore_cache_function": True}, IGNORE, False),
        ({}, {"ignore_cache_function": True, "mode": IGNORE}, IGNORE, False),
        ({}, {"ignore_cache_function": True, "mode": ASSERT}, ASSERT, False),
        ({}, {"ignore_task_version": True}, NORMAL, True),
        ({}, {"ignore_task_version": True, "mode": IGNORE}, IGNORE, True),
        ({"ignore_task_version": True}, {}, NORMAL, True),
        ({"ignore_task_version": True}, {"ignore_task_version": False}, NORMAL, False),
        ({"disable_cache_function": True}, {}, IGNORE, False),
        ({"disable_cache_function": True}, {"mode": NORMAL}, NORMAL, False),
        ({"disable_cache_function": True, "mode": "assert_no_fresh_input"}, {}, ASSERT, False),
        ({"disable_cache_function": True, "mode": "force_fresh_input"}, {"mode": NORMAL}, NORMAL, False),
    ],
    ids=str,
)
def test_what_the_configuration_and_a_run_say_together(
    project: Project,
    section: dict[str, Any],
    arguments: dict[str, Any],
    mode: CacheValidationMode,
    ignore_version: bool,
) -> None:
    assert policy_of(project, section, arguments) == CachePolicy(mode, ignore_version)


@pytest.mark.parametrize(
    ("section", "arguments", "message"),
    [
        ({}, {"mode": NORMAL, "ignore_cache_function": True}, "'normal' and ignore_cache_function"),
        ({}, {"mode": FORCE_FRESH, "ignore_cache_function": True}, "contradicts itself: .*'force_fresh_"),
        ({}, {"mode": FORCE_ALL, "ignore_cache_function": True}, "contradicts itself: .*'force_cache_"),
        ({}, {"mode": "always"}, "'always', but must be one of normal, assert_no_fresh_input"),
        (
            {"mode": "force_fresh_input", "disable_cache_function": True},
            {},
            "ignore_cache_function means 'ignore_fresh_input'",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_meant_is_refused(
    project: Project, section: dict[str, Any], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        policy_of(project, section, arguments)


def test_forcing_execution_in_the_configuration_is_the_mode_that_forces_all(project: Project) -> None:
    forced = project.config().evolve(force_task_execution=True)
    assert CachePolicy.of(forced).mode is FORCE_ALL


def test_flow_run_hands_on_what_it_is_told(project: Project) -> None:
    with Flow("empty") as flow:
        pass
    result = flow.run(config=project.config(), cache_validation_mode=FORCE_FRESH, ignore_task_version=True)
    assert CachePolicy.of(result.config_context) == CachePolicy(FORCE_FRESH, ignore_task_version=True)
