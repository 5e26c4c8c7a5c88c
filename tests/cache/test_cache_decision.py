"""Rules 3.1, 3.2 and 3.7: the identity of a call, and the reason why it differs from a stored one."""

from __future__ import annotations

import attrs
import pytest

from pipedag_airflow import Blob, Flow, RawSql, Stage, Table, materialize
from pipedag_airflow.cache.decision import Decision, Identity, Reason, hash_cache_function, identify, why_different
from pipedag_airflow.core.classes import Classes
from pipedag_airflow.errors import UnsupportedValueError


def function(a, b=2, *more, c=3, **others):
    return a, b, more, c, others


def task(**arguments):
    return materialize(**{"version": "1"} | arguments)(function)


def identity(made=None, name="task", known=None, **arguments) -> Identity:
    return identify(made or task(), name, {"a": 1} | arguments, "task 'clean.task'", Classes(), known)


def stored(container, stage="clean", key="key"):
    container.locate(stage, 1, key)
    return container


# --- identity ----------------------------------------------------------------------------------------------------


def test_equal_calls_have_one_identity():
    assert identity(b=2, c=[1, 2]) == identity(c=(1, 2), b=2)
    assert identity().memo_key == identity().memo_key


@pytest.mark.parametrize(
    "other",
    [
        identity(name="another"),
        identity(task(version="2")),
        identity(task(version=None)),
        identity(a=2),
        identity(a="1"),
        identity(b=1),
        identity(task(cache=lambda a: a)),
        identity(known="known"),
    ],
    ids=["name", "version", "no version", "value", "type", "argument", "cache function", "known hash"],
)
def test_every_part_of_a_call_is_part_of_its_identity(other):
    assert other.memo_key != identity().memo_key


def test_values_do_not_pass_from_one_argument_to_the_next():
    assert identity(a=1, b=2).input_hash != identity(a=2, b=1).input_hash
    assert identity(a="x", b="y").input_hash != identity(a="xb", b="y").input_hash


@pytest.mark.parametrize("ignored", [{"lazy": True}, {"nout": 2}, {"input_type": int}])
def test_how_a_task_is_run_is_no_part_of_the_identity(ignored):
    assert identity(task(**ignored)).memo_key == identity().memo_key


def test_the_code_of_the_function_is_no_part_of_the_identity():
    assert identity(materialize(version="1")(lambda a: None)).memo_key == identity().memo_key


def test_a_version_that_is_a_number_counts_as_its_text():
    assert identity(task(version=1)) == identity(task(version="1"))


def test_a_table_counts_by_its_cache_key():
    assert identity(a=stored(Table(name="x"))) == identity(a=stored(Table(name="y")))
    assert identity(a=stored(Table())).memo_key != identity(a=stored(Table(), key="new")).memo_key


def test_an_argument_that_cannot_be_stored_is_refused_by_its_name():
    with pytest.raises(UnsupportedValueError, match=r"^Task 'clean\.task': argument b\['x'\] is of type set"):
        identify(task(), "task", {"a": 1, "b": {"x": {1}}}, "Task 'clean.task'", Classes())


# --- cache functions ---------------------------------------------------------------------------------------------


def test_the_cache_function_is_called_once_with_the_tasks_own_arguments():
    calls = []

    def cache(a, b=2, *more, c=3, **others):
        calls.append((a, b, more, c, others))
        return 1

    with Flow(), Stage("clean"):
        made = task(cache=cache)(1, 5, 6, 7, c=8, x=9, y=10)
    identify(made.unbound, "task", made.bound.arguments, "task 'clean.task'", Classes())
    assert calls == [(1, 5, (6, 7), 8, {"x": 9, "y": 10})]


def test_a_cache_function_may_take_any_arguments():
    calls = []
    with Flow(), Stage("clean"):
        made = task(cache=lambda *args, **kwargs: calls.append((args, kwargs)))(1, 5, 6, x=9)
    hash_cache_function(made.unbound, made.bound.arguments, "task 'clean.task'", Classes())
    assert calls == [((1, 5, 6), {"c": 3, "x": 9})]


def test_a_known_result_of_the_cache_function_is_not_asked_for_again():
    def cache(a):
        raise AssertionError

    assert identity(task(cache=cache), known="known").cache_function_hash == "known"


def test_a_task_without_a_cache_function_has_an_empty_hash():
    assert identity().cache_function_hash == ""


def test_a_cache_function_that_returns_nothing_is_not_the_same_as_none_at_all():
    assert identity(task(cache=lambda a: None)).cache_function_hash != ""


def test_the_result_of_the_cache_function_counts_by_value():
    results = [[1, 2], (1, 2), [2, 1], "x"]
    hashes = [identity(task(cache=lambda a, result=result: result)).cache_function_hash for result in results]
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 3


