"""Parses statements in the grammar of their dialect: PostgreSQL's by its own parser; of others sqlglot first, sqlfluff where
sqlglot has no rule for a statement.

Reads {"dialect": name, "statements": [..]} from standard input, and prints [[statement, why not], ..]: those that neither
parses. A statement that sqlglot keeps as an opaque command is not parsed.
"""
import json
import logging
import sys

import pglast
import sqlfluff
import sqlglot
from sqlglot import exp

logging.disable(logging.CRITICAL)


def glot(sql, dialect):
    try:
        trees = sqlglot.parse(sql, dialect=dialect)
    except sqlglot.errors.SqlglotError as error:
        return f"sqlglot: {str(error).splitlines()[0]}"
    if not trees or any(tree is None or tree.find(exp.Command) for tree in trees):
        return "sqlglot: an opaque command"
    return None


def fluff(sql, dialect):
    try:
        sqlfluff.parse(sql + ";", dialect=dialect)
    except Exception as error:  # its own errors have no common base
        return f"sqlfluff: {str(error).splitlines()[-1]}"
    return None


def postgres(sql):
    try:
        pglast.parse_sql(sql)
    except pglast.parser.ParseError as error:
        return str(error)
    return None


def parse(sql, dialect):
    if dialect == "postgres":
        return postgres(sql)
    why = glot(sql, dialect)
    also = why and fluff(sql, dialect)
    return also and f"{why}; {also}"


asked = json.load(sys.stdin)
reasons = [(sql, parse(sql, asked["dialect"])) for sql in asked["statements"]]
refused = [[sql, why] for sql, why in reasons if why]
json.dump(refused, sys.stdout)
