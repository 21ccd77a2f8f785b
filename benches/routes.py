"""Route benchmarks: dpone against the raw protocol, alternated in one run.

Called by scripts/bench-routes, which builds dpone and says where PostgreSQL's programs and psql are. For each route,
every round runs the limit, dpone, and the limit again: the limit against itself is the control, which shows how much of
a ratio is noise. Medians are compared; absolute times are this machine's and are reported only.
"""

import argparse
import json
import os
import pathlib
import pwd
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import typing

import clickhouse
import wire

SETTINGS = """
listen_addresses = '127.0.0.1'
shared_buffers = 512MB
maintenance_work_mem = 256MB
max_wal_size = 16GB
checkpoint_timeout = 1h
log_min_messages = warning
"""
# What is not set has its default: fsync, full_page_writes and synchronous_commit are on.

COLUMNS = """
    l_orderkey bigint NOT NULL, l_partkey integer NOT NULL, l_suppkey integer NOT NULL, l_linenumber integer NOT NULL,
    l_quantity numeric(15,2) NOT NULL, l_extendedprice numeric(15,2) NOT NULL, l_discount numeric(15,2) NOT NULL,
    l_tax numeric(15,2) NOT NULL, l_returnflag char(1) NOT NULL, l_linestatus char(1) NOT NULL,
    l_shipdate date NOT NULL, l_commitdate date NOT NULL, l_receiptdate date NOT NULL, l_shipinstruct char(25) NOT NULL,
    l_shipmode char(10) NOT NULL, l_comment varchar(44) NOT NULL
"""
KEY = "l_orderkey, l_linenumber"
OUT = "COPY lineitem TO STDOUT (FORMAT binary)"

SOURCE = "{type: postgres, connection_type: env, connection_id: SRC, table: {schema: public, name: lineitem}}"
TO_POSTGRES = f"""
name: to_postgres
source: {SOURCE}
sink:
  type: postgres
  connection_type: env
  connection_id: DST
  table: {{schema: landing, name: lineitem}}
  strategy: {{mode: full_refresh, overwrite_type: exchange}}
"""
TO_PARQUET = f"""
name: to_parquet
source: {SOURCE}
sink:
  type: parquet
  path: out
  table: {{schema: landing, name: lineitem}}
  strategy: {{mode: full_refresh}}
  options: {{connector: {{compression: zstd}}}}
"""

# The same lineitem a day later: 20 % of the rows changed, 5 % gone, 1 % new.
NEXT = f"""
CREATE TABLE lineitem_next ({COLUMNS}, PRIMARY KEY ({KEY}));
INSERT INTO lineitem_next
SELECT l_orderkey, l_partkey, l_suppkey, l_linenumber,
       CASE WHEN l_orderkey % 100 < 20 THEN l_quantity + 1 ELSE l_quantity END, l_extendedprice, l_discount, l_tax,
       l_returnflag, l_linestatus, l_shipdate, l_commitdate, l_receiptdate, l_shipinstruct, l_shipmode, l_comment
FROM lineitem WHERE l_orderkey % 100 < 95;
INSERT INTO lineitem_next
SELECT l_orderkey + 1000000000, l_partkey, l_suppkey, l_linenumber, l_quantity, l_extendedprice, l_discount, l_tax,
       l_returnflag, l_linestatus, l_shipdate, l_commitdate, l_receiptdate, l_shipinstruct, l_shipmode, l_comment
FROM lineitem WHERE l_orderkey % 100 = 7;
"""
NEXT_SOURCE = SOURCE.replace("lineitem", "lineitem_next")
TO_MIRROR = f"""
name: to_mirror
source: {NEXT_SOURCE}
sink:
  type: postgres
  connection_type: env
  connection_id: DST
  table: {{schema: landing, name: mirror}}
  strategy: {{mode: snapshot_diff, unique_key: [l_orderkey, l_linenumber]}}
"""
TO_HISTORY = """
name: to_history
source: %s
sink:
  type: postgres
  connection_type: env
  connection_id: DST
  table: {schema: landing, name: history}
  strategy: {mode: scd2, unique_key: [l_orderkey, l_linenumber]}
"""
FROM_PARQUET = """
name: from_parquet
source: {type: file, path: files/lineitem.parquet}
sink:
  type: postgres
  connection_type: env
  connection_id: DST
  table: {schema: from_parquet, name: lineitem}
  strategy: {mode: full_refresh, overwrite_type: exchange}
"""
FROM_CSV = FROM_PARQUET.replace("from_parquet", "from_csv").replace(
    "{type: file, path: files/lineitem.parquet}", "{type: file, path: files/lineitem.csv, options: {columns: %s}}"
)