def test_a_result_of_the_cache_function_that_cannot_be_stored_is_refused():
    with pytest.raises(UnsupportedValueError, match=r"The result of the cache function of .*\[0\] is of type set"):
        identity(task(cache=lambda a: [{1}]))


# --- why a call differs ------------------------------------------------------------------------------------------


def why(now: Identity, before: Identity) -> Decision:
    return why_different(now, before.version, before.inputs_json(), before.cache_function_hash)


def test_equal_calls_do_not_differ():
    assert why(identity(), identity()) == Decision(False, Reason.FIRST_RUN)


def test_another_version_is_named_with_the_old_one():
    decision = why(identity(task(version="2")), identity())
    assert decision == Decision(False, Reason.VERSION_CHANGED, "version '1' is now '2'")


def test_a_version_that_was_added_is_named():
    decision = why(identity(), identity(task(version=None)))
    assert decision.detail == "version None is now '1'"


def test_the_version_is_named_before_all_else():
    assert why(identity(task(version="2"), a=2), identity()).reason is Reason.VERSION_CHANGED


def test_a_changed_argument_is_named_with_both_values():
    decision = why(identity(a="x", b={"k": [1.5, None]}), identity(a="x", b={"k": [2, True]}))
    assert decision == Decision(False, Reason.INPUT_CHANGED, """argument 'b': {"k":[2,true]} is now {"k":[1.5,null]}""")


def test_every_changed_argument_is_named():
    decision = why(identity(a=2, b=3, c=1), identity(a=1, b=2, c=1))
    assert decision.detail == "argument 'a': 1 is now 2; argument 'b': 2 is now 3"


def test_arguments_that_came_and_went_are_named():
    decision = why(identity(new=1), identity(old=1))
    assert decision.detail == "argument 'new': is new; argument 'old': is gone"


@pytest.mark.parametrize(
    ("container", "what"),
    [(Table, "table"), (RawSql, "SQL script"), (Blob, "blob")],
)
def test_a_container_that_was_made_anew_is_named_by_its_stage(container, what):
    decision = why(identity(a=stored(container(), key="new")), identity(a=stored(container())))
    assert decision.detail == f"argument 'a': the {what} from stage 'clean' was made anew"


def test_a_table_from_another_stage_is_named_by_both():
    decision = why(identity(a=stored(Table(), "raw")), identity(a=stored(Table())))
    assert decision.detail == "argument 'a': the table from stage 'clean' is now the table from stage 'raw'"


def test_a_table_in_place_of_a_value_is_named():
    assert why(identity(a=stored(Table())), identity()).detail == "argument 'a': 1 is now the table from stage 'clean'"
    assert why(identity(), identity(a=stored(Table()))).detail == "argument 'a': the table from stage 'clean' is now 1"


def test_a_changed_cache_function_is_the_reason_when_all_else_is_equal():
    decision = why(identity(task(cache=lambda a: 2)), identity(task(cache=lambda a: 1)))
    assert decision.reason is Reason.CACHE_FUNCTION_CHANGED
    assert "returns another value than before" in decision.detail


def test_a_changed_argument_is_named_before_the_cache_function():
    assert why(identity(known="x", a=2), identity(known="y")).reason is Reason.INPUT_CHANGED


def test_a_row_without_inputs_has_none():
    decision = why_different(identity(), "1", None, "")
    assert decision == Decision(False, Reason.INPUT_CHANGED, "argument 'a': is new")


def test_a_long_argument_is_cut_off_in_the_metadata():
    assert len(identity(a="x" * 10_000).inputs_json()) < 300


def test_a_change_at_the_end_of_a_long_argument_is_found():
    decision = why(identity(a="x" * 10_000 + "b"), identity(a="x" * 10_000 + "a"))
    assert decision.reason is Reason.INPUT_CHANGED
    assert decision.detail.startswith("argument 'a': \"xxx")
    assert len(decision.detail) < 600


def test_a_long_argument_that_is_equal_is_no_change():
    assert why(identity(a="x" * 10_000), identity(a="x" * 10_000)).reason is Reason.FIRST_RUN


# --- decisions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("decision", "line"),
    [
        (Decision(True, Reason.VALID), "valid"),
        (Decision(True, Reason.SAME_CALL, "the same call as a.b"), "valid: the same call as a.b"),
        (Decision(False, Reason.NO_VERSION), "runs (no_version)"),
        (Decision(False, Reason.VERSION_CHANGED, "'1' is now '2'"), "runs (version_changed): '1' is now '2'"),
    ],
)
def test_a_decision_reads_as_one_line(decision, line):
    assert str(decision) == line


def test_a_decision_and_an_identity_cannot_be_changed():
    for frozen, field in ((Decision(True, Reason.VALID), "valid"), (identity(), "version")):
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            setattr(frozen, field, None)
