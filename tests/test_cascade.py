"""Our cascade gives facenet-pytorch's boxes, and gives none where facenet-pytorch crashes."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
import torch
from facenet_pytorch import MTCNN
from facenet_pytorch.models.utils.detect_face import batched_nms_numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.cascade import (
    Faces,
    Networks,
    _propose,
    _propose_near,
    _suppress_nested,
    detect_faces,
    pyramid_scales,
)
from pipeline.pooling import integral_images
from pipeline.types import UInt8Array
from tests.faces import ASSETS, stretched_portrait

pytestmark = pytest.mark.usefixtures("one_torch_thread")

PORTRAITS = sorted(path.stem for path in ASSETS.glob("*.jpg"))
THRESHOLDS = (0.6, 0.7, 0.7)
MIN_FACE_PIXELS = 24
FACTOR = 0.709


@pytest.fixture(scope="module")
def mtcnn() -> MTCNN:
    return MTCNN(
        keep_all=True, select_largest=False, thresholds=list(THRESHOLDS), min_face_size=MIN_FACE_PIXELS, factor=FACTOR
    ).eval()


@pytest.fixture(scope="module")
def networks(mtcnn: MTCNN) -> Networks:
    return Networks(mtcnn.pnet, mtcnn.rnet, mtcnn.onet)


def noise(rng: np.random.Generator, *shape: int) -> UInt8Array:
    return rng.integers(0, 256, shape, np.uint8)


def search(images: UInt8Array, networks: Networks, thresholds: tuple[float, float, float] = THRESHOLDS) -> Faces:
    return detect_faces(torch.from_numpy(images), networks, thresholds, MIN_FACE_PIXELS, FACTOR)


def assert_finds_what_facenet_finds(
    images: UInt8Array, mtcnn: MTCNN, networks: Networks, thresholds: tuple[float, float, float] = THRESHOLDS
) -> list[int]:
    """Compares image by image, in facenet's order; returns how many faces each has."""
    faces = search(images, networks, thresholds)
    counts = []
    for number, (boxes, scores, landmarks) in enumerate(zip(*mtcnn.detect(images, landmarks=True), strict=True)):
        mine = faces.image_indices == number
        counts.append(int(mine.sum()))
        if boxes is None:
            assert counts[-1] == 0
            continue
        assert counts[-1] == len(boxes)
        np.testing.assert_allclose(faces.boxes_xyxy[mine].numpy(), boxes.astype(np.float32), rtol=0, atol=0.05)
        np.testing.assert_allclose(faces.scores[mine].numpy(), scores.astype(np.float32), rtol=0, atol=1e-3)
        np.testing.assert_allclose(faces.landmarks[mine].numpy(), landmarks.astype(np.float32), rtol=0, atol=0.05)
    return counts


@pytest.mark.parametrize("name", PORTRAITS)
@pytest.mark.parametrize(("width", "height"), [(97, 97), (220, 170), (120, 241), (333, 300)])
def test_a_portrait_of_any_size_and_shape(name: str, width: int, height: int, mtcnn: MTCNN, networks: Networks) -> None:
    assert assert_finds_what_facenet_finds(stretched_portrait(name, width, height)[None], mtcnn, networks) == [1]


def test_a_batch_with_none_one_and_several_faces(mtcnn: MTCNN, networks: Networks, rng: np.random.Generator) -> None:
    faces = [stretched_portrait(name, 150, 150) for name in PORTRAITS]
    images = np.zeros((4, 160, 470, 3), np.uint8)
    images[0] = noise(rng, 160, 470, 3)
    images[1, :150, 200:350] = faces[0]
    images[2, 5:155, :450] = np.concatenate(faces[1:4], axis=1)
    images[3, 5:155, 20:320] = np.concatenate(faces[3:5], axis=1)
    assert assert_finds_what_facenet_finds(images, mtcnn, networks) == [0, 1, 3, 2]


def test_low_thresholds_leave_the_same_overlapping_boxes(
    monkeypatch: pytest.MonkeyPatch, mtcnn: MTCNN, networks: Networks
) -> None:
    low = (0.3, 0.1, 0.02)
    monkeypatch.setattr(mtcnn, "thresholds", list(low))
    images = np.stack([stretched_portrait(name, 160, 200) for name in PORTRAITS])
    counts = assert_finds_what_facenet_finds(images, mtcnn, networks, low)
    assert min(counts) >= 1
    assert sum(counts) > len(PORTRAITS), "some of them overlap, but not enough to be one"


def test_landmarks_are_eyes_then_nose_then_mouth(networks: Networks) -> None:
    faces = search(stretched_portrait(PORTRAITS[0], 200, 200)[None], networks)
    left_eye, right_eye, nose, left_mouth, right_mouth = faces.landmarks[0].tolist()
    assert left_eye[0] < nose[0] < right_eye[0]
    assert left_mouth[0] < nose[0] < right_mouth[0]
    assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_mouth[1], right_mouth[1])


