"""Rules 1.1.9, 5.2 and 5.4: tables, scripts and blobs check their arguments; a script is a mapping of its tables."""

from __future__ import annotations

import pytest

from pipedag_airflow import Blob, RawSql, Table, View


@pytest.fixture
def script():
    made = RawSql("CREATE …", "script")
    made.table_names = ["Flights", "planes"]
    made.locate("clean", 3, "key")
    return made


@pytest.mark.parametrize("kind", [Table, Blob])
def test_a_container_keeps_its_object_and_name(kind):
    thing = object()
    container = kind(thing, "name")
    assert container.obj is thing
    assert container.name == "name"
    assert (container.stage, container.generation, container.cache_key) == (None, None, None)


@pytest.mark.parametrize("kind", [Table, RawSql, Blob])
@pytest.mark.parametrize("name", [1, b"x", ["x"]])
def test_a_name_is_a_string(kind, name):
    with pytest.raises(TypeError, match=r"The name of a .* is a string, not"):
        kind(None, name)


@pytest.mark.parametrize("kind", [Table, View, RawSql, Blob])
@pytest.mark.parametrize("name", ["", "  ", "\t\n"])
def test_a_name_is_not_empty(kind, name):
    with pytest.raises(ValueError, match=r"The name of a .* is empty: .* Leave it out, and"):
        kind(None, name)


def test_a_single_column_is_a_primary_key():
    assert Table(primary_key="id").primary_key == ["id"]
    assert Table(primary_key=["a", "b"]).primary_key == ["a", "b"]
    assert Table().primary_key is None


@pytest.mark.parametrize("key", [1, [1], ["a", None], {"a"}])
def test_a_primary_key_is_a_column_or_a_list_of_columns(key):
    with pytest.raises(TypeError, match="primary_key is the name of a column or a list of names"):
        Table(primary_key=key)


@pytest.mark.parametrize("indexes", [None, [], [["a"]], [["a", "b"], ["c"]]])
def test_indexes_are_lists_of_columns(indexes):
    assert Table(indexes=indexes).indexes == indexes


@pytest.mark.parametrize("indexes", ["a", ["a"], ["a", "b"], [["a"], "b"], [[1]], [("a",)], {"a": ["b"]}])
def test_indexes_of_any_other_form_are_refused(indexes):
    with pytest.raises(TypeError, match="indexes is a list of lists of column names"):
        Table(indexes=indexes)


@pytest.mark.parametrize("argument", ["nullable", "non_nullable"])
@pytest.mark.parametrize("columns", ["a", ("a",), {"a"}, [1], [["a"]]])
def test_columns_of_which_nullability_is_said_are_a_list(argument, columns):
    with pytest.raises(TypeError, match=f"{argument} is a list of column names"):
        Table(**{argument: columns})


def test_all_but_object_and_name_of_a_table_go_by_keyword():
    with pytest.raises(TypeError, match="positional"):
        Table(None, "name", "id")


def test_the_statements_of_a_script_are_separated_by_semicolons_unless_said_otherwise():
    assert RawSql("SELECT 1").separator == ";"
    assert RawSql("SELECT 1", separator="|").separator == "|"


@pytest.mark.parametrize("separator", ["", None, 1])
def test_a_separator_is_a_string_that_is_not_empty(separator):
    with pytest.raises(TypeError, match="The separator of a raw SQL script is a string that is not empty"):
        RawSql("SELECT 1", separator=separator)


def test_a_script_yields_the_names_of_its_tables(script):
    assert list(script) == ["Flights", "planes"]


def test_a_script_that_was_not_run_has_no_tables():
    assert list(RawSql("CREATE TABLE x")) == []
    with pytest.raises(KeyError, match="made no table 'x', but: none"):
        RawSql("CREATE TABLE x")["x"]


def test_a_table_of_a_script_is_found_whatever_its_case(script):
    assert "flights" in script
    assert script["FLIGHTS"].name == "Flights"
    assert script.get("Planes").name == "planes"


def test_a_table_of_the_very_name_comes_before_one_that_differs_in_case(script):
    script.table_names = ["Flights", "flights"]
    assert script["flights"].name == "flights"
    assert script["Flights"].name == "Flights"


@pytest.mark.parametrize("name", ["trains", 1, None])
def test_a_table_that_the_script_did_not_make_is_not_there(script, name):
    assert name not in script
    assert script.get(name) is None
    assert script.get(name, "default") == "default"
    with pytest.raises(KeyError, match=r"script> made no table .*, but: Flights, planes"):
        script[name]


def test_the_tables_of_a_script_are_descriptors_with_an_identity_each(script):
    tables = dict(script.items())
    assert [(table.stage, table.generation) for table in tables.values()] == [("clean", 3)] * 2
    assert tables["Flights"].cache_key != tables["planes"].cache_key


def test_the_identity_of_a_scripts_table_follows_that_of_the_script(script):
    before = script["planes"].cache_key
    assert script["planes"].cache_key == before
    script.locate("clean", 4, "another key")
    assert script["planes"].cache_key != before


def test_a_loaded_script_gives_the_loaded_tables_by_every_way(script):
    frames = {"Flights": object(), "planes": object()}
    loaded = script.loaded(frames)
    assert dict(loaded.items()) == frames
    assert loaded["flights"] is frames["Flights"]
    assert loaded.get("planes") is frames["planes"]
    assert (loaded.sql, loaded.name, loaded.stage, loaded.cache_key) == (script.sql, "script", "clean", "key")


def test_loading_leaves_the_descriptor_as_it_is(script):
    script.loaded({"Flights": 1, "planes": 2})
    assert isinstance(script["planes"], Table)


def test_the_shown_form_has_stage_and_name():
    table = Table(None, "flights")
    assert repr(table) == "<Table flights>"
    table.locate("clean", 3, "key")
    assert repr(table) == "<Table clean.flights>"
