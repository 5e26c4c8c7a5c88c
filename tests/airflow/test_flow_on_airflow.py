"""Flows on the real Airflow: what it shows of every task instance, what is in the metadata and what readers see agree.

Every run that a test waits for is compared with the metadata and the database: `FlowFolder.check`.
"""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.airflow

CHAIN = '''
import polars as pl
import sqlalchemy as sa
from pipedag_airflow import Flow, Stage, Table, materialize


@materialize(version="1")
def numbers():
    """Read the numbers."""
    return Table(pl.DataFrame({"n": [1, 2, 3]}), "numbers", primary_key="n")


@materialize(version="VERSION", input_type=pl.DataFrame)
def doubled(table):
    return Table(table.with_columns(n2=pl.col("n") * 2, version=pl.lit("VERSION")), "doubled")


@materialize(lazy=True, input_type=sa.Table)
def large(table):
    return Table(sa.select(table).where(table.c.n2 > 2), "large")


@materialize(version="1")
def words():
    return Table(pl.DataFrame({"w": ["a", "b"]}), "words")


@materialize(version="1", input_type=pl.DataFrame)
def report(table):
    return Table(table, "report")


@materialize(version="1", input_type=pl.DataFrame)
def glossary(table):
    return Table(table, "glossary")


with Flow("chain") as flow:
    with Stage("ingest"):
        n, w = numbers(), words()
        big = large(doubled(n))
    with Stage("out"):
        report(big)
        glossary(w)
'''

BEGINS = {"ingest.begin_transaction", "out.begin_transaction"}
COMMITS = {"ingest.commit_transaction", "out.commit_transaction"}
CHAIN_TASKS = {"ingest.numbers", "ingest.doubled", "ingest.large", "ingest.words", "out.report", "out.glossary"}


class TestChain:
    def test_x(self, flows):
        chain = flows("chain")
        import time
        t=time.time()
        def lap(x):
            nonlocal t
            print(x, round(time.time()-t,1)); t=time.time()
        chain.write(CHAIN.replace("VERSION", "1")); lap("write")
        a = chain.run(); lap("a"); print(a.states)
        for node in a.tasks: print(node, "\n", chain.log(a, node))
        b = chain.run(); lap("b"); print(b.states)
        chain.write(CHAIN.replace("VERSION", "2")); lap("write")
        c = chain.run(); lap("c"); print(c.states)
        print(chain.tables(), chain.live())
        e = chain.clear(c, "ingest.words"); lap("e"); print(e.states)
        for node in e.tasks: print(node, "\n", chain.log(e, node)) if e.tasks[node]["try_number"] else None
        print(chain.tables(), chain.live())