@pytest.mark.parametrize(
    "image",
    [
        np.full((1, 1, 3), 90, np.uint8),
        np.full((11, 300, 3), 90, np.uint8),
        np.full((MIN_FACE_PIXELS - 1, MIN_FACE_PIXELS - 1, 3), 90, np.uint8),
    ],
    ids=["one pixel", "a stripe", "just below the smallest face"],
)
def test_a_frame_below_the_smallest_face_has_none_where_facenet_crashes(
    image: UInt8Array, mtcnn: MTCNN, networks: Networks
) -> None:
    with pytest.raises(ValueError, match="non-empty list"):
        mtcnn.detect(image[None])
    assert len(search(image[None], networks, (0.0, 0.0, 0.0)).scores) == 0


@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_flat_frame_has_no_face(value: int, networks: Networks) -> None:
    faces = search(np.full((2, 60, 90, 3), value, np.uint8), networks)
    assert faces.image_indices.shape == (0,)
    assert faces.boxes_xyxy.shape == (0, 4)
    assert faces.scores.shape == (0,)
    assert faces.landmarks.shape == (0, 5, 2)


def test_candidates_beyond_the_frame_are_dropped(mtcnn: MTCNN, rng: np.random.Generator) -> None:
    """P-net throws every candidate far out of the picture: R-net has nothing left to look at."""

    def pnet(images: Tensor) -> tuple[Tensor, Tensor]:
        offsets, probabilities = mtcnn.pnet(images)
        return torch.full_like(offsets, 1000.0), torch.ones_like(probabilities)

    thrown = Networks(pnet, mtcnn.rnet, mtcnn.onet)
    assert len(search(noise(rng, 1, 40, 40, 3), thrown, (0.5, 0.0, 0.0)).scores) == 0


