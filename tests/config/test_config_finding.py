"""Rule 8.1: where the configuration is looked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipedag_airflow.config import PipedagConfig
from pipedag_airflow.errors import ConfigError, ConfigNotFoundError


def test_a_file_in_the_working_directory_is_found(write):
    file = write("name: here", "cwd/pipedag.yaml")
    assert PipedagConfig.find().path == file
    assert PipedagConfig.default.name == "here"


def test_yaml_is_taken_before_yml(write):
    write("name: second", "cwd/pipedag.yml")
    assert PipedagConfig.find().name == "second"
    write("name: first", "cwd/pipedag.yaml")
    assert PipedagConfig.find().name == "first"


def test_a_parent_of_the_working_directory_is_taken_before_home(write, monkeypatch, tmp_path):
    write("name: parent", "cwd/pipedag.yml")
    write("name: home", "home/pipedag.yaml")
    (tmp_path / "cwd/deep/deeper").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "cwd/deep/deeper")
    assert PipedagConfig.find().name == "parent"


def test_home_is_the_last_resort(write):
    write("name: home", "home/pipedag.yaml")
    assert PipedagConfig.find().name == "home"


def test_the_folder_of_the_flow_is_looked_through_first(write, tmp_path):
    write("name: cwd", "cwd/pipedag.yaml")
    write("name: flow", "flows/pipedag.yaml")
    (tmp_path / "flows/daily").mkdir()
    assert PipedagConfig.find(tmp_path / "flows/daily").name == "flow"
    assert PipedagConfig.find().name == "cwd"


def test_a_folder_called_pipedag_yaml_is_not_a_file(write, tmp_path):
    (tmp_path / "cwd/pipedag.yaml").mkdir()
    write("name: file", "cwd/pipedag.yml")
    assert PipedagConfig.find().name == "file"


@pytest.mark.parametrize("named", ["elsewhere/pipedag.yaml", "elsewhere"])
def test_the_environment_names_a_file_or_a_folder(write, monkeypatch, tmp_path, named):
    write("name: cwd", "cwd/pipedag.yaml")
    write("name: elsewhere", "elsewhere/pipedag.yaml")
    monkeypatch.setenv("PIPEDAG_CONFIG", str(tmp_path / named))
    assert PipedagConfig.find(tmp_path / "cwd").name == "elsewhere"


@pytest.mark.parametrize("named", ["missing.yaml", "home"])
def test_an_environment_that_leads_nowhere_is_an_error_and_not_ignored(write, monkeypatch, tmp_path, named):
    write("name: cwd", "cwd/pipedag.yaml")
    monkeypatch.setenv("PIPEDAG_CONFIG", str(tmp_path / named))
    with pytest.raises(ConfigNotFoundError) as caught:
        PipedagConfig.find()
    assert isinstance(caught.value, FileNotFoundError)
    assert "PIPEDAG_CONFIG" in str(caught.value)
    assert str(tmp_path / named) in str(caught.value)


def test_an_empty_variable_counts_as_unset(write, monkeypatch):
    write("name: cwd", "cwd/pipedag.yaml")
    monkeypatch.setenv("PIPEDAG_CONFIG", "")
    assert PipedagConfig.find().name == "cwd"


def test_the_default_is_read_once_for_each_place_to_look(write, monkeypatch, tmp_path):
    write("name: one", "cwd/pipedag.yaml")
    write("name: two", "other/pipedag.yaml")
    first = PipedagConfig.default
    assert PipedagConfig.default is first
    monkeypatch.setenv("PIPEDAG_CONFIG", str(tmp_path / "other"))
    assert PipedagConfig.default.name == "two"


def test_a_path_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(ConfigNotFoundError, match=r"gone.yaml"):
        PipedagConfig(tmp_path / "gone.yaml")


def test_a_text_is_a_path(write):
    assert PipedagConfig(str(write("name: text"))).name == "text"


def test_only_paths_and_dictionaries_are_configurations():
    with pytest.raises(TypeError, match="list"):
        PipedagConfig([])


def test_a_process_without_home_and_without_file_gets_the_embedded_default(monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    assert PipedagConfig.find().path is None


def test_an_empty_file_is_an_empty_configuration(load):
    config = load("")
    assert config.raw_config == {}
    assert config.name == "pipeline"
    assert config.get().instance_id == "pipeline"


def test_a_file_that_may_not_be_read_is_named(write, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    file = write("name: x")
    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(ConfigError, match="pipedag\\.yaml cannot be read: Permission denied"):
        PipedagConfig(file)


def test_a_file_that_is_no_text_is_an_error_without_its_content(write):
    file = write("")
    file.write_bytes(b"password: hush\xff")
    with pytest.raises(ConfigError, match="UTF-8") as caught:
        PipedagConfig(file)
    assert caught.value.__context__ is None
