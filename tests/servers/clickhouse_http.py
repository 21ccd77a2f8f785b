#!/usr/bin/env python3
"""A ClickHouse HTTP interface on top of chdb (the real ClickHouse engine, embedded).

    pip install chdb-core lz4 backports.zstd clickhouse-cityhash   # the last three only for compression
    python clickhouse_http.py --port 8123 --data DIR               # prints "ready ..." when it listens

For tests on machines without a ClickHouse server.  SQL, types, table engines, input and output
formats, mutations, parts and error codes are the engine's own; only the HTTP layer is written here:

  GET|POST /?query=..&database=..&default_format=..   the statement is query= followed by the body
  INSERT .. FORMAT X                                  the rest of the body is data, streamed to the engine
  param_x=..  any_setting=..  session_id=..           {x:Type} parameters, settings, temporary state
  multipart/form-data                                 query= and param_x= as fields; files as external tables
  X-ClickHouse-User/-Key, user=&password=, Basic      checked only when --password is given
  Content-Encoding / Accept-Encoding gzip|lz4|zstd    the latter with enable_http_compression=1
  decompress=1 / compress=1                           ClickHouse's own block compression (lz4, zstd / lz4)
  GET /ping, /                                        "Ok."
  --tls-port                                          a second port on the same data: HTTPS, with a password of its own

As on the server: GET is read-only, statements are one per request, errors carry
X-ClickHouse-Exception-Code and a 4xx/5xx status, results carry X-ClickHouse-Summary/-Format/-Query-Id.

Not as on the server: results are built in memory and sent whole (so no error arrives in mid-stream);
no users, roles or grants; no Keeper, so no Replicated* engines and no ON CLUSTER; no query_log;
query_id= is echoed but KILL QUERY does not know it; no native protocol (port 9000); database
"default" has engine Overlay (uuid 0 in system.tables): create a database of your own to get Atomic.
One process per --data directory.  Data survives a restart, also after kill -9.
"""
import argparse, base64, gzip, json, os, re, signal, ssl, struct, sys, threading, time, uuid, zlib
from collections import OrderedDict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit
from chdb.session import Session

RESERVED = {"query", "database", "default_format", "user", "password", "quota_key", "query_id", "role",
            "session_id", "session_timeout", "session_check", "wait_end_of_query", "buffer_size",
            "compress", "decompress", "stacktrace", "client_protocol_version", "close_session"}
MAX_QUERY = 262144                                  # ClickHouse's default max_query_size
STATUS = {400: {6, 26, 27, 36, 38, 41, 43, 53, 62, 69, 70, 72, 117, 130, 131, 178, 179, 407, 456, 457},
          401: {194}, 403: {164, 192, 193, 497, 516}, 404: {16, 46, 47, 50, 56, 60, 75, 81, 115, 428},
          413: {65, 307, 396}, 501: {48}, 503: {202, 203, 209}}
MIME = {"json": "application/json; charset=UTF-8", "jsoneachrow": "application/x-ndjson; charset=UTF-8",
        "csv": "text/csv; charset=UTF-8; header=absent", "csvwithnames": "text/csv; charset=UTF-8; header=present",
        "tabseparated": "text/tab-separated-values; charset=UTF-8"}
BINARY = ("rowbinary", "native", "parquet", "arrow", "orc", "avro", "msgpack", "protobuf", "capnproto", "bson")
TOKEN = re.compile(r"""\s+|--[^\n]*|\#[ !][^\n]*|/\*.*?\*/|'(?:[^'\\]|\\.|'')*'|"(?:[^"\\]|\\.|"")*"
                       |`(?:[^`\\]|\\.|``)*`|[A-Za-z_]\w*|.""", re.S | re.X)


class CHError(Exception):
    """An error in ClickHouse's words: 'Code: N. DB::Exception: ...'."""


def words(sql):
    """(token, end, depth) for each token of the statement that is neither blank nor comment."""
    depth = 0
    for m in TOKEN.finditer(sql):
        t = m.group()
        if t.isspace() or t.startswith(("--", "/*", "# ", "#!")):
            continue
        depth -= t in ")]}"
        yield t, m.end(), depth
        depth += t in "([{"


