"""Reads Delta tables with the Python `deltalake` package, one request a line, until its input ends.

A request is a JSON object {"path": …, "columns": […]}; the answer, one line too, is a list of rows, each a list of
texts and nulls, spelled as PostgreSQL spells them.
"""

import datetime
import decimal
import json
import os
import sys

from deltalake import DeltaTable


def spelled(value):
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        text = repr(value)
        names = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
        return names.get(text, text[:-2] if text.endswith(".0") else text)
    if isinstance(value, decimal.Decimal):
        return f"{value:f}"
    if isinstance(value, bytes):
        return "\\x" + value.hex()
    if isinstance(value, datetime.datetime):
        zone = "" if value.tzinfo is None else "+00"
        text = value.replace(tzinfo=None).isoformat(sep=" ")
        return (text.rstrip("0") if "." in text else text) + zone
    return str(value)


for line in sys.stdin:
    request = json.loads(line)
    table = DeltaTable(request["path"]).to_pyarrow_table()
    columns = [[spelled(value) for value in table.column(name).to_pylist()] for name in request["columns"]]
    extra = sorted(set(table.column_names) - set(request["columns"]))
    answer = {"rows": [list(row) for row in zip(*columns)], "other_columns": extra}
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
# Not through the interpreter's end: there, threads of Arrow now and then abort each other.
os._exit(0)
