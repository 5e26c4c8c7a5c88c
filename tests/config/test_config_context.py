"""Rule 8.8: the context of a run."""

from __future__ import annotations

import pickle
import subprocess
import sys
from contextvars import copy_context
from threading import Thread

import attrs
import pytest
from box import BoxError

from pipedag_airflow.config import ConfigContext, PipedagConfig, StageCommitTechnique

SECRET = "hush-hush"


class Store:
    def __init__(self, **args):
        self.args = args


def context_with(**section) -> ConfigContext:
    return PipedagConfig({"instances": {"__any__": section}}).get()


def test_outside_of_any_context_there_is_none():
    with pytest.raises(LookupError, match="No ConfigContext is open"):
        ConfigContext.get()


def test_the_innermost_context_counts_and_a_context_can_be_entered_again():
    outer, inner = context_with(instance_id="outer"), context_with(instance_id="inner")
    with outer as entered:
        assert entered is outer
        with inner, outer:
            assert ConfigContext.get() is outer
        with inner, pytest.raises(ZeroDivisionError), outer:
            1 / 0  # noqa: B018
        assert ConfigContext.get() is outer
    with pytest.raises(LookupError):
        ConfigContext.get()


def test_threads_have_contexts_of_their_own():
    found = []

    def look():
        try:
            found.append(ConfigContext.get().instance_id)
        except LookupError:
            found.append(None)

    with context_with(instance_id="main"):
        inherited = copy_context()
        for target in (look, lambda: inherited.run(look)):
            thread = Thread(target=target)
            thread.start()
            thread.join()
    assert found == [None, "main"]


def test_it_cannot_be_changed():
    context = context_with(attrs={"a": {"b": 1}})
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        context.fail_fast = True
    with pytest.raises(BoxError):
        context.attrs.a.b = 2


def test_evolve_gives_a_changed_copy():
    context = context_with(fail_fast=False)
    changed = context.evolve(fail_fast=True, attrs={"x": {"y": 1}})
    assert (context.fail_fast, changed.fail_fast) == (False, True)
    assert changed.attrs.x.y == 1
    assert changed.evolve(fail_fast=False, attrs={}) == context


def test_evolve_refuses_what_is_no_attribute():
    with pytest.raises(TypeError, match="fail_fats"):
        context_with().evolve(fail_fats=True)


def test_a_copy_with_other_run_options_shares_its_stores():
    context = context_with(table_store={"class": Store})
    copy = context.evolve(ignore_cache_function=True, force_task_execution=True, swallow_exceptions=True)
    assert copy.table_store is context.table_store


def test_a_copy_of_another_instance_builds_its_own_stores():
    context = context_with(table_store={"class": Store})
    assert context.evolve(instance_id="other").table_store is not context.table_store


def test_it_can_be_pickled_and_the_copy_builds_its_own_stores():
    context = context_with(table_store={"class": f"{__name__}.Store", "args": {"x": 1}}, attrs={"a": [{"b": 1}]})
    store = context.table_store
    copy = pickle.loads(pickle.dumps(context))
    assert copy == context
    assert hash(copy) == hash(context)
    assert copy.attrs.a[0].b == 1
    assert copy.table_store is not store
    assert copy.table_store.args == {"x": 1}


def test_its_repr_shows_no_secrets(monkeypatch):
    monkeypatch.setenv("SECRET", SECRET)
    context = context_with(
        instance_id="dev",
        table_store={"args": {"url": "x://u:{$SECRET}@db"}, "hook_args": {"h": "{$SECRET}"}},
        attrs={"token": "{$SECRET}"},
        kroki_url="https://u:{$SECRET}@kroki",
        airflow={"params": {"p": SECRET}},
    )
    assert SECRET in str(context.config_dict)
    assert SECRET not in repr(context)
    assert "instance_id='dev'" in repr(context)


def test_a_configuration_can_be_pickled_compared_and_hashed(write):
    file = write("instances: {dev: {attrs: {a: 1}}}")
    config = PipedagConfig(file)
    copy = pickle.loads(pickle.dumps(config))
    assert copy == config == PipedagConfig(file)
    assert hash(copy) == hash(config)
    assert copy.get("dev") == config.get("dev")


def test_the_repr_of_a_configuration_shows_no_secrets():
    config = PipedagConfig({"instances": {"__any__": {"attrs": {"token": SECRET}}}})
    assert SECRET not in repr(config)


def test_it_can_be_made_from_the_documented_fields_alone():
    context = ConfigContext(
        {},
        "name",
        None,
        "__any__",
        False,
        True,
        False,
        "id",
        StageCommitTechnique.READ_VIEWS,
        "127.0.0.1",
        None,
        {},
        {},
    )
    assert context.instance_id == "id"
    assert context.generations_to_keep == 20


def test_it_knows_its_file(load, tmp_path):
    assert load("name: x").get().source == str(tmp_path / "project/pipedag.yaml")


def test_importing_and_reading_a_configuration_loads_nothing_heavy():
    code = (
        "import sys; from pipedag_airflow.config import PipedagConfig; lazy = 'box' not in sys.modules; "
        "PipedagConfig.default.get(); "
        "heavy = {'pandas', 'polars', 'pyarrow', 'duckdb', 'sqlalchemy', 'airflow'} & set(sys.modules); "
        "print(lazy, heavy)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown == "True set()\n"
