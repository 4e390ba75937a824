"""The reference implementations with random weights, their checkpoints and their outputs."""

import copy
import sys
from importlib import util
from pathlib import Path

import numpy as np
import torch

from edgeinfer_export import checkpoint

# torchvision's CUDA build on a CPU PyTorch: its compiled operators are absent, so their schemas are declared here
_SCHEMAS = torch.library.Library("torchvision", "DEF")
_SCHEMAS.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
_SCHEMAS.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

YOLOV5 = Path(util.find_spec("yolov5").origin).parent
ULTRALYTICS = Path(util.find_spec("ultralytics").origin).parent


def yolov5(cfg, nc=None):
    """A model of the yolov5 package; `cfg`: a file below its models/, or a dict."""
    sys.path.insert(0, str(YOLOV5))
    torch.manual_seed(1)
    from yolov5.models.common import Conv
    from yolov5.models.yolo import DetectionModel

    # a YAML with an activation changes it for every model after it
    Conv.default_act = torch.nn.SiLU()
    model = DetectionModel(cfg if isinstance(cfg, dict) else YOLOV5 / "models" / cfg, nc=nc)
    model.model[-1].inplace = False
    # of five levels, the last takes pictures of as many whole cells as two ways down make of it
    return _settled(model, max(192, 2 * int(model.stride.max())))


def disguised(model, activations):
    """The model with other activations by the class of the module that has them, as older releases had them."""
    for module in model.modules():
        if type(module).__name__ in activations:
            module.act = activations[type(module).__name__]
    return _settled(model)


def ultralytics(cfg, nc=None):
    """A model of the ultralytics package; `cfg`: a name it knows, a file, or a dict."""
    from ultralytics.nn.modules import Detect
    from ultralytics.nn.tasks import DetectionModel

    # YOLOv8's YAML changes it for every YOLOv10 after it, which then draws other random weights
    Detect.legacy = False
    torch.manual_seed(1)
    return _settled(DetectionModel(cfg if isinstance(cfg, dict) else str(cfg), nc=nc, verbose=False))


def ultralytics_classifier(cfg, nc=None):
    from ultralytics.nn.tasks import ClassificationModel

    torch.manual_seed(1)
    return _settled(ClassificationModel(cfg if isinstance(cfg, dict) else str(cfg), nc=nc, verbose=False), 64)


def yolov5_classifier(cfg, classes=1000):
    """A classifier of the yolov5 package: it is cut from a detector."""
    detector = yolov5(cfg)
    from yolov5.models.yolo import ClassificationModel

    return _settled(ClassificationModel(model=detector, nc=classes), 64)


def classifier(name, classes=1000, layers=()):
    """A torchvision model, or one of timm when so prefixed; `layers` in the place of its fc."""
    torch.manual_seed(1)
    if name.startswith("timm/"):
        import timm

        return _settled(timm.create_model(name.removeprefix("timm/"), num_classes=classes), 64)
    import torchvision

    model = torchvision.models.get_model(name, num_classes=classes)
    if layers:
        model.fc = torch.nn.Sequential(*layers)
    return _settled(model, 64)


def _settled(model, side=192):
    """Batch norm statistics of random pictures, then disturbed, and outputs of a trained model's spread.

    Activations stay near 1, so that float32 rounding is not blown up, and nothing is trivial.
    """
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    model.train()
    with torch.no_grad():
        model(torch.from_numpy(images((side, side), 4, 3)))
        for norm in norms:
            norm.weight.uniform_(0.6, 1.0)
            norm.bias.normal_(0.1, 0.2)
            norm.running_mean += 0.1 * norm.running_var.sqrt() * torch.randn_like(norm.running_mean)
            norm.running_var *= torch.empty_like(norm.running_var).uniform_(0.8, 1.25)
        model.eval()
        last = [module for module in model.modules() if isinstance(module, torch.nn.Conv2d) and module.bias is not None]
        hooks = [module.register_forward_hook(_spread) for module in last]
        model(torch.from_numpy(images((side, side), 2, 4)))
        for hook in hooks:
            hook.remove()
    return model


def _spread(module, inputs, output):
    """Give a final convolution outputs that differ between cells by 0.3, about biases of standard deviation 1."""
    gain = 0.3 / output.std((0, 2, 3)).mean()
    middle = (output.mean((0, 2, 3)) - module.bias) * gain
    module.weight *= gain
    module.bias.copy_(torch.randn_like(middle) - middle)


def stored(model, yaml=None, half=False):
    """The model's checkpoint without a file: tensors as its state dict names them."""
    tensors = {name: value.numpy() for name, value in (model.half() if half else model).state_dict().items()}
    yaml = getattr(model, "yaml", None) if yaml is None else yaml
    model.float()
    return checkpoint.Checkpoint(Path("random.pt"), "", "state dict", tensors, copy.deepcopy(yaml))


def written(model, path, half=True):
    """The model's checkpoint through a file, as the packages save it."""
    torch.save({"epoch": -1, "model": copy.deepcopy(model).half() if half else model, "ema": None}, path)
    if half:
        model.half().float()
    return checkpoint.read(path)


def whole(model, path):
    """The checkpoint of a model that was pickled whole: its layers tell their activations and strides."""
    torch.save(model, path)
    return checkpoint.read(path)


def output(model, images):
    """What the reference computes in float32 for images (n, 3, h, w)."""
    with torch.no_grad():
        found = model(torch.from_numpy(images))
    if isinstance(found, torch.Tensor):
        return found.numpy()
    # classifiers give probabilities and logits, detectors boxes and what they were decoded from
    return found[1 if found[0].ndim == 2 else 0].numpy()


def images(size, count=1, seed=2):
    """Patches of colour and noise (n, 3, h, w) in 0-1: something for every scale of a network to see."""
    random = np.random.default_rng(seed)
    patches = np.zeros((count, 3, *size), np.float32)
    for cells in (2, 5, 16):
        coarse = random.random((count, 3, cells, cells), np.float32)
        down, across = (np.arange(side) * cells // side for side in size)
        patches += coarse[:, :, down][:, :, :, across]
    return (patches + random.random(patches.shape, np.float32)) / 4
