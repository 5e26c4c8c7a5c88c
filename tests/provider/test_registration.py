"""Flow files as Airflow's own importer sees them: which DAGs there are, with what settings, and what is an error."""

from __future__ import annotations

import json
import zipfile
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import DagFolder

FLOW = """
from pipedag_airflow import Flow, Stage, materialize


@materialize(version="1")
def one():
    return 1


@materialize(version="1")
def two(value):
    return value


with Flow("NAME") as flow, Stage("stage"):
    two(one())
"""


def flow(name: str, more: str = "") -> str:
    return FLOW.replace("NAME", name) + more


def only(dags: DagFolder) -> Any:
    """Return the one DAG of a folder without errors."""
    bag = dags.parse()
    assert bag.import_errors == {}
    (dag,) = bag.dags.values()
    return dag


# --- which DAGs there are ----------------------------------------------------------------------------------------


def test_a_flow_becomes_a_dag_without_being_asked(dags: DagFolder) -> None:
    dags.write(shop=flow("shop"))
    dag = only(dags)
    assert dag.dag_id == "shop"
    assert dag.fileloc == str(dags.path / "shop.py")
    assert dag.task_ids == ["stage.begin_transaction", "stage.one", "stage.two", "stage.commit_transaction"]


def test_a_flow_that_a_stack_opens_and_closes_is_a_dag_too(dags: DagFolder) -> None:
    block = """with ExitStack() as stack:
    flow = stack.enter_context(Flow("shop"))
    stack.enter_context(Stage("stage"))
    two(one())"""
    text = flow("shop").replace('with Flow("shop") as flow, Stage("stage"):\n    two(one())', block)
    dags.write(shop=f"from contextlib import ExitStack\n{text}")
    dag = only(dags)
    assert (dag.dag_id, dag.fileloc) == ("shop", str(dags.path / "shop.py"))


def test_defaults_do_not_surprise(dags: DagFolder) -> None:
    dags.write(shop=flow("shop"))
    dag = only(dags)
    assert (dag.schedule, dag.catchup, dag.max_active_runs, dag.tags) == (None, False, 1, {"pipedag"})
    assert dag.start_date == datetime(2024, 1, 1, tzinfo=UTC)


def test_several_flows_of_one_file_are_several_dags(dags: DagFolder) -> None:
    dags.write(both=flow("a") + flow("b"))
    assert set(dags.parse().dags) == {"a", "b"}


def test_a_flow_that_is_imported_stays_the_dag_of_its_own_file(dags: DagFolder) -> None:
    dags.write(shop=flow("shop"), importer=flow("importer", "\nfrom shop import flow as other\n"))
    bag = dags.parse()
    assert bag.import_errors == {}
    assert {name: dag.fileloc for name, dag in bag.dags.items()} == {
        "importer": str(dags.path / "importer.py"),
        "shop": str(dags.path / "shop.py"),
    }


def test_a_flow_whose_block_has_an_error_is_no_dag(dags: DagFolder) -> None:
    dags.write(
        caught=flow("good", "\ntry:\n    with Flow('bad'):\n        raise KeyError\nexcept KeyError:\n    pass\n")
    )
    assert only(dags).dag_id == "good"


def test_a_file_in_an_archive(dags: DagFolder) -> None:
    with zipfile.ZipFile(dags.path / "flows.zip", "w") as archive:
        archive.writestr("in_archive.py", flow("in_archive"))
    assert only(dags).dag_id == "in_archive"


def test_a_folder_that_is_parsed_again_by_the_same_process(dags: DagFolder) -> None:
    dags.write(shop=flow("shop"))
    assert only(dags) is not only(dags)


# --- to_dag ------------------------------------------------------------------------------------------------------


def test_to_dag_replaces_the_automatic_dag_and_its_arguments_win(dags: DagFolder) -> None:
    dags.config("instances: {__any__: {airflow: {schedule: '@hourly', owner: x, tags: [a], retries: 2}}}")
    dags.write(shop=flow("shop", "\nflow.to_dag(schedule='@daily', tags=['b'])\n"))
    dag = only(dags)
    assert (dag.dag_id, dag.schedule, dag.tags) == ("shop", "@daily", {"b"})
    assert dag.get_task("stage.one").owner == "x"
    assert dag.get_task("stage.one").retries == 2


def test_to_dag_makes_further_dags_under_other_names(dags: DagFolder) -> None:
    dags.write(shop=flow("shop", "\nfor name in ('a', 'b'):\n    flow.to_dag(dag_id=name)\n"))
    bag = dags.parse()
    assert (set(bag.dags), bag.import_errors) == ({"a", "b"}, {})