def split_insert(sql):
    """INSERT .. FORMAT name <data>: (statement without FORMAT, name, offset of the data), else None."""
    it = words(sql)
    if next(it, ("",))[0].upper() != "INSERT":
        return None
    for tok, end, depth in it:
        up = tok.upper()
        if depth == 0 and up in ("SELECT", "VALUES", "WITH", "WATCH", "INFILE", ";"):
            return None
        if depth == 0 and up == "FORMAT":
            name, stop, _ = next(it, ("", end, 0))
            if name.upper() == "VALUES" or not name:
                return None                         # inline VALUES: leave it to the engine
            gap = re.compile(r"[ \t\r;]*\n?").match(sql, stop)
            return sql[:end - 6], name, gap.end()
    return None


def shape(sql):
    """(format named at the end of the statement or None); raises on a second statement."""
    name, prev, ended = None, "", False
    for tok, _, depth in words(sql):
        if ended:
            raise CHError("Code: 62. DB::Exception: Syntax error (Multi-statements are not allowed): "
                          f"failed at {tok!r}. (SYNTAX_ERROR)")
        if depth == 0:
            ended = tok == ";"
            if prev.upper() == "FORMAT":
                name = tok
            prev = tok
    return name


def form_parts(content_type, body):
    """multipart/form-data: ({field: text}, {file field: bytes})."""
    mark = b"--" + re.search(r'boundary="?([^";]+)', content_type).group(1).encode("latin-1")
    fields, files = {}, {}
    for part in (b"\r\n" + body).split(b"\r\n" + mark)[1:-1]:
        top, _, data = part.partition(b"\r\n\r\n")
        top = top.decode("utf-8", "surrogateescape")
        name = re.search(r'\bname="([^"]*)"', top).group(1)
        if "filename=" in top:
            files[name] = data
        else:
            fields[name] = data.decode("utf-8", "surrogateescape")
    return fields, files


def literal(text):
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


# ---- compression: each decoder is an iterator of plain chunks over an iterator of packed ones ----
def zstd_module():
    try:
        from compression import zstd                # Python 3.14
    except ImportError:
        from backports import zstd
    return zstd


def decode_http(encoding, chunks):
    if encoding == "gzip":
        d = zlib.decompressobj(31)
    elif encoding == "deflate":
        d = zlib.decompressobj()
    elif encoding == "lz4":
        import lz4.frame
        d = lz4.frame.LZ4FrameDecompressor()
    elif encoding == "zstd":
        d = zstd_module().ZstdDecompressor()
    else:
        raise CHError(f"Code: 48. DB::Exception: Unknown Content-Encoding {encoding}. (NOT_IMPLEMENTED)")
    for c in chunks:
        while c:                                    # a body may be several frames one after another
            yield d.decompress(c)
            c = b""
            if getattr(d, "eof", False) and d.unused_data:
                c, d = d.unused_data, (zlib.decompressobj(31) if encoding == "gzip" else type(d)())


def encode_http(encoding, data):
    if encoding == "gzip":
        return gzip.compress(data, 1)
    if encoding == "lz4":
        import lz4.frame
        return lz4.frame.compress(data)
    return zstd_module().compress(data)


def decode_blocks(chunks):
    """ClickHouse blocks: 16 bytes of checksum (not checked here), method, packed size, plain size, data."""
    buf = b""
    for c in chunks:
        buf += c
        while len(buf) >= 25:
            method, packed, plain = struct.unpack_from("<BII", buf, 16)
            if len(buf) < 16 + packed:
                break
            body, buf = buf[25:16 + packed], buf[16 + packed:]
            if method == 0x82:
                import lz4.block
                body = lz4.block.decompress(body, uncompressed_size=plain)
            elif method == 0x90:
                body = zstd_module().decompress(body)
            elif method != 0x02:
                raise CHError(f"Code: 89. DB::Exception: Unknown codec {method:#x}. (UNKNOWN_COMPRESSION_METHOD)")
            yield body
    if buf:
        raise CHError("Code: 32. DB::Exception: Compressed body ends in mid-block. (ATTEMPT_TO_READ_AFTER_EOF)")


