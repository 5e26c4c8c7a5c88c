"""Rules 3.5 and 5.7: scripts as statements, and scripts without the names of generations."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipedag_airflow.cache.script import Piece, _pieces, script_text, split_script

# --- splitting ---------------------------------------------------------------------------------------------------

SPLIT = {
    "two statements": ("SELECT 1; SELECT 2", ["SELECT 1", "SELECT 2"]),
    "a separator at the end": ("SELECT 1;", ["SELECT 1"]),
    "no separator": ("SELECT 1", ["SELECT 1"]),
    "several separators in a row": (";;SELECT 1;; ;SELECT 2;;", ["SELECT 1", "SELECT 2"]),
    "nothing": ("", []),
    "space alone": (" \n\t ", []),
    "a comment alone": ("-- SELECT 1;\n", []),
    "comments alone": ("-- a;\n/* b; */; -- c", []),
    "a comment behind the last statement": ("SELECT 1; -- done", ["SELECT 1"]),
    "a comment before a statement": ("-- why\nSELECT 1", ["-- why\nSELECT 1"]),
    "in a line comment": ("SELECT 1 -- a; b\n; SELECT 2", ["SELECT 1 -- a; b", "SELECT 2"]),
    "a line comment ends with any line": ("SELECT 1 -- a\r; SELECT 2", ["SELECT 1 -- a", "SELECT 2"]),
    "in a block comment": ("SELECT /* a; */ 1; SELECT 2", ["SELECT /* a; */ 1", "SELECT 2"]),
    "in nested comments": ("SELECT /* a /* b; */ c; */ 1; SELECT 2", ["SELECT /* a /* b; */ c; */ 1", "SELECT 2"]),
    "a comment that does not end": ("SELECT 1 /* a; SELECT 2", ["SELECT 1 /* a; SELECT 2"]),
    "in a string": ("SELECT ';'; SELECT 2", ["SELECT ';'", "SELECT 2"]),
    "in a string with quotes": ("SELECT 'it''s;'; SELECT 2", ["SELECT 'it''s;'", "SELECT 2"]),
    "in a string of two lines": ("SELECT 'a;\nb'; SELECT 2", ["SELECT 'a;\nb'", "SELECT 2"]),
    "in a string that does not end": ("SELECT 'a; SELECT 2", ["SELECT 'a; SELECT 2"]),
    "a backslash in a string is a backslash": ("COPY t TO 'C:\\'; SELECT '2'", ["COPY t TO 'C:\\'", "SELECT '2'"]),
    "a backslash in an escape string": ("SELECT E'a\\';b'; SELECT 2", ["SELECT E'a\\';b'", "SELECT 2"]),
    "a name that ends in e before a string": ("SELECT * FROM like'\\'; b", ["SELECT * FROM like'\\'", "b"]),
    "in a quoted name": ('SELECT "a;""b"; SELECT 2', ['SELECT "a;""b"', "SELECT 2"]),
    "a comment sign in a string": ("SELECT '--'; SELECT 2", ["SELECT '--'", "SELECT 2"]),
    "a quote in a comment": ("SELECT 1 -- it's\n; SELECT 2", ["SELECT 1 -- it's", "SELECT 2"]),
    "in dollar quotes": ("DO $$ a; b $$; SELECT 2", ["DO $$ a; b $$", "SELECT 2"]),
    "in tagged dollar quotes": ("DO $f$ a; $$ b; $f$; SELECT 2", ["DO $f$ a; $$ b; $f$", "SELECT 2"]),
    "parameters are no dollar quotes": ("SELECT $1; SELECT $2$1", ["SELECT $1", "SELECT $2$1"]),
    "a name with dollars is no dollar quote": ("SELECT a$$b; SELECT c$$d", ["SELECT a$$b", "SELECT c$$d"]),
    "a number sign is no comment": ("SELECT 1 # 2; SELECT 3", ["SELECT 1 # 2", "SELECT 3"]),
    "in the body of a function": (
        "create function f() begin atomic select case x when 1 then 2 end; select ';'; end; select case x end; b",
        [
            "create function f() begin atomic select case x when 1 then 2 end; select ';'; end",
            "select case x end",
            "b",
        ],
    ),
    "names like words": (
        "select s.case, end_1 ; begin atomically; b",
        ["select s.case, end_1", "begin atomically", "b"],
    ),
    "in parentheses": (
        "CREATE RULE r AS ON INSERT TO t DO ALSO (a; b (1; 2)); c",
        ["CREATE RULE r AS ON INSERT TO t DO ALSO (a; b (1; 2))", "c"],
    ),
    "a parenthesis that is no code": ("SELECT '(' /* ( */; SELECT 2", ["SELECT '(' /* ( */", "SELECT 2"]),
    "a parenthesis that nothing opened": ("SELECT 1); SELECT (2); b", ["SELECT 1)", "SELECT (2)", "b"]),
    "an end in parentheses": ("DO (SELECT case x end; end; b); c", ["DO (SELECT case x end; end; b)", "c"]),
    "semicolons of a list of strings": ("SELECT ['a;]']; SELECT 2", ["SELECT ['a;]']", "SELECT 2"]),
}


@pytest.mark.parametrize(("sql", "statements"), SPLIT.values(), ids=SPLIT)
def test_a_script_is_split_where_a_separator_is_code(sql, statements):
    assert split_script(sql) == statements


SEPARATORS = {
    "one character": ("|", "SELECT 1; | SELECT '|'", ["SELECT 1;", "SELECT '|'"]),
    "several characters": (";;", "SELECT 1; SELECT 2;; SELECT 3", ["SELECT 1; SELECT 2", "SELECT 3"]),
    "a word": ("GO", "SELECT 1\nGO\nSELECT 2\nGO", ["SELECT 1", "SELECT 2"]),
    "a word in other letters": ("GO", "SELECT 1 AS go GO b", ["SELECT 1 AS go", "b"]),
    "a word is not part of another": (
        "GO",
        "SELECT GOAT, CARGO\nGO SELECT GO_1",
        ["SELECT GOAT, CARGO", "SELECT GO_1"],
    ),
    "a word in a string": ("GO", "SELECT 'GO' -- GO\nGO\nSELECT \"GO\"", ["SELECT 'GO' -- GO", 'SELECT "GO"']),
    "characters that mean something in a pattern": (".*", "SELECT 1.*SELECT 2", ["SELECT 1", "SELECT 2"]),
    "lines": ("\n/\n", "SELECT 1 / 2\n/\nSELECT 3", ["SELECT 1 / 2", "SELECT 3"]),
}


@pytest.mark.parametrize(("separator", "sql", "statements"), SEPARATORS.values(), ids=SEPARATORS)
def test_the_separator_is_the_users(separator, sql, statements):
    assert split_script(sql, separator) == statements


pieces = st.sampled_from(
    ["SELECT 1", *"; \n()'\"\\1", "''", "--", "/*", "*/", "$$", "$a$", "E'", "\\'", "clean", "__g"]
)
scripts = st.lists(pieces, max_size=25).map("".join)


@given(scripts)
def test_the_pieces_of_a_script_are_the_script(sql):
    assert "".join(text for text, _ in _pieces(sql)) == sql


@given(scripts)
def test_no_piece_is_empty_and_code_is_in_one_piece(sql):
    found = list(_pieces(sql))
    assert all(text for text, _ in found)
    kinds = [piece for _, piece in found]
    assert (Piece.CODE, Piece.CODE) not in itertools.pairwise(kinds)


@given(scripts)
def test_splitting_loses_nothing_but_separators_space_and_comments(sql):
    def code(text):
        kept = [(part, piece) for part, piece in _pieces(text) if piece is not Piece.COMMENT]
        return "".join("".join(part.replace(";", "") if piece is Piece.CODE else part for part, piece in kept).split())

    assert "".join(map(code, split_script(sql))) == code(sql)


@given(scripts)
def test_a_statement_is_not_split_again(sql):
    for statement in split_script(sql):
        assert split_script(statement) == [statement]


# --- logical names -----------------------------------------------------------------------------------------------

PLAIN = {"clean": "clean", "raw": "raw"}
AFFIXES = {"clean": "dev_clean_x", "raw": "dev_raw_x"}
LOGICAL = {
    "a generation": (PLAIN, "SELECT * FROM clean__g12.t", "SELECT * FROM {clean}.t"),
    "several generations": (PLAIN, "clean__g1.a, raw__g2.b, clean__g1.c", "{clean}.a, {raw}.b, {clean}.c"),
    "a quoted name": (PLAIN, 'SELECT * FROM "clean__g12"."t"', 'SELECT * FROM "{clean}"."t"'),
    "the schema that readers see": (PLAIN, "SELECT * FROM clean.t", "SELECT * FROM {clean}.t"),
    "in a string": (PLAIN, "nextval('clean__g12.ids')", "nextval('{clean}.ids')"),
    "the schema that readers see in a string": (PLAIN, "SELECT 'clean'", "SELECT 'clean'"),
    "quoted in a string": (PLAIN, "to_regclass('\"clean__g12\".ids')", "to_regclass('\"{clean}\".ids')"),
    "a string that names nothing": (PLAIN, "SELECT 'clean__g12'", "SELECT 'clean__g12'"),
    "in an escape string": (PLAIN, r"SELECT E'\' clean__g12.ids'", r"SELECT E'\' {clean}.ids'"),
    "in dollar quotes": (PLAIN, "SELECT $$clean__g12.ids$$", "SELECT $${clean}.ids$$"),
    "in comments": (PLAIN, "/* clean__g12 */ -- clean__g12", "/* clean__g12 */ -- clean__g12"),
    "a longer name": (PLAIN, "clean__g12x, xclean__g12, clean__g1_2", "clean__g12x, xclean__g12, clean__g1_2"),
    "a longer name in other letters": (PLAIN, "éclean__g1", "éclean__g1"),
    "another stage": (PLAIN, "other__g1.t", "other__g1.t"),
    "no number": (PLAIN, "clean__g.t", "clean__g.t"),
    "with prefix and suffix": (AFFIXES, "dev_clean__g3_x.t", "{clean}.t"),
    "without its prefix": (AFFIXES, "clean__g3_x.t", "clean__g3_x.t"),
    "without its suffix": (AFFIXES, "dev_clean__g3.t", "dev_clean__g3.t"),
    "the longest stage name wins": ({"a": "a", "a__g1_a": "a__g1_a"}, "a__g1_a__g2.t", "{a__g1_a}.t"),
    "the longest wins whatever the order": ({"x": "p.x", "p.x": "p.p.x"}, "p.p.x__g1.t", "{p.x}.t"),
    "a prefix that holds the stage": ({"a": "a_a"}, "a_a__g3.t", "{a}.t"),
    "a suffix that holds the stage": ({"a": "a_a"}, "a__g3_a.t", "{a}.t"),
    "signs that mean something in a pattern": ({"a.b": "(a.b"}, "(a.b__g3.t (aXb__g3", "{a.b}.t (aXb__g3"),
    "no stages": ({}, "clean__g3.t", "clean__g3.t"),
}


@pytest.mark.parametrize(("schemas", "sql", "logical"), LOGICAL.values(), ids=LOGICAL)
def test_schemas_of_generations_stand_under_the_names_of_their_stages(schemas, sql, logical):
    assert script_text(sql, schemas) == logical


@given(scripts, st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_script_is_the_same_text_in_every_generation(sql, one, other):
    texts = {script_text(f"CREATE TABLE clean__g{number}.t AS {sql}", PLAIN) for number in (one, other)}
    assert len(texts) == 1


@given(scripts)
def test_a_script_without_generations_is_left_as_it_is(sql):
    assert script_text(sql, {"other": "other"}) == sql


def test_a_schema_whose_name_has_quotes_is_found_where_these_are_doubled():
    schemas = {'cl"ean': 'p"cl"ean s'}
    sql = 'CREATE TABLE "p""cl""ean__g7 s".t AS SELECT * FROM "p""cl""ean s".u'
    assert script_text(sql, schemas) == 'CREATE TABLE "{cl""ean}".t AS SELECT * FROM "{cl""ean}".u'
