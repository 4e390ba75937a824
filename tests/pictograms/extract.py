"""Fill sprites/ from an emoji font and backgrounds/ from freely licensed photographs (needs Pillow)."""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

HERE = Path(__file__).parent
FONT_PIXELS = 109  # the only bitmap size Noto Color Emoji holds
LONGEST = 128
WIRES = {"🚎": 34}  # pixels of overhead line above the trolleybus, which are no part of it

GLYPHS = {
    "person": "🚶 🧍 🏃 🚶‍♀️ 🧍‍♂️ 🏃‍♀️ 🚶🏾 🏃🏻 🧍🏽‍♀️ 💃 🕺",
    "bicycle": "🚲",
    "car": "🚗 🚙 🚕 🚘 🚓 🚖",
    "bus": "🚌 🚍 🚎",
    "truck": "🚚 🚛 🛻 🚒",
    "traffic-light": "🚦 🚥",
    "stop-sign": "🛑",
    "dog": "🐕 🐶 🦮 🐕‍🦺 🐩",
    "cat": "🐈 🐱 🐈‍⬛ 😺",
    "bird": "🐦 🦆 🦅 🕊 🐧 🦜 🦉 🐤 🐦‍⬛ 🦢",
    "plant": "🌳 🌲 🌴",
    "building": "🏠 🏢 🏪 🏬",
    "thing": "📦 🗑 🪨 ⚽",
    "cloud": "☁",
}

PHOTOGRAPHS = {
    "meadow": "seeding_by_Clements_Engelhardt.jpg",
    "launch-pad": "rocket.jpg",
    "coffee": "coffee.png",
    "brick": "brick.png",
    "grass": "grass.png",
    "gravel": "gravel.png",
    "cork": "HR_Cork.png",
}


def glyph(font: ImageFont.FreeTypeFont, text: str) -> Image.Image:
    """One emoji, trimmed to its ink, longest side LONGEST pixels, RGBA."""
    canvas = Image.new("RGBA", (200, 200))
    ImageDraw.Draw(canvas).text((20, 20), text, font=font, embedded_color=True)
    left, top, right, bottom = canvas.getbbox()
    ink = canvas.crop((left, top + WIRES.get(text, 0), right, bottom))
    scale = LONGEST / max(ink.size)
    return ink.resize([max(1, round(side * scale)) for side in ink.size], Image.LANCZOS)


def write_stop(sign: Image.Image) -> Image.Image:
    """The red octagon with a white rim and the word STOP."""
    pixels = np.array(sign)
    height, width = pixels.shape[:2]
    angles = np.pi / 8 + np.arange(8) * np.pi / 4
    corners = np.stack([np.cos(angles), np.sin(angles)], 1) * 0.47 * width + (width / 2, height / 2)
    cv2.polylines(pixels, [np.int32(np.round(corners * 16))], True, (255, 255, 255, 255), 5, cv2.LINE_AA, 4)
    (text_width, text_height), _ = cv2.getTextSize("STOP", cv2.FONT_HERSHEY_SIMPLEX, 1.2, 6)
    origin = ((width - text_width) // 2, (height + text_height) // 2)
    cv2.putText(pixels, "STOP", origin, cv2.FONT_HERSHEY_SIMPLEX, 1.2, (255, 255, 255, 255), 6, cv2.LINE_AA)
    return Image.fromarray(pixels)


def extract_sprites(font_path: Path, folder: Path) -> None:
    """Write every glyph as folder/<kind>-<index>.png, RGBA."""
    font = ImageFont.truetype(str(font_path), FONT_PIXELS)
    folder.mkdir(exist_ok=True)
    for kind, texts in GLYPHS.items():
        for index, text in enumerate(texts.split()):
            image = glyph(font, text)
            if kind == "stop-sign":
                image = write_stop(image)
            image.save(folder / f"{kind}-{index:02d}.png", optimize=True)


def extract_backgrounds(sources: list[Path], folder: Path) -> None:
    """Write every photograph found in the source folders as folder/<name>.jpg, 640 pixels wide."""
    folder.mkdir(exist_ok=True)
    for name, file in PHOTOGRAPHS.items():
        found = [path for source in sources for path in sorted(source.rglob(file))]
        if not found:
            raise SystemExit(f"{file} is in none of the folders given; README.md says where it comes from")
        image = cv2.imread(str(found[0]))
        height = round(image.shape[0] * 640 / image.shape[1])
        image = cv2.resize(image, (640, height), interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(folder / f"{name}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 80])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--font", type=Path, required=True, help="NotoColorEmoji.ttf")
    parser.add_argument("--photos", type=Path, nargs="+", required=True, help="folders that hold the photographs")
    args = parser.parse_args()
    extract_sprites(args.font, HERE / "sprites")
    extract_backgrounds(args.photos, HERE / "backgrounds")


if __name__ == "__main__":
    main()
