"""Rule 3.5: a query is the same in every generation and under any name of its tables; its literals are as they are."""

from __future__ import annotations

import duckdb_sqlalchemy
import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.sql.elements import conv

from pipedag_airflow.backend.table.sql.facts import TableLocation
from pipedag_airflow.cache.query import query_texts

SCHEMAS = {"clean": "clean", "raw": "raw"}


def query_text(*arguments):
    return query_texts(*arguments).shown


def query_identity(*arguments):
    return query_texts(*arguments).compared


@pytest.fixture(params=[duckdb_sqlalchemy.Dialect, postgresql.dialect], ids=["duckdb", "postgresql"])
def dialect(request):
    return request.param()


def table(schema="clean__g3", physical="flights", *, name="flights", stage="clean", key="key"):
    """Return a stored table: of a physical place, and with a logical one."""
    columns = [sa.Column(column, sa.Integer) for column in ("id", "day")]
    location = TableLocation(stage, name, schema, physical, (), key=key)
    return sa.Table(physical, sa.MetaData(), *columns, schema=schema, info={"pipedag": location})


def given(*places, alias=None, **place):
    """Return a stored table as a task gets it."""
    made = table(*places, **place)
    return made.alias(conv(alias or place.get("name", "flights")))


QUERIES = {
    "the table": lambda t: t,
    "its alias": lambda t: t.alias("flights"),
    "all of it": lambda t: sa.select(t),
    "a column": lambda t: sa.select(t.c.id),
    "a condition": lambda t: sa.select(t.c.id).where(t.c.day > 1).order_by(t.c.day),
    "an alias": lambda t: sa.select(t.alias("flights")),
    "an alias without a name": lambda t: sa.select(t.alias()),
    "an alias of an alias": lambda t: sa.select(t.alias("flights").alias()),
    "a join with itself": lambda t: sa.select(t.c.id, t.alias().c.day).join_from(t, u := t.alias(), t.c.id == u.c.id),
    "two aliases": lambda t: sa.select(a := t.alias("a"), b := t.alias()).where(a.c.id == b.c.id),
    "a count": lambda t: sa.select(sa.func.count()).select_from(t),
    "a subquery": lambda t: sa.select(sa.select(t.c.id).subquery()),
    "a named subquery": lambda t: sa.select(sa.select(t.c.id).subquery("sub").c.id),
    "a common table expression": lambda t: sa.select(sa.select(t).cte("c").c.id),
    "one without a name": lambda t: sa.select(sa.select(t).cte()),
    "exists": lambda t: (u := t.alias()) is not None and sa.select(t).where(sa.exists().where(u.c.id == t.c.day)),
    "exists beside an alias of the name": lambda t: sa.select(t.c.id).where(
        sa.exists().where(t.alias("flights").c.id == t.c.day)
    ),
    "a union": lambda t: sa.union_all(sa.select(t), sa.select(t)),
    "a window": lambda t: sa.select(sa.func.sum(t.c.id).over(partition_by=t.c.day)),
    "a lateral": lambda t: sa.select(t, sa.select(t.c.id).lateral("l")),
    "grouped": lambda t: sa.select(t.c.day, sa.func.max(t.c.id)).group_by(t.c.day).having(sa.func.count(t.c.id) > 1),
    "labelled": lambda t: sa.select(t.c.id.label("number")),
    "texts within": lambda t: sa.select(sa.text("1 + 1"), t.c.id).where(sa.text("1 = 1")),
}


@pytest.mark.filterwarnings("ignore:SELECT statement has a cartesian product")
@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
@pytest.mark.parametrize(
    "elsewhere", [("clean__g4", "flights"), ("clean__g3", "older_name"), ("clean__g11", "a"), ("clean", "flights")]
)
def test_a_query_has_one_text_wherever_its_tables_are_stored(dialect, query, elsewhere):
    text = query_text(query(table()), dialect)
    assert query_text(query(table(*elsewhere)), dialect) == text
    assert "{clean}.{flights}" in text
    assert "__g" not in text