def encode_blocks(data, size=1 << 20):
    import lz4.block
    from clickhouse_cityhash.cityhash import CityHash128
    out = []
    for i in range(0, len(data), size):
        plain = bytes(data[i:i + size])
        packed = lz4.block.compress(plain, store_size=False)
        block = struct.pack("<BII", 0x82, len(packed) + 9, len(plain)) + packed
        h = CityHash128(block)
        out += [struct.pack("<QQ", h & (1 << 64) - 1, h >> 64) if isinstance(h, int) else struct.pack("<QQ", *h), block]
    return b"".join(out)


class Engine:
    """chdb sessions on one data directory: one per request, kept by session_id when there is one."""

    def __init__(self, path):
        self.path, self.kept, self.lock = path, OrderedDict(), threading.Lock()
        self.root = Session(path)                   # keeps the engine open between requests
        self.version, self.timezone = self.root.query(
            "SELECT version(), timezone()", "TSV").bytes().decode().strip().split("\t")

    def session(self, sid):
        if not sid:
            return Session(self.path), threading.Lock()
        with self.lock:
            self.kept[sid] = self.kept.pop(sid, None) or (Session(self.path), threading.Lock())
            while len(self.kept) > 200:
                self.kept.popitem(last=False)
            return self.kept[sid]

    def close(self):
        for s, _ in self.kept.values():
            s.cleanup()
        self.root.cleanup()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "clickhouse-http-chdb", ""
    disable_nagle_algorithm = True
    wbufsize = 1 << 16
    engine = args = None                            # set by main()
    shown = None                                    # the result that the answer is a view of

    def log_message(self, fmt, *a):
        if self.args.verbose:
            sys.stderr.write("%s %s\n" % (time.strftime("%H:%M:%S"), fmt % a))

    def raw_body(self):
        """The request body in chunks, whichever way its length is told."""
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            while n := int(self.rfile.readline().split(b";")[0] or b"0", 16):
                while n:
                    piece = self.rfile.read(min(n, 1 << 20))
                    if not piece:
                        raise ConnectionError("request body cut short")
                    n -= len(piece)
                    yield piece
                self.rfile.readline()
            while self.rfile.readline().strip():    # trailers
                pass
            return
        left = int(self.headers.get("Content-Length") or 0)
        while left:
            piece = self.rfile.read(min(left, 1 << 20))
            if not piece:
                raise ConnectionError("request body cut short")
            left -= len(piece)
            yield piece

    def reply(self, status, body, headers=()):
        try:
            self.send_response(status)
            for k, v in headers:
                self.send_header(k, v)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)
            self.wfile.flush()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def do_GET(self):
        url = urlsplit(self.path)
        p = dict(parse_qsl(url.query, keep_blank_values=True, errors="surrogateescape"))
        if url.path in ("/ping", "/replicas_status") or (url.path == "/" and self.command != "POST" and "query" not in p):
            return self.reply(200, b"Ok.\n", [("Content-Type", "text/html; charset=UTF-8")])
        raw = self.raw_body()
        head = [("X-ClickHouse-Query-Id", p.get("query_id") or str(uuid.uuid4())),
                ("X-ClickHouse-Server-Display-Name", "chdb"), ("X-ClickHouse-Timezone", self.engine.timezone)]
        try:
            if url.path != "/":
                raise CHError("Code: 115. DB::Exception: There is no handle " + url.path + ". (UNKNOWN_SETTING)")
            self.authenticate(p)
            body, fmt, stats = self.execute(p, raw)
            low = fmt.lower()
            head += [("X-ClickHouse-Format", fmt), ("X-ClickHouse-Summary", json.dumps(stats)),
                     ("Content-Type", MIME.get(low) or ("application/octet-stream" if low.startswith(BINARY)
                                                        else "text/plain; charset=UTF-8"))]
            if p.get("compress") == "1":
                body = encode_blocks(body)
            elif p.get("enable_http_compression") == "1":
                wanted = re.findall(r"\b(gzip|lz4|zstd)\b(?!\s*;\s*q=0(?:\.0*)?\b)", self.headers.get("Accept-Encoding", ""))
                if wanted and len(body):
                    body = encode_http(wanted[0], body)
                    head.append(("Content-Encoding", wanted[0]))
            status = 200
        except ConnectionError:
            self.close_connection = True
            return
        except Exception as e:
            text = re.sub(r"^(Query execution failed: |Streaming insert \w+ failed: )+", "", str(e)).strip()
            m = re.match(r"Code: (\d+)", text)
            if not m:
                text = f"Code: 1001. DB::Exception: {type(e).__name__}: {text}. (STD_EXCEPTION)"
            code = int(m.group(1)) if m else 1001
            if "(version " not in text:
                text += f" (version {self.engine.version} (chdb))"
            status = next((s for s, codes in STATUS.items() if code in codes), 500)
            head += [("X-ClickHouse-Exception-Code", str(code)), ("Content-Type", "text/plain; charset=UTF-8")]
            body = (text + "\n").encode("utf-8", "replace")
            try:
                for _ in raw:                       # read the rest, so that the client gets to see the answer
                    pass
            except (ConnectionError, ValueError):
                self.close_connection = True
        self.reply(status, body, head)
        self.shown = None

    do_POST = do_PUT = do_HEAD = do_GET

    def authenticate(self, p):
        password = self.server.password
        if not password:
            return
        user, key = self.headers.get("X-ClickHouse-User"), self.headers.get("X-ClickHouse-Key")
        auth = self.headers.get("Authorization", "")
        if auth.startswith("Basic "):
            user, _, key = base64.b64decode(auth[6:]).decode().partition(":")
        user, key = user or p.get("user", "default"), key or p.get("password", "")
        if (user, key) != (self.args.user, password):
            raise CHError(f"Code: 516. DB::Exception: {user}: Authentication failed: password is incorrect, "
                          "or there is no user with such name. (AUTHENTICATION_FAILED)")

    def execute(self, p, chunks):
        """Runs the request's statement: (result bytes, format, summary)."""
        started = time.time()
        if enc := self.headers.get("Content-Encoding"):
            chunks = decode_http(enc.lower(), chunks)
        if p.get("decompress") == "1":
            chunks = decode_blocks(chunks)
        form, files = self.headers.get("Content-Type", ""), {}
        if form.startswith("multipart/form-data"):
            fields, files = form_parts(form, b"".join(chunks))
            p, chunks = {**p, **fields}, ()
        tables = [(n, p.get(n + "_format", "TabSeparated"), p.get(n + "_structure", "")) for n in files]
        for n in files:
            p.pop(n + "_format", None), p.pop(n + "_structure", None), p.pop(n + "_types", None)
        buf = p["query"].encode("utf-8", "surrogateescape") + b"\n" if p.get("query") else b""
        chunks, insert = iter(chunks), None
        for c in chunks:                            # enough of the body to see the whole statement head
            buf += c
            if len(buf) > MAX_QUERY:
                break
        text = buf.decode("latin-1")                # one char per byte: offsets stay byte offsets
        insert = split_insert(text)
        if not insert:
            buf += b"".join(chunks)
        session, lock = self.engine.session(p.get("session_id"))
        if not lock.acquire(blocking=False):
            raise CHError("Code: 373. DB::Exception: Session is locked by a concurrent client. (SESSION_IS_LOCKED)")
        try:
            if db := p.get("database") or self.headers.get("X-ClickHouse-Database"):
                session.query("USE `%s`" % db.replace("\\", "\\\\").replace("`", "\\`"))
            # In one statement: a server takes settings with the query, at no cost.
            settings = [f"{k} = {literal(v)}" for k, v in p.items() if k not in RESERVED and re.fullmatch(r"\w+", k)]
            if settings:
                session.query("SET " + ", ".join(settings))
            for name, fmt, columns in tables:
                session.query(f"CREATE TEMPORARY TABLE `{name}` ({columns})")
                with session.send_insert(f"INSERT INTO `{name}`", fmt) as sink:
                    sink.append(files[name])
                    sink.finish()
            if self.command in ("GET", "HEAD") and not p.get("session_id") and "readonly" not in p:
                session.query("SET readonly = 2")
            if insert:
                sql, fmt, at = insert
                with session.send_insert(sql.encode("latin-1").decode(), fmt) as sink:
                    if buf[at:]:
                        sink.append(buf[at:])
                    for c in chunks:
                        if c:
                            sink.append(c)
                    done = sink.finish()
                result, stats = b"", (0, 0, done.rows_written, done.bytes_written)
            else:
                sql = buf.decode("utf-8", "surrogateescape")
                if not sql.strip():
                    raise CHError("Code: 62. DB::Exception: Syntax error: failed at position 1 (end of query): . Empty query. (SYNTAX_ERROR)")
                fmt = p.get("default_format") or self.headers.get("X-ClickHouse-Format") or "TabSeparated"
                kind = next(words(sql), ("",))[0].upper()
                fmt = (kind != "INSERT" and shape(sql)) or fmt
                r = session.query(sql, fmt)
                # A view does not keep what it shows: without the result it shows memory that others write into.
                self.shown = r
                result = r.get_memview().view() if r.size() else b""
                stats = (r.rows_read(), r.bytes_read(), r.rows_written(), r.bytes_written())
        finally:
            lock.release()
            if not p.get("session_id"):
                session.cleanup()
        names = ("read_rows", "read_bytes", "written_rows", "written_bytes")
        summary = {k: str(v) for k, v in zip(names, stats)}
        summary.update(total_rows_to_read="0", result_rows=str(stats[2] if insert else 0),
                       result_bytes=str(len(result)), elapsed_ns=str(int((time.time() - started) * 1e9)))
        return result, fmt, summary


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address, password, tls=None):
        super().__init__(address, Handler)
        self.password, self.tls = password, tls

    def finish_request(self, request, client_address):
        if self.tls:                                # in the request's own thread: a slow handshake holds nobody up
            request = self.tls.wrap_socket(request, server_side=True)
        super().finish_request(request, client_address)

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


