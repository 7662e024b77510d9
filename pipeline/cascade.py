"""The MTCNN cascade over its three networks: a pyramid of proposals, refined, then judged with landmarks. Torch only.

Zhang et al. 2016, "Joint Face Detection and Alignment using Multi-task Cascaded Convolutional Networks". Gives the
boxes that facenet-pytorch's ``MTCNN.detect`` gives, faster on a CPU and without its failures on small
frames, degenerate boxes and many candidates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from pipeline.lean_import import import_lean
from pipeline.pooling import bins, cropped, integral_images, pooled, resized

batched_nms = import_lean("torchvision.ops").batched_nms

PNET_CELL_PIXELS = 12
PNET_STRIDE_PIXELS = 2
RNET_INPUT_PIXELS = 24
ONET_INPUT_PIXELS = 48
NEAR_LEVELS = 2
"""Levels of the pyramid above and below a face's own that are searched around a known face: P-net finds it in several,
and which of its boxes go on decides, by some pixels, what comes out."""
NEAR_WINDOW_PIXELS = 48
"""Side of what is searched of such a level. The face is 6 to 24 of them wide there."""
NEAR_GRID_PIXELS = 8
"""Windows begin at multiples of it: so boxes close to each other share one, and, as it is a multiple of P-net's stride,
the cells of a window are cells of the level."""

Network = Callable[[Tensor], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Networks:
    """The three networks, in evaluation mode and on one device. Input: float32 NCHW RGB in [-1, 1]."""

    pnet: Network
    """(N, 3, H, W) -> box offsets (N, 4, h, w), probabilities (N, 2, h, w)."""
    rnet: Network
    """(K, 3, 24, 24) -> box offsets (K, 4), probabilities (K, 2)."""
    onet: Network
    """(K, 3, 48, 48) -> box offsets (K, 4), landmarks (K, 10), probabilities (K, 2)."""


@dataclass(frozen=True)
class Faces:
    """Faces of a batch of images, by image and then by descending score. K is their number."""

    image_indices: Tensor
    """int64 (K,)."""
    boxes_xyxy: Tensor
    """float32 (K, 4), pixels of the given images."""
    scores: Tensor
    """float32 (K,)."""
    landmarks: Tensor
    """float32 (K, 5, 2)."""


def pyramid_scales(height: int, width: int, min_face_pixels: int, factor: float) -> list[float]:
    """Scales at which a face of ``min_face_pixels`` and larger ones fill P-net's cell; none for a frame below it."""
    scale = PNET_CELL_PIXELS / min_face_pixels
    short_side = min(height, width) * scale
    scales = []
    while short_side >= PNET_CELL_PIXELS:
        scales.append(scale)
        scale *= factor
        short_side *= factor
    return scales


@dataclass(frozen=True)
class _Proposals:
    """Cells of P-net above its threshold."""

    image_indices: Tensor
    boxes: Tensor
    scores: Tensor
    offsets: Tensor

    def __getitem__(self, rows: Tensor) -> _Proposals:
        return _Proposals(self.image_indices[rows], self.boxes[rows], self.scores[rows], self.offsets[rows])


def _where(mask: Tensor) -> Tensor:
    """The true rows of a mask, int64 (K,). A GPU's host waits for their number: it asks once, not for each tensor that
    they are taken of."""
    return mask.nonzero().squeeze(1)


def _proposals(
    image_indices: Tensor, rows: Tensor, columns: Tensor, scales: Tensor, scores: Tensor, offsets: Tensor
) -> _Proposals:
    """Boxes of the given cells of a level."""
    cells = PNET_STRIDE_PIXELS * torch.stack([columns, rows], 1).float()
    boxes = torch.cat([((cells + 1) / scales).floor(), ((cells + PNET_CELL_PIXELS) / scales).floor()], 1)
    return _Proposals(image_indices, boxes, scores, offsets)