# A tenth of the rows changed, and a hundredth as many new ones: what incremental_merge reads past its watermark.
MERGE_ROWS = f"""
CREATE TABLE changes ({COLUMNS}, changed_at timestamptz NOT NULL);
INSERT INTO changes
SELECT l_orderkey, l_partkey, l_suppkey, l_linenumber, l_quantity + 1, l_extendedprice, l_discount, l_tax,
       l_returnflag, l_linestatus, l_shipdate, l_commitdate, l_receiptdate, l_shipinstruct, l_shipmode, l_comment,
       timestamptz '2026-01-01' + l_orderkey * interval '1 microsecond'
FROM lineitem WHERE l_orderkey % 10 = 3;
INSERT INTO changes
SELECT l_orderkey + 1000000000, l_partkey, l_suppkey, l_linenumber, l_quantity, l_extendedprice, l_discount, l_tax,
       l_returnflag, l_linestatus, l_shipdate, l_commitdate, l_receiptdate, l_shipinstruct, l_shipmode, l_comment,
       timestamptz '2026-01-02' + l_orderkey * interval '1 microsecond'
FROM lineitem WHERE l_orderkey % 100 = 7;
ALTER TABLE changes ADD PRIMARY KEY ({KEY});
"""
TO_MERGED = f"""
name: to_merged
source:
  type: postgres
  connection_type: env
  connection_id: SRC
  table: {{schema: public, name: changes}}
  options: {{incremental_column: changed_at}}
sink:
  type: postgres
  connection_type: env
  connection_id: DST
  table: {{schema: merging, name: merged}}
  strategy: {{mode: incremental_merge, unique_key: [l_orderkey, l_linenumber]}}
"""
TYPES = {name: kind for name, kind in (column.split()[:2] for column in COLUMNS.replace("(15,2)", "(15;2)").split(","))}
TYPES = {name: kind.replace(";", ",").replace("numeric", "decimal") for name, kind in TYPES.items()}
NAMES = list(TYPES)
VALUES = [name for name in NAMES if name not in KEY.split(", ")]


