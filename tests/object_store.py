"""An S3 server on loopback, and a way to it that fails on demand."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote

BUCKET = "bucket"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "somebody",
    "AWS_SECRET_ACCESS_KEY": "anything",
    "AWS_EC2_METADATA_DISABLED": "true",  # or S3's client looks for the machine that it rents
}
OF_ONE_CONNECTION = ("content-length", "connection", "transfer-encoding", "expect")
Failure = int | float | str | None


def call(port: int, method: str, path: str, content: bytes = b"") -> None:
    """One request to a server on this machine."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, content)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    assert answer.status == 200, answer.status


@contextmanager
def s3_server() -> Iterator[int]:
    """moto's S3 server with an empty bucket; its port."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        port = server.get_host_and_port()[1]
        call(port, "PUT", f"/{BUCKET}")
        yield port
    finally:
        server.stop()


class Gate:
    """What stands between a client and the server: lets requests through, or fails as it is told.

    Attributes:
        url: of a folder `runs` in the bucket.
        failures: of the next requests, one each: an HTTP status, `reset`, or seconds of delay; None: it goes through.
        always: the same for every request once `failures` are used up.

    Args:
        server: its port on this machine.
    """

    def __init__(self, server: int) -> None:
        self.server = server
        self.url = ""
        self.failures: list[Failure] = []
        self.always: Failure = None

    def next_failure(self) -> Failure:
        return self.failures.pop(0) if self.failures else self.always

    def put(self, path: str, content: bytes) -> None:
        """Puts an object into the server itself."""
        call(self.server, "PUT", f"/{BUCKET}/{quote(path)}", content)


@contextmanager
def gate_to(port: int) -> Iterator[Gate]:
    """A gate on a port of its own, to a server on this machine."""
    gate = Gate(port)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def __getattr__(self, name: str) -> Any:
            if name.startswith("do_"):  # do_GET and so on
                return self.pass_on
            raise AttributeError(name)

        def pass_on(self) -> None:
            body = self.read_body()
            failure = gate.next_failure()
            if isinstance(failure, float):
                time.sleep(failure)
            elif failure == "reset":
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
                return
            elif failure is not None:
                self.answer(int(failure), {}, b"")
                return
            onward = HTTPConnection("127.0.0.1", port, timeout=60)
            headers = {name: value for name, value in self.headers.items() if name.lower() not in OF_ONE_CONNECTION}
            onward.request(self.command, self.path, body, headers)
            answer = onward.getresponse()
            self.answer(answer.status, dict(answer.getheaders()), answer.read())
            onward.close()

        def read_body(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            pieces = []
            while length := int(self.rfile.readline().split(b";")[0], 16):
                pieces.append(self.rfile.read(length))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(pieces)

        def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response_only(status)
            for name, value in headers.items():
                if name.lower() not in OF_ONE_CONNECTION:
                    self.send_header(name, value)
            length = headers.get("Content-Length", str(len(body))) if self.command == "HEAD" else str(len(body))
            self.send_header("Content-Length", length)
            self.end_headers()
            self.wfile.write(body)

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """A client that hangs up is no news."""

    server = Server(("127.0.0.1", 0), Handler)
    gate.url = f"s3://{BUCKET}/runs?endpoint_override=127.0.0.1:{server.server_port}&scheme=http"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield gate
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