def main():
    a = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    a.add_argument("--host", default="127.0.0.1")
    a.add_argument("--port", type=int, default=8123, help="0: any free port, told in the 'ready' line")
    a.add_argument("--data", default="./clickhouse-data", help="data directory (kept)")
    a.add_argument("--user", default="default")
    a.add_argument("--password", default="", help="given: requests must carry --user and this password")
    a.add_argument("--tls-port", type=int, help="a second port on the same data, with TLS")
    a.add_argument("--tls-password", default="", help="of the second port")
    a.add_argument("--tls-cert", help="PEM file of the second port's certificate")
    a.add_argument("--tls-key", help="PEM file of its key")
    a.add_argument("--tls-client-ca", help="PEM file: who connects without a certificate signed by it is sent away")
    a.add_argument("--verbose", action="store_true")
    args = a.parse_args()
    os.makedirs(args.data, exist_ok=True)
    Handler.args, Handler.engine = args, Engine(os.path.abspath(args.data))
    server = Server((args.host, args.port), args.password)
    if args.tls_port is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(args.tls_cert, args.tls_key)
        if args.tls_client_ca:
            context.load_verify_locations(args.tls_client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        second = Server((args.host, args.tls_port), args.tls_password, context)
        threading.Thread(target=second.serve_forever, daemon=True).start()
    for s in (signal.SIGTERM, signal.SIGINT):
        signal.signal(s, lambda *_: threading.Thread(target=server.shutdown).start())
    print(f"ready http://{args.host}:{server.server_port} ClickHouse {Handler.engine.version} data={args.data}", flush=True)
    server.serve_forever(poll_interval=0.2)
    Handler.engine.close()


if __name__ == "__main__":
    main()
