"""Every kind of source gives frames, and every bad one a SourceError that says what is wrong with it."""

import base64
import contextlib
import itertools
import os
import pathlib
import struct
import time
import tracemalloc
import types
import zlib

import cv2
import numpy as np
import pytest

from edgeinfer import naming, pictures, sources
from edgeinfer.errors import SourceError
from edgeinfer.sources import gstreamer, opencv, videos
from helpers import bundles

# an 8x8 JPEG in CMYK, all (0, 200, 200, 0) with inverted samples: a clear red
CMYK = base64.b85decode(
    "|JeWT01iQ9Z(?NtWB>pF0095n07C!}3k(hn3J?wr4iXU%6BsBO7#0>7F(V}%C^|DeJUKHsH$X^SPC!IgMK?H5ZBbWWVrOV)K23"
    "3XaAbH~WoKjmzyK5o00;mG1Va%3O%VWD5dcdO0RO}Q6#xMN000000000000000000ID|HJ?k5CH%H0000000000000000095m01g"
    "C008Ic{080P>KLDT&4JZ%)*#"
)
KINDS = tuple(kind for kind in (".png", ".jpg", ".bmp", ".webp", ".gif", ".tiff") if cv2.haveImageWriter(f"it{kind}"))


@pytest.fixture
def image():
    """Smooth, so that every format keeps it; (48, 64, 3) uint8."""
    down, across = np.mgrid[0:48, 0:64]
    return np.dstack([down * 4, across * 3, down + across]).astype(np.uint8)


def encoded(image, suffix, options=()):
    done, data = cv2.imencode(suffix, image, options)
    assert done
    return data.tobytes()


def opened(data):
    return pictures.decode(data, "it")


@pytest.mark.parametrize("suffix", KINDS)
def test_the_header_of_each_format_tells_its_size(image, suffix):
    assert pictures.header(encoded(image, suffix)) == (48, 64, "")


@pytest.mark.parametrize("options", [[cv2.IMWRITE_WEBP_QUALITY, 101], [cv2.IMWRITE_WEBP_QUALITY, 80]])
def test_both_codings_of_webp_tell_their_size(image, options):
    assert pictures.header(encoded(image, ".webp", options)) == (48, 64, "")


def test_a_webp_with_extensions_tells_its_size():
    sides = (63).to_bytes(3, "little") + (47).to_bytes(3, "little")
    chunk = b"WEBPVP8X" + struct.pack("<IB3x", 10, 0) + sides
    assert pictures.header(b"RIFF" + struct.pack("<I", len(chunk)) + chunk) == (48, 64, "")


def test_a_progressive_jpeg_is_walked_to_its_end(image):
    data = encoded(image, ".jpg", [cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_RST_INTERVAL, 2])
    assert pictures.header(data) == (48, 64, "")


def test_bytes_after_the_end_of_a_jpeg_do_no_harm(image):
    assert opened(encoded(image, ".jpg") + b"a phone's trailer").shape == (48, 64, 3)


def test_a_jpeg_that_ends_before_its_pixels_is_truncated(image):
    data = encoded(image, ".jpg")
    assert pictures.header(data[: data.index(b"\xff\xda")] + b"\xff\xd9").fault == pictures.TRUNCATED


def test_a_gif_is_as_large_as_its_largest_frame():
    frame = b"," + struct.pack("<HHHHB", 10, 20, 500, 400, 0) + b"\x02\x01\x00\x00"
    assert pictures.header(b"GIF89a" + struct.pack("<HHBBB", 64, 48, 0, 0, 0) + frame + b";") == (420, 510, "")


@pytest.mark.parametrize("suffix", KINDS)
def test_each_format_decodes_to_bgr(image, suffix):
    found = opened(encoded(image, suffix))
    # GIF has 256 colours, dithered; JPEG and WebP blend colour over 2x2 pixels
    tolerance = 0 if suffix in {".png", ".bmp", ".tiff"} else 20
    assert np.abs(found.astype(int) - image).mean() <= tolerance