class Server:
    """A PostgreSQL of the benchmark's own, in a temporary directory, as an unprivileged user."""

    def __init__(self, programs, root):
        self.bin, self.root = pathlib.Path(programs) / "bin", root
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.who = {}
        if os.getuid() == 0:
            user = next(u for u in pwd.getpwall() if u.pw_name in ("postgres", "nobody"))
            self.who = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
            os.chown(root, user.pw_uid, user.pw_gid)
        self.data = root / "data"
        self.program("initdb", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-D", self.data)
        with open(self.data / "postgresql.conf", "a") as conf:
            conf.write(f"{SETTINGS}\nport = {self.port}\nunix_socket_directories = '{root}'\n")
        self.program("pg_ctl", "-D", self.data, "-l", self.data / "server.log", "-w", "start")
        self.pid = int((self.data / "postmaster.pid").read_text().split()[0])

    def program(self, name, *arguments):
        command = [str(self.bin / name), *map(str, arguments)]
        subprocess.run(command, check=True, cwd="/", stdout=subprocess.DEVNULL, **self.who)

    def stop(self):
        self.program("pg_ctl", "-D", self.data, "-m", "immediate", "stop")

    def url(self, database):
        return f"postgres://postgres@127.0.0.1:{self.port}/{database}?sslmode=disable"

    def sql(self, database, text):
        return subprocess.run(
            ["psql", "-X", "-q", "-At", "-v", "ON_ERROR_STOP=1", "-d", self.url(database), "-c", text],
            check=True, capture_output=True, text=True,
        ).stdout.strip()

    def cpu(self):
        """CPU seconds of every server process that has ended, and so of every finished connection."""
        fields = pathlib.Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


def measure(servers, commands, environment, cwd):
    """Runs a pipeline of commands. Wall and CPU seconds and peak memory of the clients, CPU seconds of the servers."""
    servers[0].sql("src", "CHECKPOINT")
    server_before, began = sum(server.cpu() for server in servers), time.monotonic()
    processes, upstream = [], subprocess.DEVNULL
    for i, command in enumerate(commands):
        last = i == len(commands) - 1
        out = subprocess.DEVNULL if last else subprocess.PIPE
        process = subprocess.Popen(command, stdin=upstream, stdout=out, env=environment, cwd=cwd)
        if upstream != subprocess.DEVNULL:
            upstream.close()
        upstream = process.stdout
        processes.append(process)
    cpu = memory = 0
    for process in processes:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            sys.exit(f"bench-routes: {process.args} ended with {process.returncode}")
        cpu += usage.ru_utime + usage.ru_stime
        memory += usage.ru_maxrss / 1024
    wall = time.monotonic() - began
    # The server's processes end a moment after their clients.
    time.sleep(0.2)
    return {"wall": wall, "cpu": cpu, "server_cpu": sum(server.cpu() for server in servers) - server_before, "memory": memory}


def add(a, b):
    return {k: (max if k == "memory" else sum)((a[k], b[k])) for k in a}


class Routes(clickhouse.Routes):
    types, postgres_source, to_parquet = TYPES, SOURCE, TO_PARQUET

    def __init__(self, server, dpone, diff_speed, root, columnar=None):
        self.server, self.dpone, self.diff_speed, self.root, self.clickhouse = server, dpone, diff_speed, root, columnar
        self.environment = os.environ | {"DPONE_CONN_SRC_URL": server.url("src"), "DPONE_CONN_DST_URL": server.url("dst")}
        if columnar:
            self.environment |= {"DPONE_CONN_CH_URL": columnar.url()}
        (root / "to_postgres.yaml").write_text(TO_POSTGRES)
        (root / "to_parquet.yaml").write_text(TO_PARQUET)
        (root / "to_mirror.yaml").write_text(TO_MIRROR)
        (root / "to_history.yaml").write_text(TO_HISTORY % NEXT_SOURCE)
        (root / "from_parquet.yaml").write_text(FROM_PARQUET)
        (root / "from_csv.yaml").write_text(FROM_CSV % json.dumps([{"name": n, "type": t} for n, t in TYPES.items() if "char" not in t]))
        (root / "to_merged.yaml").write_text(TO_MERGED)
        (root / "to_history_first.yaml").write_text(TO_HISTORY % SOURCE)

    def psql(self, database, text):
        return ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", self.server.url(database), "-c", text]

    def measure(self, *commands):
        servers = [server for server in (self.server, self.clickhouse) if server]
        return measure(servers, commands, self.environment, self.root)

    def run_dpone(self, pipeline):
        # The parallelism is set, so that counts are the same on every machine.
        return self.measure([self.dpone, "run", f"{pipeline}.yaml", "--parallelism", "2"])

    def counted(self, run):
        """What a run says to the server: it goes through a relay once, unmeasured."""
        relay, direct = wire.Relay(self.server.port), self.environment
        self.environment = direct | {
            name: value.replace(f":{self.server.port}/", f":{relay.port}/") for name, value in direct.items() if name.startswith("DPONE_CONN_")
        }
        try:
            wall = run()["wall"]
        finally:
            self.environment = direct
        return relay.settled(), wall

    def postgres_limit(self):
        self.server.sql("dst", f"DROP TABLE IF EXISTS raw; CREATE TABLE raw ({COLUMNS})")
        copied = self.measure(self.psql("src", OUT), self.psql("dst", "COPY raw FROM STDIN (FORMAT binary)"))
        keyed = self.measure(self.psql("dst", f"ALTER TABLE raw ADD PRIMARY KEY ({KEY})"))
        return add(copied, keyed)

    def postgres_dpone(self):
        # The target is the user's own table, empty: the swapped-in one must get its primary key.
        empty = f"CREATE TABLE landing.lineitem ({COLUMNS}, PRIMARY KEY ({KEY}))"
        self.server.sql("dst", f"DROP SCHEMA IF EXISTS landing CASCADE; CREATE SCHEMA landing; {empty}")
        return self.run_dpone("to_postgres")

    def postgres_check(self):
        key = self.server.sql("dst", "SELECT count(*) FROM pg_constraint WHERE conrelid = 'landing.lineitem'::regclass AND contype = 'p'")
        if key != "1":
            sys.exit("bench-routes: the loaded table has no primary key")
        digest = "SELECT count(*), sum(('x' || left(md5(t::text), 15))::bit(60)::bigint) FROM {} t"
        if self.server.sql("src", digest.format("lineitem")) != self.server.sql("dst", digest.format("landing.lineitem")):
            sys.exit("bench-routes: the loaded table differs from its source")

    def parquet_limit(self):
        return self.measure(self.psql("src", OUT))

    def parquet_dpone(self, pipeline="to_parquet"):
        shutil.rmtree(self.root / "out", ignore_errors=True)
        return self.run_dpone(pipeline)

    def parquet_check(self):
        python = os.environ["DPONE_TEST_PYTHON"]
        script = "import duckdb, sys; print(*duckdb.sql(f\"SELECT count(*), sum(l_extendedprice) FROM '{sys.argv[1]}/**/*.parquet'\").fetchone(), sep='|')"
        found = subprocess.run([python, "-c", script, self.root / "out/landing/lineitem"], check=True, capture_output=True, text=True)
        if found.stdout.strip() != self.server.sql("src", "SELECT count(*), sum(l_extendedprice) FROM lineitem"):
            sys.exit(f"bench-routes: the Parquet files differ from their source: {found.stdout}")

    # Files into PostgreSQL: one stream of COPY from a file that has the rows in the format of the limit.

    def exported(self, name, text):
        """What COPY gives of lineitem, in a file."""
        path = self.root / "files" / name
        path.parent.mkdir(exist_ok=True)
        if not path.exists():
            with open(path, "wb") as file:
                subprocess.run(self.psql("src", text), stdout=file, check=True)
        return path

    def from_file(self, path, options, columns=COLUMNS):
        self.server.sql("dst", f"DROP TABLE IF EXISTS raw; CREATE TABLE raw ({columns})")
        return self.measure(["cat", path], self.psql("dst", f"COPY raw FROM STDIN ({options})"))

    def loaded(self, schema):
        digest = "SELECT count(*), sum(('x' || left(md5(t::text), 15))::bit(60)::bigint) FROM {} t"
        if self.server.sql("src", digest.format("lineitem")) != self.server.sql("dst", digest.format(f"{schema}.lineitem")):
            sys.exit(f"bench-routes: the table loaded {schema} differs from its source")

    def from_parquet_prepare(self):
        csv = self.exported("lineitem.csv", "COPY lineitem TO STDOUT (FORMAT csv, HEADER)")
        script = """
import duckdb, sys
duckdb.sql(f"COPY (SELECT * FROM read_csv('{sys.argv[1]}', header = true, columns = {sys.argv[3]})) TO '{sys.argv[2]}' (FORMAT parquet, COMPRESSION zstd)")
"""
        types = "{" + ", ".join(f"'{name}': '{'VARCHAR' if 'char' in kind else kind}'" for name, kind in TYPES.items()) + "}"
        file = self.root / "files/lineitem.parquet"
        subprocess.run([os.environ["DPONE_TEST_PYTHON"], "-c", script, csv, file, types], check=True)

    def from_parquet_limit(self):
        return self.from_file(self.exported("lineitem.bin", OUT), "FORMAT binary")

    def from_parquet_dpone(self):
        self.server.sql("dst", f"DROP SCHEMA IF EXISTS from_parquet CASCADE; CREATE SCHEMA from_parquet; CREATE TABLE from_parquet.lineitem ({COLUMNS})")
        return self.run_dpone("from_parquet")

    def from_parquet_check(self):
        self.loaded("from_parquet")

    def from_csv_limit(self):
        return self.from_file(self.exported("lineitem.csv", "COPY lineitem TO STDOUT (FORMAT csv, HEADER)"), "FORMAT csv, HEADER")

    def from_csv_dpone(self):
        self.server.sql("dst", f"DROP SCHEMA IF EXISTS from_csv CASCADE; CREATE SCHEMA from_csv; CREATE TABLE from_csv.lineitem ({COLUMNS})")
        return self.run_dpone("from_csv")

    def from_csv_check(self):
        self.loaded("from_csv")

    # incremental_merge: stage by COPY, then INSERT … ON CONFLICT DO UPDATE.

    def merge_prepare(self):
        self.server.sql("src", f"DROP TABLE IF EXISTS changes; {MERGE_ROWS}")
        self.server.sql("src", "VACUUM (ANALYZE, FREEZE) changes")
        self.server.sql("dst", f"DROP TABLE IF EXISTS merge_base; CREATE TABLE merge_base ({COLUMNS}, changed_at timestamptz NOT NULL)")
        base = f"COPY (SELECT *, timestamptz '2025-01-01' FROM lineitem) TO STDOUT (FORMAT binary)"
        self.measure(self.psql("src", base), self.psql("dst", "COPY merge_base FROM STDIN (FORMAT binary)"))
        # Or the server does it by itself while something is measured.
        self.server.sql("dst", "VACUUM (ANALYZE, FREEZE) merge_base")

    def merge_reset(self):
        # The state goes with the schema: every run is the first one, and reads all of the changes.
        self.server.sql("dst", f"""DROP SCHEMA IF EXISTS merging CASCADE; CREATE SCHEMA merging;
            CREATE TABLE merging.merged (LIKE merge_base); INSERT INTO merging.merged SELECT * FROM merge_base;
            ALTER TABLE merging.merged ADD PRIMARY KEY ({KEY})""")
        self.server.sql("dst", "VACUUM (ANALYZE) merging.merged")

    def merge_limit(self):
        self.merge_reset()
        self.server.sql("dst", "CREATE UNLOGGED TABLE merging.staged (LIKE merging.merged)")
        out = "COPY (SELECT * FROM changes WHERE changed_at > timestamptz '2025-12-31') TO STDOUT (FORMAT binary)"
        copied = self.measure(self.psql("src", out), self.psql("dst", "COPY merging.staged FROM STDIN (FORMAT binary)"))
        sets = ", ".join(f"{v} = EXCLUDED.{v}" for v in VALUES + ["changed_at"])
        written = self.measure(self.psql("dst", f"""INSERT INTO merging.merged SELECT * FROM merging.staged
            ON CONFLICT ({KEY}) DO UPDATE SET {sets}"""))
        return add(copied, written)

    def merge_dpone(self):
        self.merge_reset()
        return self.run_dpone("to_merged")

    def merge_check(self):
        digest = "SELECT count(*), sum(l_quantity), max(changed_at) FROM {}"
        expected = self.server.sql("src", """SELECT count(*), sum(l_quantity), (SELECT max(changed_at) FROM changes) FROM (
            SELECT l_quantity FROM changes UNION ALL SELECT l_quantity FROM lineitem WHERE l_orderkey % 10 <> 3) t""")
        if self.server.sql("dst", digest.format("merging.merged")) != expected:
            sys.exit("bench-routes: the merged table differs from what the changes make of it")

    # The comparison alone: two Parquet files, the change set counted.

    def diff_prepare(self):
        for table, path in (("lineitem", "old"), ("lineitem_next", "new")):
            pipeline = TO_PARQUET.replace("name: to_parquet", f"name: to_{path}").replace("path: out", f"path: {path}")
            (self.root / f"to_{path}.yaml").write_text(pipeline.replace(SOURCE, SOURCE.replace("lineitem", table)))
            shutil.rmtree(self.root / path, ignore_errors=True)
            self.run_dpone(f"to_{path}")
        self.old, self.new = (self.root / p / "landing" / t for p, t in (("old", "lineitem"), ("new", "lineitem")))

    def diff_limit(self):
        keys = " AND ".join(f"o.{k} = n.{k}" for k in KEY.split(", "))
        differs = " OR ".join(f"o.{v} IS DISTINCT FROM n.{v}" for v in VALUES)
        query = f"""
            SELECT (SELECT count(*) FROM n ANTI JOIN o USING ({KEY})), (SELECT count(*) FROM o JOIN n ON {keys} WHERE {differs}),
                   (SELECT count(*) FROM o ANTI JOIN n USING ({KEY}))"""
        script = f"""
import duckdb, sys
duckdb.sql("SET threads = " + sys.argv[3])
for name, path in (("o", sys.argv[1]), ("n", sys.argv[2])):
    duckdb.sql(f"CREATE VIEW {{name}} AS SELECT * FROM '{{path}}/**/*.parquet'")
print(*duckdb.sql({query!r}).fetchone(), sep="|")
"""
        python = os.environ["DPONE_TEST_PYTHON"]
        return self.measure([python, "-c", script, self.old, self.new, str(os.cpu_count())])

    def diff_dpone(self):
        return self.measure([self.diff_speed, str(self.old) + "/", str(self.new) + "/", KEY.replace(" ", "")])

    def diff_check(self):
        old, new, both = "lineitem", "lineitem_next", f"USING ({KEY})"
        found = subprocess.run([self.diff_speed, str(self.old) + "/", str(self.new) + "/", KEY.replace(" ", "")], check=True, capture_output=True, text=True)
        expected = self.server.sql("src", f"""
            SELECT (SELECT count(*) FROM {new} n LEFT JOIN {old} o {both} WHERE o.l_tax IS NULL),
                   (SELECT count(*) FROM {old} o JOIN {new} n {both} WHERE o.l_quantity <> n.l_quantity),
                   (SELECT count(*) FROM {old} o LEFT JOIN {new} n {both} WHERE n.l_tax IS NULL)""")
        if found.stdout.strip().rsplit("|", 1)[0] != expected:
            sys.exit(f"bench-routes: the comparison counted {found.stdout.strip()}, and SQL {expected}")

    # snapshot_diff into PostgreSQL: read both sides, write the differences with one statement each.

    def mirror_reset(self):
        self.server.sql("dst", f"""CREATE SCHEMA IF NOT EXISTS landing; DROP TABLE IF EXISTS landing.mirror;
            CREATE TABLE landing.mirror ({COLUMNS}); INSERT INTO landing.mirror SELECT * FROM old;
            ALTER TABLE landing.mirror ADD PRIMARY KEY ({KEY})""")
        self.server.sql("dst", "VACUUM (ANALYZE) landing.mirror")

    def mirror_prepare(self):
        self.server.sql("dst", f"DROP TABLE IF EXISTS old, next; CREATE TABLE old ({COLUMNS}); CREATE TABLE next ({COLUMNS})")
        for table, into in (("lineitem", "old"), ("lineitem_next", "next")):
            self.measure(self.psql("src", OUT.replace("lineitem", table)), self.psql("dst", f"COPY {into} FROM STDIN (FORMAT binary)"))
        self.server.sql("dst", f"""
            CREATE TABLE changed AS SELECT n.* FROM next n JOIN old o USING ({KEY}) WHERE o.l_quantity <> n.l_quantity;
            CREATE TABLE fresh AS SELECT n.* FROM next n LEFT JOIN old o USING ({KEY}) WHERE o.l_tax IS NULL;
            CREATE TABLE gone AS SELECT o.* FROM old o LEFT JOIN next n USING ({KEY}) WHERE n.l_tax IS NULL;
            ANALYZE changed; ANALYZE fresh; ANALYZE gone""")

    def mirror_limit(self):
        self.mirror_reset()
        sets = ", ".join(f"{v} = s.{v}" for v in VALUES)
        keys = " AND ".join(f"t.{k} = s.{k}" for k in KEY.split(", "))
        return add(
            add(
                self.measure(self.psql("src", OUT.replace("lineitem", "lineitem_next"))),
                self.measure(self.psql("dst", OUT.replace("lineitem", "landing.mirror"))),
            ),
            self.measure(self.psql("dst", f"""BEGIN; DELETE FROM landing.mirror t USING gone s WHERE {keys};
                UPDATE landing.mirror t SET {sets} FROM changed s WHERE {keys};
                INSERT INTO landing.mirror SELECT * FROM fresh; COMMIT""")),
        )

    def mirror_dpone(self):
        self.mirror_reset()
        return self.run_dpone("to_mirror")

    def mirror_check(self):
        digest = "SELECT count(*), sum(('x' || left(md5(t::text), 15))::bit(60)::bigint) FROM {} t"
        if self.server.sql("src", digest.format("lineitem_next")) != self.server.sql("dst", digest.format("landing.mirror")):
            sys.exit("bench-routes: the mirror differs from its source")

    # scd2 into PostgreSQL: a staged copy, then SQL.

    def history_prepare(self):
        self.server.sql("dst", "CREATE SCHEMA IF NOT EXISTS landing; DROP TABLE IF EXISTS landing.history, history_first CASCADE")
        self.run_dpone("to_history_first")
        self.server.sql("dst", "CREATE TABLE history_first AS SELECT * FROM landing.history")

    def history_reset(self):
        self.server.sql("dst", f"""TRUNCATE landing.history; INSERT INTO landing.history SELECT * FROM history_first""")
        self.server.sql("dst", "VACUUM (ANALYZE) landing.history")

    def history_limit(self):
        self.history_reset()
        self.server.sql("dst", f"DROP TABLE IF EXISTS staged; CREATE TABLE staged ({COLUMNS})")
        copied = self.measure(
            self.psql("src", OUT.replace("lineitem", "lineitem_next")), self.psql("dst", "COPY staged FROM STDIN (FORMAT binary)")
        )
        keys = " AND ".join(f"t.{k} = s.{k}" for k in KEY.split(", "))
        ours, theirs = (", ".join(f"{side}.{v}" for v in VALUES) for side in ("t", "s"))
        columns = ", ".join(NAMES)
        # The row hash is what makes later comparisons cheap; SQL compares the columns instead and leaves it empty.
        written = self.measure(self.psql("dst", f"""ANALYZE staged; BEGIN;
            ALTER TABLE landing.history ALTER __dpone__row_hash DROP NOT NULL;
            CREATE TEMP TABLE differs ON COMMIT DROP AS SELECT s.* FROM staged s LEFT JOIN landing.history t
                ON {keys} AND t.__dpone__is_current WHERE t.l_orderkey IS NULL OR ({ours}) IS DISTINCT FROM ({theirs});
            UPDATE landing.history t SET __dpone__valid_to_at = now(), __dpone__is_current = false FROM differs s
                WHERE {keys} AND t.__dpone__is_current;
            UPDATE landing.history t SET __dpone__valid_to_at = now(), __dpone__is_current = false
                WHERE t.__dpone__is_current AND NOT EXISTS (SELECT FROM staged s WHERE {keys});
            INSERT INTO landing.history ({columns}, __dpone__valid_from_at, __dpone__is_current)
                SELECT {columns}, now(), true FROM differs; COMMIT"""))
        return add(copied, written)

    def history_dpone(self):
        self.history_reset()
        return self.run_dpone("to_history")

    def history_check(self):
        # What dpone last left behind: one current version for each row of the source.
        current = "SELECT count(*), sum(l_quantity) FROM {}"
        found = self.server.sql("dst", current.format("landing.history WHERE __dpone__is_current"))
        if self.server.sql("src", current.format("lineitem_next")) != found:
            sys.exit("bench-routes: the current versions differ from the source")


class Route(typing.NamedTuple):
    name: str
    route: str
    limit: str
    # What is aimed at, at SF1 on a quiet machine with a release build.
    target: float
    # What fails: broken, whatever the machine, the scale and the profile.
    margin: float
    # Megabytes: what is aimed at, and what fails.
    memory: int = 300
    memory_margin: int = 450
    # It needs ClickHouse, and is left out of QUICK unless it is asked for.
    columnar: bool = False


ROUTES = [
    Route("parquet", "PostgreSQL to Parquet (zstd)", "COPY binary > /dev/null", 1.15, 6),
    Route("postgres", "PostgreSQL to PostgreSQL, full_refresh with primary key", "COPY binary into COPY binary, then ADD PRIMARY KEY", 1.1, 4),
    Route("from_parquet", "Parquet to PostgreSQL, full_refresh", "one stream of COPY binary from a file", 0.85, 5),
    Route("from_csv", "CSV to PostgreSQL, full_refresh", "one stream of COPY csv from the file", 0.65, 5),
    Route("merge", "incremental_merge, PostgreSQL to PostgreSQL, 10 % changed, 1 % new", "COPY binary into a staged copy, then INSERT ON CONFLICT DO UPDATE", 1.1, 5),
    Route("diff", "two Parquet files compared, 20 % changed, 5 % gone, 1 % new", "DuckDB, anti-joins", 1.0, 10),
    Route("mirror", "snapshot_diff, PostgreSQL to PostgreSQL", "COPY binary of both sides > /dev/null, then DELETE, UPDATE, INSERT", 1.25, 7),
    Route("history", "scd2, PostgreSQL to PostgreSQL", "COPY binary into a staged copy, then SQL", 0.6, 5),
    Route("clickhouse_parquet", "ClickHouse to Parquet (zstd)", "curl … FORMAT ArrowStream > /dev/null", 1.3, 8, 400, 600, True),
    Route("parquet_clickhouse", "Parquet to ClickHouse, full_refresh", "curl --data-binary @file INSERT … FORMAT Parquet", 1.3, 8, 400, 600, True),
    Route("postgres_clickhouse", "PostgreSQL to ClickHouse, full_refresh", "the slower of COPY binary > /dev/null and curl INSERT … FORMAT ArrowStream", 1.2, 8, 400, 600, True),
]
# Its counts are committed.
QUICK = 0.1
# Seconds after which a lease is renewed, which takes round trips; a machine must be very busy for QUICK to take so long.
RENEWAL = 20


def generate(server, tpchgen, scale):
    server.sql("postgres", "CREATE DATABASE src")
    server.sql("postgres", "CREATE DATABASE dst")
    server.sql("src", f"CREATE TABLE lineitem ({COLUMNS}, PRIMARY KEY ({KEY}))")
    rows = subprocess.Popen([tpchgen, "csv", "-s", str(scale), "--tables", "lineitem", "--stdout"], stdout=subprocess.PIPE)
    copy = ["psql", "-X", "-q", "-d", server.url("src"), "-c", "COPY lineitem FROM STDIN (FORMAT csv, HEADER)"]
    subprocess.run(copy, stdin=rows.stdout, check=True)
    if rows.wait() != 0:
        sys.exit("bench-routes: tpchgen-cli failed")
    server.sql("src", NEXT)
    for table in ("lineitem", "lineitem_next"):
        server.sql("src", f"VACUUM (ANALYZE, FREEZE) {table}")
    return int(server.sql("src", "SELECT count(*) FROM lineitem"))


def median(measurements, what):
    return statistics.median(m[what] for m in measurements)


def bench(routes, route, rounds):
    name = route.name
    run = {"limit": getattr(routes, name + "_limit"), "dpone": getattr(routes, name + "_dpone")}
    getattr(routes, name + "_prepare", lambda: None)()
    # One of each to warm caches, unmeasured; what dpone loaded is checked, and what it took is counted.
    run["limit"]()
    run["dpone"]()
    # The second time: the tables that keep state are there then, whatever ran before.
    counts, counted_in = (None, 0) if route.columnar else routes.counted(run["dpone"])
    getattr(routes, name + "_check")()
    taken = {"limit": [], "dpone": [], "control": []}
    for i in range(rounds):
        for side in ("limit", "dpone", "control"):
            taken[side].append(run["limit" if side == "control" else side]())
        walls = ", ".join(f"{side} {m[-1]['wall']:.2f} s" for side, m in taken.items())
        print(f"{name}, round {i + 1} of {rounds}: {walls}", file=sys.stderr)
    medians = {side: {what: median(m, what) for what in m[0]} for side, m in taken.items()}
    # Pairs of neighbours: what the machine does to one round it does to both sides of it.
    ratios = [d["wall"] / l["wall"] for d, l in zip(taken["dpone"], taken["limit"])]
    return route._asdict() | {
        "medians": medians, "rounds": taken, "counts": counts, "counted_in": counted_in,
        "ratio": statistics.median(ratios), "ratios": ratios,
        "control": statistics.median(c["wall"] / l["wall"] for c, l in zip(taken["control"], taken["limit"])),
    }


def table(results, rows, options):
    columnar = f"ClickHouse is the server of the tests, which builds results as a whole; compression of dpone's data: {options.compression}."
    out = [
        f"lineitem, {rows:,} rows; medians of {options.rounds} rounds, limit and dpone alternated; control: the limit against itself.",
        f"PostgreSQL with fsync on, shared_buffers 512MB, one server for source and target; dpone in its {options.profile} profile.",
        *([columnar] if any(r["columnar"] for r in results) else []),
        "",
        "| route | limit | limit s | dpone s | ratio | target | control | client CPU s, limit / dpone | server CPU s, limit / dpone | dpone peak MB | rows staged | MB read / written | round trips |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in results:
        l, d, c = r["medians"]["limit"], r["medians"]["dpone"], r["counts"]
        counts = f"{c['rows_staged']:,} | {c['bytes_read'] / 1e6:.0f} / {c['bytes_written'] / 1e6:.0f} | {c['round_trips']}" if c else " |  | "
        out.append(
            f"| {r['route']} | `{r['limit']}` | {l['wall']:.2f} | {d['wall']:.2f} | **{r['ratio']:.2f}** | {r['target']} | "
            f"{r['control']:.2f} | {l['cpu']:.2f} / {d['cpu']:.2f} | {l['server_cpu']:.2f} / {d['server_cpu']:.2f} | {d['memory']:.0f} | "
            f"{counts} |"
        )
    return "\n".join(out)


def verdict(results, options):
    """What is broken. A target that is missed is said, and fails nothing: another machine may be busy."""
    broken = []
    for r in results:
        memory = r["medians"]["dpone"]["memory"]
        if r["ratio"] > r["margin"]:
            broken.append(f"{r['name']}: {r['ratio']:.2f} of its limit, and the margin is {r['margin']}")
        elif r["ratio"] > r["target"]:
            print(f"bench-routes: {r['name']} misses its target of {r['target']}: {r['ratio']:.2f}")
        if memory > r["memory_margin"]:
            broken.append(f"{r['name']}: a peak of {memory:.0f} MB, and the margin is {r['memory_margin']} MB")
        elif memory > r["memory"]:
            print(f"bench-routes: {r['name']} misses its target of {r['memory']} MB: {memory:.0f} MB")
    return broken + (counts_moved(results, options) if options.scale == QUICK else [])


def counts_moved(results, options):
    """Counts are the same on every machine: each must be what is committed."""
    results = [r for r in results if r["counts"]]
    found = {r["name"]: r["counts"] for r in results}
    before = json.loads(options.counts.read_text()) if options.counts.exists() else {}
    if options.update:
        options.counts.write_text(json.dumps(before | found, indent=1, sort_keys=True) + "\n")
        print(f"bench-routes: counts of {', '.join(found)} written to {options.counts}; say in the commit why they moved")
        return []
    moved = []
    for r in results:
        name, counts = r["name"], dict(r["counts"])
        if r["counted_in"] >= RENEWAL:
            print(f"bench-routes: {name} took {r['counted_in']:.0f} s under the relay, so its lease was renewed: round trips are not compared")
            del counts["round_trips"], counts["connections"]
        for what, count in counts.items():
            expected = before.get(name, {}).get(what)
            if count != expected:
                moved.append(f"{name}: {what.replace('_', ' ')}: {count:,}, and {options.counts.name} has {expected}")
    return moved


def growth(routes, options):
    """How the cost of one route grows with its rows, and how the limit's does: a tenth, one and ten times lineitem, from
    Parquet to PostgreSQL."""
    measured = []
    for scale in (0.1, 1, 10):
        folder = routes.root / "files"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        subprocess.run([options.tpchgen, "parquet", "-s", str(scale), "--tables", "lineitem", "--output-dir", folder], check=True)
        taken, limits = [], []
        for _ in range(3 if scale <= 1 else 1):
            routes.server.sql("dst", "DROP SCHEMA IF EXISTS from_parquet CASCADE")
            taken.append(routes.run_dpone("from_parquet"))
            binary = folder / "loaded.bin"
            if not binary.exists():
                rows = int(routes.server.sql("dst", "SELECT count(*) FROM from_parquet.lineitem"))
                with open(binary, "wb") as file:
                    subprocess.run(routes.psql("dst", OUT.replace("lineitem", "from_parquet.lineitem")), stdout=file, check=True)
            limits.append(routes.from_file(binary, "FORMAT binary", "LIKE from_parquet.lineitem"))
        best = {what: median(taken, what) for what in taken[0]}
        limit = median(limits, "wall")
        measured.append({"scale": scale, "rows": rows, "limit": limit, **best, "per_million": best["wall"] / rows * 1e6})
    per, limit_per = measured[1]["per_million"], measured[1]["limit"] / measured[1]["rows"] * 1e6
    print("| scale | rows | dpone s | s for a million rows | against SF1 | the limit against SF1 | of the limit | dpone peak MB |\n|---|---|---|---|---|---|---|---|")
    for m in measured:
        grown = m["limit"] / m["rows"] * 1e6 / limit_per
        print(
            f"| {m['scale']:g} | {m['rows']:,} | {m['wall']:.2f} | {m['per_million']:.2f} | {m['per_million'] / per:.2f} "
            f"| {grown:.2f} | {m['wall'] / m['limit']:.2f} | {m['memory']:.0f} |"
        )
    pathlib.Path(options.json).write_text(json.dumps({"growth": measured}, indent=1))


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("dpone", "diff-speed", "postgres", "tpchgen", "json"):
        arguments.add_argument("--" + name, required=True)
    arguments.add_argument("--counts", required=True, type=pathlib.Path)
    arguments.add_argument("--profile", default="release")
    arguments.add_argument("--scale", type=float, default=1)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--route", choices=[route.name for route in ROUTES], action="append")
    arguments.add_argument("--compression", choices=["none", "lz4"], default="none", help="of dpone's data to and from ClickHouse")
    arguments.add_argument("--update", action="store_true", help="write the counts instead of comparing them")
    arguments.add_argument("--growth", action="store_true", help="measure how cost grows with rows instead")
    options = arguments.parse_args()
    chosen = [r for r in ROUTES if r.name in options.route] if options.route else [r for r in ROUTES if options.scale != QUICK or not r.columnar]

    def stopped(*_):
        # Once: `timeout` tells the whole group after it has told us, and the servers are being stopped by then.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sys.exit("bench-routes: stopped")

    # Whoever ends the benchmark ends its server too.
    signal.signal(signal.SIGTERM, stopped)
    root = pathlib.Path(tempfile.mkdtemp(prefix="dpone-bench."))
    root.chmod(0o755)
    server = columnar = None
    try:
        programs = root / "postgres"
        # Reachable for an unprivileged user, unlike root's home.
        shutil.copytree(options.postgres, programs, symlinks=True)
        (root / "server").mkdir()
        (root / "work").mkdir()
        server = Server(programs, root / "server")
        if options.growth:
            for database in ("src", "dst"):
                server.sql("postgres", f"CREATE DATABASE {database}")
            return growth(Routes(server, options.dpone, options.diff_speed, root / "work"), options)
        rows = generate(server, options.tpchgen, options.scale)
        print(f"bench-routes: {rows:,} rows of lineitem loaded", file=sys.stderr)
        if any(route.columnar for route in chosen):
            (root / "clickhouse").mkdir()
            columnar = clickhouse.Server(root / "clickhouse", options.compression)
        routes = Routes(server, options.dpone, options.diff_speed, root / "work", columnar)
        results = [bench(routes, route, options.rounds) for route in chosen]
    finally:
        if columnar:
            columnar.stop()
        if server:
            server.stop()
        shutil.rmtree(root, ignore_errors=True)

    print(table(results, rows, options))
    measured = {"rows": rows, "rounds": options.rounds, "profile": options.profile, "routes": results}
    pathlib.Path(options.json).write_text(json.dumps(measured, indent=1))
    if broken := verdict(results, options):
        hint = "if a count is meant to move, commit what UPDATE=1 writes and say why"
        sys.exit("bench-routes: FAILED\n  " + "\n  ".join(broken) + f"\n  hint: {hint}")


if __name__ == "__main__":
    main()