def test_to_dag_of_a_flow_of_another_module_is_the_dag_of_the_file_that_asks(dags: DagFolder) -> None:
    library = dags.path.parent / "library"
    library.mkdir()
    (library / "flow_library.py").write_text(
        "from pipedag_airflow import Flow, Stage\n"
        "def build(name):\n"
        "    with Flow(name) as flow, Stage('stage'):\n"
        "        pass\n"
        "    return flow\n"
    )
    dags.write(
        uses_it=f"import sys\nsys.path.append({str(library)!r})\n"
        "from flow_library import build  # of an airflow dag\n"
        "build('left_alone')\n"
        "dag = build('asked_for').to_dag()\n"
    )
    dag = only(dags)
    assert (dag.dag_id, dag.fileloc) == ("asked_for", str(dags.path / "uses_it.py"))


def test_to_dag_works_where_nobody_parses_files(dags: DagFolder) -> None:
    (dags.path / "script.py").write_text(flow("shop", "\ndag = flow.to_dag(schedule=None)\nprint(dag.dag_id)\n"))
    assert dags.python("import runpy; runpy.run_path('script.py')") == "shop"


# --- settings ----------------------------------------------------------------------------------------------------

SETTINGS = """
instances:
  __any__: {}
  prod: {airflow: {retries: 3}}
flows:
  shop:
    airflow:
      instance: prod
      schedule: "0 5 * * *"
      start_date: 2025-03-01
      catchup: true
      tags: [shop, daily]
      owner: anna
      description: The shop.
      max_active_runs: 2
      max_active_tasks: 5
      retry_delay: 90
      pool: database
      queue: big
      default_args: {depends_on_past: true, retries: 1}
      params: {size: 3}
"""


def test_the_section_airflow_of_pipedag_yaml_becomes_arguments_of_the_dag(dags: DagFolder) -> None:
    dags.config(SETTINGS)
    dags.write(shop=flow("shop"))
    dag = only(dags)
    assert dag.schedule == "0 5 * * *"
    assert dag.start_date == datetime(2025, 3, 1, tzinfo=UTC)
    assert dag.catchup is True
    assert dag.tags == {"pipedag", "shop", "daily"}
    assert dag.description == "The shop."
    assert (dag.max_active_runs, dag.max_active_tasks) == (2, 5)
    assert dag.params["size"] == 3
    for task in dag.tasks:
        assert (task.owner, task.retries, task.retry_delay) == ("anna", 3, timedelta(seconds=90))
        assert (task.pool, task.queue, task.depends_on_past) == ("database", "big", True)
        assert task.reference.instance == "prod"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2025-03-01", datetime(2025, 3, 1, tzinfo=UTC)),
        ("'2025-03-01'", datetime(2025, 3, 1, tzinfo=UTC)),
        ("2025-03-01 06:30:00", datetime(2025, 3, 1, 6, 30, tzinfo=UTC)),
        ("'2025-03-01T06:30:00+02:00'", datetime(2025, 3, 1, 4, 30, tzinfo=UTC)),
    ],
)
def test_start_dates(dags: DagFolder, text: str, expected: datetime) -> None:
    dags.config(f"instances: {{__any__: {{airflow: {{start_date: {text}}}}}}}")
    dags.write(shop=flow("shop"))
    assert only(dags).start_date == expected


def test_a_variable_that_only_running_needs_may_be_missing(dags: DagFolder) -> None:
    dags.config("instances: {__any__: {table_store: {args: {url: 'postgresql://{$NOT_SET_ANYWHERE}@db/x'}}}}")
    dags.write(shop=flow("shop"))
    assert only(dags).dag_id == "shop"


# --- what is wrong -----------------------------------------------------------------------------------------------

HEAD = "from pipedag_airflow import Flow, Stage, materialize\n\n@materialize(version='1')\ndef task(*_): ...\n\n"


@pytest.mark.parametrize(
    ("text", "error", "named"),
    [
        (flow("twin") + flow("twin"), "DuplicateNameError", ["'twin'", "Rename one"]),
        (
            flow("twin", "\nflow.to_dag(schedule='@daily')\n") + flow("twin"),
            "DuplicateNameError",
            ["'twin'", "Rename one"],
        ),
        (
            flow("twin", "\nflow.to_dag(schedule='@daily')\nflow.to_dag()\n"),
            "DuplicateNameError",
            ["'twin'", "Rename one"],
        ),
        (
            HEAD + "with Flow('f'):\n    with Stage('twice'):\n        pass\n    with Stage('Twice'):\n        pass\n",
            "DuplicateNameError",
            ["'f'", "'twice'", "Rename one"],
        ),
        (
            HEAD + "s = Stage('twice')\nwith Flow('f'):\n    with s:\n        pass\n    with s:\n        pass\n",
            "StageError",
            ["'f'", "'twice'", "make a new Stage"],
        ),
        (HEAD + "with Flow('f'):\n    task()\n", "StageError", ["'task'", "'f'", "Stage"]),
        (
            HEAD + "with Flow('f'), Stage('s'):\n    task({1, 2})\n",
            "UnsupportedValueError",
            ["s.task", "'f'", "set"],
        ),
        (HEAD + "with Flow('f'), Stage('a.b'):\n    task()\n", "FlowError", ["'f'", "'a.b'", "Use letters"]),
        (HEAD + "with Flow('a flow'), Stage('s'):\n    task()\n", "FlowError", ["'a flow'", "Use letters"]),
    ],
    ids=["twins", "twins_to_dag", "two_to_dag", "stage_name", "stage_object", "outside", "set", "stage_id", "flow_id"],
)
def test_what_is_wrong_is_an_import_error_that_names_it_and_the_mend(
    dags: DagFolder, text: str, error: str, named: list[str]
) -> None:
    dags.write(broken=text, intact=flow("intact"))
    bag = dags.parse()
    assert set(bag.dags) == {"intact"}
    (message,) = bag.import_errors.values()
    for part in (f"pipedag_airflow.errors.{error}: ", *named):
        assert part in message


