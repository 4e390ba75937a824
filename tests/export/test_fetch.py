"""Downloads against a server in this process that can cut, refuse and ignore ranges."""

import fcntl
import hashlib
import io
import socket
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from edgeinfer import cache
from edgeinfer.errors import FetchError
from edgeinfer_export import fetch as fetching
from edgeinfer_export import zoo
from edgeinfer_export.zoo import Known

CONTENT = bytes(range(256)) * 4000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `content`; `cut` bytes at most per answer, `ranges` says whether Range is understood."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.cut, self.ranges, self.etag, self.asked = CONTENT, None, True, '"one"', []

    def known(self, sha256_prefix=SHA256[:8], path="weights.pth"):
        return Known("weights", f"http://127.0.0.1:{self.server_port}/{path}", sha256_prefix, "", 0)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server, asked = self.server, self.headers.get("Range")
        server.asked.append(asked)
        if not self.path.endswith("weights.pth"):
            self.send_error(404)
            return
        first = 0
        if asked and server.ranges and self.headers.get("If-Range") == server.etag:
            first = int(asked.removeprefix("bytes=").removesuffix("-"))
        if first > len(server.content):
            self.send_error(416)
            return
        body = server.content[first:]
        self.send_response(206 if first else 200)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(server.content) - 1}/{len(server.content)}")
        if server.etag:
            self.send_header("ETag", server.etag)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: server.cut])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    running = Server()
    thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield running
    running.shutdown()
    running.server_close()
    thread.join()


