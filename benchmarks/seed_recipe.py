"""The recipe that this project rebuilds, as it exported clips for training: what extraction is compared with.

``python -m benchmarks.seed_recipe VIDEOS OUT`` writes its clips, to look at. From the Kaggle DFDC notebook "DFDC 3D &
2D, incl. CutMix, with 3D model fix": every 10th frame at half size through facenet-pytorch's ``MTCNN.detect``, the 15
of 150 frames as one batch; boxes painted into a volume of time, height and width, whose connected components are the
faces; a second pass that cuts out the square around each of them. Where it leaves a choice, the cheaper one was taken,
so that nothing here makes extraction look fast:

- frames that aren't sampled are not converted in the first pass, nor those without a face in the second;
- crops are scaled linearly, OpenCV's default, and saved uncompressed, one ``.npy`` a clip, not synced to disk;
- there is no retry ladder;
- memory of freed frames is kept for the next ones, as in our processes: a fifteenth of the time.

The notebook took the first 300 frames, all of a DFDC video. Here all frames are taken, as extraction takes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path

import click
import cv2
import numpy as np
import torch
from facenet_pytorch import MTCNN
from scipy import ndimage

from benchmarks.decoding import in_batches, open_video, sampled_frames, shrunk_rgb
from pipeline.catalog import build_index
from pipeline.process import prepare_process
from pipeline.types import Float32Array, UInt8Array, VideoRef

EVERY_N_FRAMES = 10
CHUNK_FRAMES = 150
MIN_FRAMES = 30
MAX_FACES = 5
THRESHOLDS = [0.6, 0.7, 0.7]
FACTOR = 0.709
SIZE = 256
"""Side of a crop, pixels."""

Square = tuple[int, int, int, int]
"""xyxy, pixels of the video; may reach beyond the frame."""


@dataclass(frozen=True)
class Clip:
    """One face over frames ``[frame_start, frame_stop)``, cut out with one square."""

    video_id: str
    frame_start: int
    frame_stop: int
    square: Square
    file: str
    """Its crops: uint8 (T, 256, 256, 3), RGB."""


@dataclass(frozen=True)
class Face:
    """One connected component of a chunk."""

    first: int
    """Sampled frame of the chunk."""
    last: int
    box_xyxy: tuple[int, int, int, int]
    """Pixels of the shrunk frame."""
    mean_probability: float


def faces_of_chunk(
    boxes_xyxy: Sequence[Float32Array | None], probabilities: Sequence[Sequence[float]], height: int, width: int
) -> list[Face]:
    """Connected components of the boxes, the most probable first.

    Args:
        boxes_xyxy: of each sampled frame float32 (N, 4), or None where there is no face.
        probabilities: of the same.
        height: of the frames.
        width: of the frames.
    """
    volume = np.zeros((len(boxes_xyxy), height, width), bool)
    centres: list[tuple[int, int, int, float]] = []
    for t, (boxes, scores) in enumerate(zip(boxes_xyxy, probabilities, strict=True)):
        for box, score in zip(boxes if boxes is not None else (), scores, strict=False):
            x1, y1 = (max(0, int(v)) for v in box[:2])
            x2, y2 = min(width, round(float(box[2]))), min(height, round(float(box[3])))
            if x1 < x2 and y1 < y2:
                volume[t, y1:y2, x1:x2] = True
                centres.append((t, (y1 + y2) // 2, (x1 + x2) // 2, float(score)))
    for t in range(1, len(volume) - 1):
        if not volume[t].any():
            volume[t] = volume[t - 1] & volume[t + 1]
    labels, _ = ndimage.label(volume)
    faces = []
    for number, (times, rows, columns) in enumerate(ndimage.find_objects(labels), 1):
        scores = [score for t, y, x, score in centres if labels[t, y, x] == number]
        box = (columns.start, rows.start, columns.stop, rows.stop)
        faces.append(Face(times.start, times.stop - 1, box, float(np.mean(scores)) if scores else 0.0))
    return sorted(faces, key=lambda face: -face.mean_probability)


def square_around(box_xyxy: tuple[int, int, int, int], scale: float) -> Square:
    """The box of a shrunk frame as a square of the video's pixels, of its longer side."""
    x1, y1, x2, y2 = (v / scale for v in box_xyxy)
    side = round(max(x2 - x1, y2 - y1))
    left, top = round((x1 + x2 - side) / 2), round((y1 + y2 - side) / 2)
    return left, top, left + side, top + side


