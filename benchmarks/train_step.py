"""What a step of training costs: memory layout and precision, as ratios to plain float32 in the same run.

``python -m benchmarks.train_step``. It is what ``train.precision: auto`` and the layout that training uses rest on.
Steps whose gradients aren't finite are counted: bfloat16 has been seen to give some on a CPU.
"""

from __future__ import annotations

import math
from time import perf_counter

import click
import numpy as np
import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils import get_total_norm

from benchmarks.machine import describe_machine
from pipeline.device import is_made_for_bf16
from training.models import build_model, model_names
from training.state import convolution_format

WAYS = {
    "float32": (False, False),
    "float32, channels last": (True, False),
    "bfloat16, channels last": (True, True),
}
"""Whether channels are last, and whether bfloat16 is used where autocast deems it safe."""


def time_steps(
    name: str, batch_shape: tuple[int, ...], channels_last: bool, bfloat16: bool, num_steps: int
) -> tuple[float, int]:
    """Median seconds of a step, the first left out, and how many had gradients that aren't finite."""
    torch.manual_seed(0)
    model = build_model(name)
    clips, labels = torch.randn(batch_shape), torch.arange(batch_shape[0]) % 2
    if channels_last:
        model.to(memory_format=convolution_format(model))
        clips = clips.contiguous(memory_format=torch.channels_last_3d)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-5)
    seconds, num_broken = [], 0
    for _ in range(num_steps + 1):
        started = perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            logits = model(clips)
        cross_entropy(logits.float(), labels).backward()  # type: ignore[no-untyped-call]
        norm = get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        if math.isfinite(norm):
            optimizer.step()
        else:
            num_broken += 1
        optimizer.zero_grad()
        seconds.append(perf_counter() - started)
    return float(np.median(seconds[1:])), num_broken


@click.command(help="Seconds of a training step on the CPU, by memory layout and precision.")
@click.option("--models", "names", type=click.Choice(model_names()), multiple=True, default=("mc3_18", "r2plus1d_18"))
@click.option("--clips", default=16, show_default=True, help="Of a batch.")
@click.option("--frames", default=8, show_default=True, help="Of a clip.")
@click.option("--size", default=64, show_default=True, help="Side of a frame, pixels.")
@click.option("--steps", default=5, show_default=True, help="Timed, after one that isn't.")
@click.option("--bfloat16", is_flag=True, help="Even if the processor isn't made for it; a step may take many minutes.")
def main(names: tuple[str, ...], clips: int, frames: int, size: int, steps: int, bfloat16: bool) -> None:
    print(describe_machine())
    print(f"made for bfloat16: {is_made_for_bf16('cpu')}; {clips} clips of {frames}x{size}x{size}")
    print(f"\n{'model':<16}{'':<26}{'s/step':>8}{'x float32':>11}{'not finite':>12}")
    for name in names:
        baseline = 0.0
        for way, (channels_last, in_bfloat16) in WAYS.items():
            if in_bfloat16 and not bfloat16 and not is_made_for_bf16("cpu"):
                print(f"{name:<16}{way:<26}left out; --bfloat16 times it")
                continue
            seconds, num_broken = time_steps(name, (clips, 3, frames, size, size), channels_last, in_bfloat16, steps)
            baseline = baseline or seconds
            ratio = f"{seconds / baseline:.2f}x"
            print(f"{name:<16}{way:<26}{seconds:>8.2f}{ratio:>11}{num_broken:>6} of {steps + 1}", flush=True)


if __name__ == "__main__":
    main()
