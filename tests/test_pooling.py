"""Area pooling by integral images is torch's own, on a CPU and elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import interpolate

from pipeline.pooling import cropped, integral_images, resized
from pipeline.types import UInt8Array

WHITE = (255 - 127.5) * 0.0078125


def noise(rng: np.random.Generator, *shape: int) -> UInt8Array:
    return rng.integers(0, 256, shape, np.uint8)


sides = st.integers(1, 40)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 3),
    st.tuples(sides, sides),
    st.tuples(st.integers(1, 50), st.integers(1, 50)),
)
def test_resized_is_area_pooling(seed: int, count: int, shape: tuple[int, int], target: tuple[int, int]) -> None:
    images = torch.from_numpy(noise(np.random.default_rng(seed), count, *shape, 3))
    expected = (interpolate(images.movedim(-1, 1).float(), size=target, mode="area") - 127.5) * 0.0078125
    actual = resized(integral_images(images), *target)
    assert actual.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)


@st.composite
def ranges(draw: st.DrawFn, length: int) -> tuple[int, int]:
    start = draw(st.integers(0, length - 1))
    return start, draw(st.integers(start + 1, length))


@settings(deadline=None, max_examples=60)
@given(st.data(), st.tuples(sides, sides), st.sampled_from([1, 7, 24, 48]))
def test_cropped_is_area_pooling_of_each_box(data: st.DataObject, shape: tuple[int, int], size: int) -> None:
    images = torch.from_numpy(noise(np.random.default_rng(data.draw(st.integers(0, 99))), 2, *shape, 3))
    boxes = data.draw(
        st.lists(st.tuples(st.integers(0, 1), ranges(shape[1]), ranges(shape[0])), min_size=1, max_size=5)
    )
    expected = [
        interpolate(images[i, top:bottom, left:right].movedim(-1, 0)[None].float(), size=(size, size), mode="area")
        for i, (left, right), (top, bottom) in boxes
    ]
    corners = torch.tensor([(left, top, right, bottom) for _, (left, right), (top, bottom) in boxes])
    actual = cropped(integral_images(images), torch.tensor([i for i, _, _ in boxes]), corners, size)
    torch.testing.assert_close(actual, (torch.cat(expected) - 127.5) * 0.0078125, rtol=0, atol=1e-6)


class _NotOnTheCpu(Tensor):
    """A CPU tensor that says otherwise, to take the path of an accelerator."""

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return torch.device("cuda")


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.tuples(sides, sides))
def test_both_ways_to_an_integral_image_agree(seed: int, count: int, shape: tuple[int, int]) -> None:
    images = torch.from_numpy(noise(np.random.default_rng(seed), count, *shape, 3))
    on_cpu = integral_images(images)
    elsewhere = integral_images(images.as_subclass(_NotOnTheCpu)).as_subclass(Tensor)
    assert on_cpu.dtype == elsewhere.dtype == torch.int32
    assert torch.equal(on_cpu, elsewhere)


@pytest.mark.parametrize("kind", [Tensor, _NotOnTheCpu])
def test_sums_that_wrap_around_still_give_the_mean(kind: type[Tensor]) -> None:
    """2900 x 3000 white pixels sum up to more than 2 ** 31."""
    images = torch.full((1, 2900, 3000, 3), 255, dtype=torch.uint8).as_subclass(kind)
    integrals = integral_images(images).as_subclass(Tensor)
    assert integrals.min() < 0
    torch.testing.assert_close(resized(integrals, 3, 3), torch.full((1, 3, 3, 3), WHITE), rtol=0, atol=1e-6)
