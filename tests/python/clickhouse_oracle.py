"""What changes of a table cost on the real engine: runs each case in a table of its own, and says what happened.

Reads [{"columns": DDL, "order": DDL, "values": expression of `number`, "statements": [..]}, ..] from standard input, and
prints [{"error": code or null, "mutations": count, "parts_kept": bool, "failed": bool}, ..].
"""
import json
import re
import sys

from chdb import session

engine = session.Session()


def ask(sql):
    return str(engine.query(sql, "TSV")).strip()


def one(case):
    ask("DROP TABLE IF EXISTS landing.orders SYNC")
    ask(
        f"CREATE TABLE landing.orders (k UInt64, {case['columns']}) ENGINE = MergeTree ORDER BY {case['order']}"
        " SETTINGS allow_nullable_key = 1"
    )
    ask(f"INSERT INTO landing.orders SELECT number, {case['values']} FROM numbers(1000)")
    parts = "SELECT groupArray(name) FROM system.parts WHERE database = 'landing' AND table = 'orders' AND active"
    before, error = ask(parts), None
    try:
        for statement in case["statements"]:
            ask(statement)
    except Exception as raised:  # the engine has one type of error
        found = re.search(r"Code: (\d+)|\(([A-Z_]+)\)", str(raised))
        error = str(raised)[:300] if found is None else found.group(0)
    where = "FROM system.mutations WHERE database = 'landing' AND table = 'orders'"
    # A mutation that fails is tried again for ever.
    failed = ask(f"SELECT countIf(latest_fail_reason != '') {where}") != "0"
    result = {
        "error": error,
        "mutations": int(ask(f"SELECT count() {where}")),
        "parts_kept": ask(parts) == before,
        "failed": failed,
    }
    if failed:
        ask("KILL MUTATION WHERE database = 'landing' AND table = 'orders' SYNC")
    return result


ask("CREATE DATABASE IF NOT EXISTS landing ENGINE = Atomic")
json.dump([one(case) for case in json.load(sys.stdin)], sys.stdout)
