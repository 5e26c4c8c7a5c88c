"""Relative paths in a file are relative to the file."""

from __future__ import annotations

import pytest

from pipedag_airflow.config import PipedagConfig


def url_of(load, url: str) -> str:
    config = load(f"instances: {{__any__: {{table_store: {{args: {{url: '{url}'}}}}}}}}")
    return config.get().config_dict["table_store"]["args"]["url"]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("duckdb:///data.duckdb", "duckdb:///{folder}/data.duckdb"),
        ("duckdb:///sub/../data.duckdb?threads=2", "duckdb:///{folder}/data.duckdb?threads=2"),
        ("duckdb:///{instance_id}.duckdb", "duckdb:///{folder}/pipeline.duckdb"),
        ("duckdb:///../up.duckdb", "duckdb:///{parent}/up.duckdb"),
    ],
)
def test_a_relative_duckdb_file_lies_next_to_the_configuration(load, tmp_path, written, meant):
    assert url_of(load, written) == meant.format(folder=tmp_path / "project", parent=tmp_path)


@pytest.mark.parametrize(
    "url",
    [
        "duckdb:////absolute/data.duckdb",
        "duckdb:///:memory:",
        "duckdb:///:memory:named",
        "duckdb:///",
        "duckdb://",
        "duckdb:///md:cloud",
        "postgresql://db/relative",
    ],
)
def test_other_urls_stay(load, url):
    assert url_of(load, url) == url


def test_sqlalchemy_reads_the_path_of_an_odd_folder_back(write, tmp_path):
    from sqlalchemy import make_url

    file = write("instances: {__any__: {table_store: {args: {url: 'duckdb:///x.duckdb'}}}}", "a b%41?@/pipedag.yaml")
    url = PipedagConfig(file).get().config_dict["table_store"]["args"]["url"]
    assert make_url(url).database == str(tmp_path / "a b%41?@/x.duckdb")


@pytest.mark.parametrize(
    "path",
    [
        "blob_store",
        "lock_manager",
        "orchestration",
        "table_store.local_table_cache",
    ],
)
def test_a_relative_base_path_lies_next_to_the_configuration(write, tmp_path, path):
    import yaml

    section: dict = {"args": {"base_path": "files/here"}}
    for key in reversed(path.split(".")):
        section = {key: section}
    found = PipedagConfig(write(yaml.safe_dump({"instances": {"__any__": section}}))).get().config_dict
    for key in path.split("."):
        found = found[key]
    assert found["args"]["base_path"] == str(tmp_path / "project/files/here")


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("/absolute", "/absolute"),
        ("s3://bucket/key", "s3://bucket/key"),
        ("~/blobs", "{tmp}/home/blobs"),
        (".", "{tmp}/project"),
    ],
)
def test_other_base_paths(load, tmp_path, written, meant):
    context = load(f"instances: {{__any__: {{blob_store: {{args: {{base_path: '{written}'}}}}}}}}").get()
    assert context.config_dict["blob_store"]["args"]["base_path"] == meant.format(tmp=tmp_path)


def test_a_relative_file_of_url_attributes_lies_next_to_the_configuration(load, write):
    write("host: db", "project/login.yaml")
    config = load("instances: {__any__: {table_store: {args: {url: 'x://{host}', url_attrs_file: login.yaml}}}}")
    assert config.get().config_dict["table_store"]["args"] == {"url": "x://db"}


def test_a_configuration_that_was_named_by_a_relative_path_resolves_the_same(write, tmp_path, monkeypatch):
    write("instances: {__any__: {blob_store: {args: {base_path: b}}}}")
    config = PipedagConfig("../project/pipedag.yaml")
    monkeypatch.chdir(tmp_path)
    base_path = config.get().config_dict["blob_store"]["args"]["base_path"]
    assert base_path == str(tmp_path / "project/b")


def test_paths_in_a_dictionary_are_left_alone():
    section = {"table_store": {"args": {"url": "duckdb:///x"}}, "blob_store": {"args": {"base_path": "y"}}}
    found = PipedagConfig({"instances": {"__any__": section}}).get().config_dict
    assert found["table_store"]["args"]["url"] == "duckdb:///x"
    assert found["blob_store"]["args"]["base_path"] == "y"
