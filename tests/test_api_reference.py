"""The API reference of pydiverse.pipedag, item by item: class or function, and the signature that users call it with.

Annotations are left out: what counts is which calls are possible, and what an argument is when it is omitted.
"""

from __future__ import annotations

import inspect
from pkgutil import resolve_name

import pytest

from pipedag_airflow import Stage

PROPERTY = "property"
ATTRIBUTE = "attribute"

SQL_TABLE_STORE = (
    "(engine_url, *, create_database_if_not_exists=False, schema_prefix='', schema_suffix='', "
    "avoid_drop_create_schema=False, print_materialize=False, print_sql=False, no_db_locking=True, "
    "strict_materialization_details=True, materialization_details=None, default_materialization_details=None)"
)


def item(path, signature):
    """A line of the reference."""
    return pytest.param(path, signature, id=path)


REFERENCE = [
    item("Flow", "(name='default')"),
    item("Flow.__getitem__", "(self, name)"),
    item(
        "Flow.run",
        "(self, *components, config=None, orchestration_engine=None, fail_fast=None, ignore_cache_function=False, "
        "**kwargs)",
    ),
    item("Flow.get_stage", "(self, name)"),
    item("Flow.visualize", "(self, result=None)"),
    item("Flow.visualize_url", "(self, result=None)"),
    item("Flow.visualize_pydot", "(self, result=None)"),
    item("Stage", "(name, materialization_details=None)"),
    item("Stage.name", PROPERTY),
    item("Stage.transaction_name", PROPERTY),
    item("Stage.current_name", PROPERTY),
    item("Stage.__getitem__", "(self, item)"),
    item("Stage.get_task", "(self, name, index=None)"),
    item("materialize", "(fn=None, /, *, name=None, input_type=None, version=None, cache=None, lazy=False, nout=1)"),
    item("AUTO_VERSION", ATTRIBUTE),
    item(
        "Table",
        "(obj=None, name=None, *, primary_key=None, indexes=None, type_map=None, materialization_details=None)",
    ),
    item("RawSql", "(sql=None, name=None, separator=';')"),
    item("RawSql.__iter__", "(self)"),
    item("RawSql.__contains__", "(self, table_name)"),
    item("RawSql.__getitem__", "(self, table_name)"),
    item("RawSql.items", "(self)"),
    item("RawSql.get", "(self, table_name, default=None)"),
    item("Blob", "(obj=None, name=None)"),
    item(
        "Result",
        "(flow, subflow, underlying, successful, config_context, task_values, task_states, exception)",
    ),
    item("Result.flow", ATTRIBUTE),
    item("Result.underlying", ATTRIBUTE),
    item("Result.successful", ATTRIBUTE),
    item("Result.task_values", ATTRIBUTE),
    item("Result.task_states", ATTRIBUTE),
    item("Result.exception", ATTRIBUTE),
    item("Result.get", "(self, task, as_type=None)"),
    item("Result.visualize", "(self)"),
    item("Result.visualize_url", "(self)"),
    item("Result.visualize_pydot", "(self)"),
    item("PipedagConfig", "(path)"),
    item("PipedagConfig.default", ATTRIBUTE),
    item("PipedagConfig.get", "(self, instance=None, flow=None, per_user=False)"),
    item(
        "ConfigContext",
        "(config_dict, pipedag_name, flow_name, instance_name, fail_fast, strict_result_get_locking, "
        "ignore_task_version, instance_id, stage_commit_technique, network_interface, kroki_url, attrs, "
        "table_hook_args, ignore_cache_function=False, swallow_exceptions=False, force_task_execution=False)",
    ),
    item("ConfigContext.pipedag_name", ATTRIBUTE),
    item("ConfigContext.flow_name", ATTRIBUTE),
    item("ConfigContext.instance_name", ATTRIBUTE),
    item("ConfigContext.instance_id", ATTRIBUTE),
    item("ConfigContext.attrs", ATTRIBUTE),
    item("ConfigContext.evolve", "(self, **changes)"),
    item("ConfigContext.get", "()"),
    item("StageLockContext", "()"),
    item("StageLockContext.get", "()"),
    item("backend.table.SQLTableStore", SQL_TABLE_STORE),
    item("backend.table.sql.dialects.PostgresTableStore", SQL_TABLE_STORE),
    item("backend.table.sql.dialects.DuckDBTableStore", SQL_TABLE_STORE),
    item(
        "backend.table.sql.dialects.MSSqlTableStore",
        "(*args, disable_pytsql=False, pytsql_isolate_top_level_statements=True, **kwargs)",
    ),
    item("backend.table.sql.dialects.IBMDB2TableStore", SQL_TABLE_STORE),
    item("backend.table.cache.ParquetTableCache", "(*args, base_path, **kwargs)"),
    item("backend.blob.FileBlobStore", "(base_path)"),
    item(
        "backend.lock.DatabaseLockManager",
        "(engine, instance_id, lock_schema=None, create_lock_schema=True)",
    ),
    item("backend.lock.ZooKeeperLockManager", "(client, base_path)"),
    item("backend.lock.FileLockManager", "(base_path)"),
    item("backend.lock.NoLockManager", "()"),
    item("engine.SequentialEngine", "()"),
    item("engine.DaskEngine", "(**dask_compute_kwargs)"),
    item("PrefectEngine", "(flow_kwargs=None)"),
    item("engine.PrefectTwoEngine", "(flow_kwargs=None)"),
    item(
        "backend.table.sql.ExternalTableReference",
        "(name, schema, shared_lock_allowed=False)",
    ),
]

