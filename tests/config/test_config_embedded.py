"""Without any file: DuckDB and files in a local folder."""

from __future__ import annotations

import pytest

from pipedag_airflow.config import PipedagConfig, StageCommitTechnique


def test_everything_lives_in_a_folder_of_the_working_directory(tmp_path):
    context = PipedagConfig.default.get(flow="anything")
    folder = tmp_path / "cwd/.pipedag"
    assert context.source == "embedded default"
    assert context.config_dict["table_store"] == {
        "class": "pipedag_airflow.backend.table.SQLTableStore",
        "args": {"url": f"duckdb:///{folder}/pipeline.duckdb"},
    }
    assert context.config_dict["blob_store"]["args"] == {"base_path": f"{folder}/blobs"}
    assert context.config_dict["lock_manager"]["args"] == {"base_path": f"{folder}/locks"}
    assert not folder.exists()


def test_its_options_are_those_for_trying_things_out():
    context = PipedagConfig.find().get()
    assert context.pipedag_name == "pipeline"
    assert context.instance_id == "pipeline"
    assert context.instance_name == "__any__"
    assert context.flow_name is None
    assert context.stage_commit_technique is StageCommitTechnique.READ_VIEWS
    assert context.fail_fast is True
    assert context.strict_result_get_locking is False
    assert context.auto_table == (
        "pandas.DataFrame",
        "polars.DataFrame",
        "polars.LazyFrame",
        "ibis.Table",
        "sqlalchemy.sql.expression.TextClause",
        "sqlalchemy.sql.expression.Selectable",
    )
    assert context.config_dict["orchestration"] == {"class": "pipedag_airflow.engine.SequentialEngine"}


def test_any_instance_name_is_fine():
    assert PipedagConfig.find().get("whatever").instance_name == "whatever"


def test_the_folder_lies_next_to_the_flow(tmp_path):
    args = PipedagConfig.find(tmp_path / "flows").get().config_dict["blob_store"]["args"]
    assert args == {"base_path": str(tmp_path / "flows/.pipedag/blobs")}


def test_the_environment_names_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("PIPEDAG_HOME", str(tmp_path / "data"))
    args = PipedagConfig.find(tmp_path / "flows").get().config_dict["blob_store"]["args"]
    assert args == {"base_path": str(tmp_path / "data/blobs")}


def test_it_has_no_airflow_settings():
    assert PipedagConfig.find().airflow_settings("anything") == {}


@pytest.mark.parametrize("folder", ["with space", "per%20cent", "a+b", "what?", "at@home"])
def test_sqlalchemy_reads_the_path_of_an_odd_folder_back(tmp_path, monkeypatch, folder):
    from sqlalchemy import make_url

    monkeypatch.setenv("PIPEDAG_HOME", str(tmp_path / folder))
    url = make_url(PipedagConfig.find().get().config_dict["table_store"]["args"]["url"])
    assert url.database == str(tmp_path / folder / "pipeline.duckdb")
