"""A camera for benchmarks: H.264 over RTSP by GStreamer; prints its address once it listens.

Needs gir1.2-gst-rtsp-server-1.0. Usage: /usr/bin/python3 benchmarks/rtsp_server.py PORT FPS ADDRESS. Lines on
standard input change the picture: ball, black, solid.
"""

import sys
import threading

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

PICTURES = {"ball": 18, "black": 2, "solid": 3}  # numbers of videotestsrc's patterns
PIPELINE = (
    "( videotestsrc name=picture is-live=true pattern=ball ! video/x-raw,width=1280,height=720,framerate={fps}/1"
    " ! x264enc tune=zerolatency speed-preset=ultrafast key-int-max={fps} bitrate=4000 ! rtph264pay name=pay0 pt=96 )"
)


class Server:
    """One shared picture for every client."""

    def __init__(self, port, fps, host):
        self.pattern, self.source = "ball", None
        self.server = GstRtspServer.RTSPServer(address=host, service=str(port))
        factory = GstRtspServer.RTSPMediaFactory()
        factory.set_launch(PIPELINE.format(fps=fps))
        factory.set_shared(True)
        factory.connect("media-configure", self.configured)
        self.server.get_mount_points().add_factory("/camera", factory)
        self.server.attach(None)

    def configured(self, _, media):
        self.source = media.get_element().get_child_by_name("picture")
        self.source.set_property("pattern", PICTURES[self.pattern])

    def obey(self):
        for line in sys.stdin:
            self.pattern = line.strip()
            if self.source:
                self.source.set_property("pattern", PICTURES[self.pattern])


def main():
    Gst.init(None)
    port, fps, host = sys.argv[1:]
    server = Server(port, fps, host)
    threading.Thread(target=server.obey, daemon=True).start()
    print(f"rtsp://{host}:{port}/camera", flush=True)
    GLib.MainLoop().run()


if __name__ == "__main__":
    main()