#: What the reference has and we never will: docs/compatibility.md says why.
NEVER = ["engine.PrefectOneEngine"]

#: The parameters that we have beyond the reference, each of which may be omitted.
ADDITIONS = {
    "Flow.run": ["cache_validation_mode", "ignore_task_version", "exclude", "inputs"],
    "Flow": ["airflow"],
    "Stage": ["tags", "airflow"],
    "materialize": ["tags", "airflow"],
    "Result": ["decisions", "run_id"],
    "Result.get": ["write_local_table_cache"],
    "Table": ["nullable", "non_nullable"],
    "ConfigContext": [
        "cache_validation_mode",
        "generations_to_keep",
        "lease_seconds",
        "begin_query_seconds",
        "dependents",
        "commit_wait_seconds",
        "commit_consistency",
        "wait_seconds",
        "airflow",
        "source",
        "auto_table",
        "auto_blob",
        "live",
    ],
    "backend.blob.FileBlobStore": ["key", "key_file", "trust_unsigned", "fernet_key"],
    "backend.lock.DatabaseLockManager": ["ticket_seconds", "clock"],
    "backend.lock.FileLockManager": ["ticket_seconds", "clock"],
    "backend.lock.NoLockManager": ["clock"],
    "backend.lock.ZooKeeperLockManager": ["ticket_seconds", "clock"],
}


def parameters_of(path):
    thing = resolve_name(f"pipedag_airflow.{path}")
    if inspect.isclass(thing) and thing.__new__ is not object.__new__:
        # A __new__ that chooses the class passes all arguments on.
        _self, *parameters = inspect.signature(thing.__init__).parameters.values()
        return parameters
    return list(inspect.signature(thing).parameters.values())


def shape_of(path):
    """Return what the table says of an item: its signature without our additions, or that it is no callable."""
    thing = resolve_name(f"pipedag_airflow.{path}")
    if isinstance(thing, property):
        return PROPERTY
    if not inspect.isclass(thing) and not inspect.isroutine(thing):
        return ATTRIBUTE
    added = ADDITIONS.get(path, [])
    shared = [parameter for parameter in parameters_of(path) if parameter.name not in added]
    return str(inspect.Signature([parameter.replace(annotation=inspect.Parameter.empty) for parameter in shared]))


@pytest.mark.parametrize(("path", "signature"), REFERENCE)
def test_the_item_is_as_in_the_reference(path, signature):
    assert shape_of(path) == signature


@pytest.mark.parametrize("path", NEVER)
def test_what_never_comes_says_what_to_write_instead(path):
    with pytest.raises(AttributeError, match="PrefectTwoEngine"):
        resolve_name(f"pipedag_airflow.{path}")


@pytest.mark.parametrize("path", ADDITIONS)
def test_a_call_of_the_reference_means_the_same_with_our_additions(path):
    by_name = {parameter.name: parameter for parameter in parameters_of(path)}
    added = ADDITIONS[path]
    assert set(added) <= set(by_name)
    assert [name for name in added if by_name[name].default is inspect.Parameter.empty] == []
    positional = [name for name, parameter in by_name.items() if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
    assert positional == sorted(positional, key=lambda name: name in added)


@pytest.mark.parametrize("name", ["name", "transaction_name", "current_name"])
def test_the_names_of_a_stage_cannot_be_set(name):
    with pytest.raises(AttributeError):
        setattr(Stage("stage"), name, "another")
