"""Rules 8.3 and 8.4: named blocks, and which section wins."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipedag_airflow.config import PipedagConfig
from pipedag_airflow.config.merging import merge, without_nulls
from pipedag_airflow.errors import ConfigError, InstanceNotFoundError, MissingBlockError

LAYERS = [
    ("instances", "__any__"),
    ("instances", "dev"),
    ("flows", "__any__"),
    ("flows", "__any__", "instances", "dev"),
    ("flows", "shop"),
    ("flows", "shop", "instances", "dev"),
]


def config_of(*layers, value=lambda path: ".".join(path)) -> PipedagConfig:
    data: dict = {}
    for path in layers:
        here = data
        for key in path:
            here = here.setdefault(key, {})
        here["attrs"] = {"who": value(path), ".".join(path): True}
    return PipedagConfig(data)


@pytest.mark.parametrize("count", range(1, len(LAYERS) + 1))
def test_the_more_specific_section_wins_and_nothing_else_is_lost(count):
    context = config_of(*LAYERS[:count]).get("dev" if count > 1 else None, "shop")
    assert context.attrs.who == ".".join(LAYERS[count - 1])
    assert set(context.attrs) == {"who", *(".".join(path) for path in LAYERS[:count])}


def test_without_an_instance_its_sections_do_not_count():
    assert config_of(*LAYERS).get(flow="shop").attrs.who == "flows.shop"


def test_without_a_flow_its_sections_do_not_count():
    assert config_of(*LAYERS).get("dev").attrs.who == "flows.__any__.instances.dev"


def test_the_any_names_may_be_written_out():
    context = config_of(*LAYERS).get("__any__", "__any__")
    assert context.attrs.who == "flows.__any__"
    assert context.instance_name == "__any__"
    assert context.flow_name is None


def test_the_any_instance_of_a_flow_is_not_consulted():
    context = config_of(("instances", "dev"), ("flows", "shop", "instances", "__any__")).get("dev", "shop")
    assert context.attrs.who == "instances.dev"


def test_an_unknown_flow_is_not_an_error():
    context = config_of(*LAYERS).get("dev", "other")
    assert context.flow_name == "other"
    assert context.attrs.who == "flows.__any__.instances.dev"


@pytest.mark.parametrize("section", [LAYERS[1], LAYERS[3], LAYERS[5]])
def test_one_section_is_enough_for_an_instance_to_exist(section):
    assert config_of(section).get("dev", "shop").instance_name == "dev"


def test_an_unknown_instance_is_an_error_that_names_the_nearest():
    with pytest.raises(InstanceNotFoundError, match="no instance 'dve'; did you mean 'dev'") as caught:
        config_of(*LAYERS).get("dve", "shop")
    assert isinstance(caught.value, AttributeError)


def test_an_instance_that_only_another_flow_has_is_unknown():
    with pytest.raises(InstanceNotFoundError):
        config_of(LAYERS[5]).get("dev", "other")


def test_an_unknown_instance_is_fine_when_look_up_is_not_strict():
    config = PipedagConfig({"strict_instance_lookup": False, "instances": {"__any__": {"instance_id": "any"}}})
    context = config.get("fresh")
    assert (context.instance_name, context.instance_id) == ("fresh", "any")


def test_an_instance_without_content_exists():
    assert PipedagConfig({"instances": {"dev": None}}).get("dev").instance_name == "dev"


def test_lists_are_replaced():
    config = PipedagConfig({"instances": {"__any__": {"auto_table": ["a.A", "b.B"]}, "dev": {"auto_table": ["c.C"]}}})
    assert config.get("dev").auto_table == ("c.C",)


@pytest.mark.parametrize(("below", "above"), [({"x": 1}, [1]), ([1], {"x": 1}), ({"x": 1}, "text"), (5, {"x": 1})])
def test_a_map_does_not_merge_with_anything_else(write, below, above):
    import yaml

    data = {"instances": {"__any__": {"attrs": {"deep": {"key": below}}}, "dev": {"attrs": {"deep": {"key": above}}}}}
    file = write(yaml.safe_dump(data, default_flow_style=False))
    with pytest.raises(ConfigError) as caught:
        PipedagConfig(file).get("dev")
    message = str(caught.value)
    assert f"{file}, line " in message
    assert "instances.dev.attrs.deep.key" in message
    assert "in instances.__any__" in message


def test_null_deletes_what_sections_below_say():
    config = PipedagConfig(
        {
            "instances": {
                "__any__": {
                    "kroki_url": "https://kroki.example",
                    "attrs": {"keep": 1, "drop": {"deep": 2}},
                    "table_store": {"args": {"schema_prefix": "x_", "url": "u"}},
                },
                "dev": {"kroki_url": None, "attrs": {"drop": None}, "table_store": {"args": {"schema_prefix": None}}},
            }
        }
    )
    context = config.get("dev")
    assert context.kroki_url is None
    assert context.attrs == {"keep": 1}
    assert context.config_dict["table_store"]["args"] == {"url": "u"}


def test_a_section_above_may_set_again_what_null_deleted():
    config = PipedagConfig(
        {
            "instances": {"__any__": {"attrs": {"a": {"x": 1}}}, "dev": {"attrs": {"a": None}}},
            "flows": {"f": {"attrs": {"a": {"y": 2}}}},
        }
    )
    assert config.get("dev", "f").attrs == {"a": {"y": 2}}


def test_null_gives_a_built_in_default_back():
    config = PipedagConfig({"instances": {"__any__": {"generations_to_keep": 3}, "dev": {"generations_to_keep": None}}})
    assert config.get("dev").generations_to_keep == 20


def test_a_connection_is_merged_into_its_store_and_the_reference_leaves():
    config = PipedagConfig(
        {
            "table_store_connections": {"pg": {"args": {"url": "u", "schema_prefix": "p_"}}},
            "blob_store_connections": {"files": {"class": "some.Blobs", "args": {"base_path": "/b"}}},
            "instances": {
                "__any__": {
                    "table_store": {
                        "table_store_connection": "pg",
                        "class": "some.Store",
                    },
                    "blob_store": {"blob_store_connection": "files"},
                }
            },
        }
    )
    expected = {
        "table_store": {
            "class": "some.Store",
            "args": {"url": "u", "schema_prefix": "p_"},
        },
        "blob_store": {"class": "some.Blobs", "args": {"base_path": "/b"}},
    }
    assert config.config_dict["instances"]["__any__"] == expected
    assert config.raw_config["instances"]["__any__"]["blob_store"] == {"blob_store_connection": "files"}
    assert config.get().config_dict.items() >= expected.items()


def test_a_technical_setup_may_itself_refer_to_connections():
    config = PipedagConfig(
        {
            "table_store_connections": {"pg": {"args": {"url": "u"}}},
            "technical_setups": {"base": {"fail_fast": True, "table_store": {"table_store_connection": "pg"}}},
            "flows": {"f": {"instances": {"i": {"technical_setup": "base"}}}},
        }
    )
    context = config.get("i", "f")
    assert context.fail_fast is True
    assert context.config_dict["table_store"] == {"args": {"url": "u"}}
    assert "technical_setup" not in context.config_dict


@pytest.mark.parametrize("section", LAYERS)
def test_inline_values_win_over_the_block_in_every_section(section):
    data: dict = {
        "technical_setups": {"base": {"fail_fast": True, "lease_seconds": 5}},
        "table_store_connections": {"pg": {"args": {"url": "block", "schema_prefix": "block_"}}},
    }
    here = data
    for key in section:
        here = here.setdefault(key, {})
    here["technical_setup"] = "base"
    here["lease_seconds"] = 7
    here["table_store"] = {"table_store_connection": "pg", "args": {"url": "inline"}}
    context = PipedagConfig(data).get("dev" if "dev" in section else None, "shop")
    assert (context.fail_fast, context.lease_seconds) == (True, 7)
    assert context.config_dict["table_store"]["args"] == {"url": "inline", "schema_prefix": "block_"}


def test_an_inline_null_deletes_from_the_block_and_from_the_sections_below():
    config = PipedagConfig(
        {
            "table_store_connections": {"pg": {"args": {"url": "u", "schema_prefix": "block_"}}},
            "instances": {
                "__any__": {"table_store": {"args": {"schema_prefix": "any_"}}},
                "dev": {"table_store": {"table_store_connection": "pg", "args": {"schema_prefix": None}}},
            },
        }
    )
    assert config.get("dev").config_dict["table_store"]["args"] == {"url": "u"}


def test_a_switched_connection_keeps_what_the_section_below_contributed():
    config = PipedagConfig(
        {
            "table_store_connections": {
                "a": {"args": {"url": "a", "schema_prefix": "a_"}},
                "b": {"args": {"url": "b"}},
            },
            "instances": {
                "__any__": {"table_store": {"table_store_connection": "a"}},
                "dev": {"table_store": {"table_store_connection": "b"}},
            },
        }
    )
    assert config.get("dev").config_dict["table_store"]["args"] == {"url": "b", "schema_prefix": "a_"}


@pytest.mark.parametrize(
    ("section", "reference", "known"),
    [
        ({"technical_setup": "bse"}, "technical_setups.bse", "base"),
        ({"table_store": {"table_store_connection": "pq"}}, "table_store_connections.pq", "pg"),
        ({"blob_store": {"blob_store_connection": "file"}}, "blob_store_connections.file", "files"),
    ],
)
def test_a_missing_block_is_named_with_the_nearest_one(section, reference, known):
    data = {
        "technical_setups": {"base": {}},
        "table_store_connections": {"pg": {}},
        "blob_store_connections": {"files": {}},
        "flows": {"f": section},
    }
    with pytest.raises(MissingBlockError) as caught:
        PipedagConfig(data)
    assert isinstance(caught.value, KeyError)
    assert "flows.f." in str(caught.value)
    assert f"refers to {reference}, which does not exist" in str(caught.value)
    assert known in str(caught.value)


def test_a_missing_block_has_the_line_of_the_reference(write):
    file = write("instances:\n  dev:\n    technical_setup: gone\n")
    with pytest.raises(MissingBlockError, match=r"line 3: instances.dev.technical_setup refers to"):
        PipedagConfig(file)


def test_a_block_that_does_not_fit_the_section_is_named():
    data = {
        "table_store_connections": {"pg": {"args": {"options": {"a": 1}}}},
        "instances": {"i": {"table_store": {"table_store_connection": "pg", "args": {"options": [1]}}}},
    }
    with pytest.raises(ConfigError) as caught:
        PipedagConfig(data)
    assert "instances.i.table_store.args.options: a list here, but a map" in str(caught.value)
    assert "the block table_store_connections.pg" in str(caught.value)


def test_anchors_and_references_describe_the_same(load):
    anchors = load(
        """\
        _pg: &pg
          url: postgresql://db/{instance_id}
          schema_prefix: "{instance_id}_"
        instances:
          __any__: {table_store: {class: a.B, args: *pg}}
          full: {instance_id: all}
        """
    ).get("full")
    references = load(
        """\
        table_store_connections:
          pg: {args: {url: "postgresql://db/{instance_id}", schema_prefix: "{instance_id}_"}}
        instances:
          __any__: {table_store: {class: a.B, table_store_connection: pg}}
          full: {instance_id: all}
        """
    ).get("full")
    assert anchors.config_dict == references.config_dict


def test_the_configuration_does_not_follow_changes_of_the_dictionary_it_came_from():
    data = {"instances": {"__any__": {"attrs": {"list": [1]}}}}
    config = PipedagConfig(data)
    data["instances"]["__any__"]["attrs"]["list"].append(2)
    config.get().config_dict["attrs"]["list"].append(3)
    assert config.get().config_dict["attrs"]["list"] == [1]


# Keys tell the kind of their value, so that any two sections fit together.
scalars = st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=3)
leaves = st.dictionaries(st.sampled_from("pqr"), scalars)
trees = st.recursive(leaves, lambda inner: st.dictionaries(st.sampled_from("AB"), inner), max_leaves=8)
# A busy machine is no failure.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@patient
@given(trees, trees, trees)
def test_merging_is_associative_without_nulls(a, b, c):
    assert merge(merge(a, b), c) == merge(a, merge(b, c))


@patient
@given(trees)
def test_merging_a_section_with_itself_or_nothing_changes_nothing(a):
    assert merge(a, a) == merge(a, {}) == merge({}, a) == a


@patient
@given(trees, trees)
def test_the_section_on_top_is_there_in_full(a, b):
    merged = merge(a, b)
    assert merge(merged, b) == merged


@patient
@given(trees, st.sampled_from(["A", "B", "p"]))
def test_no_null_is_left_at_the_end(a, key):
    assert key not in without_nulls(merge(a, {key: None}))