@pytest.mark.parametrize("suffix", KINDS)
@pytest.mark.parametrize("part", [0.4, 0.7, 0.97])
def test_a_truncated_picture_is_refused(image, suffix, part):
    data = encoded(image, suffix)
    with pytest.raises(SourceError, match=r"it is (truncated: its end is missing|damaged)"):
        opened(data[: int(len(data) * part)])


@pytest.mark.parametrize("suffix", sorted({*KINDS} - {".tiff"}))
def test_a_picture_without_its_last_bytes_is_called_truncated(image, suffix):
    with pytest.raises(SourceError, match="it is truncated: its end is missing"):
        opened(encoded(image, suffix)[:-2])


def test_a_changed_byte_in_a_png_is_noticed(image):
    data = bytearray(encoded(image, ".png"))
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(SourceError, match="it is damaged: a checksum in it is wrong"):
        opened(bytes(data))


def test_an_empty_file_is_called_empty():
    with pytest.raises(SourceError, match="it is empty"):
        opened(b"")


def test_text_is_not_a_picture():
    with pytest.raises(SourceError, match="it is not a picture") as caught:
        opened(b"hello")
    assert caught.value.hint == "pictures are PNG, JPEG, BMP, WebP, TIFF, GIF"


def test_a_grey_picture_becomes_bgr(image):
    grey = image[..., 0]
    assert np.array_equal(opened(encoded(grey, ".png")), np.dstack([grey] * 3))


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_16_bit_samples_are_scaled_to_8(image, suffix):
    wide = image.astype(np.uint16) * 257
    assert np.array_equal(opened(encoded(wide, suffix)), image)


def test_alpha_is_dropped_and_colour_kept_under_it(image):
    clear = np.dstack([image, np.zeros((48, 64), np.uint8)])
    assert np.array_equal(opened(encoded(clear, ".png")), image)


def test_a_cmyk_jpeg_comes_out_in_its_colours():
    blue, green, red = opened(CMYK).reshape(-1, 3).mean(axis=0)
    assert red > 200
    assert max(blue, green) < 100


def with_orientation(data, value):
    """JPEG bytes with an EXIF segment that says how to turn the picture."""
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHIHHI", 0x0112, 3, 1, value, 0, 0)
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]


def test_exif_orientation_is_applied(image):
    turned = opened(with_orientation(encoded(image, ".jpg", [cv2.IMWRITE_JPEG_QUALITY, 100]), 6))
    assert turned.shape == (64, 48, 3)
    assert np.abs(turned.astype(int) - np.rot90(image, -1)).mean() < 12


def chunk(kind, data):
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def png_bomb(height, width):
    start = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + start + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def bomb(suffix, height, width):
    """A small file of this format that claims to be this large."""
    data = bytearray(encoded(np.zeros((48, 64, 3), np.uint8), suffix))
    if suffix == ".png":
        return png_bomb(height, width)
    if suffix == ".jpg":
        start = data.index(b"\xff\xc0") + 5
        data[start : start + 4] = struct.pack(">HH", height, width)
    elif suffix == ".bmp":
        data[18:26] = struct.pack("<ii", width, -height)
    elif suffix == ".gif":
        data[6:10] = struct.pack("<HH", width, height)
    elif suffix == ".webp":
        data[21:25] = struct.pack("<I", (width - 1) & 0x3FFF | ((height - 1) & 0x3FFF) << 14)
    else:
        for tag, side in ((256, width), (257, height)):
            start = data.index(struct.pack("<HHI", tag, 3, 1)) + 8
            data[start : start + 2] = struct.pack("<H", side)
    return bytes(data)


@pytest.mark.parametrize("suffix", KINDS)
def test_a_decompression_bomb_is_refused_by_its_header(suffix):
    with pytest.raises(SourceError, match="it has 16000x15000 pixels, more than the 100 million allowed"):
        opened(bomb(suffix, 15000, 16000))