@pytest.mark.filterwarnings("ignore:SELECT statement has a cartesian product")
@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
@pytest.mark.parametrize("made", [table, given])
def test_a_query_is_the_same_wherever_its_tables_are_stored_and_whatever_they_are_called(dialect, query, made):
    identity = query_identity(query(made()), dialect, SCHEMAS)
    # There the user's own alias is called like the task's table: the query says the name.
    says_the_name = made is given and query is QUERIES["exists beside an alias of the name"]
    name = "flights" if says_the_name else "planes"
    for place in [("clean__g4", "flights"), ("clean__g11", "older_name"), ("clean", "a")]:
        assert query_identity(query(made(*place, name=name)), dialect, SCHEMAS) == identity


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
@pytest.mark.parametrize("made", [table, given])
@pytest.mark.parametrize("other", [{"key": "another"}, {"stage": "raw"}])
def test_a_query_of_another_table_is_another_one(dialect, query, made, other):
    assert query_identity(query(made(**other)), dialect) != query_identity(query(made()), dialect)


@pytest.mark.parametrize("text", [query_text, query_identity])
def test_a_table_of_somebody_elses_counts_by_its_name(dialect, text):
    one, other = (text(given(stage="crm", name=name, key=None), dialect) for name in ("customers", "orders"))
    assert one != other


def test_two_tables_that_change_places_are_another_query(dialect):
    def identity(left, right):
        joined = left.join(right, left.c.id == right.c.id)
        return query_identity(sa.select(left.c.id, right.c.day).select_from(joined), dialect)

    def tables(*names):
        return [given(name=name, key=key) for name, key in zip(names, ("one", "two"), strict=True)]

    one, two = tables("a", "b")
    assert identity(one, two) != identity(two, one)
    assert identity(one, two) == identity(*tables("b", "a")), "the tables exchange their names only"


def test_a_table_that_a_task_gets_twice_is_told_apart_from_itself(dialect):
    one, two = given(), given(alias="flights_1")
    joined = one.join(two, one.c.id == two.c.id)

    def identity(left, right):
        return query_identity(sa.select(left.c.id, right.c.day).select_from(joined), dialect)

    assert len({identity(one, one), identity(one, two), identity(two, one), identity(two, two)}) == 4


@pytest.mark.parametrize(
    "text", ["flights.day > 1", '"flights".day > 1', "FLIGHTS.day > 1", "{'day': flights.day} > {'day': 1}"]
)
def test_a_name_that_a_text_within_a_query_says_counts(dialect, text):
    def identity(name):
        made = given(name=name)
        return query_identity(sa.select(made.c.id).where(sa.text(text)), dialect)

    assert identity("flights") != identity("planes")
    assert identity("planes") == identity("trains")


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
@pytest.mark.parametrize("other", [{"name": "planes"}, {"stage": "raw"}])
def test_another_stage_or_name_is_another_text(dialect, query, other):
    assert query_text(query(table(**other)), dialect) != query_text(query(table()), dialect)


@pytest.mark.parametrize("text", [query_text, query_identity])
def test_different_queries_have_different_texts(dialect, text):
    said_otherwise = {"the table", "its alias", "an alias of an alias"}
    queries = [query(table()) for name, query in QUERIES.items() if name not in said_otherwise]
    assert len({text(query, dialect) for query in queries}) == len(queries)


def test_people_read_the_names_of_tables(dialect):
    assert query_text(sa.select(given().c.id), dialect) == "SELECT flights.id \nFROM {clean}.{flights} AS flights"


@pytest.mark.parametrize("made", [lambda t: t, lambda t: t.alias("flights"), lambda t: sa.select(t).subquery("sub")])
def test_a_bare_table_alias_or_subquery_stands_for_all_of_its_rows(dialect, made):
    bare = made(table())
    assert query_text(bare, dialect) == query_text(sa.select(bare), dialect)


def test_two_bare_tables_have_two_texts(dialect):
    assert query_text(table(), dialect) != query_text(table(name="planes"), dialect)


def test_a_table_and_its_alias_of_the_name_are_told_apart(dialect):
    stored = table()
    alias = stored.alias("flights")

    def query(left, right):
        return sa.select(stored.c.id, alias.c.id).where(left.c.day > right.c.id)

    assert query_text(query(stored, alias), dialect) != query_text(query(alias, stored), dialect)


