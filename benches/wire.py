"""Counts what a client and a PostgreSQL server say to each other: a relay that reads the framing of the protocol.

Nothing is asked of either side, so the counts are those of the wire. A round trip is a message after which the client
waits: a query, or a Sync that ends more than the closing of a statement, which nobody waits for and which is lost where
the connection ends first. Bytes are those inside of CopyData, rows those that the server says COPY stored.
"""

import socket
import threading
import time

# https://www.postgresql.org/docs/current/protocol-message-formats.html
QUERY, SYNC, CLOSE = b"QSC"
COPY_DATA = ord("d")
COMMAND_COMPLETE = ord("C")


class Messages:
    """Cuts one direction of a connection into messages. Bodies of data are passed over, not kept."""

    def __init__(self, seen, startup):
        self.seen, self.buffer, self.skip, self.startup = seen, bytearray(), 0, startup

    def feed(self, chunk):
        passed = min(self.skip, len(chunk))
        self.skip -= passed
        self.buffer += chunk[passed:]
        buffer, at = self.buffer, 0
        # The first message of a client has no type.
        head = 4 if self.startup else 5
        while len(buffer) - at >= head:
            length = int.from_bytes(buffer[at + head - 4 : at + head], "big")
            size = length + head - 4
            kind = None if self.startup else buffer[at]
            if kind == COPY_DATA:
                self.seen(kind, length - 4, b"")
                there = min(size, len(buffer) - at)
                self.skip = size - there
                at += there
            elif len(buffer) - at < size:
                break
            else:
                self.seen(kind, length - 4, bytes(buffer[at + head : at + size]))
                at += size
                self.startup, head = False, 5
        del buffer[:at]


class Relay:
    """Stands before a server on a port of its own, and counts."""

    def __init__(self, port):
        self.server = port
        self.lock = threading.Lock()
        self.counts = {"connections": 0, "round_trips": 0, "bytes_read": 0, "bytes_written": 0, "rows_staged": 0}
        self.open = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def settled(self):
        """The counts, once every connection is closed in both directions."""
        for _ in range(100):
            with self.lock:
                if self.open == 0:
                    break
            time.sleep(0.05)
        return dict(self.counts)

    def add(self, what, amount=1):
        with self.lock:
            self.counts[what] += amount

    def accept(self):
        while True:
            client, _ = self.listener.accept()
            server = socket.create_connection(("127.0.0.1", self.server))
            self.add("connections")
            with self.lock:
                self.open += 2
            state = {"copying": False, "waits": False}
            for source, sink, seen, startup in (
                (client, server, lambda *m, c=state: self.said(c, *m), True),
                (server, client, lambda *m, c=state: self.answered(c, *m), False),
            ):
                threading.Thread(target=self.pass_on, args=(source, sink, Messages(seen, startup)), daemon=True).start()

    def said(self, state, kind, length, _):
        if kind == COPY_DATA:
            state["copying"] = True
            self.add("bytes_written", length)
        elif kind == QUERY or (kind == SYNC and state["waits"]):
            self.add("round_trips")
        state["waits"] = kind not in (SYNC, QUERY) and (state["waits"] or kind != CLOSE)

    def answered(self, state, kind, length, body):
        if kind == COPY_DATA:
            self.add("bytes_read", length)
        elif kind == COMMAND_COMPLETE and body.startswith(b"COPY ") and state["copying"]:
            state["copying"] = False
            self.add("rows_staged", int(body[5:].rstrip(b"\0")))

    def pass_on(self, source, sink, messages):
        try:
            while chunk := source.recv(1 << 18):
                messages.feed(chunk)
                sink.sendall(chunk)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            # The other half is closed already: there is nobody to tell.
            pass
        finally:
            with self.lock:
                self.open -= 1
