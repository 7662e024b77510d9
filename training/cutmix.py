"""CutMix on clips: a box of one clip is replaced by the same box of another, and the loss is shared by volume.

CutMix: Yun et al. 2019, https://arxiv.org/abs/1905.04899. On video, and its three kinds of box: VideoMix, Yun et al.
2020, https://arxiv.org/abs/2012.03457. Parameters are drawn first (:func:`draw_cutmix`, numpy on the host) and applied
later (:func:`paste`, :func:`mixed_cross_entropy`, torch on whatever device the batch is).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

CutMixMode = Literal["spatial", "temporal", "cuboid"]
CutMixDonor = Literal["any", "pair"]

_CUT_AXES: Mapping[CutMixMode, tuple[bool, bool, bool]] = {
    "spatial": (False, True, True),
    "temporal": (True, False, False),
    "cuboid": (True, True, True),
}
"""Which of T, H and W a mode cuts; along the others the box spans the whole clip."""


@dataclass(frozen=True, eq=False)
class Mix:
    """What was drawn for one batch of B clips."""

    donors: NDArray[np.int64]
    """int64 ``(B,)``: the clip of the same batch that gives sample i its box; a permutation, so it may be i itself."""
    starts: NDArray[np.int64]
    """int64 ``(B, 3)``: first frame, row and column of each box."""
    stops: NDArray[np.int64]
    """int64 ``(B, 3)``: one past the last, ``starts <= stops``; where they are equal the box is empty."""
    lam: NDArray[np.float64]
    """float64 ``(B,)`` in [0.5, 1]: the share of its voxels that a sample keeps; 1 where the box is empty."""


def draw_cutmix(
    batch_size: int,
    clip_shape: tuple[int, int, int],
    mode: CutMixMode,
    alpha: float,
    probability: float,
    rng: np.random.Generator,
    donor: CutMixDonor = "any",
) -> Mix | None:
    """Decide whether a batch is mixed and, for each of its clips, with which one and where.

    For each sample lambda ~ Beta(alpha, alpha); the greater of lambda and 1 - lambda is kept, so that a sample stays
    the larger part of itself. The box cuts n axes, each to the fraction (1 - lambda) ** (1 / n) of its size, rounded
    down to whole voxels; its centre is uniform over the clip and what sticks out is clipped. ``lam`` is recomputed
    from the box that is left.

    Args:
        batch_size: B; even where donors are of the pair.
        clip_shape: (T, H, W) of the clips.
        mode: ``spatial``: one rectangle through all frames; ``temporal``: a span of whole frames; ``cuboid``: a
            rectangle through a span of frames.
        alpha: above 0. 1 is uniform; below it boxes tend to be small, above it large.
        probability: of mixing this batch, in [0, 1].
        rng: where all randomness comes from.
        donor: ``any`` clip of the batch; ``pair``: of clips 0 and 1, 2 and 3, ... each is the other's.

    Returns:
        None if the batch stays as it is.
    """
    if rng.random() >= probability:
        return None
    sizes = np.array(clip_shape)
    is_cut = np.array(_CUT_AXES[mode])
    drawn = rng.beta(alpha, alpha, batch_size)
    pasted_share = np.minimum(drawn, 1 - drawn)
    sides = np.floor(sizes * pasted_share[:, None] ** (1 / is_cut.sum()))
    corners = np.rint(rng.uniform(0, sizes, (batch_size, 3)) - sides / 2)
    starts = np.where(is_cut, corners.clip(0, sizes), 0).astype(np.int64)
    stops = np.where(is_cut, (corners + sides).clip(0, sizes), sizes).astype(np.int64)
    num_voxels = sizes.prod()
    # Integers up to the one division: the share is exact to its last bit.
    lam = (num_voxels - (stops - starts).prod(axis=1)) / num_voxels
    # 0 <-> 1, 2 <-> 3, ...
    donors = np.arange(batch_size) ^ 1 if donor == "pair" else rng.permutation(batch_size)
    return Mix(donors, starts, stops, lam)


def paste(clips: Tensor, mix: Mix) -> Tensor:
    """Put the boxes of the donors into the clips.

    Donors are read from the batch as it came. Pasting in place, sample by sample, would let a donor that is mixed
    already bring in a third clip, of which the loss knows nothing.

    Args:
        clips: (B, C, T, H, W), any dtype, on any device; left unchanged.
        mix: drawn for B clips of this T, H and W.

    Returns:
        A new tensor like ``clips``.
    """
    donors, starts, stops = (torch.as_tensor(a, device=clips.device) for a in (mix.donors, mix.starts, mix.stops))
    frames, rows, columns = (
        (starts[:, axis, None] <= voxels) & (voxels < stops[:, axis, None])
        for axis, voxels in enumerate(torch.arange(size, device=clips.device) for size in clips.shape[2:])
    )
    inside = frames[:, None, :, None, None] & rows[:, None, None, :, None] & columns[:, None, None, None, :]
    return torch.where(inside, clips[donors], clips)


def mixed_cross_entropy(logits: Tensor, labels: Tensor, mix: Mix | None, label_smoothing: float = 0.0) -> Tensor:
    """Mean over the batch of ``lam * CE(own label) + (1 - lam) * CE(donor's label)``.

    Args:
        logits: (B, classes), any float dtype; the loss is computed in float32.
        labels: int64 (B,), of the clips before they were mixed.
        mix: what :func:`paste` was given; None for a batch that wasn't mixed: plain cross-entropy.
        label_smoothing: share of each label that is spread evenly over the classes, in [0, 1).

    Returns:
        float32 scalar, natural log.
    """
    own_loss = cross_entropy(logits.float(), labels, reduction="none", label_smoothing=label_smoothing)
    if mix is None:
        return own_loss.mean()
    donors = torch.as_tensor(mix.donors, device=labels.device)
    lam = torch.as_tensor(mix.lam, dtype=torch.float32, device=logits.device)
    donor_loss = cross_entropy(logits.float(), labels[donors], reduction="none", label_smoothing=label_smoothing)
    return (lam * own_loss + (1 - lam) * donor_loss).mean()
