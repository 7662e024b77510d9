"""CutMix: each voxel from one of two clean clips, and a loss that knows exactly how many came from which."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy

from training.cutmix import CutMixMode, Mix, draw_cutmix, mixed_cross_entropy, paste

Shape = tuple[int, int, int]

MODES: tuple[CutMixMode, ...] = ("spatial", "temporal", "cuboid")
shapes = st.tuples(st.integers(1, 6), st.integers(1, 9), st.integers(1, 9))
seeds = st.integers(0, 2**32 - 1)


def drawn(batch_size: int, clip_shape: Shape, mode: CutMixMode = "cuboid", *, alpha: float = 1.0, seed: int = 0) -> Mix:
    mix = draw_cutmix(batch_size, clip_shape, mode, alpha, 1.0, np.random.default_rng(seed))
    assert mix is not None
    return mix


def marked_clips(batch_size: int, clip_shape: Shape) -> Tensor:
    """Clips of three channels in which no value occurs twice, so that each tells where it came from."""
    shape = (batch_size, 3, *clip_shape)
    return torch.arange(int(np.prod(shape))).reshape(shape)


def assert_mixed_from_clean_pairs(clips: Tensor, mixed: Tensor, mix: Mix) -> None:
    """Each voxel is the sample's own or its donor's, from the same place, and lambda is the exact share of its own."""
    for own, donor, out, lam in zip(clips, clips[mix.donors], mixed, mix.lam, strict=True):
        is_own, is_donors = (out == own).all(dim=0), (out == donor).all(dim=0)
        assert (is_own | is_donors).all(), "a voxel came from a third clip"
        if not torch.equal(own, donor):
            assert not (is_own & is_donors).any()
            assert is_own.sum().item() / is_own.numel() == lam, "lambda is not the share"


def paste_in_place(clips: Tensor, mix: Mix) -> Tensor:
    """How not to do it: the second sample may take its box from a first one that is mixed already."""
    mixed = clips.clone()
    for i, donor in enumerate(mix.donors):
        (t0, y0, x0), (t1, y1, x1) = mix.starts[i], mix.stops[i]
        mixed[i, :, t0:t1, y0:y1, x0:x1] = mixed[donor, :, t0:t1, y0:y1, x0:x1]
    return mixed


@settings(deadline=None, max_examples=200, derandomize=True)
@given(st.integers(1, 6), shapes, st.sampled_from(MODES), st.sampled_from([0.2, 1.0, 8.0]), seeds)
def test_every_voxel_is_of_one_of_two_clean_clips_and_lambda_counts_them(
    batch_size: int, clip_shape: Shape, mode: CutMixMode, alpha: float, seed: int
) -> None:
    mix = drawn(batch_size, clip_shape, mode, alpha=alpha, seed=seed)
    clips = marked_clips(batch_size, clip_shape)
    assert_mixed_from_clean_pairs(clips, paste(clips, mix), mix)
    assert torch.equal(clips, marked_clips(batch_size, clip_shape)), "the input was changed"


@pytest.mark.parametrize(
    ("donors", "complaint"),
    [([2, 0, 1], "a voxel came from a third clip"), ([1, 0, 2], "lambda is not the share")],
)
def test_pasting_in_place_would_be_noticed(donors: list[int], complaint: str) -> None:
    """Round a ring a third clip gets in; of two that swap, the second gets back what was its own."""
    starts, stops = np.zeros((3, 3), np.int64), np.full((3, 3), (4, 4, 2))
    mix, clips = Mix(np.array(donors), starts, stops, lam=np.full(3, 0.5)), marked_clips(3, (4, 4, 4))
    assert_mixed_from_clean_pairs(clips, paste(clips, mix), mix)
    with pytest.raises(AssertionError, match=complaint):
        assert_mixed_from_clean_pairs(clips, paste_in_place(clips, mix), mix)


@settings(deadline=None, max_examples=200, derandomize=True)
@given(st.integers(1, 6), shapes, st.sampled_from(MODES), st.sampled_from([0.2, 1.0, 8.0]), seeds)
def test_boxes_lie_inside_and_leave_a_sample_the_larger_part_of_itself(
    batch_size: int, clip_shape: Shape, mode: CutMixMode, alpha: float, seed: int
) -> None:
    mix = drawn(batch_size, clip_shape, mode, alpha=alpha, seed=seed)
    assert mix.donors.dtype == mix.starts.dtype == mix.stops.dtype == np.int64
    assert sorted(mix.donors.tolist()) == list(range(batch_size))
    assert (mix.starts >= 0).all()
    assert (mix.starts <= mix.stops).all()
    assert (mix.stops <= clip_shape).all()
    assert ((mix.lam >= 0.5) & (mix.lam <= 1)).all()


def test_spatial_cuts_all_frames_and_temporal_whole_frames() -> None:
    spatial, temporal = drawn(50, (8, 20, 30), "spatial"), drawn(50, (8, 20, 30), "temporal")
    assert {(*box,) for box in np.hstack([spatial.starts[:, :1], spatial.stops[:, :1]])} == {(0, 8)}
    assert {(*box,) for box in np.hstack([temporal.starts[:, 1:], temporal.stops[:, 1:]])} == {(0, 0, 20, 30)}
    assert len(np.unique(spatial.starts[:, 1:], axis=0)) > 10
    assert len(np.unique(temporal.starts[:, 0])) > 3


@pytest.mark.parametrize(("mode", "side"), [("spatial", 71), ("temporal", 50), ("cuboid", 80)])
def test_sides_are_the_root_of_the_pasted_share_rounded_down(mode: CutMixMode, side: int) -> None:
    """So great an alpha makes lambda a half: sides of 101 * 0.5 ** (1 / n) where nothing is clipped."""
    mix = drawn(500, (101, 101, 101), mode, alpha=1e6)
    sides = mix.stops - mix.starts
    cut = sides[:, (sides < 101).any(axis=0)]
    assert cut.shape[1] == {"spatial": 2, "temporal": 1, "cuboid": 3}[mode]
    assert cut.max(axis=0).tolist() == [side] * cut.shape[1]
    assert (cut < side).any(), "centres near a border clip the box"


@pytest.mark.parametrize("mode", MODES)
def test_lambdas_vary_and_boxes_cover_the_clip_evenly(mode: CutMixMode) -> None:
    mix = drawn(4000, (32, 64, 64), mode)
    assert mix.lam.min() < 0.55
    assert mix.lam.max() > 0.99
    # max(U, 1 - U) has the mean 0.75 for a uniform U; rounding down and clipping add to it.
    assert 0.75 < mix.lam.mean() < 0.9
    centres = (mix.starts + mix.stops) / 2 / (32, 64, 64)
    np.testing.assert_allclose(centres.mean(axis=0), 0.5, atol=0.02)


def test_a_box_of_no_volume_leaves_the_clip_and_its_label_alone() -> None:
    mix = drawn(4, (1, 8, 8), "temporal")
    assert (mix.starts[:, 0] == mix.stops[:, 0]).all()
    assert mix.lam.tolist() == [1.0] * 4
    clips, logits, labels = marked_clips(4, (1, 8, 8)), torch.eye(4, 2), torch.tensor([0, 1, 0, 1])
    assert torch.equal(paste(clips, mix), clips)
    torch.testing.assert_close(mixed_cross_entropy(logits, labels, mix), cross_entropy(logits, labels))


def test_a_batch_of_one_is_its_own_donor() -> None:
    mix = drawn(1, (4, 8, 8))
    clips, logits, label = marked_clips(1, (4, 8, 8)), torch.tensor([[0.3, -1.2]]), torch.tensor([1])
    assert mix.donors.tolist() == [0]
    assert torch.equal(paste(clips, mix), clips)
    torch.testing.assert_close(mixed_cross_entropy(logits, label, mix), cross_entropy(logits, label))


@settings(deadline=None, max_examples=50, derandomize=True)
@given(st.integers(1, 4), shapes, st.sampled_from(MODES), seeds)
def test_of_a_pair_each_is_the_other_s_donor(num_pairs: int, clip_shape: Shape, mode: CutMixMode, seed: int) -> None:
    rng = np.random.default_rng(seed)
    mix = draw_cutmix(2 * num_pairs, clip_shape, mode, 1.0, 1.0, rng, donor="pair")
    assert mix is not None
    assert mix.donors.dtype == np.int64
    assert mix.donors.reshape(-1, 2).tolist() == [[i + 1, i] for i in range(0, 2 * num_pairs, 2)]
    clips = marked_clips(2 * num_pairs, clip_shape)
    assert_mixed_from_clean_pairs(clips, paste(clips, mix), mix)


def test_the_boxes_of_pairs_are_those_of_any() -> None:
    a, b = (draw_cutmix(4, (8, 16, 16), "cuboid", 1.0, 1.0, np.random.default_rng(0), d) for d in ("any", "pair"))
    assert a is not None
    assert b is not None
    assert np.array_equal(a.starts, b.starts)
    assert np.array_equal(a.stops, b.stops)


def test_what_is_drawn_of_any_donor_is_what_always_was() -> None:
    mix = draw_cutmix(4, (8, 16, 16), "cuboid", 1.0, 0.9, np.random.default_rng(5))
    assert mix is not None
    assert mix.donors.tolist() == [1, 3, 2, 0]
    assert mix.starts.tolist() == [[6, 10, 10], [0, 2, 5], [0, 3, 0], [5, 0, 5]]
    assert mix.stops.tolist() == [[8, 16, 16], [6, 14, 16], [3, 15, 10], [8, 7, 16]]
    assert mix.lam.tolist() == [0.96484375, 0.61328125, 0.82421875, 0.88720703125]


def test_the_generator_alone_decides() -> None:
    np.random.seed(1)  # noqa: NPY002  (the global state is what must not matter)
    a = drawn(8, (8, 16, 16), seed=3)
    np.random.seed(2)  # noqa: NPY002
    b, other = drawn(8, (8, 16, 16), seed=3), drawn(8, (8, 16, 16), seed=4)
    assert all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("donors", "starts", "stops", "lam"))
    assert not np.array_equal(a.starts, other.starts)


def test_a_batch_is_mixed_with_the_given_probability() -> None:
    def num_mixed(probability: float) -> int:
        rng = np.random.default_rng(0)
        return sum(draw_cutmix(2, (4, 8, 8), "cuboid", 1.0, probability, rng) is not None for _ in range(1000))

    assert num_mixed(0.0) == 0
    assert num_mixed(1.0) == 1000
    assert 250 < num_mixed(0.3) < 350


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32])
def test_any_dtype_is_pasted_as_it_is(dtype: torch.dtype) -> None:
    mix, clips = drawn(3, (2, 6, 6), alpha=8.0), (marked_clips(3, (2, 6, 6)) % 251).to(dtype)
    mixed = paste(clips, mix)
    assert mixed.dtype == dtype
    assert torch.equal(mixed.int(), paste(clips.int(), mix))


def test_a_clip_that_is_no_block_of_memory_is_pasted_too() -> None:
    """Batches come as (B, T, C, H, W) and are turned into (B, C, T, H, W) by a view."""
    mix, clips = drawn(3, (2, 6, 7), alpha=8.0), marked_clips(3, (2, 6, 7))
    assert torch.equal(paste(clips.transpose(1, 2).contiguous().transpose(1, 2), mix), paste(clips, mix))


def test_the_loss_is_shared_by_volume() -> None:
    """By hand: equal logits cost ln 2 under either label; logits (ln 3, 0) cost ln(4/3) as 0 and ln 4 as 1."""
    box = np.zeros((2, 3), np.int64)
    mix = Mix(donors=np.array([1, 0]), starts=box, stops=box, lam=np.array([0.75, 0.5]))
    logits, labels = torch.tensor([[np.log(3), 0.0], [0.0, 0.0]]), torch.tensor([0, 1])
    expected = (0.75 * np.log(4 / 3) + 0.25 * np.log(4) + np.log(2)) / 2
    assert mixed_cross_entropy(logits, labels, mix).item() == pytest.approx(expected)
    assert mixed_cross_entropy(logits, labels, None).item() == pytest.approx((np.log(4 / 3) + np.log(2)) / 2)


def test_smoothed_labels_are_mixed_alike() -> None:
    """Half of each label spread over both classes: three quarters of it stay."""
    mix = Mix(np.array([1, 0]), np.zeros((2, 3), np.int64), np.zeros((2, 3), np.int64), np.array([0.75, 1.0]))
    logits, labels = torch.tensor([[np.log(3), 0.0], [0.0, 0.0]]), torch.tensor([0, 1])
    as_0 = 0.75 * np.log(4 / 3) + 0.25 * np.log(4)
    as_1 = 0.25 * np.log(4 / 3) + 0.75 * np.log(4)
    expected = (0.75 * as_0 + 0.25 * as_1 + np.log(2)) / 2
    assert mixed_cross_entropy(logits, labels, mix, label_smoothing=0.5).item() == pytest.approx(expected)


@pytest.mark.parametrize("mixed", [True, False])
def test_the_loss_is_computed_in_float32_and_can_be_learnt_from(mixed: bool) -> None:
    mix = drawn(4, (4, 8, 8)) if mixed else None
    logits = torch.randn(4, 2, generator=torch.Generator().manual_seed(0)).bfloat16().requires_grad_()
    labels = torch.tensor([0, 1, 0, 1])
    loss = mixed_cross_entropy(logits, labels, mix)
    assert loss.dtype == torch.float32
    assert loss.item() == mixed_cross_entropy(logits.detach().float(), labels, mix).item()
    loss.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert logits.grad.abs().sum() > 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device here")
def test_cuda_mixes_as_the_cpu_does() -> None:
    mix, clips = drawn(4, (4, 16, 16), alpha=8.0), marked_clips(4, (4, 16, 16))
    mixed = paste(clips.cuda(), mix)
    assert mixed.is_cuda
    assert torch.equal(mixed.cpu(), paste(clips, mix))
    logits, labels = torch.eye(4, 2), torch.tensor([0, 1, 0, 1])
    on_cuda = mixed_cross_entropy(logits.cuda(), labels.cuda(), mix)
    torch.testing.assert_close(on_cuda.cpu(), mixed_cross_entropy(logits, labels, mix))
