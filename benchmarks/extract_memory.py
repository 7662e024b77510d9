"""Peak memory of a worker by length of video: ``python -m benchmarks.extract_memory FOLDER``.

Takes the first video of the folder, and the same packets repeated into a file of 200 s; a fresh process extracts each.
"""

from __future__ import annotations

import resource
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import av
import click

from benchmarks.figures import Figure, at_most, json_option, report_figures
from benchmarks.machine import describe_machine
from pipeline.catalog import build_index
from pipeline.config import Settings
from pipeline.detect import FaceDetector
from pipeline.process import process_partition
from pipeline.runs import only_run
from pipeline.types import Partition
from pipeline.writer import create_or_resume

MAX_GIGABYTES = 1.2


def repeat_video(source: str, target: str, seconds: float) -> None:
    """The video stream of ``source`` as often as it takes, without decoding it."""
    with av.open(target, "w") as output:
        stream = None
        next_dts = None
        while True:
            with av.open(source) as container:
                video = container.streams.video[0]
                stream = stream or output.add_stream_from_template(video)
                offset = None
                for packet in container.demux(video):
                    if packet.dts is None or packet.pts is None:
                        continue
                    if offset is None:
                        # By decoding times: a copy's first one may lie before zero.
                        offset = 0 if next_dts is None else next_dts - packet.dts
                    packet.pts += offset
                    packet.dts += offset
                    next_dts = packet.dts + max(1, packet.duration or 0)
                    packet.stream = stream
                    output.mux(packet)
                if next_dts is None or video.time_base is None or next_dts * video.time_base >= seconds:
                    return


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def peak_of(video: str | None) -> tuple[int, int]:
    """Peak memory of this process after extracting a video, or after loading the networks; and frames stored."""
    settings = Settings()
    if video is None:
        FaceDetector(settings.detect, "cpu")
        return _peak_bytes(), 0
    index, _ = build_index(video)
    with tempfile.TemporaryDirectory() as folder, only_run(create_or_resume(folder, settings)) as run:
        (outcome,) = process_partition(Partition(0, tuple(index)), run, settings, "cpu", 1)
    return _peak_bytes(), outcome.num_frames_decoded


def measure(folder: str, seconds: float) -> list[Figure]:
    """Prints the peak for each, and the difference."""
    short = build_index(folder)[0][0].path
    with tempfile.TemporaryDirectory() as scratch:
        long = str(Path(scratch, "long.mp4"))
        repeat_video(short, long, seconds)
        peaks = []
        for name, video in (("networks only", None), ("first video", short), (f"repeated to {seconds:g} s", long)):
            # One process a measurement: a peak never goes down again.
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                peak, frames = pool.submit(peak_of, video).result()
            peaks.append(peak)
            print(f"{name:<22}{frames:>7} frames{peak / 1e6:>9.0f} MB")
    print(f"{'long - short':<22}{(peaks[2] - peaks[1]) / 1e6:>22.0f} MB")
    return [
        at_most(f"peak memory of a worker, {name}", peak / 1e9, MAX_GIGABYTES, "{:.2f} GB")
        for name, peak in (("first video", peaks[1]), (f"a video of {seconds:g} s", peaks[2]))
    ]


@click.command()
@click.argument("folder")
@click.option("--seconds", default=200.0, show_default=True, help="Length of the long video.")
@json_option
def main(folder: str, seconds: float, json_file: Path | None) -> None:
    """Prints the peak for each, and the difference."""
    print(describe_machine())
    report_figures(measure(folder, seconds), json_file)


if __name__ == "__main__":
    main()
