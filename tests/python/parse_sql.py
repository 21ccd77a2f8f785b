"""Parses statements in the grammar of their dialect: sqlglot first, sqlfluff where sqlglot has no rule for a statement.

Reads {"dialect": name, "statements": [..]} from standard input, and prints [[statement, why not], ..]: those that neither
parses. A statement that sqlglot keeps as an opaque command is not parsed.
"""
import json
import logging
import sys

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


asked = json.load(sys.stdin)
refused = []
for sql in asked["statements"]:
    why = glot(sql, asked["dialect"])
    if why:
        also = fluff(sql, asked["dialect"])
        if also:
            refused.append([sql, f"{why}; {also}"])
json.dump(refused, sys.stdout)
