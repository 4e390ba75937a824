"""Record what the published implementations answer: tests/golden/cpu/*.npz.

Needs PyTorch, torchvision, Pillow, yolov5 and ultralytics; the tests need none of them.
Run from the repository's root:

    YOLO_OFFLINE=1 YOLO_AUTOINSTALL=false python tests/golden/make_cpu_golden.py

A torchvision built for CUDA does not load on a machine without it; then stand-ins for the CUDA libraries it
names, made with gcc, let its C++ operators run on the CPU.
"""

import ctypes
import hashlib
import re
import subprocess
import sys
import tempfile
from importlib import metadata, util
from pathlib import Path

import cv2
import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from helpers import cases  # noqa: E402

HERE = Path(__file__).parent / "cpu"
PACKAGES = ("numpy", "opencv-python-headless", "pillow", "torch", "torchvision", "ultralytics", "yolov5")


def stand_in(folder, name, symbols, version=""):
    """Load a library called `name` whose functions give an address of nothing."""
    source = folder / "stand_in.c"
    bodies = (f"void *{symbol}() {{ return memory; }}\n" for symbol in symbols)
    source.write_text("static char memory[4096];\n" + "".join(bodies))
    script = folder / "versions"
    script.write_text(version + " { *; };")
    options = [f"-Wl,--version-script={script}"] if version else []
    command = ["gcc", "-shared", "-fPIC", "-w", f"-Wl,-soname,{name}", "-o", str(folder / name), str(source)]
    subprocess.run([*command, *options], check=True)
    ctypes.CDLL(str(folder / name), ctypes.RTLD_GLOBAL)


def load_torchvision():
    library = Path(util.find_spec("torchvision").origin).with_name("_C.so")
    listing = subprocess.run(["nm", "-D", "--undefined-only", str(library)], capture_output=True, text=True, check=True)
    runtime = re.findall(r"(\w+)@(libcudart\.so\.\d+)", listing.stdout)
    if runtime:
        folder = Path(tempfile.mkdtemp())
        name = runtime[0][1]
        stand_in(folder, name, [symbol for symbol, _ in runtime], name)
        stand_in(folder, "libc10_cuda.so", re.findall(r"U (\w*4cuda\w*)", listing.stdout))
        stand_in(folder, "libtorch_cuda.so", [])
    import torchvision

    kept = torchvision.ops.nms(torch.tensor([[0, 0, 9, 9.0], [0, 0, 9, 8]]), torch.tensor([0.8, 0.9]), 0.5)
    assert kept.tolist() == [1]


def stable_argsort(tensor, dim=-1, descending=False):
    return torch.sort(tensor, dim=dim, descending=descending, stable=True)[1]


def yolov5_answer(rows, decode):
    from yolov5.utils.general import non_max_suppression

    # which of equals argsort puts first depends on the processor; a stable sort is one of its answers
    torch.Tensor.argsort = stable_argsort
    prediction = torch.from_numpy(rows.copy())[None]
    options = {"agnostic": decode.class_agnostic, "max_det": decode.limit}
    return non_max_suppression(prediction, decode.score, decode.iou, **options)[0].numpy()


def yolov8_answer(rows, decode):
    from ultralytics.utils.nms import non_max_suppression

    prediction = torch.from_numpy(np.delete(rows, 4, axis=1).T.copy())[None]
    options = {"agnostic": decode.class_agnostic, "max_det": decode.limit, "nc": rows.shape[1] - 5}
    return non_max_suppression(prediction, decode.score, decode.iou, max_time_img=60, **options)[0].numpy()


def digests(answer):
    """One hash for each block of cases, over every kept row's bytes."""
    found = []
    for block in range(cases.SUPPRESSION_BLOCKS):
        digest = hashlib.sha256()
        for case in cases.suppression_cases(block):
            rows = answer(*case)
            digest.update(np.int64(len(rows)).tobytes() + np.ascontiguousarray(rows, np.float32).tobytes())
        found.append(np.frombuffer(digest.digest(), np.uint8))
    return np.stack(found)


def suppression():
    yield "yolov5_digests", digests(yolov5_answer)
    yield "yolov8_digests", digests(yolov8_answer)
    for name, (rows, decode) in cases.whole().items():
        yield f"yolov5_{name}", yolov5_answer(rows, decode)
        yield f"yolov8_{name}", yolov8_answer(rows, decode)


def letterboxes():
    """The published letterbox's numbers for many sizes: height width side -> width height left top."""
    from yolov5.utils.augmentations import letterbox

    rows = []
    for height, width, side in cases.letterbox_sizes():
        if min(height, width) * side / max(height, width) <= 0.5:
            continue  # a side rounds to nothing, and OpenCV refuses
        image = np.full((height, width, 3), 255, np.uint8)
        boxed, _, (half_width, half_height) = letterbox(image, side, auto=False, scaleup=True)
        assert boxed.shape == (side, side, 3)
        left, top = round(half_width - 0.1), round(half_height - 0.1)
        new_width, new_height = side - round(half_width * 2), side - round(half_height * 2)
        rows.append((height, width, side, new_width, new_height, left, top))
    yield "sizes", np.array(rows, np.int32)
    for height, width in cases.SMOOTH_SOURCES:
        boxed = letterbox(cases.smooth_picture(height, width), cases.SMOOTH_SIDE, auto=False)[0]
        yield f"picture_{height}_{width}", boxed


def resize_crops():
    from PIL import Image
    from torchvision import transforms

    small = transforms.Compose([transforms.Resize(cases.SMOOTH_RESIZE), transforms.CenterCrop(cases.SMOOTH_SIDE)])
    for height, width in cases.SMOOTH_SOURCES:
        yield f"{height}_{width}", np.asarray(small(Image.fromarray(cases.smooth_picture(height, width))))
    photo = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])
    image = cases.smooth_picture(cases.PHOTO.height, cases.PHOTO.width)
    yield "photo", np.asarray(photo(Image.fromarray(image)))[::5, ::5]


def cubics():
    """Pillow 13 goes down first where the height loses more than twice the pixels of the width; here nowhere."""
    from PIL import Image
    from torchvision import transforms

    how = transforms.InterpolationMode.BICUBIC
    small = [transforms.Resize(cases.SMOOTH_RESIZE, how), transforms.CenterCrop(cases.SMOOTH_SIDE)]
    for height, width in cases.SMOOTH_SOURCES:
        picture = Image.fromarray(cases.sharp_picture(height, width))
        yield f"{height}_{width}", np.asarray(transforms.Compose(small)(picture))


def main():
    load_torchvision()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    versions = np.array([f"{name} {metadata.version(name)}" for name in PACKAGES])
    HERE.mkdir(exist_ok=True)
    made = {"suppression": suppression, "letterbox": letterboxes, "resize_crop": resize_crops, "cubic": cubics}
    for name, make in made.items():
        np.savez_compressed(HERE / f"{name}.npz", versions=versions, **dict(make()))
        print(name, (HERE / f"{name}.npz").stat().st_size)


if __name__ == "__main__":
    main()
