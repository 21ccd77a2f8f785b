"""The ClickHouse of the route benchmarks, and what its routes do on both sides.

The server is the one of the tests: the real engine behind an HTTP layer in Python. It builds a result as a whole before it
sends the first byte, for curl and for dpone alike, and keeps it in its own memory. So a read of a real server, which
streams, has less to hide behind; what dpone adds to it shows here as it would there.
"""

import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request

# Of the columns of PostgreSQL's lineitem.
NATIVE = {"bigint": "Int64", "integer": "Int32", "numeric(15,2)": "Decimal(15, 2)", "date": "Date32"}
KEY = "(l_orderkey, l_linenumber)"
# By the limits, and by dpone.
WRITTEN = ("raw", "from_parquet", "from_postgres")
DATABASE = "bench"
# Bytes that stay free on the disk while tables are set aside.
ROOM = 20 << 30

SOURCE = "{type: clickhouse, connection_type: env, connection_id: CH, table: {schema: bench, name: lineitem}}"
SINK = """
sink:
  type: clickhouse
  connection_type: env
  connection_id: CH
  table: {schema: bench, name: %s}
  strategy: {mode: full_refresh}
"""


class Server:
    """A ClickHouse of the benchmark's own, in a temporary directory."""

    def __init__(self, root, compression):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.root, self.compression, self.aside = root, compression, 0
        script = pathlib.Path(__file__).resolve().parent.parent / "tests/servers/clickhouse_http.py"
        command = [os.environ["DPONE_TEST_PYTHON"], script, "--port", self.port, "--data", root / "data"]
        with open(root / "log", "wb") as log:
            self.process = subprocess.Popen(list(map(str, command)), cwd=root, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        for _ in range(600):
            if self.process.poll() is not None:
                sys.exit(f"bench-routes: ClickHouse ended with {self.process.returncode}: {(root / 'log').read_text()[-2000:]}")
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/ping", timeout=5).read()
                break
            except OSError:
                time.sleep(0.1)
        self.sql(f"CREATE DATABASE {DATABASE} ENGINE = Atomic", database="default")

    def stop(self):
        self.process.kill()
        self.process.wait()

    def url(self):
        return f"http://default@127.0.0.1:{self.port}/{DATABASE}?compression={self.compression}"

    def sql(self, text, database=DATABASE):
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/?database={database}", data=text.encode())
        try:
            return urllib.request.urlopen(request).read().decode().strip()
        except urllib.error.HTTPError as error:
            sys.exit(f"bench-routes: ClickHouse: {error.read().decode()[:1000]}: {text[:200]}")

    def cpu(self):
        """CPU seconds of the process, the HTTP layer in it included."""
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def curl(self, query, file=None):
        """Sends a query, with a file as its data; the answer goes nowhere."""
        url = f"http://127.0.0.1:{self.port}/?" + urllib.parse.urlencode({"database": DATABASE, "query": query})
        # Without waiting for a word of the server before the data: curl waits a second where none comes.
        data = ["--header", "Expect:", "--data-binary", f"@{file}"] if file else ["--data", ""]
        return ["curl", "--silent", "--show-error", "--fail", "--output", "/dev/null", *data, url]

    def create(self, table, types):
        """An empty table in place of the one of this name.

        What was written before is set aside: merged no more, since that would go on while the next one is measured, and
        not dropped. An ext4 without a journal passes by the inodes of files that were deleted in the last minutes
        (`recently_deleted` in its source) whenever it makes a file. After a few dropped tables that cost the server 2.6 s
        of processor time in place of 1.9 s for dpone's sixteen parts of lineitem, and nothing like it for the six of the
        limit. Tables that the disk has no room for are dropped all the same.
        """
        columns = ", ".join(f"{name} {NATIVE.get(kind.replace('decimal', 'numeric'), 'String')}" for name, kind in types.items())
        roomy = shutil.disk_usage(self.root).free > ROOM
        for written in (table, *WRITTEN):
            if not roomy:
                self.sql(f"DROP TABLE IF EXISTS {written} SYNC")
            elif self.sql(f"EXISTS TABLE {written}") == "1":
                self.sql(f"SYSTEM STOP MERGES {written}")
                self.sql(f"RENAME TABLE {written} TO aside_{self.aside}")
                self.aside += 1
        self.sql(f"CREATE TABLE {table} ({columns}) ENGINE = MergeTree ORDER BY {KEY}")


class Routes:
    """The routes that `benches/routes.py` takes over: prepare, limit, dpone and check of each."""

    def clickhouse_prepare(self):
        """The table, and files of its rows."""
        if (self.root / "files/lineitem.arrow").exists():
            return
        self.from_parquet_prepare()
        file = self.root / "files/lineitem.parquet"
        self.clickhouse.create("lineitem", self.types)
        subprocess.run(self.clickhouse.curl("INSERT INTO lineitem FORMAT Parquet", file), check=True)
        self.clickhouse.sql("OPTIMIZE TABLE lineitem FINAL")
        expected = self.server.sql("src", "SELECT count(*), sum(l_extendedprice) FROM lineitem")
        found = self.clickhouse.sql("SELECT count(), toDecimalString(sum(l_extendedprice), 2) FROM lineitem").replace("\t", "|")
        if found != expected:
            sys.exit(f"bench-routes: ClickHouse was given {found}, and PostgreSQL has {expected}")
        with urllib.request.urlopen(
            urllib.request.Request(f"http://127.0.0.1:{self.clickhouse.port}/?database={DATABASE}", data=b"SELECT * FROM lineitem FORMAT ArrowStream")
        ) as rows, open(self.root / "files/lineitem.arrow", "wb") as out:
            while chunk := rows.read(1 << 20):
                out.write(chunk)
        for name, source, table in (
            ("ch_to_parquet", None, None),
            ("parquet_to_ch", "{type: file, path: files/lineitem.parquet}", "from_parquet"),
            ("postgres_to_ch", self.postgres_source, "from_postgres"),
        ):
            text = self.to_parquet.replace("to_parquet", name).replace(self.postgres_source, SOURCE)
            if source:
                text = f"name: {name}\nsource: {source}{SINK % table}"
            (self.root / f"{name}.yaml").write_text(text)

    clickhouse_parquet_prepare = parquet_clickhouse_prepare = postgres_clickhouse_prepare = clickhouse_prepare

    def clickhouse_parquet_limit(self):
        return self.measure(self.clickhouse.curl("SELECT * FROM lineitem FORMAT ArrowStream"))

    def clickhouse_parquet_dpone(self):
        return self.parquet_dpone("ch_to_parquet")

    def clickhouse_parquet_check(self):
        self.parquet_check()

    def inserted(self, data, table):
        file = self.root / f"files/lineitem.{data.lower().removesuffix('stream')}"
        self.clickhouse.create(table, self.types)
        return self.measure(self.clickhouse.curl(f"INSERT INTO {table} FORMAT {data}", file))

    def parquet_clickhouse_limit(self):
        return self.inserted("Parquet", "raw")

    def parquet_clickhouse_dpone(self):
        self.clickhouse.create("from_parquet", self.types)
        return self.run_dpone("parquet_to_ch")

    def parquet_clickhouse_check(self):
        self.same_rows("from_parquet")

    def postgres_clickhouse_limit(self):
        """The slower of the two ends, each alone."""
        ends = self.parquet_limit(), self.inserted("ArrowStream", "raw")
        return max(ends, key=lambda end: end["wall"])

    def postgres_clickhouse_dpone(self):
        self.clickhouse.create("from_postgres", self.types)
        return self.run_dpone("postgres_to_ch")

    def postgres_clickhouse_check(self):
        self.same_rows("from_postgres")

    def same_rows(self, table):
        # A character(n) comes from PostgreSQL with or without the spaces that fill it up.
        columns = ", ".join(f"trimRight({name})" if "char" in kind else name for name, kind in self.types.items())
        digest = f"SELECT count(), sum(cityHash64({columns})) FROM "
        if self.clickhouse.sql(digest + "lineitem") != self.clickhouse.sql(digest + table):
            sys.exit(f"bench-routes: the table {table} of ClickHouse differs from its source")