def test_the_limit_on_pixels_can_be_changed(image):
    with pytest.raises(SourceError, match=r"more than the 0.001 million allowed"):
        pictures.decode(encoded(image, ".png"), "it", 1000)


@pytest.fixture
def folder(tmp_path, image):
    for name in ("b10.png", "b2.png", "A1.jpg"):
        tmp_path.joinpath(name).write_bytes(encoded(image, name[-4:]))
    tmp_path.joinpath("notes.txt").write_text("not a picture")
    tmp_path.joinpath(".hidden.png").write_bytes(b"")
    tmp_path.joinpath("sub.png").mkdir()
    tmp_path.joinpath("sub.png").rmdir()
    return tmp_path


def names(frames):
    return [(pathlib.Path(frame.source).name, frame.index) for frame in frames]


def test_a_picture_is_one_frame(folder, image):
    (frame,) = sources.frames(folder / "b2.png")
    assert (frame.source, frame.index, frame.fps) == (str(folder / "b2.png"), 0, 0.0)
    assert np.array_equal(frame.image, image)
    assert frame.captured_ns > 0


def test_a_picture_takes_the_memory_of_its_own_file_and_not_of_the_largest(folder):
    sources.picture(folder / "b2.png")
    tracemalloc.start()
    try:
        sources.picture(folder / "b2.png")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_picture_is_known_by_its_content_not_its_suffix(folder):
    folder.joinpath("b2.png").rename(folder / "b2.mp4")
    assert names(sources.frames(folder / "b2.mp4")) == [("b2.mp4", 0)]


def test_a_raw_video_of_jpegs_is_no_picture_although_it_begins_as_one(tmp_path, image):
    tmp_path.joinpath("raw.mjpeg").write_bytes(encoded(image, ".jpg") * 7)
    found = list(sources.frames(tmp_path / "raw.mjpeg"))
    assert [frame.index for frame in found] == list(range(7))
    assert all(frame.fps for frame in found)


@pytest.mark.parametrize("address", ["rtmp://me:secret@10.0.0.5/live", "RTSP://10.0.0.5/main", "file:///clip.mp4"])
def test_an_address_of_another_kind_is_told_with_those_that_are_read(address):
    with pytest.raises(SourceError, match="is no address that is read") as caught:
        list(sources.frames(address))
    assert "rtsp://" in caught.value.hint
    assert "secret" not in str(caught.value)


def test_a_folder_gives_its_pictures_in_natural_order(folder):
    assert names(sources.frames(folder)) == [("A1.jpg", 0), ("b2.png", 1), ("b10.png", 2)]


def test_capital_letters_do_not_come_first(folder):
    folder.joinpath("A1.jpg").rename(folder / "C1.jpg")
    assert names(sources.frames(folder)) == [("b2.png", 0), ("b10.png", 1), ("C1.jpg", 2)]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [3, 4])
def test_the_size_of_a_tiff_is_read_in_either_order_of_bytes_and_either_width(order, kind):
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, 2)
    sides = {3: "H2x", 4: "I"}[kind]
    entries = [struct.pack(f"{order}HHI{sides}", tag, kind, 1, side) for tag, side in ((256, 640), (257, 480))]
    assert pictures.header(start + b"".join(entries)) == pictures.Header(480, 640)


def test_a_pattern_gives_what_it_matches(folder):
    assert names(sources.frames(f"{folder}/b*.png")) == [("b2.png", 0), ("b10.png", 1)]


def test_brackets_in_a_file_name_are_not_a_pattern(folder):
    folder.joinpath("b2.png").rename(folder / "b[2].png")
    assert names(sources.frames(folder / "b[2].png")) == [("b[2].png", 0)]


def test_a_bad_picture_in_a_folder_is_reported_and_the_rest_goes_on(folder):
    folder.joinpath("b2.png").write_bytes(b"")
    errors = []
    assert names(sources.frames(folder, on_error=errors.append)) == [("A1.jpg", 0), ("b10.png", 2)]
    assert [str(error) for error in errors] == [f"{folder}/b2.png is empty"]


