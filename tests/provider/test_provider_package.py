"""What Airflow is told about the package, and which files it is told to look into."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from importlib import import_module
from importlib.metadata import distribution
from pathlib import Path
from pkgutil import walk_packages

import airflow
import jsonschema
import pytest
import yaml
from airflow.dag_processing.bundles.base import BaseDagBundle
from airflow.plugins_manager import AirflowPlugin
from airflow.sdk import BaseHook, BaseOperator, BaseOperatorLink
from airflow.triggers.base import BaseTrigger

from pipedag_airflow import provider
from pipedag_airflow.provider.discovery import might_contain_dag
from pipedag_airflow.provider.info import get_provider_info


def test_the_provider_information_is_valid() -> None:
    schema = json.loads((Path(airflow.__file__).parent / "provider_info.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(get_provider_info(), schema)


def test_everything_that_airflow_can_use_is_listed() -> None:
    info = get_provider_info()
    listed = {
        kind: {module for entry in info.get(kind, ()) for module in entry["python-modules"]}
        for kind in ("operators", "hooks", "triggers", "bundles")
    }
    links = set(info.get("extra-links", ()))
    entry_points = distribution("pipedag-airflow").entry_points.select(group="airflow.plugins")
    plugins = {entry_point.value.replace(":", ".") for entry_point in entry_points}
    connections = {connection["hook-class-name"] for connection in info["connection-types"]}
    found = {cls for cls in _own_classes() if issubclass(cls, (BaseDagBundle, BaseOperator, BaseHook, BaseTrigger))}
    assert {cls.__module__ for cls in found if issubclass(cls, BaseOperator)} == listed["operators"]
    assert {cls.__module__ for cls in found if issubclass(cls, BaseHook)} == listed["hooks"]
    assert {cls.__module__ for cls in found if issubclass(cls, BaseTrigger)} == listed["triggers"]
    assert {cls.__module__ for cls in found if issubclass(cls, BaseDagBundle)} == listed["bundles"]
    assert {_path(cls) for cls in found if issubclass(cls, BaseHook)} == connections
    assert {_path(cls) for cls in _own_classes() if issubclass(cls, BaseOperatorLink)} == links
    assert {_path(cls) for cls in _own_classes() if issubclass(cls, AirflowPlugin)} == plugins


def _own_classes() -> set[type]:
    """The classes of the provider, without those that it imports."""
    modules = [import_module(found.name) for found in walk_packages(provider.__path__, f"{provider.__name__}.")]
    return {
        cls
        for module in modules
        for cls in vars(module).values()
        if isinstance(cls, type) and cls.__module__ == module.__name__
    }


def _path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def test_the_option_of_ours_has_its_default() -> None:
    from airflow.configuration import conf

    assert conf.get("pipedag", "config_file") == ""


def test_airflow_shows_the_provider_with_all_that_it_has(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("AIRFLOW_", "_AIRFLOW_"))}
    done = subprocess.run(
        [sys.executable, "-m", "airflow", "providers", "get", "pipedag-airflow", "--full", "--output", "yaml"],
        env=environment | {"AIRFLOW_HOME": str(tmp_path)},
        check=True,
        capture_output=True,
        text=True,
    )
    shown = {key: value for row in yaml.safe_load(done.stdout) for key, value in row.items()}
    ours = get_provider_info()
    assert {key: shown[key] for key in ours} == ours
    assert distribution("pipedag-airflow").version == ours["versions"][0]


def test_no_link_of_the_provider_leads_to_others() -> None:
    """The project has no pages of its own yet, and those of others describe something else."""
    assert "https:" not in json.dumps(get_provider_info())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("from pipedag_airflow import Flow", True),
        ("import os\n\n    import pipedag_airflow as pd\n", True),
        ("from pydiverse.pipedag import Flow", False),
        ("from mypipedag import flow", True),
        ("# an Airflow DAG", True),
        ("x = 'import pipedag'", False),
        ("import numpy", False),
        ("", False),
    ],
)
def test_files_that_may_hold_a_dag(tmp_path: Path, text: str, expected: bool) -> None:
    file = tmp_path / "file.py"
    file.write_text(text, encoding="utf-8")
    assert might_contain_dag(str(file)) is expected
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        archive.writestr("inside.py", text)
    with zipfile.ZipFile(tmp_path / "archive.zip") as archive:
        assert might_contain_dag("inside.py", archive) is expected


def test_airflow_asks_us_when_it_is_told_to(tmp_path: Path) -> None:
    (tmp_path / "wrapped.py").write_text("from company_pipedag import flow\n", encoding="utf-8")
    script = "import sys; from airflow.utils.file import might_contain_dag; print(might_contain_dag(sys.argv[1], True))"
    answers = [
        subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / "wrapped.py")],
            env=os.environ | environment,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.splitlines()[-1]
        for environment in (
            {},
            {"AIRFLOW__CORE__MIGHT_CONTAIN_DAG_CALLABLE": "pipedag_airflow.provider.discovery.might_contain_dag"},
        )
    ]
    assert answers == ["False", "True"]
