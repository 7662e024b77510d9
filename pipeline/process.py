"""One partition: its videos worked on and committed. The same function runs in-process and on any cluster.

A video is decoded once: while its faces are searched for, their surroundings are remembered, and cut when it is known
how (``single_pass.py``). So memory holds some seconds of faces, never the video.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable, Iterator

import cv2
import torch
from threadpoolctl import threadpool_limits

from pipeline.config import Settings
from pipeline.detect import FaceDetector, shared_detector
from pipeline.device import DecodeDevice, Device
from pipeline.family import process_family
from pipeline.files import StoreFiles
from pipeline.runs import Run, begin_attempt, end_attempt
from pipeline.types import Partition, VideoOutcome, VideoRef
from pipeline.video import Result, process_video
from pipeline.writer import PartitionWriter

# From glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3


def prepare_process() -> None:
    """Set up a process that does nothing but extract; results don't depend on it.

    One thread a library: work is spread over processes and over the detector's threads instead, whose number doesn't
    change results (see :class:`FaceDetector`). And memory of freed frames is kept for the next ones: dask starts
    workers with MALLOC_TRIM_THRESHOLD_=65536, which gives each frame back to the system, and a third of the time goes
    into page faults.
    """
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    # numpy's products of small matrices: their threads wait for work by spinning, a core each.
    threadpool_limits(1, user_api="blas")
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 32 << 20)
        libc.mallopt(_M_TRIM_THRESHOLD, 64 << 20)


def _trim_memory() -> None:
    """Give the system what videos have left free in the heap: several hundred megabytes, in pieces, after a few of
    them."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def _unheard(_video_id: str | None) -> None:
    return


def _process_all(
    partition: Partition,
    writer: PartitionWriter,
    detector: FaceDetector,
    settings: Settings,
    tell: Callable[[str | None], None],
) -> Iterator[Result]:
    """Families, and videos by themselves."""
    fakes_of: dict[VideoRef, list[VideoRef]] = {}
    by_themselves: dict[VideoRef, str | None] = {}
    for ref in partition.videos:
        source = partition.sources.get(ref.source_id) if ref.source_id is not None else None
        if isinstance(source, VideoRef) and not settings.pair.reuse_tracks:
            source = "pair.reuse_tracks is off"
        if isinstance(source, VideoRef):
            fakes_of.setdefault(source, []).append(ref)
        else:
            by_themselves[ref] = source
    for original, fakes in fakes_of.items():
        is_here = original in by_themselves
        by_themselves.pop(original, None)
        yield from process_family(original, is_here, fakes, writer, detector, settings, tell)
    for ref, pairing_note in by_themselves.items():
        tell(ref.video_id)
        yield process_video(ref, writer, detector, settings, pairing_note)


def process_partition(
    partition: Partition,
    run: Run,
    settings: Settings,
    device: Device,
    num_threads: int,
    progress: Callable[[str | None], None] = _unheard,
    decode_device: DecodeDevice = "cpu",
) -> list[VideoOutcome]:
    """Work through one partition and commit it.

    Does nothing if an earlier attempt has committed it: an engine may run a task again whose answer got lost.

    Args:
        partition: its number has not been tried before.
        run: that the work is for; it says where the store is.
        settings: of the extraction.
        device: that networks run on.
        num_threads: of the detector and the decoder.
        progress: told the ``video_id`` of what is worked on, and None for what concerns all of them.
        decode_device: that videos are decoded on.

    Returns:
        What became of each video; empty if there was nothing to do.

    Raises:
        StoreWriteError: the store can't be written; nothing of the partition is committed.
        AttemptLostError, PartitionTakenError, RunOverError: the work is no longer this attempt's.
    """
    files = StoreFiles(run.store_url)
    if files.exists(f"videos/{partition.name}.parquet"):
        return []
    prepare_process()
    detector = shared_detector(settings.detect, device, num_threads, decode_device)
    writer = PartitionWriter(
        files, partition.name, settings.crop.size, settings.store, has_masks=settings.extract.save_masks
    )
    begin_attempt(files, run, partition.name, writer.array_name)
    try:
        results = list(_process_all(partition, writer, detector, settings, progress))
        progress(None)
        outcomes = [result.outcome for result in results]
        writer.commit(outcomes, [track for result in results for track in result.tracks])
    except BaseException:
        writer.discard()
        raise
    finally:
        end_attempt(files, partition.name)
        _trim_memory()
    return outcomes
