"""Our detector against ``MTCNN.detect`` on the same frames: ``python -m benchmarks.detect_speed FOLDER``.

Both get every 10th frame of every video, shrunk to the default detection size, with the default thresholds, least face
and pyramid, in one process where torch has one thread, as in a worker. ``MTCNN.detect`` is tried frame by frame and in
batches, and the fastest of these ways is the baseline; ours gets batches as large as in an extraction. All frames are
searched everywhere. Then the same over whole extractions, in which two frames of three are searched only around the
faces of the third: what a sampled frame costs there.

Boxes: pairs of one of MTCNN's and one of ours in the same frame, one-to-one, with an IoU of at least 0.95.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import click
import numpy as np
import torch
from facenet_pytorch import MTCNN

from benchmarks.decoding import in_batches, sampled_frames, shrunk_rgb
from benchmarks.extraction import extract_here
from benchmarks.figures import Figure, at_least, at_most, json_option, report_figures
from benchmarks.machine import describe_machine
from benchmarks.timing import MIN_REPEATS, by_turns, ratio, seconds_of, time_rows
from pipeline.catalog import build_index
from pipeline.config import DetectSettings, Settings
from pipeline.detect import FaceDetector
from pipeline.process import prepare_process
from pipeline.track import pairwise_iou
from pipeline.types import Float32Array, UInt8Array, VideoOutcome, VideoRef

SAME_IOU = 0.95
MIN_OVER_OURS = 5.0
MIN_MATCHED = 99.0
MAX_EXTRA = 1.0
MTCNN_BATCHES = (1, 4, 15)
"""15: all sampled frames of 150, as the seed's recipe has it."""

Videos = Sequence[Sequence[UInt8Array]]
"""For each video its frames, RGB, of one size."""


def num_matched(reference_xyxy: Float32Array, ours_xyxy: Float32Array, min_iou: float) -> int:
    """How many boxes of one frame pair up, one-to-one, the closest pair first.

    Args:
        reference_xyxy: float32 (N, 4).
        ours_xyxy: float32 (M, 4).
        min_iou: of a pair.
    """
    iou = pairwise_iou(reference_xyxy, ours_xyxy)
    matched = 0
    while iou.size and iou.max() >= min_iou:
        row, column = np.unravel_index(iou.argmax(), iou.shape)
        iou[row], iou[:, column] = -1, -1
        matched += 1
    return matched


def load_frames(videos: Iterable[VideoRef], settings: DetectSettings) -> Videos:
    """What an extraction would search, but for the last frame of each."""
    return [
        [shrunk_rgb(bgr, settings.long_side_pixels) for _, bgr in sampled_frames(ref.path, settings.every_n_frames)]
        for ref in videos
    ]


def search_with_mtcnn(mtcnn: MTCNN, videos: Videos, batch_frames: int) -> list[Float32Array]:
    """Boxes of each frame."""
    found: list[Float32Array] = []
    for frames in videos:
        for batch in in_batches(frames, batch_frames):
            boxes, _ = mtcnn.detect(np.stack(batch))
            found += [np.zeros((0, 4), np.float32) if own is None else np.asarray(own, np.float32) for own in boxes]
    return found


def search_with_ours(detector: FaceDetector, videos: Videos) -> list[Float32Array]:
    """Boxes of each frame."""
    found: list[Float32Array] = []
    for frames in videos:
        pixels = frames[0].shape[0] * frames[0].shape[1] if frames else 1
        batch_frames = max(1, int(detector.settings.batch_megapixels * 1e6 / pixels))
        for batch in in_batches(frames, batch_frames):
            found += [detections.boxes_xyxy for detections in detector.detect_batch(batch)]
    return found


def num_sampled(outcomes: Iterable[VideoOutcome], every: int) -> int:
    """Frames that an extraction searched: every n-th, and the last."""
    lasts = [outcome.num_frames_decoded - 1 for outcome in outcomes]
    return sum(last // every + 1 + bool(last % every) for last in lasts if last >= 0)


def measure(folder: str, repeats: int) -> list[Figure]:
    """Prints the tables."""
    settings = Settings()
    detect = settings.detect
    index, _ = build_index(folder)
    videos = load_frames(index, detect)
    num_frames = sum(map(len, videos))
    prepare_process()
    torch.set_num_threads(1)
    mtcnn = MTCNN(
        min_face_size=detect.min_face_pixels, thresholds=list(detect.thresholds), factor=detect.pyramid_factor,
        post_process=False, select_largest=False, keep_all=True,
    )  # fmt: skip
    detector = FaceDetector(detect, "cpu", 1)

    ours = search_with_ours(detector, videos)
    print(f"{len(index)} videos, {num_frames} frames, 1 thread\n\nMTCNN.detect, once each")
    tried: dict[int, float] = {}
    reference: list[Float32Array] = []
    for size in MTCNN_BATCHES:

        def search(size: int = size) -> None:
            reference[:] = search_with_mtcnn(mtcnn, videos, size)

        tried[size] = seconds_of(search)
        print(f"{size:>4} frames at once{1000 * tried[size] / num_frames:>10.1f} ms/frame", flush=True)
    fastest = min(tried, key=lambda size: tried[size])

    def extraction_seconds() -> float:
        """As if as many frames were searched as the others search."""
        _, outcomes = extract_here(index, settings)
        spent = sum(outcome.detect_seconds for outcome in outcomes)
        return spent * num_frames / max(1, num_sampled(outcomes, detect.every_n_frames))

    extraction_seconds()
    ways = {
        "ours": lambda: seconds_of(lambda: search_with_ours(detector, videos)),
        "MTCNN.detect": lambda: seconds_of(lambda: search_with_mtcnn(mtcnn, videos, fastest)),
        "in an extraction": extraction_seconds,
    }
    seconds = by_turns(ways, repeats)
    print(f"\nall frames; MTCNN.detect: {fastest} at once; in an extraction: scaled to as many frames")
    print("\n".join(time_rows(seconds, "ours")))

    num_reference, num_ours = sum(map(len, reference)), sum(map(len, ours))
    matched = sum(num_matched(theirs, own, SAME_IOU) for theirs, own in zip(reference, ours, strict=True))
    print(f"\nboxes: MTCNN.detect {num_reference:,}, ours {num_ours:,}, pairs with IoU >= {SAME_IOU} {matched:,}")
    return [
        at_least("MTCNN.detect over our detector", ratio(seconds, "MTCNN.detect", "ours"), MIN_OVER_OURS, "{:.2f} x"),
        at_least("MTCNN's boxes that ours has", 100 * matched / max(1, num_reference), MIN_MATCHED, "{:.1f} %"),
        at_most(
            "our boxes that MTCNN hasn't", 100 * (num_ours - matched) / max(1, num_ours), MAX_EXTRA, "{:.1f} %"
        ),
        Figure(
            "MTCNN.detect over our detection of a sampled frame in an extraction",
            f"{ratio(seconds, 'MTCNN.detect', 'in an extraction'):.2f} x",
        ),
    ]  # fmt: skip


@click.command()
@click.argument("folder")
@click.option("--repeats", default=MIN_REPEATS, show_default=True)
@json_option
def main(folder: str, repeats: int, json_file: Path | None) -> None:
    """Prints seconds, ratios, medians over the repeats, and how many boxes are the same."""
    print(describe_machine())
    report_figures(measure(folder, repeats), json_file)


if __name__ == "__main__":
    main()
