"""A camera on loopback: motion JPEG over HTTP, whose picture can move, freeze, go black, change size or fall silent."""

from __future__ import annotations

import socketserver
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np

from edgeinfer.sources import Frame

BOUNDARY = "frame"


class Camera:
    """What is shown, set by the test at any time: `mode` is moving, frozen, black or silent."""

    def __init__(self, fps=30.0, height=120, width=160):
        self.fps, self.height, self.width = fps, height, width
        self.mode = "moving"
        self.sent = 0
        self.connections = 0
        self.server = None
        self.port = 0

    def picture(self):
        """The picture of this moment; a moving one has its rectangle at another place each time."""
        image = np.full((self.height, self.width, 3), 60, np.uint8)
        if self.mode == "black":
            return image * 0
        if self.mode == "moving":
            place = self.sent * 7 % (self.width - 20)
            cv2.rectangle(image, (place, 20), (place + 20, 60), (40, 200, 240), -1)
        return image

    @property
    def address(self):
        return f"http://127.0.0.1:{self.port}/stream.mjpg"

    def start(self):
        """Listen, on the port of last time if there was one."""
        camera = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                camera.connections += 1
                mine = camera.server
                self.send_response(200)
                self.send_header("Content-Type", f"multipart/x-mixed-replace; boundary={BOUNDARY}")
                self.end_headers()
                try:
                    while camera.server is mine:
                        if camera.mode != "silent":
                            camera.send(self.wfile)
                        time.sleep(1 / camera.fps)
                except OSError:
                    pass

            def log_message(self, *_):
                pass

        ThreadingHTTPServer.allow_reuse_address = True
        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def send(self, stream):
        data = cv2.imencode(".jpg", self.picture())[1].tobytes()
        self.sent += 1
        head = f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
        stream.write(head.encode() + data + b"\r\n")
        stream.flush()

    def stop(self):
        """Hang up, as a camera that lost its power: connections end too."""
        server, self.server = self.server, None
        if server:
            server.shutdown()
            server.server_close()


def frame(value=0, index=0):
    """A frame of one grey, captured now: (48, 64, 3) uint8."""
    return Frame(np.full((48, 64, 3), value, np.uint8), "camera:0", index, time.monotonic_ns(), 30.0)


@contextmanager
def camera(**how):
    """A camera that runs while the block does."""
    opened = Camera(**how)
    opened.start()
    try:
        yield opened
    finally:
        opened.stop()


@contextmanager
def answering(line=None):
    """An address that answers every request with this status line, hangs up at once (""), or says nothing (None)."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            if line == "":
                return
            while asked := list(iter(lambda: self.rfile.readline().strip(), b"")):
                if line is None:
                    continue
                numbers = [one for one in asked if one.lower().startswith(b"cseq")]
                self.wfile.write(
                    b"\r\n".join([line.encode(), *numbers, b'WWW-Authenticate: Basic realm="x"', b"", b""])
                )
                if line.startswith("HTTP"):
                    return

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
