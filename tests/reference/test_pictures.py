"""From a picture to its classes: timm's own transform and model against the bundle made of what timm saves."""

from pathlib import Path

import numpy as np
import pytest

PICTURES = sorted((Path(__file__).parents[1] / "data" / "pictograms").glob("*.jpg"))[::8]
CLASSES = 5


def sizes(count, longest=500):
    """Sizes (h, w) of sources and of what they become, any from 1 pixel up, every other one twice as large.

    Pillow 13 goes down first where the height loses more than twice the pixels of the width, earlier ones never do;
    of such a pair the sides are exchanged.
    """
    chance = np.random.default_rng(0)
    for number in range(count):
        height, width, down, across = (int(side) for side in np.exp(chance.uniform(0, np.log(longest), 4)))
        if number % 2:
            down, across = 2 * height, 2 * width
        turned = height - down > max(0, 2 * (width - across))
        yield ((width, height), (across, down)) if turned else ((height, width), (down, across))


def test_cubics_are_pillows_at_any_size(measured):
    from PIL import Image

    from edgeinfer.devices.cpu import Device
    from edgeinfer.spec import Size
    from helpers.specs import detector

    chance, largest, means = np.random.default_rng(1), 0.0, []
    for (height, width), (down, across) in sizes(300):
        image = (chance.integers(0, 2, (height, width, 3)) * 255).astype(np.uint8)
        spec = detector(Size(down, across), fit="stretch", interpolation="cubic-antialias", scale=1.0)
        (found,) = Device(spec).preprocess([image], "rgb")[0].values()
        theirs = np.asarray(Image.fromarray(image).resize((across, down), Image.Resampling.BICUBIC))
        differences = np.abs(found[0].transpose(1, 2, 0) - theirs)
        largest, means = max(largest, float(differences.max())), [*means, float(differences.mean())]
    row = {"pixel_max": largest, "pixel_mean": max(means)}
    measured.append({"model": "Pillow's bicubic, black and white noise of 300 sizes", **row})
    assert row["pixel_max"] <= 2
    assert row["pixel_mean"] < 0.1


def answers(model, inputs):
    """Logits (n, classes), a picture at a time."""
    import torch

    with torch.no_grad():
        return torch.cat([model(one[None]) for one in inputs])


def told_apart(model, inputs):
    """The model with a last layer whose logits vary between the pictures by one, about nothing."""
    import torch

    logits = answers(model, inputs)
    with torch.no_grad():
        model.fc.weight /= logits.std(0)[:, None]
        model.fc.bias.copy_((model.fc.bias - logits.mean(0)) / logits.std(0))
    return model


def saved(model, folder):
    """The model as timm puts it on the hub."""
    import torch
    from timm.models import _hub

    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    _hub.save_config_for_hf(model, folder / "config.json")
    return folder / "pytorch_model.bin"


@pytest.mark.parametrize(("name", "way"), [("resnet18", "bicubic"), ("resnet50", "bicubic"), ("resnet50", "bilinear")])
def test_pictures_have_the_scores_that_timm_gives_them(originals, measured, tmp_path, name, way):
    import timm
    from PIL import Image

    import edgeinfer
    from edgeinfer.devices.cpu import Device
    from edgeinfer_export.export import export

    model = originals.classifier(f"timm/{name}", CLASSES)
    model.pretrained_cfg = {**model.pretrained_cfg, "interpolation": way}
    pictures = [Image.open(path).convert("RGB") for path in PICTURES]
    inputs = list(map(timm.data.create_transform(**timm.data.resolve_data_config({}, model=model)), pictures))
    theirs = answers(told_apart(model, inputs), inputs).softmax(1).numpy()
    pixels, scores = [], []
    with edgeinfer.load(export(saved(model, tmp_path), tmp_path / "out")) as ours:
        device, std = Device(ours.spec), np.reshape(ours.spec.preprocess.std, (3, 1, 1))
        for picture, wanted, score in zip(pictures, inputs, theirs, strict=True):
            (given,) = device.preprocess([np.asarray(picture)], "rgb")[0].values()
            pixels.append(np.abs(given[0] - wanted.numpy()) * std * 255)
            found = ours(np.asarray(picture)[..., ::-1])
            scores.append(np.abs(found.scores - score[found.class_ids]))
    row = {"pixel_max": float(np.max(pixels)), "pixel_mean": float(np.mean(pixels)), "score": float(np.max(scores))}
    measured.append({"model": f"timm/{name}, {way} pictures", "size": (224, 224), **row})
    # Pillow computes in integers, and of linear pictures the CPU device does not round halfway
    assert row["pixel_max"] < (2.01 if way == "bicubic" else 1.01)
    assert row["pixel_mean"] < (0.01 if way == "bicubic" else 0.25)
    assert row["score"] < 0.02
