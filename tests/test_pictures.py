"""Picture files of every format: their headers, their pixels, and what is no whole picture."""

import base64
import struct
import zlib

import cv2
import numpy as np
import pytest

from edgeinfer import pictures
from edgeinfer.errors import SourceError

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


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [3, 4])
def test_the_size_of_a_tiff_is_read_in_either_order_of_bytes_and_either_width(order, kind):
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, 2)
    sides = {3: "H2x", 4: "I"}[kind]
    entries = [struct.pack(f"{order}HHI{sides}", tag, kind, 1, side) for tag, side in ((256, 640), (257, 480))]
    assert pictures.header(start + b"".join(entries)) == pictures.Header(480, 640)
