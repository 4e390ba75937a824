"""Pack what `prove.py` needs where there is nothing but NumPy, cuda-bindings and TensorRT.

    python tests/gpu/kit/pack.py FOLDER [--parts MIB]

FOLDER gets the runtime, the compiler front end, two trained models as bundles, pictures, and what the CPU makes of
them: the pictogram detector (YOLOv5n, 640 x 640) and a ResNet-50 with a fitted head. Needs the export extra; no GPU.
With --parts all of it is written once more as parts of at most so many MiB in FOLDER.parts, for a machine that is
reached by small uploads only; join.py, beside them there, makes the folder again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tarfile
from importlib import resources
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).parents[3]
sys.path[:0] = [str(ROOT), str(ROOT / "export"), str(ROOT / "tests")]

from edgeinfer import load, modeljson  # noqa: E402
from edgeinfer.backends.ort import Engine  # noqa: E402
from edgeinfer.devices.cpu import Device  # noqa: E402
from edgeinfer.lanes import Lane  # noqa: E402
from edgeinfer_export import heldout  # noqa: E402
from edgeinfer_export.export import Options, export  # noqa: E402

PICTURES = 12
PRECISIONS = ("fp32", "fp16", "int8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--parts", type=float, metavar="MIB", help="the size of a part")
    options = parser.parse_args()
    packed(options.folder)
    print(f"packed {options.folder}; there, in the kit's Python: {options.folder}/prove.py")
    if options.parts:
        for part in split(options.folder, options.folder.with_suffix(".parts"), int(options.parts * 2**20)):
            print(f"{part.stat().st_size:>11,} {part}")


def packed(folder: Path) -> None:
    for package in (ROOT / "edgeinfer", ROOT / "export" / "edgeinfer_export"):
        ignored = shutil.ignore_patterns("__pycache__", "assets", "serve", "streams")
        shutil.copytree(package, folder / package.name, ignore=ignored, dirs_exist_ok=True)
    shutil.copy(Path(__file__).with_name("prove.py"), folder)
    from helpers import pictogram_classifier

    models = folder / "models"
    detector = Path(str(resources.files("edgeinfer_export"))) / "assets" / "pictograms.pt"
    scenes = ROOT / "tests" / "data" / "pictograms"
    options = Options(precisions=PRECISIONS, pictures=heldout.Sources(calibrate=str(scenes), few=True))
    pack(models / "pictograms", detector, options, sorted(scenes.glob("*.jpg"))[:PICTURES])
    classifier = pictogram_classifier.cached(folder / "classifier")
    glyphs = sorted(classifier.held_out.rglob("*.*"))[:: 300 // PICTURES][:PICTURES]
    known = heldout.Sources(calibrate=str(classifier.calibration), heldout=str(classifier.held_out))
    options = Options(size=classifier.size, precisions=PRECISIONS, pictures=known)
    pack(models / "resnet50", classifier.checkpoint, options, glyphs)
    shutil.rmtree(folder / "classifier")


def pack(target: Path, source: Path, options: Options, pictures: list[Path]) -> None:
    if target.exists():
        shutil.rmtree(target)
    bundle = export(source, target, options)
    cases(bundle, [cv2.imread(str(picture)) for picture in pictures])
    # what TensorRT is never given
    shutil.rmtree(bundle / "golden")
    for artifact in modeljson.read(bundle / "model.json").artifacts:
        if artifact.flavor not in ("", "trt"):
            (bundle / artifact.file).unlink()


def split(folder: Path, target: Path, most: int) -> list[Path]:
    """The folder as parts of at most `most` bytes, and beside them what joins them."""
    if target.exists():
        shutil.rmtree(target)
    target.mkdir()
    whole = target / "whole"
    with tarfile.open(whole, "w:xz", preset=6) as archive:
        archive.add(folder, "gpu-kit", filter=lambda one: None if "__pycache__" in one.name else one)
    count = -(-whole.stat().st_size // most)
    parts = [target / f"kit.{place:02}-of-{count:02}" for place in range(1, count + 1)]
    with whole.open("rb") as content:
        for part in parts:
            part.write_bytes(content.read(most))
    whole.unlink()
    shutil.copy(Path(__file__).with_name("join.py"), target)
    return parts


def cases(bundle: Path, images: list) -> None:
    """Put `cases.npz` and `cases.json` into a bundle: pictures, what the first becomes, and every picture's results.

    Those of float32, which a float16 engine must find too; and those of int8 for TensorRT, if the bundle has it.
    """
    with load(bundle, "ort", "fp32") as model:
        tensors, _ = model.device.preprocess(images[:1])
        (tensor,) = (array.copy() for array in tensors.values())
        raw = {f"raw_{name}": array.copy() for name, array in model.engine.run(tensors).items()}
        results = {"fp32": [record(model(image)) for image in images]}
    spec = modeljson.read(bundle / "model.json")
    for artifact in spec.artifacts:
        if artifact.flavor == "trt":
            results["int8"] = rounded(bundle / artifact.file, spec, images)
    arrays = {f"image_{at}": image for at, image in enumerate(images)}
    np.savez(bundle / "cases.npz", tensor=tensor, **raw, **arrays)
    (bundle / "cases.json").write_text(json.dumps(results))


def rounded(onnx: Path, spec, images: list) -> list:
    """What the CPU makes of the graph that TensorRT gets; slowly, which is why no pipeline does it."""
    device = Device(spec)
    way = Lane(device, Engine(onnx, spec, device)).way
    return [record(way.run([image], "bgr")[0][0]) for image in images]


def record(result) -> list[dict]:
    if result.task == "classify":
        pairs = zip(result.class_ids.tolist(), result.scores.tolist(), strict=True)
        return [{"class_id": label, "score": score} for label, score in pairs]
    rows = zip(result.class_ids.tolist(), result.scores.tolist(), result.boxes.tolist(), strict=True)
    return [{"class_id": label, "score": score, "box": box} for label, score, box in rows]


if __name__ == "__main__":
    main()