def _merged(levels: _Proposals) -> tuple[Tensor, Tensor]:
    """Proposals of all levels to image indices (K,) and regressed boxes (K, 4)."""
    kept = levels[batched_nms(levels.boxes, levels.scores, levels.image_indices, 0.7)]
    return kept.image_indices, kept.boxes + kept.offsets * (kept.boxes[:, 2:] - kept.boxes[:, :2]).repeat(1, 2)


@lru_cache(maxsize=32)
def _cells(sizes: tuple[tuple[int, int], ...], device: torch.device) -> Tensor:
    """Level, row and column of all cells of levels with these numbers of rows and columns, one after the other: int64
    (3, C)."""
    levels = []
    for level, (height, width) in enumerate(sizes):
        rows, columns = torch.meshgrid(
            torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij"
        )
        levels.append(torch.stack([torch.full_like(rows, level), rows, columns]).flatten(1))
    return torch.cat(levels, 1)


def _propose(integrals: Tensor, pnet: Network, threshold: float, scales: list[float]) -> tuple[Tensor, Tensor]:
    """P-net over the pyramid: image indices (K,) and boxes (K, 4)."""
    height, width = integrals.shape[1] - 1, integrals.shape[2] - 1
    # What a processor's cache holds is one image; a GPU is the faster the more it gets.
    at_once = integrals.chunk(len(integrals) if integrals.device.type == "cpu" else 1)
    sizes, all_scores, all_offsets = [], [], []
    for scale in scales:
        level_pixels = int(height * scale + 1), int(width * scale + 1)
        found = [pnet(resized(some, *level_pixels)) for some in at_once]
        offsets, probabilities = (torch.cat(parts) for parts in zip(*found, strict=True))
        sizes.append((offsets.shape[2], offsets.shape[3]))
        all_scores.append(probabilities[:, 1].flatten(1))
        all_offsets.append(offsets.movedim(1, -1).flatten(1, 2))
    # All levels together: each question which cells pass makes a GPU's host wait for the answer.
    scores, cell_offsets = torch.cat(all_scores, 1), torch.cat(all_offsets, 1)
    image_indices, cells = (scores >= threshold).nonzero(as_tuple=True)
    levels, rows, columns = _cells(tuple(sizes), integrals.device)[:, cells]
    scale_of = torch.tensor(scales, dtype=torch.float32, device=integrals.device)[levels]
    passed = _proposals(
        image_indices, rows, columns, scale_of[:, None],
        scores[image_indices, cells], cell_offsets[image_indices, cells],
    )  # fmt: skip
    image_and_level = image_indices * len(scales) + levels
    return _merged(passed[batched_nms(passed.boxes, passed.scores, image_and_level, 0.5)])


def _windows(scales: Tensor, image_indices: Tensor, boxes_xyxy: Tensor) -> Tensor:
    """Where P-net looks for faces like the given ones: int64 (W, 4), image, level, first row and column of a window.

    A face's own level is that at which it fills a cell.
    """
    face_pixels = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).amax(1).double()
    own_level = (scales.log() - (PNET_CELL_PIXELS / face_pixels).log()[:, None]).abs().argmin(1)
    levels = own_level[:, None] + torch.arange(-NEAR_LEVELS, NEAR_LEVELS + 1, device=scales.device)
    box, step = ((levels >= 0) & (levels < len(scales))).nonzero(as_tuple=True)
    level = levels[box, step]
    centre_yx = (boxes_xyxy[:, [1, 0]] + boxes_xyxy[:, [3, 2]])[box] / 2 * scales[level][:, None]
    corner = (centre_yx - NEAR_WINDOW_PIXELS / 2) / NEAR_GRID_PIXELS
    corner = corner.round().long().clamp(min=0) * NEAR_GRID_PIXELS
    windows: Tensor = torch.unique(torch.cat([image_indices[box, None], level[:, None], corner], 1), dim=0)
    return windows