def find_clips(ref: VideoRef, mtcnn: MTCNN, folder: str, num_threads: int) -> list[Clip]:
    """The first pass."""
    clips: list[Clip] = []
    sampled = sampled_frames(ref.path, EVERY_N_FRAMES, num_threads)
    shrunk = ((max(bgr.shape), shrunk_rgb(bgr, max(bgr.shape) // 2)) for _, bgr in sampled)
    for number, pairs in enumerate(in_batches(shrunk, CHUNK_FRAMES // EVERY_N_FRAMES)):
        chunk = [rgb for _, rgb in pairs]
        scale = max(chunk[0].shape) / pairs[0][0]
        boxes, probabilities = mtcnn.detect(np.stack(chunk))
        faces = faces_of_chunk(boxes, probabilities, *chunk[0].shape[:2])
        spans = [(EVERY_N_FRAMES * face.first, EVERY_N_FRAMES * (face.last + 1), face) for face in faces[:MAX_FACES]]
        for start, stop, face in spans:
            if stop - start >= MIN_FRAMES:
                file = Path(folder, f"{ref.video_id.replace('/', '_')}-{len(clips):03d}.npy")
                first = number * CHUNK_FRAMES
                square = square_around(face.box_xyxy, scale)
                clips.append(Clip(ref.video_id, first + start, first + stop, square, str(file)))
    return clips


def cut_out(bgr: UInt8Array, square: Square) -> UInt8Array:
    """One crop: uint8 (256, 256, 3), RGB, black beyond the frame."""
    left, top, right, bottom = square
    height, width = bgr.shape[:2]
    inside = bgr[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
    beyond = (max(-top, 0), max(bottom - height, 0), max(-left, 0), max(right - width, 0))
    if any(beyond):
        inside = cv2.copyMakeBorder(inside, *beyond, cv2.BORDER_CONSTANT)
    return np.asarray(cv2.cvtColor(cv2.resize(inside, (SIZE, SIZE)), cv2.COLOR_BGR2RGB), np.uint8)


def write_clips(ref: VideoRef, clips: Sequence[Clip], num_threads: int) -> list[Clip]:
    """The second pass; what was cut ends with the video."""
    crops: dict[Clip, list[UInt8Array]] = {clip: [] for clip in clips}
    written: list[Clip] = []

    def write(done: list[Clip]) -> None:
        for clip in done:
            frames = crops.pop(clip)
            np.save(clip.file, np.stack(frames))
            stop = clip.frame_start + len(frames)
            written.append(Clip(clip.video_id, clip.frame_start, stop, clip.square, clip.file))

    capture = open_video(ref.path, num_threads)
    index = 0
    while crops and capture.grab():
        shown = [clip for clip in crops if clip.frame_start <= index < clip.frame_stop]
        if shown:
            bgr = np.asarray(capture.retrieve()[1], np.uint8)
            for clip in shown:
                crops[clip].append(cut_out(bgr, clip.square))
        index += 1
        write([clip for clip in crops if clip.frame_stop == index])
    write([clip for clip, frames in crops.items() if frames])
    capture.release()
    return written


@lru_cache(1)
def _mtcnn() -> MTCNN:
    """This process's, loaded once."""
    return MTCNN(
        margin=0, keep_all=True, post_process=False, select_largest=False, thresholds=THRESHOLDS, factor=FACTOR
    )


def export_video(ref: VideoRef, folder: str, num_threads: int = 1) -> list[Clip]:
    """All clips of one video, as files in the folder."""
    return write_clips(ref, find_clips(ref, _mtcnn(), folder, num_threads), num_threads)


def _prepare(num_threads: int) -> None:
    prepare_process()
    torch.set_num_threads(num_threads)
    cv2.setNumThreads(num_threads)
    _mtcnn()


@contextmanager
def recipe_workers(num_workers: int, num_threads: int) -> Iterator[ProcessPoolExecutor]:
    """Processes, each with so many threads for torch and OpenCV, and its networks loaded before its first video."""
    context = get_context("spawn")
    with ProcessPoolExecutor(num_workers, context, initializer=_prepare, initargs=(num_threads,)) as pool:
        yield pool


def export(pool: ProcessPoolExecutor, videos: Sequence[VideoRef], folder: str, num_threads: int) -> list[Clip]:
    """All clips of all videos; whoever is free takes the next video."""
    of_videos = pool.map(partial(export_video, folder=folder, num_threads=num_threads), videos)
    return [clip for clips in of_videos for clip in clips]


@click.command()
@click.argument("videos")
@click.argument("out", type=click.Path(file_okay=False))
def main(videos: str, out: str) -> None:
    """Prints the clips."""
    Path(out).mkdir(parents=True, exist_ok=True)
    with recipe_workers(1, torch.get_num_threads()) as pool:
        for clip in export(pool, build_index(videos)[0], out, torch.get_num_threads()):
            print(f"{clip.file}: frames [{clip.frame_start}, {clip.frame_stop}), square {clip.square}")


if __name__ == "__main__":
    main()