def test_a_bad_picture_in_a_folder_is_raised_unless_told_otherwise(folder):
    folder.joinpath("b2.png").write_bytes(b"")
    with pytest.raises(SourceError, match=r"b2.png is empty"):
        list(sources.frames(folder))


BAD = {
    "nothing.jpg": "does not exist",
    "notes.txt": "is not a picture",
    "empty.png": "is empty",
    "empty.mp4": "is empty",
    "broken.mp4": "cannot be opened by OpenCV",
    "pipe": "is not a regular file",
    "no-pictures": "has no pictures in it",
    "*.tiff": "matches no file",
    "a\0b": "cannot be read|does not exist",
}


@pytest.mark.parametrize(("name", "message"), BAD.items())
def test_a_bad_source_says_what_is_wrong(folder, name, message):
    for empty in ("empty.png", "empty.mp4"):
        folder.joinpath(empty).touch()
    folder.joinpath("broken.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(200))
    folder.joinpath("no-pictures").mkdir()
    os.mkfifo(folder / "pipe")
    with pytest.raises(SourceError, match=message) as caught:
        list(sources.frames(f"{folder}/{name}"))
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_says_so(folder):
    folder.joinpath("b2.png").chmod(0)
    with pytest.raises(SourceError, match=r"b2.png cannot be read: Permission denied"):
        list(sources.frames(folder / "b2.png"))


def test_a_read_that_the_system_refuses_says_so(folder, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(SourceError, match=r"b2.png cannot be read: Permission denied") as caught:
        list(sources.frames(folder / "b2.png"))
    assert "permissions" in caught.value.hint


@pytest.fixture
def video(tmp_path, image):
    return bundles.video(tmp_path / "clip.avi", [image] * 4, 12.5)


def test_a_video_gives_its_frames_and_rate(video):
    frames = list(sources.frames(video))
    assert [frame.index for frame in frames] == [0, 1, 2, 3]
    assert {frame.fps for frame in frames} == {12.5}
    assert [frame.shown_ns for frame in frames] == [0, 80_000_000, 160_000_000, 240_000_000]
    assert frames[0].image.shape == (48, 64, 3)


class Capture:
    """A double for cv2.VideoCapture: `count` black frames, and it knows whether it was released."""

    def __init__(self, count):
        self.left, self.released = count, False

    def __call__(self, *_):
        return self

    def isOpened(self):
        return True

    def get(self, _):
        return 0.0

    def grab(self):
        self.left -= 1
        return self.left >= 0

    def retrieve(self):
        return True, np.zeros((2, 2, 3), np.uint8)

    def release(self):
        self.released = True


def capture(monkeypatch, count):
    double = Capture(count)
    monkeypatch.setattr(cv2, "VideoCapture", double)
    return double


def read_at(monkeypatch, double, moments_ns):
    """The clock stands still but while a frame is waited for, until the next of these moments."""
    now_ns, moments, grab = [0], iter(moments_ns), double.grab

    def waiting():
        now_ns[:] = [next(moments)]
        return grab()

    double.grab = waiting
    for module in (videos, opencv):
        monkeypatch.setattr(module, "time", types.SimpleNamespace(monotonic_ns=lambda: now_ns[0]))


def test_closing_the_iterator_releases_the_video(video, monkeypatch):
    double = capture(monkeypatch, 5)
    frames = sources.frames(video)
    next(frames)
    frames.close()
    assert double.released


def test_a_video_of_unknown_rate_gets_the_usual_one(video, monkeypatch):
    capture(monkeypatch, 1)
    assert [frame.fps for frame in sources.frames(video)] == [30.0]


def test_a_video_without_frames_is_an_error(video, monkeypatch):
    double = capture(monkeypatch, 0)
    with pytest.raises(SourceError, match=r"clip.avi has no frames that OpenCV can decode"):
        list(sources.frames(video))
    assert double.released


def test_a_video_above_the_limit_on_pixels_is_refused(video):
    with pytest.raises(SourceError, match=r"clip.avi has 64x48 pixels, more than the 0.001 million allowed"):
        list(sources.frames(video, max_pixels=1000))


def test_a_stream_that_grows_above_the_limit_on_pixels_is_refused(monkeypatch):
    double = capture(monkeypatch, 5)  # which tells of no size when it is opened
    with pytest.raises(SourceError, match=r"cam/1 has 2x2 pixels, more than the 3e-06 million allowed"):
        list(sources.frames("rtsp://cam/1", max_pixels=3))
    assert double.released


@pytest.mark.parametrize(("pixels", "rows"), [("bgr", 48), ("nv12", 72)])
def test_the_limit_on_pixels_and_a_plausible_rate_hold_for_pipelines(monkeypatch, pixels, rows):
    @contextlib.contextmanager
    def playing(*_):
        image = np.zeros((rows, 64, 3)[: 3 if pixels == "bgr" else 2], np.uint8)
        told = {"frames": lambda _: iter([(image, pixels, 1, 0)]), "rate": lambda: 90_000.0, "live": False}
        yield types.SimpleNamespace(**told)

    monkeypatch.setattr(gstreamer, "available", lambda: True)
    monkeypatch.setattr(gstreamer, "playing", playing)
    assert [frame.fps for frame in sources.frames("gst:it", max_pixels=48 * 64)] == [30.0]
    with pytest.raises(SourceError, match=r"gst:it has 64x48 pixels, more than"):
        list(sources.frames("gst:it", max_pixels=48 * 64 - 1))


@pytest.mark.parametrize(
    ("told", "meant"), [(25.0, 25.0), (240.0, 240.0), (1000.0, 30.0), (90_000.0, 30.0), (0.0, 30.0), (-1.0, 30.0)]
)
def test_the_ticks_of_a_clock_are_not_taken_for_a_rate(told, meant):
    assert opencv.plausible(told) == meant


def test_a_stream_that_stops_is_an_error_and_its_password_stays_secret(monkeypatch):
    capture(monkeypatch, 2)
    with pytest.raises(SourceError) as caught:
        list(sources.frames("rtsp://me:secret@cam/1"))
    assert str(caught.value) == "rtsp://cam/1 stopped after 2 frames"


def test_frames_of_a_stream_that_lay_in_a_buffer_are_not_called_new_and_those_of_a_file_are(video, monkeypatch):
    reads_ns = [*(place * 33_000_000 for place in range(1, 11)), 1_900_000_000, 1_901_000_000]

    def captured_ns(source):
        read_at(monkeypatch, capture(monkeypatch, len(reads_ns)), [*reads_ns, 0])
        with contextlib.suppress(SourceError):  # of a stream that has ended
            for frame in sources.frames(source):
                yield frame.captured_ns

    assert list(captured_ns(video)) == reads_ns
    found = list(captured_ns("rtsp://cam/1"))
    assert found[:10] == reads_ns[:10]
    # as if they had come in time after the tenth
    assert [round((late - found[9]) / 33e6) for late in found[10:]] == [1, 2]


@pytest.mark.parametrize("live", [True, False])
def test_what_gathered_while_the_network_of_a_pipeline_stood_still_is_not_called_new(monkeypatch, live):
    told_ms = [*range(33, 330, 33), 1830, 1831, 1832]

    @contextlib.contextmanager
    def playing(*_):
        found = [(np.zeros((48, 64, 3), np.uint8), "bgr", moment * 1_000_000, 0) for moment in told_ms]
        yield types.SimpleNamespace(frames=lambda _: iter(found), rate=lambda: 30.0, live=live)

    monkeypatch.setattr(gstreamer, "available", lambda: True)
    monkeypatch.setattr(gstreamer, "playing", playing)
    monkeypatch.setattr(time, "monotonic_ns", lambda: 0)
    late_ms = [
        told - frame.captured_ns / 1e6
        for told, frame in zip(told_ms, sources.frames("gst:it num-buffers=12"), strict=True)
    ]
    assert late_ms[:9] == [0] * 9
    assert [late > 1300 for late in late_ms[9:]] == [live] * 3


@pytest.mark.parametrize(("source", "apart_ms"), [("rtsp://cam/1", 33), ("http://cam/1.mjpg", 50)])
def test_a_stream_that_is_read_more_slowly_than_it_comes_is_as_old_as_it_says(monkeypatch, source, apart_ms):
    """Of motion JPEG the frames are numbered, which says nothing."""
    made_ms, double = itertools.count(1000, 33), capture(monkeypatch, 30)
    read_at(monkeypatch, double, itertools.count(50_000_000, 50_000_000))
    double.get = lambda what: next(made_ms) if what == cv2.CAP_PROP_POS_MSEC else 0.0
    captured = []
    with pytest.raises(SourceError, match="stopped after 30 frames"):
        captured.extend(frame.captured_ns for frame in sources.frames(source))
    assert captured[-1] - captured[0] == pytest.approx(29e6 * apart_ms, rel=0.01)


@pytest.mark.parametrize(
    ("kind", "own", "threads"), [("stream", None, 1), ("stream", "4", None), ("video", None, None)]
)
def test_one_thread_decodes_a_stream_for_each_more_would_keep_a_picture_back(monkeypatch, kind, own, threads):
    double, asked = Capture(3), []
    monkeypatch.setattr(cv2, "VideoCapture", lambda *how: asked.append(how) or double)
    monkeypatch.setattr(sources, "on_web", lambda _: kind)
    monkeypatch.setenv(opencv.THREADS, own or "")
    if not own:
        monkeypatch.delenv(opencv.THREADS)
    with contextlib.suppress(SourceError):  # of a stream that has ended
        list(sources.frames("http://cam/1"))
    ((_, _, how),) = asked
    assert dict(zip(how[::2], how[1::2], strict=True)).get(cv2.CAP_PROP_N_THREADS) == threads


@pytest.mark.parametrize(
    ("pipeline", "live"),
    [
        ("filesrc location=clip.mp4 ! decodebin", False),
        ("multifilesrc location=%03d.jpg caps=image/jpeg,framerate=5/1 ! jpegdec", False),
        ("uridecodebin uri=file:///clip.mp4", False),
        ("multifilesrc location=clip.h264 loop=true ! h264parse ! avdec_h264", True),
        ("rtspsrc location=rtsp://10.0.0.5/main ! decodebin", True),
        ("v4l2src", True),
    ],
)
def test_a_pipeline_that_reads_files_is_no_camera(pipeline, live):
    assert sources.live(f"gst:{pipeline}") is live


def test_a_file_that_opencvs_gstreamer_reads_comes_to_its_end(monkeypatch):
    monkeypatch.setattr(gstreamer, "fault", lambda: "PyGObject is not here")
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "GStreamer: YES")
    capture(monkeypatch, 3)
    assert [frame.index for frame in sources.frames("gst:filesrc location=clip.mp4 ! decodebin ! appsink")] == [0, 1, 2]


def test_an_address_with_brackets_is_no_pattern():
    assert not sources.many("rtsp://[::1]:8554/cam")
    assert not sources.many("gst:rtspsrc location=rtsp://10.0.0.5/a*b ! decodebin")


def test_a_video_that_was_cut_short_is_told(video, caplog):
    list(sources.frames(video))
    assert caplog.text == ""
    data = video.read_bytes()
    video.write_bytes(data[: data.rindex(b"00dc", 0, data.index(b"idx1"))])
    assert 1 <= len(list(sources.frames(video))) < 4
    assert f"{video} ends after 3 of the 4 frames it tells of: it may be cut short" in caplog.text


@pytest.mark.parametrize(("changes", "told"), [(False, "shows the same picture 30 times"), (True, "")])
def test_a_video_whose_pictures_are_all_the_same_is_told(tmp_path, image, caplog, changes, told):
    """As OpenCV gives interlaced ones from 4.13 on."""
    pictures = [image] * 29 + [255 - image if changes else image]
    assert len(list(sources.frames(bundles.video(tmp_path / "clip.avi", pictures, 25)))) == 30
    assert (told in caplog.text) if told else not caplog.text


def test_a_video_whose_frames_have_no_rate_of_their_own_is_not_called_cut_short(video, monkeypatch, caplog):
    double = capture(monkeypatch, 10)
    told = {cv2.CAP_PROP_FPS: 30.0, cv2.CAP_PROP_FRAME_COUNT: 300.0}
    double.get = lambda what: 1000.0 * (9 - double.left) if what == cv2.CAP_PROP_POS_MSEC else told.get(what, 0.0)
    assert [frame.shown_ns // 10**9 for frame in sources.frames(video)] == list(range(10))
    assert "cut short" in caplog.text
    caplog.clear()
    told[cv2.CAP_PROP_FPS] = 32.0  # nine seconds are more than 0.95 of what it tells of now
    double.left = 10
    assert len(list(sources.frames(video))) == 10
    assert caplog.text == ""


def test_a_password_in_a_pipeline_is_not_shown():
    shown = naming.without_password('gst:rtspsrc location=rtsp://cam/1 user-id=me user-pw="a b" ! decodebin')
    assert shown == "gst:rtspsrc location=rtsp://cam/1 user-id=me user-pw=*** ! decodebin"


def test_a_password_with_an_at_sign_is_not_shown():
    assert naming.without_password("rtsp://me:p@ss@10.0.0.5/main?a=b@c") == "rtsp://10.0.0.5/main?a=b@c"


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("rtsp://cam/user=me_password=s3cret_channel=1.sdp?real", "rtsp://cam/user=me_password=***?real"),
        ("http://cam/video.cgi?user=me&pwd=s3cret&rate=5", "http://cam/video.cgi?user=me&pwd=***&rate=5"),
        ("http://cam/live.mjpg?access_token=s3cret", "http://cam/live.mjpg?access_token=***"),
        ("http://cam/pass/2?compass=3&token", "http://cam/pass/2?compass=3&token"),
    ],
)
def test_a_password_in_the_path_is_not_shown(address, shown):
    assert naming.without_password(address) == shown