def _propose_near(
    integrals: Tensor,
    pnet: Network,
    threshold: float,
    scales: list[float],
    image_indices: Tensor,
    boxes_xyxy: Tensor,
) -> tuple[Tensor, Tensor]:
    """The proposals of :func:`_propose` that are about where a box is and about as large.

    Only windows of the pyramid are made, out of the same pixels as whole levels, so what is found in them is the same.
    """
    device = integrals.device
    all_scales = torch.tensor(scales, dtype=torch.float64, device=device)
    windows = _windows(all_scales, image_indices, boxes_xyxy)
    image_index, level, corner = windows[:, 0], windows[:, 1], windows[:, 2:]
    image_pixels = torch.tensor(integrals.shape[1:3], device=device) - 1
    scale = all_scales[level][:, None]
    level_pixels = (image_pixels * scale + 1).long()
    pixels = corner[..., None] + torch.arange(NEAR_WINDOW_PIXELS, device=device)
    pixels = torch.minimum(pixels, level_pixels[..., None] - 1)
    starts, stops = bins(pixels, level_pixels[..., None], image_pixels[:, None])
    pictures = pooled(integrals, image_index, (starts[:, 0], stops[:, 0]), (starts[:, 1], stops[:, 1]))

    offsets, probabilities = pnet(pictures)
    window, rows, columns = (probabilities[:, 1] >= threshold).nonzero(as_tuple=True)
    cells = corner[window] // PNET_STRIDE_PIXELS + torch.stack([rows, columns], 1)
    # A 3x3 convolution, pooling by two that rounds up, two more 3x3. A window's further cells are of repeated pixels.
    num_cells = -((2 - level_pixels) // PNET_STRIDE_PIXELS) - 4
    real = _where((cells < num_cells[window]).all(1))
    window, rows, columns, cells = window[real], rows[real], columns[real], cells[real]
    found = _proposals(
        image_index[window], cells[:, 0], cells[:, 1], scale[window].float(),
        probabilities[window, 1, rows, columns], offsets[window, :, rows, columns],
    )  # fmt: skip
    image_and_level = found.image_indices * len(scales) + level[window]
    return _merged(found[batched_nms(found.boxes, found.scores, image_and_level, 0.5)])


def _squared(boxes: Tensor) -> Tensor:
    """Squares of the longer side around the same centres."""
    sizes = boxes[:, 2:] - boxes[:, :2]
    side = sizes.amax(1, keepdim=True)
    corner = boxes[:, :2] + sizes * 0.5 - side * 0.5
    return torch.cat([corner, corner + side], 1)


def _refined(boxes: Tensor, offsets: Tensor) -> Tensor:
    """Box regression of R- and O-net, whose boxes include both end pixels."""
    return boxes + offsets * (boxes[:, 2:] - boxes[:, :2] + 1).repeat(1, 2)


def _inside(image_indices: Tensor, boxes: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """The boxes that show some of the image, with their image indices and as pixel ranges: int64 (K, 4), half-open."""
    whole = boxes.trunc().long()
    corners = torch.cat(
        [whole[:, :2].clamp(min=1) - 1, torch.minimum(whole[:, 2:], whole.new_tensor([width, height]))], 1
    )
    shown = _where((corners[:, 2:] > corners[:, :2]).all(1))
    return image_indices[shown], boxes[shown], corners[shown]


def _suppress_nested(image_indices: Tensor, boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Greedy suppression by intersection over the smaller box: what remains, by image and descending score."""
    order = scores.argsort(descending=True, stable=True)
    order = order[image_indices[order].argsort(stable=True)]
    b = boxes[order]
    overlap = torch.minimum(b[:, None, 2:], b[None, :, 2:]) - torch.maximum(b[:, None, :2], b[None, :, :2]) + 1
    area = (b[:, 2:] - b[:, :2] + 1).prod(1)
    share = overlap.clamp(min=0).prod(2) / torch.minimum(area[:, None], area[None])
    same_image = image_indices[order][:, None] == image_indices[order][None]
    suppresses = (same_image & (share > threshold)).cpu().numpy()
    alive = np.ones(len(order), dtype=bool)
    for i in range(len(order)):
        if alive[i]:
            alive[i + 1 :] &= ~suppresses[i, i + 1 :]
    return order[torch.from_numpy(alive).to(order.device)]


@torch.inference_mode()
def detect_faces(
    images: Tensor,
    networks: Networks,
    thresholds: tuple[float, float, float],
    min_face_pixels: int,
    pyramid_factor: float,
    near: tuple[Tensor, Tensor] | None = None,
) -> Faces:
    """Faces of a batch of equally large images.

    Args:
        images: uint8 (N, H, W, 3), RGB, on the networks' device.
        networks: P-, R- and O-net.
        thresholds: least score to pass each of them.
        min_face_pixels: smallest face searched for.
        pyramid_factor: ratio of one pyramid level to the one before.
        near: image indices, int64 (K,), and boxes, float32 (K, 4) xyxy: only faces of about that place and size are
            searched for, which is faster the larger the images are. None: everywhere.
    """
    scales = pyramid_scales(images.shape[1], images.shape[2], min_face_pixels, pyramid_factor)
    if not scales or (near is not None and not len(near[0])):
        return _no_faces(images.device)
    integrals = integral_images(images)
    if near is None:
        image_indices, boxes = _propose(integrals, networks.pnet, thresholds[0], scales)
    else:
        image_indices, boxes = _propose_near(integrals, networks.pnet, thresholds[0], scales, *near)
    return _judge(integrals, image_indices, boxes, networks, thresholds)


def _no_faces(device: torch.device) -> Faces:
    shapes = (0, 4), (0,), (0, 5, 2)
    return Faces(
        torch.zeros(0, dtype=torch.long, device=device), *(torch.zeros(shape, device=device) for shape in shapes)
    )


def _judge(
    integrals: Tensor,
    image_indices: Tensor,
    boxes: Tensor,
    networks: Networks,
    thresholds: tuple[float, float, float],
) -> Faces:
    """R- and O-net over the proposals."""
    height, width = integrals.shape[1] - 1, integrals.shape[2] - 1
    image_indices, boxes, corners = _inside(image_indices, _squared(boxes), height, width)
    if not len(boxes):
        return _no_faces(boxes.device)
    offsets, probabilities = networks.rnet(cropped(integrals, image_indices, corners, RNET_INPUT_PIXELS))
    scores = probabilities[:, 1]
    passed = _where(scores > thresholds[1])
    image_indices, boxes, offsets, scores = (t[passed] for t in (image_indices, boxes, offsets, scores))
    keep = batched_nms(boxes, scores, image_indices, 0.7)

    boxes = _squared(_refined(boxes[keep], offsets[keep]))
    image_indices, boxes, corners = _inside(image_indices[keep], boxes, height, width)
    if not len(boxes):
        return _no_faces(boxes.device)
    offsets, points, probabilities = networks.onet(cropped(integrals, image_indices, corners, ONET_INPUT_PIXELS))
    scores = probabilities[:, 1]
    passed = _where(scores > thresholds[2])
    image_indices, boxes, offsets, scores = (t[passed] for t in (image_indices, boxes, offsets, scores))
    # O-net gives all five x, then all five y, as shares of the box.
    points = points[passed].reshape(-1, 2, 5).transpose(1, 2)
    landmarks = boxes[:, None, :2] + points * (boxes[:, None, 2:] - boxes[:, None, :2] + 1) - 1
    boxes = _refined(boxes, offsets)
    keep = _where((boxes[:, 2:] > boxes[:, :2]).all(1))
    keep = keep[_suppress_nested(image_indices[keep], boxes[keep], scores[keep], 0.7)]
    return Faces(image_indices[keep], boxes[keep], scores[keep], landmarks[keep])