@pytest.mark.parametrize(
    ("config", "error", "named"),
    [
        ("instances: {__any__: {airflow: {shedule: x}}}", "ConfigError", ["shedule", "did you mean 'schedule'"]),
        ("instances: {__any__: {airflow: {instance: prd}}, prod: {}}", "InstanceNotFoundError", ["'prd'", "prod"]),
        ("instances: {__any__: {airflow: {owner: '{$NOT_SET_ANYWHERE}'}}}", "PlaceholderError", ["NOT_SET_ANYWHERE"]),
        (
            "instances: {__any__: {airflow: {start_date: soon}}}",
            "ConfigError",
            ["airflow.start_date", "'shop'", "soon"],
        ),
    ],
    ids=["unknown_key", "unknown_instance", "missing_variable", "date"],
)
def test_a_configuration_that_cannot_be_used_is_an_import_error(
    dags: DagFolder, config: str, error: str, named: list[str]
) -> None:
    dags.config(config)
    dags.write(shop=flow("shop"))
    bag = dags.parse()
    assert bag.dags == {}
    (message,) = bag.import_errors.values()
    for part in (f"pipedag_airflow.errors.{error}: ", *named):
        assert part in message


# --- every process of Airflow parses the file --------------------------------------------------------------------

SERIALISE = """
import json
from pathlib import Path
from airflow.dag_processing.dagbag import BundleDagBag
from airflow.serialization.serialized_objects import DagSerialization
folder = Path.cwd()
bag = BundleDagBag(folder, bundle_path=folder, bundle_name="test")
assert not bag.import_errors, bag.import_errors
# As Airflow does when it hashes a DAG: the order of the keys is that of sets of its own.
print(json.dumps([DagSerialization.to_dict(bag.dags[name]) for name in sorted(bag.dags)], sort_keys=True))
"""

WIDE = """
from pipedag_airflow import Flow, Stage, materialize


@materialize(version="1")
def task(*inputs):
    return 1


with Flow("wide") as flow:
    with Stage("outer"):
        first = [task(number) for number in range(9)]
        with Stage("inner"):
            second = [task(*first, number) for number in range(9)]
    with Stage("last"):
        task(*first, *second)
"""


def test_the_serialised_dag_is_the_same_in_every_process(dags: DagFolder) -> None:
    """Airflow makes a new version of a DAG whenever a byte of it changes."""
    dags.config(SETTINGS)
    dags.write(shop=flow("shop"), wide=WIDE)
    first, second = (dags.python(SERIALISE, PYTHONHASHSEED=seed) for seed in ("1", "2"))
    assert first == second
    assert len(json.loads(first)) == 2


def test_the_serialised_dag_has_no_secret_of_the_configuration(dags: DagFolder) -> None:
    dags.config(
        "instances: {__any__: {table_store: {args: {url: 'postgresql://u:hunter2@db/x', password: '{$SECRET}'}}}}"
    )
    dags.write(shop=flow("shop"))
    text = dags.python(SERIALISE, SECRET="swordfish")
    assert "hunter2" not in text
    assert "swordfish" not in text


def test_parsing_a_flow_file_is_light(dags: DagFolder) -> None:
    """Every task's process does it: nothing heavy is loaded, nothing is asked over a network, and no file is made."""
    dags.config("instances: {__any__: {table_store: {args: {url: 'postgresql://u@db.example.org/x'}}}}")
    dags.write(shop=flow("shop"))
    heavy = "('pandas', 'polars', 'pyarrow', 'numpy', 'duckdb', 'duckdb_sqlalchemy', 'psycopg2')"
    no_network = """
import socket, sys
def refuse(self, address):
    raise AssertionError(f"connects to {address}")
socket.socket.connect = socket.socket.connect_ex = refuse
"""
    loaded = dags.python(no_network + SERIALISE + f"print(sorted(set({heavy}) & sys.modules.keys()))\n")
    assert loaded == "[]"
    assert not (dags.path.parent / "home").exists()
    assert {path.name for path in dags.path.iterdir()} <= {"pipedag.yaml", "shop.py", "__pycache__"}


def test_a_local_import_of_a_flow_file_loads_no_airflow(dags: DagFolder) -> None:
    dags.write(shop=flow("shop"))
    assert dags.python("import sys, shop; print('airflow' in sys.modules, shop.flow.name)") == "False shop"
