"""YOLOv5n in plain PyTorch, from its published architecture, with its checkpoints' parameter names."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

STRIDES = (8, 16, 32)
ANCHORS = (
    (10, 13, 16, 30, 33, 23),
    (30, 61, 62, 45, 59, 119),
    (116, 90, 156, 198, 373, 326),
)  # pixels, w then h


class Conv(nn.Module):
    """Convolution, batch norm, SiLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, padding: int | None = None) -> None:
        super().__init__()
        padding = kernel // 2 if padding is None else padding
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.03)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.silu(self.bn(self.conv(x)), inplace=True)


class Bottleneck(nn.Module):
    """1x1 then 3x3, with or without the way round."""

    def __init__(self, channels: int, shortcut: bool) -> None:
        super().__init__()
        self.cv1 = Conv(channels, channels)
        self.cv2 = Conv(channels, channels, 3)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = self.cv2(self.cv1(x))
        return x + y if self.shortcut else y


class C3(nn.Module):
    """Half the channels through bottlenecks, half past them, joined by a 1x1."""

    def __init__(self, inputs: int, outputs: int, depth: int, shortcut: bool = True) -> None:
        super().__init__()
        half = outputs // 2
        self.cv1 = Conv(inputs, half)
        self.cv2 = Conv(inputs, half)
        self.cv3 = Conv(2 * half, outputs)
        self.m = nn.Sequential(*(Bottleneck(half, shortcut) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))


class SPPF(nn.Module):
    """Three 5x5 max-pools in a row, all four stages joined."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.cv1 = Conv(channels, channels // 2)
        self.cv2 = Conv(2 * channels, channels)
        self.pool = nn.MaxPool2d(5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        stages = [self.cv1(x)]
        for _ in range(3):
            stages.append(self.pool(stages[-1]))
        return self.cv2(torch.cat(stages, 1))


class Concat(nn.Module):
    """Join the previous output with an earlier one."""

    def forward(self, x: Tensor, earlier: Tensor) -> Tensor:
        return torch.cat((x, earlier), 1)


class Detect(nn.Module):
    """One 1x1 convolution a level; outputs (batch, anchors, rows, columns, 5 + classes), raw."""

    def __init__(self, classes: int, inputs: tuple[int, ...]) -> None:
        super().__init__()
        self.numbers = 5 + classes
        self.m = nn.ModuleList(nn.Conv2d(channels, 3 * self.numbers, 1) for channels in inputs)
        in_pixels = torch.tensor(ANCHORS, dtype=torch.float32).view(3, 3, 2)
        self.register_buffer("anchors", in_pixels / torch.tensor(STRIDES).view(3, 1, 1))
        for convolution, stride in zip(self.m, STRIDES, strict=True):
            bias = convolution.bias.data.view(3, -1)
            bias[:, 4] = torch.tensor(8 / (640 / stride) ** 2).logit()  # about eight objects a picture
            bias[:, 5:] = torch.tensor(1 / classes).logit()

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        outputs = []
        for convolution, x in zip(self.m, levels, strict=True):
            y = convolution(x)
            outputs.append(y.view(y.shape[0], 3, self.numbers, *y.shape[2:]).permute(0, 1, 3, 4, 2))
        return outputs


class Yolov5n(nn.Module):
    """Depth 0.33, width 0.25; images (n, 3, h, w) RGB 0..1 -> three raw levels, see Detect."""

    JOINED: ClassVar = {12: 6, 16: 4, 19: 14, 22: 10}  # each Concat's second input
    READ = (17, 20, 23)

    def __init__(self, classes: int) -> None:
        super().__init__()
        backbone = [
            Conv(3, 16, 6, 2, 2), Conv(16, 32, 3, 2), C3(32, 32, 1), Conv(32, 64, 3, 2), C3(64, 64, 2),
            Conv(64, 128, 3, 2), C3(128, 128, 3), Conv(128, 256, 3, 2), C3(256, 256, 1), SPPF(256),
        ]  # fmt: skip
        up = [Conv(256, 128), nn.Upsample(scale_factor=2), Concat(), C3(256, 128, 1, False)]
        up += [Conv(128, 64), nn.Upsample(scale_factor=2), Concat(), C3(128, 64, 1, False)]
        down = [Conv(64, 64, 3, 2), Concat(), C3(128, 128, 1, False)]
        down += [Conv(128, 128, 3, 2), Concat(), C3(256, 256, 1, False)]
        self.model = nn.ModuleList([*backbone, *up, *down, Detect(classes, (64, 128, 256))])

    def forward(self, x: Tensor) -> list[Tensor]:
        outputs: list[Tensor] = []
        for index, module in enumerate(self.model[:-1]):
            x = module(x, outputs[self.JOINED[index]]) if index in self.JOINED else module(x)
            outputs.append(x)
        return self.model[-1]([outputs[index] for index in self.READ])


def decode(levels: list[Tensor], anchors: Tensor) -> Tensor:
    """Raw levels -> (batch, boxes, 5 + classes): centre and size in model pixels, then probabilities."""
    decoded = []
    for raw, anchor, stride in zip(levels, anchors, STRIDES, strict=True):
        rows, columns = raw.shape[2:4]
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        p = raw.float().sigmoid()
        centre = (2 * p[..., :2] - 0.5 + torch.stack((x, y), 2)) * stride
        size = (2 * p[..., 2:4]) ** 2 * anchor.view(1, 3, 1, 1, 2) * stride
        decoded.append(torch.cat((centre, size, p[..., 4:]), 4).flatten(1, 3))
    return torch.cat(decoded, 1)


def layout(classes: int) -> dict[str, object]:
    """The same network as YOLOv5 writes it down: [from, number, module, arguments] before scaling."""
    backbone = [
        [-1, 1, "Conv", [64, 6, 2, 2]], [-1, 1, "Conv", [128, 3, 2]], [-1, 3, "C3", [128]],
        [-1, 1, "Conv", [256, 3, 2]], [-1, 6, "C3", [256]],
        [-1, 1, "Conv", [512, 3, 2]], [-1, 9, "C3", [512]],
        [-1, 1, "Conv", [1024, 3, 2]], [-1, 3, "C3", [1024]], [-1, 1, "SPPF", [1024, 5]],
    ]  # fmt: skip
    up = [-1, 1, "nn.Upsample", [None, 2, "nearest"]]
    head = [
        [-1, 1, "Conv", [512, 1, 1]], list(up), [[-1, 6], 1, "Concat", [1]], [-1, 3, "C3", [512, False]],
        [-1, 1, "Conv", [256, 1, 1]], list(up), [[-1, 4], 1, "Concat", [1]], [-1, 3, "C3", [256, False]],
        [-1, 1, "Conv", [256, 3, 2]], [[-1, 14], 1, "Concat", [1]], [-1, 3, "C3", [512, False]],
        [-1, 1, "Conv", [512, 3, 2]], [[-1, 10], 1, "Concat", [1]], [-1, 3, "C3", [1024, False]],
        [[17, 20, 23], 1, "Detect", ["nc", "anchors"]],
    ]  # fmt: skip
    anchors = [list(level) for level in ANCHORS]
    scale = {"depth_multiple": 0.33, "width_multiple": 0.25}
    return {"nc": classes, **scale, "anchors": anchors, "backbone": backbone, "head": head}