def test_boxes_turned_inside_out_are_dropped(mtcnn: MTCNN, rng: np.random.Generator) -> None:
    def onet(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        offsets, points, probabilities = mtcnn.onet(images)
        return torch.tensor([2.0, 0.0, -2.0, 0.0]).expand_as(offsets), points, torch.ones_like(probabilities)

    turned = Networks(mtcnn.pnet, mtcnn.rnet, onet)
    assert len(search(noise(rng, 1, 60, 60, 3), turned, (0.0, 0.0, 0.5)).scores) == 0


def search_near(images: UInt8Array, near: list[tuple[int, list[float]]], networks: Networks) -> Faces:
    image_indices = torch.tensor([image for image, _ in near], dtype=torch.long)
    boxes = torch.tensor([box for _, box in near]).reshape(-1, 4)
    return detect_faces(
        torch.from_numpy(images), networks, THRESHOLDS, MIN_FACE_PIXELS, FACTOR, (image_indices, boxes)
    )  # fmt: skip


@pytest.mark.parametrize("name", PORTRAITS)
@pytest.mark.parametrize(("width", "height"), [(97, 97), (220, 170), (120, 241), (333, 300)])
@pytest.mark.parametrize(("shift", "zoom"), [(0.0, 1.0), (0.25, 1.0), (-0.25, 1.0), (0.0, 1.4), (0.0, 0.7)])
def test_near_where_a_face_was_the_same_face_is_found(
    name: str, width: int, height: int, shift: float, zoom: float, networks: Networks
) -> None:
    image = stretched_portrait(name, width, height)[None]
    everywhere = search(image, networks)
    x1, y1, x2, y2 = everywhere.boxes_xyxy[0].tolist()
    x, y, half_w, half_h = (x1 + x2) / 2, (y1 + y2) / 2, (x2 - x1) / 2 * zoom, (y2 - y1) / 2 * zoom
    x, y = x + shift * half_w * 2, y + shift * half_h * 2
    near = search_near(image, [(0, [x - half_w, y - half_h, x + half_w, y + half_h])], networks)
    torch.testing.assert_close(near.boxes_xyxy, everywhere.boxes_xyxy, rtol=0, atol=0.12 * (x2 - x1))
    if not shift and zoom == 1.0:
        torch.testing.assert_close(near.boxes_xyxy, everywhere.boxes_xyxy, rtol=0, atol=0.05)
        torch.testing.assert_close(near.scores, everywhere.scores, rtol=0, atol=1e-3)
        torch.testing.assert_close(near.landmarks, everywhere.landmarks, rtol=0, atol=0.05)


def test_only_near_the_given_boxes_and_in_their_images(networks: Networks) -> None:
    images = np.zeros((3, 300, 600, 3), np.uint8)
    for image in images:
        image[:150, :150] = stretched_portrait(PORTRAITS[0], 150, 150)
        image[150:, 450:] = stretched_portrait(PORTRAITS[1], 150, 150)
    first, second = ([x + 40, y + 30, x + 110, y + 120] for x, y in ((0.0, 0.0), (450.0, 150.0)))
    found = search_near(images, [(2, first), (0, second), (2, first), (2, second)], networks)
    assert found.image_indices.tolist() == [0, 2, 2]
    assert found.boxes_xyxy[0, 0] > 450
    assert sorted(found.boxes_xyxy[1:, 0] > 450) == [False, True]
    nowhere = search_near(images, [(1, [300.0, 0.0, 370.0, 90.0]), (1, [5000.0, -900.0, 5070.0, -830.0])], networks)
    assert len(nowhere.scores) == 0
    assert len(search_near(images, [], networks).scores) == 0


@settings(deadline=None, max_examples=40)
@given(st.data(), st.tuples(st.integers(24, 130), st.integers(24, 130)))
def test_a_window_has_the_cells_that_the_whole_level_has(
    networks: Networks, data: st.DataObject, shape: tuple[int, int]
) -> None:
    height, width = shape
    image = noise(np.random.default_rng(data.draw(st.integers(0, 99))), 1, *shape, 3)
    image = cv2.GaussianBlur(image[0], (0, 0), 3)[None]
    integrals = integral_images(torch.from_numpy(image))
    scales = pyramid_scales(height, width, MIN_FACE_PIXELS, FACTOR)
    face = data.draw(st.floats(10, 140))
    x, y = data.draw(st.floats(0, width)), data.draw(st.floats(0, height))
    box = torch.tensor([[x - face / 2, y - face / 2, x + face / 2, y + face / 2]])
    with pytest.MonkeyPatch.context() as monkeypatch, torch.inference_mode():
        monkeypatch.setattr("pipeline.cascade.batched_nms", lambda boxes, *_: torch.arange(len(boxes)))
        _, everywhere = _propose(integrals, networks.pnet, 0.0, scales)
        _, near = _propose_near(integrals, networks.pnet, 0.0, scales, torch.tensor([0]), box)
    distance = (near[:, None] - everywhere[None]).abs().amax(2)
    assert 0 < len(near) <= len(everywhere), "a window beyond the end of a level has no cells there"
    # At the end of a level of odd size the pooling sees one pixel less there than in a window.
    inner = (near[:, 2] < 0.8 * width) & (near[:, 3] < 0.8 * height)
    assert not inner.any() or distance.amin(1)[inner].max() < 0.01


@pytest.mark.parametrize(("height", "width", "expected"), [(24, 80, 1), (23, 80, 0), (48, 48, 3)])
def test_the_pyramid_ends_where_a_face_would_fill_the_short_side(height: int, width: int, expected: int) -> None:
    scales = pyramid_scales(height, width, MIN_FACE_PIXELS, FACTOR)
    assert scales == pytest.approx([0.5 * FACTOR**level for level in range(expected)])


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 200), st.integers(1, 3), st.sampled_from([0.3, 0.5, 0.7]))
def test_nested_boxes_are_suppressed_as_facenet_does(seed: int, count: int, images: int, threshold: float) -> None:
    """Facenet counts in int16 and breaks beyond 32,767 boxes; below that the survivors are the same."""
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 60, (count, 2))
    boxes = torch.from_numpy(np.concatenate([corners, corners + rng.integers(1, 50, (count, 2))], 1).astype(np.float32))
    scores = torch.from_numpy(rng.permutation(count).astype(np.float32) / count)
    image_indices = torch.from_numpy(rng.integers(0, images, count))
    theirs = batched_nms_numpy(boxes, scores, image_indices, threshold, "Min")
    theirs = theirs[image_indices[theirs].argsort(stable=True)]
    assert _suppress_nested(image_indices, boxes, scores, threshold).tolist() == theirs.tolist()


class HostWaits(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what makes a GPU's host wait: operations whose result's size, or value, it has to know."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        by_mask = name == "index" and any(index is not None and index.dtype == torch.bool for index in args[1])
        if by_mask or name in {"nonzero", "nms", "unique_dim", "_local_scalar_dense", "masked_select"}:
            self.names.append(name)
        return func(*args, **(kwargs or {}))


def host_waits(networks: Networks, images: UInt8Array, min_face_pixels: int, is_near: bool) -> int:
    batch = torch.from_numpy(images)
    boxes = torch.tensor([[20.0, 20, 100, 100]]).repeat(len(images), 1)
    near = (torch.arange(len(images)), boxes) if is_near else None
    with HostWaits() as waits:
        found = detect_faces(batch, networks, THRESHOLDS, min_face_pixels, FACTOR, near)
    assert len(found.boxes_xyxy) >= len(images)
    return len(waits.names)


@pytest.mark.parametrize(("is_near", "most"), [(False, 12), (True, 16)])
def test_a_gpus_host_waits_as_often_for_many_images_and_levels_as_for_one(
    networks: Networks, is_near: bool, most: int
) -> None:
    one = stretched_portrait(PORTRAITS[0], 128, 128)[None]
    waits = host_waits(networks, one, 24, is_near)
    assert 0 < waits <= most
    assert host_waits(networks, np.repeat(one, 3, axis=0), 12, is_near) == waits
