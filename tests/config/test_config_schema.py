"""Rules 8.2 and 8.6: which keys and values are legal, and what an error says about the others."""

from __future__ import annotations

import pytest

from pipedag_airflow.config import PipedagConfig, StageCommitTechnique
from pipedag_airflow.errors import ConfigError


def refusal(config) -> str:
    with pytest.raises(ConfigError) as caught:
        PipedagConfig(config)
    return str(caught.value)


def test_an_unknown_key_is_named_with_file_line_path_and_the_nearest_key(write):
    file = write(
        """\
        name: x
        instances:
          __any__:
            fail_fast: true
            orchestration:
              clas: some.Engine
        """
    )
    message = refusal(file)
    assert f"{file}, line 6: instances.__any__.orchestration.clas: unknown key 'clas'; did you mean 'class'?" in message


@pytest.mark.parametrize(
    ("data", "path", "nearest"),
    [
        ({"instance": {}}, "instance", "instances"),
        ({"instances": {"dev": {"fail_fats": True}}}, "instances.dev.fail_fats", "fail_fast"),
        ({"instances": {"dev": {"FAIL_FAST": True}}}, "instances.dev.FAIL_FAST", "fail_fast"),
        ({"flows": {"f": {"instance": {}}}}, "flows.f.instance", "instances"),
        ({"flows": {"f": {"instances": {"i": {"atrs": {}}}}}}, "flows.f.instances.i.atrs", "attrs"),
        ({"technical_setups": {"s": {"table_stor": {}}}}, "technical_setups.s.table_stor", "table_store"),
        ({"instances": {"i": {"airflow": {"scedule": 1}}}}, "instances.i.airflow.scedule", "schedule"),
        ({"instances": {"i": {"table_store": {"hook_arg": 1}}}}, "instances.i.table_store.hook_arg", "hook_args"),
        (
            {"instances": {"i": {"table_store": {"local_table_cache": {"store_inputs": True}}}}},
            "instances.i.table_store.local_table_cache.store_inputs",
            "store_input",
        ),
        (
            {"instances": {"i": {"cache_validation": {"modus": "normal"}}}},
            "instances.i.cache_validation.modus",
            "mode",
        ),
        (
            {"table_store_connections": {"pg": {"arg": {}}}},
            "table_store_connections.pg.arg",
            "args",
        ),
        ({"blob_store_connections": {"b": {"arg": {}}}}, "blob_store_connections.b.arg", "args"),
    ],
)
def test_the_nearest_key_is_offered_at_every_level(data, path, nearest):
    message = refusal(data)
    assert path in message
    assert repr(nearest) in message


def test_without_a_near_key_all_valid_ones_are_listed():
    message = refusal({"instances": {"i": {"cache_validation": {"zzz": 1}}}})
    assert "valid here: disable_cache_function, ignore_task_version, mode" in message


def test_arguments_of_a_class_that_stand_next_to_it_are_sent_to_args():
    message = refusal({"instances": {"i": {"table_store": {"schema_prefix": "x_"}}}})
    assert "arguments of the class belong under 'args'" in message


@pytest.mark.parametrize(("key", "value"), [("disable_kroki", True), ("visualization", {"default": {"styles": {}}})])
def test_what_is_not_configured_any_more_is_explained_away(key, value):
    assert f"unknown key '{key}'; remove it" in refusal({"instances": {"i": {key: value}}})


@pytest.mark.parametrize("key", ["metadata_store", "metadata_table_store"])
def test_a_store_of_its_own_for_the_metadata_is_explained_away(key):
    message = refusal({"instances": {"i": {"table_store": {key: {"class": "a.B"}}}}})
    assert f"unknown key '{key}'; remove it: the metadata are in the database of the tables" in message


def test_a_technical_setup_does_not_refer_to_another_one():
    assert "technical_setups.s.technical_setup" in refusal({"technical_setups": {"s": {"technical_setup": "t"}}})


