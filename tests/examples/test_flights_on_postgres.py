"""The example runs on PostgreSQL when one line of the configuration names the database."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipedag_airflow import PipedagConfig
from pipedag_airflow.config.embedded import duckdb_url, embedded_default
from pipedag_airflow.run.summary import published_by

if TYPE_CHECKING:
    import pytest
    import sqlalchemy as sa

FLOW_FILE = Path(__file__).parents[2] / "dags_examples" / "flights.py"


def load_flow() -> Any:
    spec = importlib.util.spec_from_file_location("flights_on_postgres", FLOW_FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.flow


def test_the_example_runs_with_one_changed_line(
    tmp_path: Path, postgres_url: sa.URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    import yaml

    monkeypatch.delenv("PIPEDAG_CONFIG", raising=False)
    monkeypatch.setenv("PIPEDAG_HOME", str(tmp_path))
    before = yaml.safe_dump(embedded_default().data)
    there = postgres_url.set(drivername="postgresql").render_as_string(hide_password=False)
    after = before.replace(duckdb_url(tmp_path / "pipeline.duckdb"), there)
    assert sum(old != new for old, new in zip(before.splitlines(), after.splitlines(), strict=True)) == 1
    (tmp_path / "pipedag.yaml").write_text(after)
    flow, config = load_flow(), PipedagConfig(tmp_path / "pipedag.yaml").get()

    first = flow.run(config=config)
    second = flow.run(config=config)

    rows = {f"{stage.name}.{table.name}": table.rows for stage in published_by(first) for table in stage.tables}
    assert rows["ingest.flights"] == rows["enrich.flights"] == 336_776
    assert (rows["report.by_carrier"], rows["report.by_route"], rows["report.by_weather"]) == (16, 224, 5)
    assert {state.value for state in second.task_states.values()} == {"cache_valid"}
    assert [stage.generation for stage in published_by(second)] == [1] * 5