@pytest.mark.parametrize("name", ["camera:front", "camera:", "camera:-1", "camera:²", "camera:" + "9" * 5000])
def test_a_camera_has_a_number(name):
    with pytest.raises(SourceError, match="is not a camera"):
        list(sources.frames(name))


def test_a_camera_that_is_not_there_says_so():
    with pytest.raises(SourceError, match="camera:97 is not there: no /dev/video97"):
        list(sources.frames("camera:97"))


def test_a_pipeline_needs_something_that_plays_it(monkeypatch):
    monkeypatch.setattr(gstreamer, "fault", lambda: "PyGObject is not here")
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "GStreamer:   NO")
    with pytest.raises(SourceError, match="needs PyGObject, or an OpenCV with GStreamer"):
        list(sources.frames("gst:videotestsrc ! appsink"))


def test_a_pipeline_that_fails_while_it_is_asked_for_its_end_has_failed():
    """As an element does: it says so on the bus, and ends its stream."""
    said = []

    def ended(_):
        error = types.SimpleNamespace(message="it broke")
        said.append(
            types.SimpleNamespace(parse_error=lambda: (error, ""), src=types.SimpleNamespace(get_name=lambda: "src"))
        )
        return True

    playing = object.__new__(gstreamer.Playing)
    playing._shown, playing._gst = "gst:x", types.SimpleNamespace(MessageType=types.SimpleNamespace(ERROR=2))
    playing._sink = types.SimpleNamespace(emit=lambda *_: None, get_property=ended)
    playing._bus = types.SimpleNamespace(pop_filtered=lambda _: said.pop() if said else None)
    with pytest.raises(SourceError, match="src: it broke"):
        list(playing.frames(100_000))