def test_all_problems_are_told_at_once(write):
    message = refusal(write("nam: x\ninstances:\n  i:\n    fail_fast: maybe\n"))
    assert [line.split(": ")[0].rpartition(", ")[2] for line in message.splitlines()] == ["line 1", "line 4"]


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("fail_fast", "yes please", "true or false"),
        ("fail_fast", 1, "true or false"),
        ("fail_fast", {"a": 1}, "found a map with 1 keys"),
        ("fail_fast", "x" * 200, "xxx... (str)"),
        ("strict_result_get_locking", "no", "true or false"),
        ("ignore_task_version", [], "true or false"),
        ("instance_id", 7, "text"),
        ("instance_id", "", "not empty"),
        ("per_user_template", True, "text"),
        ("network_interface", 127, "text"),
        ("kroki_url", False, "text"),
        ("auto_table", "pandas.DataFrame", "a list of texts"),
        ("auto_blob", [1], "a list of texts"),
        ("attrs", [1], "a map"),
        ("technical_setup", ["a"], "text"),
        ("stage_commit_technique", "swap", "one of schema_swap, read_views"),
        ("stage_commit_technique", 1, "one of schema_swap, read_views"),
        ("generations_to_keep", 0, "a whole number of at least 1"),
        ("generations_to_keep", 2.5, "a whole number of at least 1"),
        ("generations_to_keep", True, "a whole number of at least 1"),
        ("lease_seconds", 0, "above 0"),
        ("wait_seconds", -1, "at least 0"),
        ("lease_seconds", "60", "above 0"),
        ("begin_query_seconds", -1, "at least 0"),
        ("table_store", "some.Store", "a map"),
        ("blob_store", [], "a map"),
        ("airflow", True, "a map"),
    ],
)
def test_a_value_of_the_wrong_type_is_shown_with_what_is_expected(key, value, expected):
    message = refusal({"instances": {"dev": {key: value}}})
    assert message.startswith(f"dictionary: instances.dev.{key}: expected ")
    assert expected in message
    assert "found" in message


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("table_store.class", 3, "dotted path"),
        ("table_store.args", "url", "a map"),
        ("table_store.hook_args", 1, "a map"),
        ("table_store.local_table_cache.store_output", "no", "true or false"),
        ("cache_validation.mode", "force_caches_invalid", "force_cache_invalid"),
        ("cache_validation.disable_cache_function", "x", "true or false"),
        ("airflow.instance", 1, "text"),
        ("airflow.start_date", 2024, "a date"),
        ("airflow.catchup", "no", "true or false"),
        ("airflow.tags", "a", "a list of texts"),
        ("airflow.owner", 1, "text"),
        ("airflow.description", 1, "text"),
        ("airflow.max_active_runs", 0, "at least 1"),
        ("airflow.max_active_tasks", "many", "at least 1"),
        ("airflow.retries", -1, "at least 0"),
        ("airflow.retry_delay", "5m", "seconds"),
        ("airflow.pool", 1, "text"),
        ("airflow.queue", "", "text"),
        ("airflow.default_args", [], "a map"),
        ("airflow.params", "p", "a map"),
    ],
)
def test_a_nested_value_of_the_wrong_type_is_shown_with_what_is_expected(path, value, expected):
    section = value
    for key in reversed(path.split(".")):
        section = {key: section}
    message = refusal({"flows": {"f": section}})
    assert f"flows.f.{path}: expected" in message
    assert expected in message


@pytest.mark.parametrize(
    "data",
    [
        {"name": 1},
        {"strict_instance_lookup": "x"},
        {"instances": []},
        {"instances": {"dev": "x"}},
        {"instances": {1: {}}},
        {"flows": {"f": {"instances": "x"}}},
        {"technical_setups": 1},
        {"table_store_connections": {"pg": "postgresql://bob:hush@db"}},
    ],
)
def test_the_frame_of_the_file_is_checked_too(data):
    message = refusal(data)
    assert "expected" in message or "must be text" in message
    assert "hush" not in message
    assert "bob" not in message


def test_a_free_form_map_may_hold_anything():
    PipedagConfig({"instances": {"i": {"attrs": {"what": {"ever": [1, {"x": None}]}, 3: True}}}})


@pytest.mark.parametrize("value", ["text", ["list"], {"map": ["stage"]}])
@pytest.mark.parametrize("key", ["tags", "stage_tags"])
def test_decoration_may_be_anything(key, value):
    PipedagConfig({"instances": {"i": {key: value}}})


@pytest.mark.parametrize("owner", ["args", "hook_args"])
def test_arguments_are_not_checked_by_the_schema(owner):
    PipedagConfig({"instances": {"i": {"table_store": {owner: {"zzz": {"y": 1}}}}}})


def test_null_is_fine_everywhere():
    config = PipedagConfig({"name": None, "flows": None, "instances": {"i": None, "j": {"fail_fast": None}}})
    assert config.get("i").fail_fast is False
    assert config.get("j").fail_fast is False


def test_keys_with_an_underscore_are_homes_of_yaml_anchors(load):
    config = load(
        """\
        _common: &common
          fail_fast: true
          attrs: {a: 1}
        instances:
          __any__:
            <<: *common
            attrs: {b: 2}
        """
    )
    context = config.get()
    assert context.fail_fast is True
    assert context.attrs == {"b": 2}


