"""What the detector is trained to lower: CIoU for boxes, cross-entropy for objectness and classes."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

BALANCE = (4.0, 1.0, 0.4)  # of objectness, level by level
BOX, OBJECT, CLASS = 0.05, 1.0, 0.15
LARGEST_RATIO = 4.0  # between an object's side and its anchor's
NEIGHBOURS = torch.tensor(((0, 0), (1, 0), (0, 1), (-1, 0), (0, -1)), dtype=torch.float32) * 0.5


def ciou(a: Tensor, b: Tensor) -> Tensor:
    """Complete IoU of paired boxes (n, 4), centre and size -> (n,)."""
    low = torch.maximum(a[:, :2] - a[:, 2:] / 2, b[:, :2] - b[:, 2:] / 2)
    high = torch.minimum(a[:, :2] + a[:, 2:] / 2, b[:, :2] + b[:, 2:] / 2)
    shared = (high - low).clamp(0).prod(1)
    iou = shared / (a[:, 2:].prod(1) + b[:, 2:].prod(1) - shared + 1e-7)
    outer_low = torch.minimum(a[:, :2] - a[:, 2:] / 2, b[:, :2] - b[:, 2:] / 2)
    outer_high = torch.maximum(a[:, :2] + a[:, 2:] / 2, b[:, :2] + b[:, 2:] / 2)
    apart = (a[:, :2] - b[:, :2]).square().sum(1) / ((outer_high - outer_low).square().sum(1) + 1e-7)
    shape = 4 / math.pi**2 * (torch.atan2(b[:, 2], b[:, 3]) - torch.atan2(a[:, 2], a[:, 3])).square()
    with torch.no_grad():
        weight = shape / (1 - iou + shape + 1e-7)
    return iou - apart - weight * shape


def assign(targets: Tensor, anchors: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Which cells of a level answer for which objects.

    targets (n, 6): picture, class, centre and size in this level's cells; anchors (3, 2) in cells.
    Returns the matched targets (m, 6), anchor indices (m,), rows (m,) and columns (m,).
    """
    ratio = targets[None, :, 4:6] / anchors[:, None]
    anchor, target = torch.nonzero(torch.maximum(ratio, 1 / ratio).amax(2) < LARGEST_RATIO, as_tuple=True)
    matched = targets[target]
    cells = (matched[:, None, 2:4] - NEIGHBOURS).floor()  # its own cell and those next to the centre
    inside = (cells >= 0).all(2) & (cells[..., 0] < columns) & (cells[..., 1] < rows)
    fresh = (cells != cells[:, :1]).any(2)
    fresh[:, 0] = True
    pair, which = torch.nonzero(inside & fresh, as_tuple=True)
    cell = cells[pair, which].long()
    return matched[pair], anchor[pair], cell[:, 1], cell[:, 0]


def level_loss(raw: Tensor, targets: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Box, object and class loss of one raw level (batch, 3, rows, columns, 5 + classes)."""
    rows, columns = raw.shape[2:4]
    matched, anchor, row, column = assign(targets, anchors, rows, columns)
    wanted = torch.zeros(raw.shape[:4])
    if not len(matched):
        return raw.sum() * 0, binary_cross_entropy_with_logits(raw[..., 4], wanted), raw.sum() * 0
    picture, label = matched[:, 0].long(), matched[:, 1].long()
    chosen = raw[picture, anchor, row, column]
    centre = 2 * chosen[:, :2].sigmoid() - 0.5
    size = (2 * chosen[:, 2:4].sigmoid()) ** 2 * anchors[anchor]
    there = torch.cat((matched[:, 2:4] - torch.stack((column, row), 1), matched[:, 4:6]), 1)
    overlap = ciou(torch.cat((centre, size), 1), there)
    wanted[picture, anchor, row, column] = overlap.detach().clamp(0)
    one_hot = torch.nn.functional.one_hot(label, raw.shape[4] - 5).float()
    in_class = binary_cross_entropy_with_logits(chosen[:, 5:], one_hot)
    return (1 - overlap).mean(), binary_cross_entropy_with_logits(raw[..., 4], wanted), in_class


def loss(levels: list[Tensor], targets: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
    """The total and its three parts; targets (n, 6): picture, class, box in shares of the side."""
    parts = torch.zeros(3)
    for raw, anchor, balance in zip(levels, anchors, BALANCE, strict=True):
        columns_rows = torch.tensor((raw.shape[3], raw.shape[2]), dtype=torch.float32)
        scaled = torch.cat((targets[:, :2], targets[:, 2:4] * columns_rows, targets[:, 4:6] * columns_rows), 1)
        box, thing, kind = level_loss(raw.float(), scaled, anchor)
        parts = parts + torch.stack((BOX * box, OBJECT * balance * thing, CLASS * kind))
    return parts.sum(), parts.detach()