def packed(content):
    """An archive that holds this, the same bytes every time."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr(zipfile.ZipInfo("data.pkl"), content)
    return archive.getvalue()


def fetch(known, folder, progress=None):
    """The file, in this folder."""
    fetching.fetch(known, folder / known.file, progress)
    return folder / known.file


def cut_once(server, tmp_path, at=300_000, known=None):
    server.cut = at
    with pytest.raises(FetchError) as caught:
        fetch(known or server.known(), tmp_path)
    server.cut = None
    return caught.value


def test_a_file_is_downloaded_once(server, tmp_path):
    first = fetch(server.known(), tmp_path)
    assert first == tmp_path / "weights.pth"
    assert first.read_bytes() == CONTENT
    assert fetch(server.known(), tmp_path) == first
    assert server.asked == [None]
    assert [path.name for path in tmp_path.iterdir()] == ["weights.pth"]


def test_progress_counts_up_to_the_whole(server, tmp_path):
    told = []
    fetch(server.known(), tmp_path, progress=lambda *step: told.append(step))
    assert told[-1] == ("weights", len(CONTENT), len(CONTENT))
    assert sorted(told) == told


def test_a_cut_download_says_so_and_goes_on_where_it_stopped(server, tmp_path):
    error = cut_once(server, tmp_path)
    assert "300000 of 1024000 bytes" in str(error)
    assert "goes on after 300000 bytes" in error.hint
    assert not (tmp_path / "weights.pth").exists()
    assert fetch(server.known(), tmp_path).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=300000-"]
    assert [path.name for path in tmp_path.iterdir()] == ["weights.pth"]


def test_a_server_without_ranges_starts_over(server, tmp_path):
    cut_once(server, tmp_path)
    server.ranges = False
    assert fetch(server.known(), tmp_path).read_bytes() == CONTENT


def test_a_file_changed_on_the_server_starts_over(server, tmp_path):
    cut_once(server, tmp_path)
    server.etag, server.content = '"two"', packed(b"other")
    assert fetch(server.known(sha256_prefix=""), tmp_path).read_bytes() == packed(b"other")


@pytest.mark.parametrize("mark", ["", 'W/"one"'], ids=["none", "of what is much alike"])
def test_without_a_version_mark_nothing_is_resumed(server, tmp_path, mark):
    server.etag = mark
    cut_once(server, tmp_path)
    assert fetch(server.known(), tmp_path).read_bytes() == CONTENT
    assert server.asked == [None, None]


def test_a_partial_file_longer_than_the_whole_is_started_over(server, tmp_path):
    (tmp_path / "weights.pth.part").write_bytes(CONTENT + b"more")
    (tmp_path / "weights.pth.part.version").write_text('"one"')
    assert fetch(server.known(), tmp_path).read_bytes() == CONTENT
    assert server.asked == ["bytes=1024004-", None]


def test_a_wrong_hash_removes_the_file(server, tmp_path):
    with pytest.raises(FetchError, match="expected deadbeef") as caught:
        fetch(server.known(sha256_prefix="deadbeef"), tmp_path)
    assert str(tmp_path / "weights.pth") in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_in_the_cache_is_fetched_again(server, tmp_path):
    (tmp_path / "weights.pth").write_bytes(b"damaged")
    assert fetch(server.known(), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("damaged", [b"<!doctype html>", b"PK\x03\x04"], ids=["a web page", "cut off"])
def test_without_a_hash_what_is_no_archive_is_no_checkpoint(server, tmp_path, damaged):
    known = server.known(sha256_prefix="")
    server.content = damaged
    with pytest.raises(FetchError, match="no archive of PyTorch; the download was removed"):
        fetch(known, tmp_path)
    (tmp_path / "weights.pth").write_bytes(damaged)
    server.content = packed(CONTENT)
    assert fetch(known, tmp_path).read_bytes() == server.content


def test_a_missing_page_is_one_clear_error(server, tmp_path):
    with pytest.raises(FetchError, match="404"):
        fetch(server.known(path="other.pth"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_offline_says_which_file_to_put_where(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/weights.pth"
        with pytest.raises(FetchError, match="cannot be reached") as caught:
            fetch(Known("weights", url, "", "", 0), tmp_path)
        there = f"download {url} elsewhere and put it at {tmp_path / 'weights.pth'}"
        assert caught.value.hint == there
        (tmp_path / "weights.pth").write_bytes(b"of another model")
        with pytest.raises(FetchError) as caught:
            fetch(Known("weights", url, SHA256[:8], "", 0), tmp_path)
    assert caught.value.hint == f"{there}, where another file is, or a damaged one"


def test_a_silent_server_does_not_hang(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/weights.pth"
        monkeypatch.setattr(fetching, "TIMEOUT_S", 0.1)
        with pytest.raises(FetchError, match="timed out"):
            fetch(Known("weights", url, "", "", 0), tmp_path)


def test_other_schemes_are_refused(tmp_path):
    with pytest.raises(FetchError, match="not an http"):
        fetch(Known("weights", "file:///etc/passwd", "", "", 0), tmp_path)


def test_two_processes_do_not_write_one_file(server, tmp_path):
    def again(*_):
        with pytest.raises(FetchError, match="another process"):
            fetch(server.known(), tmp_path)

    assert fetch(server.known(), tmp_path, progress=again).read_bytes() == CONTENT


def test_a_download_just_started_elsewhere_is_left_alone(server, tmp_path):
    part = tmp_path / "weights.pth.part"
    with part.open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(FetchError, match="another process"):
            fetch(server.known(), tmp_path)
    assert part.exists()


def test_an_unwritable_cache_is_one_clear_error(server, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(FetchError, match="cannot be written"):
        fetch(server.known(), tmp_path / "cache")


def test_the_cache_follows_the_desktop_convention(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.home() == tmp_path / "edgeinfer"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.home() == tmp_path / ".cache" / "edgeinfer"


def test_known_names_are_complete_and_each_is_one_models():
    names = [known.name for known in zoo.ALL]
    assert {"resnet18", "resnet50", "resnet50-v2", "resnet152", "yolov5n", "yolov5x6", "yolov5nu"} <= set(names)
    assert {"yolov8n", "yolo11x", "yolo26s", "yolov5s-cls", "yolov8n-cls", "yolo11n-cls"} <= set(names)
    assert {"yolov3u", "yolov3-tinyu", "yolov9t", "yolov9e", "yolo12n", "yolo12x"} <= set(names)
    assert len(set(names)) == len(names)
    assert zoo.near("yolo11")[0].startswith("yolo11")
    assert zoo.find("yolov5s.pt") is zoo.find("yolov5s")
    assert zoo.find("yolov9") is None


@pytest.mark.parametrize("known", zoo.ALL, ids=lambda known: known.name)
def test_a_hash_prefix_in_a_file_name_is_the_one_checked(known):
    assert known.url.startswith("https://")
    assert known.sha256_prefix in known.file
    assert (known.resize, known.license) in {(256, "BSD-3-Clause"), (232, "BSD-3-Clause"), (0, "AGPL-3.0")}