def test_a_mistake_behind_an_anchor_has_the_line_of_the_anchor(write):
    message = refusal(write("_c: &c\n  fail_fats: true\ninstances:\n  i:\n    <<: *c\n    attrs: {}\n"))
    assert "line 2: instances.i.fail_fats" in message


def test_a_key_that_is_written_twice_is_refused_with_both_lines(write):
    message = refusal(write("instances:\n  a:\n    fail_fast: true\n  b: {}\n  a: {}\n"))
    assert "line 5: instances.a is already written in line 3" not in message
    assert "line 5: instances.a is already written in line 2" in message


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("name: x\ninstances: [\n", "line 3"),
        ("name: 'x\n", "line 2"),
        ("name: x\n  password: hush\n", "line 2"),
        ("name: x\nurl: !hush\n", "line 2"),
        ("name: x\nurl: *hush\n", "line 2"),
        ("name: x\n---\nname: y", "line 2"),
        ("name: &x\n  y: *x\n", "line 1: name.y contains itself"),
        ("a: 2024-13-45", "month must be in 1..12"),
        ("- a\n- b\n", "line 1"),
        ("just text", "must be a map"),
    ],
)
def test_a_syntax_error_has_file_and_line_and_no_content(write, text, line):
    file = write(text)
    with pytest.raises(ConfigError) as caught:
        PipedagConfig(file)
    assert str(file) in str(caught.value)
    assert line in str(caught.value)
    assert "hush" not in str(caught.value)
    assert caught.value.__context__ is None


def test_the_built_in_defaults():
    context = PipedagConfig({}).get()
    assert context.instance_id == "pipeline"
    assert context.stage_commit_technique is StageCommitTechnique.SCHEMA_SWAP
    assert context.fail_fast is False
    assert context.strict_result_get_locking is True
    assert context.network_interface == "127.0.0.1"
    assert context.kroki_url is None
    assert context.auto_table == ()
    assert context.auto_blob == ()
    assert context.attrs == {}
    assert context.table_hook_args == {}
    assert context.ignore_task_version is False
    assert context.ignore_cache_function is False
    assert context.generations_to_keep == 20
    assert context.lease_seconds == 60
    assert context.begin_query_seconds == 20
    assert context.airflow == {}
    assert context.source == "dictionary"


def test_every_attribute_reaches_the_context():
    context = PipedagConfig(
        {
            "name": "shop",
            "instances": {
                "__any__": {
                    "instance_id": "shop_dev",
                    "stage_commit_technique": "Read_Views",
                    "fail_fast": True,
                    "strict_result_get_locking": False,
                    "network_interface": "::1",
                    "kroki_url": "https://kroki.example",
                    "auto_table": ["pandas.DataFrame"],
                    "auto_blob": ["a.B"],
                    "attrs": {"sample": {"rows": 5}},
                    "table_store": {"hook_args": {"pandas": {"dtype_backend": "arrow"}}},
                    "cache_validation": {"disable_cache_function": True},
                    "ignore_task_version": True,
                    "generations_to_keep": 3,
                    "lease_seconds": 1.5,
                    "begin_query_seconds": 0,
                    "airflow": {"schedule": "@daily"},
                }
            },
        }
    ).get()
    assert context.pipedag_name == "shop"
    assert context.instance_id == "shop_dev"
    assert context.stage_commit_technique is StageCommitTechnique.READ_VIEWS
    assert (context.fail_fast, context.strict_result_get_locking) == (True, False)
    assert context.network_interface == "::1"
    assert context.kroki_url == "https://kroki.example"
    assert (context.auto_table, context.auto_blob) == (("pandas.DataFrame",), ("a.B",))
    assert context.attrs.sample.rows == 5
    assert context.table_hook_args.pandas.dtype_backend == "arrow"
    assert context.ignore_cache_function is True
    assert context.ignore_task_version is True
    assert (context.generations_to_keep, context.lease_seconds, context.begin_query_seconds) == (3, 1.5, 0)
    assert context.airflow.schedule == "@daily"


@pytest.mark.parametrize(("outer", "inner", "result"), [(True, False, False), (False, True, True), (True, None, True)])
def test_cache_validation_says_more_about_task_versions_than_the_older_key(outer, inner, result):
    section = {"ignore_task_version": outer, "cache_validation": {"ignore_task_version": inner}}
    assert PipedagConfig({"instances": {"__any__": section}}).get().ignore_task_version is result
