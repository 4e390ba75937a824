"""A web server on loopback, with what the test puts on it."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Site:
    """`pages`: by path the bytes, and headers beside their length (None: without one); `asked`: what was asked for."""

    def __init__(self, port):
        self.pages, self.asked = {}, []
        self.host = f"127.0.0.1:{port}"

    def put(self, path, body, **headers):
        """The address of a page; a header's name has _ for -."""
        self.pages[path] = body, {"content_length": str(len(body)), **headers}
        return f"http://{self.host}{path}"


@contextmanager
def site():
    """A site while the block lasts."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            opened.asked.append((self.path, self.headers["authorization"]))
            body, headers = opened.pages.get(self.path, (b"", {}))
            self.send_response(302 if "location" in headers else 200 if self.path in opened.pages else 404)
            for name, value in headers.items():
                if value is not None:
                    self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_):
            """Whoever has read enough hangs up."""

    with Server(("127.0.0.1", 0), Handler) as server:
        opened = Site(server.server_port)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield opened
        finally:
            server.shutdown()
