"""The life of a stage on Db2, as the statements that its server would get: from the first run to what goes at last.

No server is to be had: a stand-in answers (see :mod:`db2_server`), so what is shown here is what is sent, and when.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl
import sqlalchemy as sa

from pipedag_airflow import Flow, RawSql, Stage, Table, View, materialize

if TYPE_CHECKING:
    from db2_server import Server

    from pipedag_airflow.config import ConfigContext

CREATE_SCHEMA = (
    "BEGIN DECLARE CONTINUE HANDLER FOR SQLSTATE '42710' BEGIN END; EXECUTE IMMEDIATE 'CREATE SCHEMA {}'; END"
)
DEAR = "SELECT orders.id, orders.price FROM shop__g1.orders AS orders WHERE orders.price > 100"
RUNSTATS = (
    "CALL SYSPROC.ADMIN_CMD('RUNSTATS ON TABLE {} ON ALL COLUMNS WITH DISTRIBUTION ON ALL COLUMNS AND SAMPLED DETAILED "
    "INDEXES ALL')"
)


def orders_flow(orders: str = "1", *, with_dear: bool = True) -> Flow:
    """Two tables: one of a frame, and one of a query on it."""

    @materialize(version=orders)
    def make_orders() -> Table[Any]:
        frame = pl.DataFrame({"id": [1, 2], "customer": ["Müller", None], "price": [9.5, 120.0]})
        return Table(frame, "orders", primary_key=["id"], indexes=[["customer"]])

    @materialize(lazy=True, input_type=sa.Table)
    def make_dear(table: sa.Alias) -> Table[Any]:
        return Table(sa.select(table.c.id, table.c.price).where(table.c.price > 100), "dear", primary_key=["id"])

    @materialize(version="1")
    def make_units() -> Table[Any]:
        return Table(pl.DataFrame({"unit": ["kg"]}), "units")

    with Flow("shop") as flow, Stage("shop"):
        made = make_orders()
        make_units()
        if with_dear:
            make_dear(made)
    return flow


def run(flow: Flow, db2_config: ConfigContext) -> None:
    assert flow.run(config=db2_config).successful


def test_a_first_run_fills_tables_and_shows_them_by_aliases(db2: Server, db2_config: ConfigContext) -> None:
    run(orders_flow(), db2_config)
    assert db2.of_the_stage == [
        CREATE_SCHEMA.format("shop__g1"),
        "CREATE TABLE shop__g1.orders (id BIGINT NOT NULL, customer VARCHAR(7), price DOUBLE)",
        "LOCK TABLE shop__g1.orders IN EXCLUSIVE MODE",
        "INSERT INTO shop__g1.orders (id, customer, price) VALUES (?, ?, ?)",
        "ALTER TABLE shop__g1.orders ADD PRIMARY KEY (id)",
        "CREATE INDEX shop__g1.idx_orders_customer_lfe24q6o6pzg2jhlmxim ON shop__g1.orders (customer)",
        RUNSTATS.format("shop__g1.orders"),
        "CREATE TABLE shop__g1.units (unit VARCHAR(2))",
        "LOCK TABLE shop__g1.units IN EXCLUSIVE MODE",
        "INSERT INTO shop__g1.units (unit) VALUES (?)",
        RUNSTATS.format("shop__g1.units"),
        # What the query is made of, and then the table that its key needs.
        f"CREATE TABLE shop__g1.dear AS ( {DEAR} ) DEFINITION ONLY",
        "DROP TABLE shop__g1.dear",
        "CREATE TABLE shop__g1.dear (id BIGINT NOT NULL, price DOUBLE)",
        "LOCK TABLE shop__g1.dear IN EXCLUSIVE MODE",
        f"INSERT INTO shop__g1.dear {DEAR}",
        "ALTER TABLE shop__g1.dear ADD PRIMARY KEY (id)",
        "SELECT count(*) AS count_1 FROM shop__g1.dear",
        RUNSTATS.format("shop__g1.dear"),
        CREATE_SCHEMA.format("shop"),
        "CREATE OR REPLACE ALIAS shop.dear FOR TABLE shop__g1.dear",
        "CREATE OR REPLACE ALIAS shop.orders FOR TABLE shop__g1.orders",
        "CREATE OR REPLACE ALIAS shop.units FOR TABLE shop__g1.units",
    ]


def test_aliases_and_metadata_are_one_unit_of_work(db2: Server, db2_config: ConfigContext) -> None:
    run(orders_flow(), db2_config)
    unit = db2.unit_of("CREATE OR REPLACE ALIAS shop.orders")
    (fence,) = (sent for sent in unit if sent.endswith("WITH RS USE AND KEEP EXCLUSIVE LOCKS") and ".stage" in sent)
    (live,) = (sent for sent in unit if sent.startswith("UPDATE pipedag_metadata.stage SET live=?"))
    alias = "CREATE OR REPLACE ALIAS shop.orders FOR TABLE shop__g1.orders"
    assert unit.index(fence) < unit.index(alias) < unit.index(live)


def test_a_table_its_key_and_the_row_that_describes_it_are_one_unit_of_work(
    db2: Server, db2_config: ConfigContext
) -> None:
    run(orders_flow(), db2_config)
    unit = db2.unit_of("CREATE TABLE shop__g1.orders")
    assert any(sent.endswith("WITH RS USE AND KEEP SHARE LOCKS") and ".stage" in sent for sent in unit)
    assert "ALTER TABLE shop__g1.orders ADD PRIMARY KEY (id)" in unit
    assert any(sent.startswith("INSERT INTO pipedag_metadata.object") for sent in unit)
    # It commits, so it has a unit of its own.
    assert db2.unit_of("CALL SYSPROC.ADMIN_CMD")[-1] == RUNSTATS.format("shop__g1.orders")
    assert not any("ADMIN_CMD" in sent for sent in unit)


def test_a_run_in_which_nothing_changed_says_nothing_about_tables(db2: Server, db2_config: ConfigContext) -> None:
    run(orders_flow(), db2_config)
    db2.forget()
    run(orders_flow(), db2_config)
    assert db2.of_the_stage == []


def test_a_second_run_shows_the_tables_that_did_not_change_where_they_are(
    db2: Server, db2_config: ConfigContext
) -> None:
    run(orders_flow(), db2_config)
    db2.forget()
    run(orders_flow("2"), db2_config)
    sent = db2.of_the_stage
    assert "CREATE OR REPLACE ALIAS shop.orders FOR TABLE shop__g2.orders" in sent
    assert not any("units" in statement for statement in sent)


def test_what_leaves_a_stage_loses_its_alias_and_old_generations_go_with_their_schema(
    db2: Server, db2_config: ConfigContext
) -> None:
    run(orders_flow(), db2_config)
    run(orders_flow("2"), db2_config)
    db2.forget()
    run(orders_flow("3", with_dear=False), db2_config)
    sent = db2.of_the_stage
    assert "DROP ALIAS shop.dear" in sent
    # The units of the first generation are still shown.
    assert sent[-3:] == ["DROP TABLE shop__g2.dear", "DROP TABLE shop__g2.orders", "DROP SCHEMA shop__g2 RESTRICT"]
    assert not any("shop__g1" in statement for statement in sent)


def test_readers_wait_a_second_at_most_and_a_connection_is_given_back_as_it_was(
    db2: Server, db2_config: ConfigContext
) -> None:
    run(orders_flow(), db2_config)
    assert "SET CURRENT LOCK TIMEOUT = 1" in db2.unit_of("CREATE OR REPLACE ALIAS shop.orders")
    timeouts = [sent for sent in db2.sent if sent.startswith("SET CURRENT LOCK TIMEOUT")]
    assert timeouts[-1] == "SET CURRENT LOCK TIMEOUT = NULL"


def test_a_script_has_the_schema_for_itself_and_what_is_new_is_its(db2: Server, db2_config: ConfigContext) -> None:
    with Flow("rates") as flow, Stage("rates") as stage:

        @materialize(version="1")
        def make() -> RawSql:
            schema = stage.transaction_name
            return RawSql(f"CREATE TABLE {schema}.rates (year INTEGER); INSERT INTO {schema}.rates VALUES (2026)")

        make()
    run(flow, db2_config)
    assert "CREATE OR REPLACE ALIAS rates.rates FOR TABLE rates__g1.rates" in db2.of_the_stage
    unit = db2.unit_of("CREATE TABLE rates__g1.rates")
    alone = "FROM pipedag_metadata.name_lock WHERE pipedag_metadata.name_lock.number = ? WITH RS USE AND KEEP EXCLUSIVE"
    assert any(alone in sent for sent in unit[: unit.index("CREATE TABLE rates__g1.rates (year INTEGER)")])


def test_a_view_is_made_as_one_and_shown_by_an_alias(db2: Server, db2_config: ConfigContext) -> None:
    with Flow("views") as flow, Stage("views"):

        @materialize(version="1")
        def make() -> View:
            return View(sa.select(sa.literal(1).label("x")), "one")

        make()
    run(flow, db2_config)
    assert db2.of_the_stage[1:] == [
        "CREATE VIEW views__g1.one AS SELECT 1 AS x FROM SYSIBM.SYSDUMMY1",
        "SELECT count(*) AS count_1 FROM views__g1.one",
        CREATE_SCHEMA.format("views"),
        "CREATE OR REPLACE ALIAS views.one FOR TABLE views__g1.one",
    ]


def test_what_was_stored_is_read_back(db2_config: ConfigContext) -> None:
    found = []
    with Flow("reading") as flow, Stage("reading"):

        @materialize(version="1")
        def make() -> Table[Any]:
            return Table(pl.DataFrame({"Name": ["Müller"], "n": [2**40], "ok": [True]}), "t")

        @materialize(version="1", input_type=pl.DataFrame)
        def look(table: pl.DataFrame) -> None:
            found.append(table)

        look(make())
    run(flow, db2_config)
    assert found[0].to_dict(as_series=False) == {"Name": ["Müller"], "n": [2**40], "ok": [True]}
    assert found[0].schema == {"Name": pl.String, "n": pl.Int64, "ok": pl.Boolean}


def test_what_is_granted_on_a_table_holds_for_the_one_that_replaces_it(db2: Server, db2_config: ConfigContext) -> None:
    run(orders_flow(), db2_config)
    for grantor, *rest in (
        ("SYSIBM", "SOMEBODY", "U", "G", "G", "G", "G"),
        ("SOMEBODY", "ANALYSTS", "R", "Y", "N", "N", "N"),
        ("SOMEBODY", "PUBLIC", "G", "Y", "N", "N", "N"),
        ("SOMEBODY", "Robot", "U", "G", "Y", "N", "N"),
    ):
        values = [grantor, *rest[:2], "SHOP__G1", "ORDERS", *rest[2:]]
        db2.data.execute("INSERT INTO SYSCAT.TABAUTH VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)
    db2.forget()
    run(orders_flow("2"), db2_config)
    unit = db2.unit_of("CREATE OR REPLACE ALIAS shop.orders")
    assert [sent for sent in unit if sent.startswith("GRANT")] == [
        "GRANT SELECT ON TABLE shop__g2.orders TO ROLE analysts",
        "GRANT SELECT ON TABLE shop__g2.orders TO PUBLIC",
        'GRANT SELECT ON TABLE shop__g2.orders TO USER "Robot" WITH GRANT OPTION',
        'GRANT INSERT ON TABLE shop__g2.orders TO USER "Robot"',
    ]


def test_a_query_with_common_table_expressions_is_defined_by_way_of_a_view(
    db2: Server, db2_config: ConfigContext
) -> None:
    with Flow("shop") as flow, Stage("shop"):

        @materialize(version="1")
        def make() -> Table[Any]:
            numbers = sa.select(sa.literal(1).label("n")).cte("numbers")
            return Table(sa.select(numbers.c.n), "t")

        make()
    run(flow, db2_config)
    view = next(sent.split()[2] for sent in db2.of_the_stage if sent.startswith("CREATE VIEW"))
    query = "WITH numbers AS (SELECT 1 AS n FROM SYSIBM.SYSDUMMY1) SELECT numbers.n FROM numbers"
    assert db2.of_the_stage[1:6] == [
        f"CREATE VIEW {view} AS {query}",
        f"CREATE TABLE shop__g1.t AS ( SELECT * FROM {view} ) DEFINITION ONLY",
        f"DROP VIEW {view}",
        "LOCK TABLE shop__g1.t IN EXCLUSIVE MODE",
        f"INSERT INTO shop__g1.t {query}",
    ]
