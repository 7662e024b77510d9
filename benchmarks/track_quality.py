"""How well extracted tracks agree with MTCNN on every frame: ``python -m benchmarks.track_quality FOLDER``.

The reference is facenet-pytorch's own ``MTCNN.detect`` with its default thresholds on every frame, shrunk to at most
960 px; its boxes of score >= 0.9 that stay for at least 30 frames count. Recall: share of them that a track covers with
IoU >= 0.5. IoU: mean over those. Extra: share of our boxes without a reference box of IoU >= 0.2 in their frame.
"""

from __future__ import annotations

import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import click
import cv2
import numpy as np
import torch
from facenet_pytorch import MTCNN

from benchmarks.figures import Figure, at_least, at_most, json_option, report_figures
from benchmarks.machine import describe_machine
from pipeline.catalog import build_index
from pipeline.config import Settings, TrackSettings
from pipeline.decode import VideoReader
from pipeline.process import process_partition
from pipeline.runs import only_run
from pipeline.settings import load_settings
from pipeline.store import FaceStore
from pipeline.track import build_tracks, pairwise_iou
from pipeline.types import Detections, Float32Array, Partition, VideoRef
from pipeline.writer import create_or_resume

REFERENCE_LONG_SIDE = 960
MIN_RECALL, MIN_IOU, MAX_EXTRA = 0.98, 0.90, 0.02
REFERENCE_TRACKS = TrackSettings(min_iou=0.3, max_gap_frames=5, min_frames=30, max_faces=1000, segment_frames=10**9)


@dataclass(frozen=True)
class Agreement:
    """Counts of one video, or of several added up."""

    name: str
    num_reference: int
    num_covered: int
    sum_iou: float
    num_ours: int
    num_extra: int
    num_faces: int

    @property
    def recall(self) -> float:
        return self.num_covered / self.num_reference if self.num_reference else 1.0

    @property
    def mean_iou(self) -> float:
        return self.sum_iou / self.num_covered if self.num_covered else 1.0

    @property
    def extra(self) -> float:
        return self.num_extra / self.num_ours if self.num_ours else 0.0

    def row(self) -> str:
        counts = f"{self.num_reference:>9}{self.num_ours:>9}{self.num_faces:>7}"
        return f"{self.name[:34]:<36}{counts}{self.recall:>9.4f}{self.mean_iou:>9.4f}{self.extra:>9.4f}"

    def figures(self) -> list[Figure]:
        return [
            at_least("tracks against MTCNN on every frame, recall", self.recall, MIN_RECALL, "{:.4f}"),
            at_least("the same, mean IoU", self.mean_iou, MIN_IOU, "{:.3f}"),
            at_most("the same, extra boxes", self.extra, MAX_EXTRA, "{:.4f}"),
        ]


def reference_detections(path: str) -> list[Detections]:
    """MTCNN's faces in every frame, one entry a frame, in source pixels."""
    mtcnn = MTCNN(keep_all=True, post_process=False)
    detections: list[Detections] = []
    with VideoReader(path) as reader:
        scale = min(1.0, REFERENCE_LONG_SIDE / max(reader.info.width, reader.info.height))
        for frame in reader.frames():
            small = cv2.resize(frame.rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            boxes, scores, landmarks = mtcnn.detect(small, landmarks=True)
            while len(detections) < frame.index:
                detections.append(Detections.empty())
            if boxes is None:
                detections.append(Detections.empty())
            else:
                ratio = frame.rgb.shape[1] / small.shape[1]
                arrays = (np.asarray(a, np.float32) for a in (boxes * ratio, scores, landmarks * ratio))
                detections.append(Detections(*arrays))
    return detections


def _above(found: Detections, score: float) -> Detections:
    kept = found.scores >= score
    return Detections(found.boxes_xyxy[kept], found.scores[kept], found.landmarks[kept])


def compare(ref: VideoRef, settings: Settings) -> Agreement:
    """Extract one video and compare."""
    torch.set_num_threads(1)
    reference = reference_detections(ref.path)
    indices = range(len(reference))
    dense = build_tracks(indices, [_above(found, 0.9) for found in reference], REFERENCE_TRACKS).tracks
    with tempfile.TemporaryDirectory() as folder:
        with only_run(create_or_resume(folder, settings)) as run:
            process_partition(Partition(0, (ref,)), run, settings, "cpu", 1)
        rows = FaceStore.open(folder).tracks.to_pylist()
    ours: dict[int, list[list[float]]] = {}
    for row in rows:
        for i, box in enumerate(row["boxes_xyxy"]):
            ours.setdefault(row["frame_start"] + i, []).append(box)
    ious: list[float] = []
    for track in dense:
        for i in np.flatnonzero(track.observed).tolist():
            candidates = ours.get(track.frame_start + i, [])
            ious.append(_best_iou(track.boxes_xyxy[i], np.array(candidates, np.float32).reshape(-1, 4)))
    extra = [
        _best_iou(np.array(box, np.float32), reference[index].boxes_xyxy) < 0.2
        for index, boxes in ours.items()
        for box in boxes
    ]
    covered = [iou for iou in ious if iou >= 0.5]
    faces = {row["face_id"] for row in rows}
    return Agreement(ref.video_id, len(ious), len(covered), sum(covered), len(extra), sum(extra), len(faces))


def _best_iou(box_xyxy: Float32Array, candidates_xyxy: Float32Array) -> float:
    return float(pairwise_iou(box_xyxy[None], candidates_xyxy).max()) if len(candidates_xyxy) else 0.0


def added_up(results: list[Agreement]) -> Agreement:
    """All videos as one."""
    totals = zip(
        *((r.num_reference, r.num_covered, r.sum_iou, r.num_ours, r.num_extra, r.num_faces) for r in results),
        strict=True,
    )
    reference, covered, sum_iou, ours, extra, faces = (sum(column) for column in totals)
    return Agreement("all", int(reference), int(covered), sum_iou, int(ours), int(extra), int(faces))


def measure(folder: str, settings: Settings, processes: int) -> list[Figure]:
    """Prints agreement for each video below the folder and for all together."""
    index, _ = build_index(folder)
    print(f"{'video':<36}{'dense':>9}{'ours':>9}{'faces':>7}{'recall':>9}{'IoU':>9}{'extra':>9}")
    results = []
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for future in [pool.submit(compare, ref, settings) for ref in index]:
            results.append(future.result())
            print(results[-1].row(), flush=True)
    total = added_up(results)
    print(total.row())
    return total.figures()


@click.command()
@click.argument("folder")
@click.option("--params", metavar="FILE", help="Settings to judge; the defaults by default.")
@click.option("--processes", default=2, show_default=True)
@json_option
def main(folder: str, params: str | None, processes: int, json_file: Path | None) -> None:
    """Prints agreement for each video below FOLDER and for all together."""
    print(describe_machine())
    report_figures(measure(folder, load_settings(params, Settings), processes), json_file)


if __name__ == "__main__":
    main()
