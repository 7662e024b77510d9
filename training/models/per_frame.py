"""An image classifier that looks at every frame of a clip by itself."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def median_of_frames(logits: Tensor) -> Tensor:
    """Log of the median probabilities over frames, made to sum to one again.

    The median, so that a few frames that are blurred or turned away don't decide.

    Args:
        logits: floating point (B, T, num_classes).

    Returns:
        float32 (B, num_classes), finite, at most 0; of an even number of frames the midpoint of the two middle ones.
    """
    probabilities = logits.softmax(dim=2, dtype=torch.float32)
    # Medians can all be 0 where frames contradict each other with certainty: the log must still be a number.
    medians = probabilities.quantile(0.5, dim=1).clamp(min=torch.finfo(torch.float32).tiny)
    return (medians / medians.sum(dim=1, keepdim=True)).log()


class PerFrame(nn.Module):
    """Mean logits over frames while training, the median of the frames' probabilities in evaluation.

    Takes float (B, 3, T, H, W); gives (B, num_classes), logits or, in evaluation, log-probabilities; the softmax of
    either gives the pooled probabilities.
    """

    def __init__(self, backbone: nn.Module) -> None:
        """``backbone`` takes float (N, 3, H, W) and gives logits (N, num_classes)."""
        super().__init__()
        self.backbone = backbone

    def forward(self, clips: Tensor) -> Tensor:
        frames = clips.transpose(1, 2)  # (B, T, 3, H, W)
        logits: Tensor = self.backbone(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        return logits.mean(dim=1) if self.training else median_of_frames(logits)