def test_aliases_without_a_name_are_not_taken_for_named_ones(dialect):
    named, unnamed = table().alias("alias_1"), table().alias()
    texts = {query_text(sa.select(part.c.id).select_from(named, unnamed), dialect) for part in (named, unnamed)}
    assert len(texts) == 2


@pytest.mark.parametrize(
    "literals",
    [("x", "X"), ("it's", "its"), ('"a"', "a"), ("100%", "100"), ("%%", "%"), ("[a]", "a"), ("a__g1.x", "a__g2.x")],
)
@pytest.mark.parametrize("schemas", [None, SCHEMAS | {"a": "a"}])
@pytest.mark.parametrize("text", [query_text, query_identity])
def test_literals_count_as_they_are(dialect, literals, schemas, text):
    one, other = (sa.select(table().c.id).where(sa.literal(literal) == "x") for literal in literals)
    assert text(one, dialect, schemas) != text(other, dialect, schemas)


@pytest.mark.parametrize("values", [(1, 2), (1, "1"), (1.5, 1.25), (True, False), (None, 0)])
def test_bound_values_are_part_of_the_text(dialect, values):
    one, other = (query_text(sa.select(sa.literal(value)), dialect) for value in values)
    assert one != other


def test_columns_of_other_names_are_other_texts(dialect):
    assert query_text(sa.select(table().c.id), dialect) != query_text(sa.select(table().c.day), dialect)


def test_a_table_that_is_not_ours_stands_under_its_own_name(dialect):
    foreign = sa.Table("t", sa.MetaData(), sa.Column("id", sa.Integer), schema="public")
    assert "public.t" in query_text(sa.select(foreign.c.id), dialect)
    assert query_text(sa.select(foreign), dialect) != query_text(sa.select(foreign.alias("t")), dialect)


def test_compiling_for_the_identity_leaves_the_dialect_as_it_is(dialect):
    query = sa.select(table().c.id)
    before = str(query.compile(dialect=dialect))
    query_text(query, dialect)
    assert str(query.compile(dialect=dialect)) == before
    assert "clean__g3.flights" in before


# --- texts -------------------------------------------------------------------------------------------------------


def test_a_text_is_its_own_text(dialect):
    sql = "SELECT 'a' AS x FROM clean.t WHERE y = 'B'"
    assert query_text(sa.text(sql), dialect) == sql


def test_a_text_that_names_a_generation_is_the_same_in_every_generation(dialect):
    def text(generation):
        sql = f'SELECT * FROM clean__g{generation}.t, "raw__g{generation}".u, [raw__g{generation}].[v]'
        return query_text(sa.text(sql), dialect, SCHEMAS)

    assert text(3) == text(4) == 'SELECT * FROM {clean}.t, "{raw}".u, [{raw}].[v]'


def test_a_generation_within_a_string_of_a_text_stays(dialect):
    sql = "SELECT 'clean__g3' /* clean__g3 */"
    assert query_text(sa.text(sql), dialect, SCHEMAS) == sql


def test_prefix_and_suffix_belong_to_the_schema(dialect):
    query = sa.text("SELECT * FROM dev_clean__g3_x.t")
    assert query_text(query, dialect, {"clean": "dev_clean_x"}) == "SELECT * FROM {clean}.t"


def test_a_table_that_the_user_made_of_a_generation_is_logical_too(dialect):
    def text(generation):
        made = sa.table("t", sa.column("id"), schema=f"clean__g{generation}")
        return query_text(sa.select(made.c.id), dialect, SCHEMAS)

    assert text(3) == text(4)


def test_without_schemas_a_text_keeps_its_generations(dialect):
    assert query_text(sa.text("SELECT * FROM clean__g3.t"), dialect) == "SELECT * FROM clean__g3.t"


def test_a_query_is_compiled_once_for_all_its_texts(dialect):
    compiled = []

    class Counting(dialect.statement_compiler):
        def __init__(self, *arguments, **options):
            compiled.append(self)
            super().__init__(*arguments, **options)

    dialect.statement_compiler = Counting
    texts = query_texts(sa.select(given(alias="two words").c.id, given().alias("other").c.day), dialect)

    assert len(compiled) == 1
    assert '{clean}.{flights} AS "two words", {clean}.{flights} AS other' in texts.shown
    assert texts.compared.count("{clean}.{key}") == 2
