"""What PyAV reads is what OpenCV reads: frames, times and pixels, to the bit, also of damaged videos."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import cast

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange
from hypothesis import given
from hypothesis import strategies as st

from pipeline import planes
from pipeline.decode import OPENCV_OPTIONS, VideoDecodeError, VideoReader
from pipeline.device import DecodeDevice, check_decode_device
from pipeline.errors import InputError
from pipeline.frame import Frame
from pipeline.picture import BgrPicture, on_grain
from pipeline.planes import GPU_PIXEL_FORMAT, PIXEL_FORMAT, NoFrameError, PlaneCapture, Yuv420Picture
from pipeline.types import UInt8Array
from tests.videos import drop_packets, moving_square, overwrite_packets, read_index_code, write_video

X265_QUIET = {"x265-params": "log-level=none"}
VP9_FAST = {"deadline": "realtime", "cpu-used": "8"}
USUAL = [
    ("libx264", ".mp4", {}),
    ("libx264", ".mov", {"bf": "0"}),
    ("libx264", ".mkv", {"g": "5"}),
    ("libx264", ".avi", {}),
    ("libx264", ".ts", {}),
    ("libx265", ".mp4", X265_QUIET),
    ("mpeg4", ".avi", {}),
    ("mpeg4", ".mp4", {"bf": "2"}),
    ("libvpx-vp9", ".webm", VP9_FAST),
]


def noise(num_frames: int, width: int = 96, height: int = 64) -> list[UInt8Array]:
    """Every pixel counts."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (height, width, 3), np.uint8) for _ in range(num_frames)]


def is_usual(path: Path) -> bool:
    """Whether PyAV will read a file; not if it can't be opened."""
    try:
        with VideoReader(str(path), num_threads=1) as reader:
            return isinstance(reader._capture, PlaneCapture)
    except VideoDecodeError:
        return False


def read(
    path: Path, by_pyav: bool, monkeypatch: pytest.MonkeyPatch, num_threads: int
) -> tuple[list[Frame], VideoReader]:
    """By PyAV, or, because there are options for it, by OpenCV."""
    with monkeypatch.context() as context:
        if not by_pyav:
            context.setenv(OPENCV_OPTIONS, f"threads;{num_threads}")
        with VideoReader(str(path), num_threads=num_threads) as reader:
            frames = list(reader.frames())
            assert isinstance(reader._capture, PlaneCapture) == by_pyav
    return frames, reader


def assert_same(path: Path, monkeypatch: pytest.MonkeyPatch, is_concealed: bool = False) -> list[Frame]:
    """Both ways of reading a video, with one thread and with more; what PyAV read. Concealed damage shows whatever the
    decoder's memory held."""
    theirs, their_reader = read(path, False, monkeypatch, 1)
    for num_threads in (3, 1):
        ours, our_reader = read(path, True, monkeypatch, num_threads)
        assert_equal(ours, theirs, is_concealed)
        for name in ("info", "num_frames_decoded", "last_index", "failed_frames", "is_constant_rate"):
            assert getattr(our_reader, name) == getattr(their_reader, name)
    return ours


def assert_equal(ours: list[Frame], theirs: list[Frame], is_concealed: bool) -> None:
    assert [frame.index for frame in ours] == [frame.index for frame in theirs]
    assert [frame.timestamp_seconds for frame in ours] == [frame.timestamp_seconds for frame in theirs]
    for one, other in zip(ours, theirs, strict=True):
        if is_concealed:
            assert one.bgr.shape == other.bgr.shape
        else:
            np.testing.assert_array_equal(one.bgr, other.bgr)


@pytest.mark.parametrize(("codec", "ending", "options"), USUAL)
def test_every_container_and_codec_reads_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str, ending: str, options: dict[str, str]
) -> None:
    path = write_video(tmp_path / f"v{ending}", noise(20), codec=codec, options=options)
    frames = assert_same(path, monkeypatch)
    assert len(frames) == 20
    assert all(isinstance(frame.picture, Yuv420Picture) for frame in frames)


@pytest.mark.parametrize("damaged", [(10,), (10, 11, 20), (20, 38, 39), range(30, 40), (17, 25)])
@pytest.mark.parametrize(
    ("codec", "ending", "options"),
    [
        ("mpeg4", ".mp4", {"g": "1"}), ("libx264", ".mp4", {"g": "1"}), ("libx264", ".mp4", {}),
        ("libx264", ".mkv", {"g": "12", "bf": "0"}), ("libvpx-vp9", ".mp4", VP9_FAST | {"g": "1"}),
    ],
)  # fmt: skip
def test_damaged_packets_read_the_same(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    codec: str,
    ending: str,
    options: dict[str, str],
    damaged: Iterable[int],
) -> None:
    whole = write_video(tmp_path / f"w{ending}", moving_square(40), codec=codec, options=options)
    frames = assert_same(overwrite_packets(whole, tmp_path / f"d{ending}", damaged), monkeypatch)
    assert 10 <= len(frames) < 40
    frames = assert_same(drop_packets(whole, tmp_path / f"l{ending}", damaged), monkeypatch)
    assert 10 <= len(frames) < 40


@pytest.mark.parametrize("kept", [0.3, 0.5, 0.9])
@pytest.mark.parametrize("ending", [".avi", ".mkv", ".ts"])
def test_a_truncated_file_reads_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, kept: float
) -> None:
    path = write_video(tmp_path / f"v{ending}", noise(60), codec="mpeg4")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    assert 60 * kept - 20 < len(assert_same(path, monkeypatch)) < 60


def test_flipped_bytes_read_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = [
        write_video(tmp_path / f"{codec}{ending}", moving_square(20), codec=codec, options=options)
        for codec, ending, options in USUAL
    ]
    num_usual = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        source = whole[seed % len(whole)]
        data = np.frombuffer(source.read_bytes(), np.uint8).copy()
        # Behind the first frames: where they are damaged, OpenCV decides.
        where = rng.integers(len(data) // 2, len(data), rng.integers(1, 40))
        data[where] = rng.integers(0, 256, len(where))
        path = tmp_path / f"damaged{source.suffix}"
        path.write_bytes(data.tobytes())
        if is_usual(path):
            assert_same(path, monkeypatch, is_concealed=True)
            num_usual += 1
    assert num_usual > 20


def test_times_that_vary_read_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = [0.5, 0.533, 0.583, 0.666, 0.7, 1.2, 1.233, 9.5, 9.7]
    path = write_video(tmp_path / "v.mkv", moving_square(9), timestamps_seconds=times)
    frames = assert_same(path, monkeypatch)
    assert [frame.timestamp_seconds for frame in frames] == pytest.approx([t - 0.5 for t in times], abs=1e-3)


@pytest.mark.parametrize("colorspace", ["bt709", "smpte170m", "fcc", "bt470bg", "smpte240m", "bt2020nc"])
@pytest.mark.parametrize("color_range", ["tv", "pc"])
def test_colours_are_understood_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, colorspace: str, color_range: str
) -> None:
    options = {"colorspace": colorspace, "color_range": color_range}
    path = write_video(tmp_path / "v.mp4", noise(3), options=options)
    # FFmpeg calls 4:2:0 of all 256 values a format of its own.
    assert is_usual(path) == (color_range == "tv")
    if is_usual(path):
        assert_same(path, monkeypatch)


def test_full_range_that_only_a_tag_tells_is_usual(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = VP9_FAST | {"colorspace": "bt709", "color_range": "pc"}
    path = write_video(tmp_path / "v.mp4", noise(3), codec="libvpx-vp9", options=options)
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        assert (frame.format.name, frame.color_range) == (PIXEL_FORMAT, ColorRange.JPEG)
    assert is_usual(path)
    assert_same(path, monkeypatch)


@pytest.mark.parametrize("unusual", ["4:4:4", "10 bits", "odd", "turned", "full range", "two streams", "no times"])
def test_whatever_is_unusual_is_left_to_opencv(tmp_path: Path, unusual: str) -> None:
    path = tmp_path / "v.mp4"
    match unusual:
        case "4:4:4":
            write_video(path, moving_square(3), pix_fmt="yuv444p")
        case "10 bits":
            write_video(path, moving_square(3), pix_fmt="yuv420p10le")
        case "odd":
            write_video(path, moving_square(3, 97, 65), pix_fmt="yuv420p", codec="libvpx-vp9")
        case "turned":
            write_video(path, moving_square(3), rotation=180)
        case "full range":
            write_video(path, moving_square(3), codec="mjpeg", pix_fmt="yuvj420p")
        case "two streams":
            write_two_streams(path)
        case "no times":
            path = write_video(tmp_path / "v.h264", moving_square(3))
    assert not is_usual(path)
    with VideoReader(str(path), num_threads=1) as reader:
        assert [frame.index for frame in reader.frames()] == [0, 1, 2]


def write_two_streams(path: Path) -> None:
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("mpeg4", rate=30) for _ in range(2)]
        for stream in streams:
            stream.width, stream.height = 96, 64
        for rgb in moving_square(3):
            for stream in streams:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
        for stream in streams:
            container.mux(stream.encode(None))


@pytest.mark.parametrize(
    ("damaged", "thread_counts"), [((), [4]), ((20,), [4, 1]), ((37,), [4, 1]), ((38, 39), [4, 1])]
)
def test_behind_damage_one_thread_decodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: tuple[int, ...], thread_counts: list[int]
) -> None:
    whole = write_video(tmp_path / "w.mp4", noise(40), codec="mpeg4", options={"g": "1"})
    path = overwrite_packets(whole, tmp_path / "d.mp4", damaged)
    seen = []
    decoded = PlaneCapture._decoded

    def counted(capture: PlaneCapture, num_threads: int) -> Iterator[av.VideoFrame | None]:
        seen.append(num_threads)
        return decoded(capture, num_threads)

    monkeypatch.setattr(PlaneCapture, "_decoded", counted)
    with VideoReader(str(path), num_threads=4) as reader:
        frames = list(reader.frames())
    assert seen == thread_counts
    assert [frame.index for frame in frames] == [index for index in range(40) if index not in damaged]
    monkeypatch.undo()
    assert_same(path, monkeypatch)


@pytest.mark.parametrize("num_threads", [None, 2])
def test_any_number_of_threads_reads_planes(tmp_path: Path, num_threads: int | None) -> None:
    path = write_video(tmp_path / "v.mp4", moving_square(3))
    with VideoReader(str(path), num_threads=num_threads) as reader:
        assert isinstance(reader._capture, PlaneCapture)
        assert [frame.index for frame in reader.frames()] == [0, 1, 2]


def test_a_change_of_size_within_the_stream_is_rescaled_to_the_first_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = write_video(tmp_path / "small.ts", moving_square(6, 96, 64)).read_bytes()
    large = write_video(tmp_path / "large.ts", moving_square(6, 128, 96)).read_bytes()
    path = tmp_path / "both.ts"
    path.write_bytes(small + large)
    frames = assert_same(path, monkeypatch, is_concealed=True)
    assert [read_index_code(frame.rgb) for frame in frames] == [0, 1, 2, 3, 4, 5] * 2
    assert {frame.picture.size for frame in frames} == {(96, 64)}
    assert isinstance(frames[-1].picture, BgrPicture)


def test_what_is_no_video_has_no_first_frame(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("not a video\n" * 100)
    whole = write_video(tmp_path / "w.mp4", moving_square(10), codec="mpeg4")
    coded = write_video(tmp_path / "c.mp4", moving_square(10)).read_bytes()
    (tmp_path / "unknown.mp4").write_bytes(coded.replace(b"avc1", b"zzzz"))
    damaged = overwrite_packets(whole, tmp_path / "d.mp4", range(10))
    for path in (tmp_path / "text.mp4", tmp_path / "unknown.mp4", damaged):
        with pytest.raises(NoFrameError):
            PlaneCapture(str(path))


# --- a GPU's decoder


@pytest.fixture
def gpu_of_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU's decoder gives: the same frames in its own format. The processor makes them."""
    opened, decoded = planes.open_container, PlaneCapture._decoded

    def as_from_gpu(capture: PlaneCapture, num_threads: int) -> Iterator[av.VideoFrame | None]:
        for frame in decoded(capture, num_threads):
            if frame is None or capture._is_simple or frame.format.name not in {PIXEL_FORMAT, "yuvj420p"}:
                yield frame
                continue
            moved = frame.reformat(format=GPU_PIXEL_FORMAT)
            moved.colorspace, moved.color_range = frame.colorspace, frame.color_range
            yield moved

    def is_from_gpu(capture: PlaneCapture) -> bool:
        return capture._frame is not None and capture._frame.format.name == GPU_PIXEL_FORMAT

    monkeypatch.setattr(planes, "open_container", lambda path, _device="cpu": opened(path))
    monkeypatch.setattr(PlaneCapture, "_decoded", as_from_gpu)
    monkeypatch.setattr(PlaneCapture, "is_on_gpu", property(is_from_gpu))


def read_by_gpu(path: Path, device: DecodeDevice = "cuda") -> tuple[list[Frame], VideoReader]:
    with VideoReader(str(path), num_threads=2, device=device) as reader:
        return list(reader.frames()), reader


@pytest.mark.usefixtures("gpu_of_our_own")
@pytest.mark.parametrize("colorspace", ["bt709", "smpte170m"])
@pytest.mark.parametrize(("codec", "ending", "options"), USUAL[:3])
def test_what_a_gpu_decodes_is_the_same(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    codec: str,
    ending: str,
    options: dict[str, str],
    colorspace: str,
) -> None:
    path = write_video(tmp_path / f"v{ending}", noise(20), codec=codec, options=options | {"colorspace": colorspace})
    theirs, _ = read(path, False, monkeypatch, 1)
    ours, reader = read_by_gpu(path)
    assert_equal(ours, theirs, is_concealed=False)
    assert reader.device_remark is None
    window = (10, 4, 52, 40)
    for one, other in zip(ours, theirs, strict=True):
        picture = one.picture
        assert isinstance(picture, Yuv420Picture)
        assert picture.whole is None, "the scaler rounds otherwise in this format"
        there = other.bgr[4:40, 10:52]
        np.testing.assert_array_equal(picture.window(window).bgr(), there)
        memory = np.empty(picture.num_bytes, np.uint8)
        np.testing.assert_array_equal(picture.copied(memory).window(window).bgr(), there)


@pytest.mark.usefixtures("gpu_of_our_own")
@pytest.mark.parametrize("damaged", [(20,), (38, 39)])
def test_behind_damage_the_processor_decodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: tuple[int, ...]
) -> None:
    whole = write_video(tmp_path / "w.mp4", noise(40), codec="mpeg4", options={"g": "1"})
    path = overwrite_packets(whole, tmp_path / "d.mp4", damaged)
    theirs, _ = read(path, False, monkeypatch, 1)
    ours, _ = read_by_gpu(path)
    assert_equal(ours, theirs, is_concealed=False)
    assert len(ours) == 40 - len(damaged)


@pytest.mark.usefixtures("gpu_of_our_own")
@pytest.mark.parametrize("options", [{"pix_fmt": "yuv444p"}, {"pix_fmt": "yuvj420p", "codec": "mjpeg"}])
def test_what_is_unusual_is_not_for_a_gpu(tmp_path: Path, options: dict[str, str]) -> None:
    path = write_video(tmp_path / "v.mp4", moving_square(3), **options)  # type: ignore[arg-type]
    ours, reader = read_by_gpu(path)
    assert len(ours) == 3
    assert reader.device_remark == "OpenCV decodes it, for it is of an unusual kind or there are options for OpenCV"


def test_without_the_gpu_that_was_asked_for_the_processor_decodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        check_decode_device("cuda")
    except InputError:
        pass
    else:
        pytest.skip("there is one")
    path = write_video(tmp_path / "v.mp4", noise(12))
    theirs, _ = read(path, False, monkeypatch, 1)
    ours, reader = read_by_gpu(path)
    assert_equal(ours, theirs, is_concealed=False)
    assert (reader.device_remark or "").startswith("the GPU can't decode it (")


def test_what_a_gpu_cannot_decode_the_processor_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kind of device that this FFmpeg knows, and that has no decoder of such videos by that way."""
    path = write_video(tmp_path / "v.mp4", noise(12))
    theirs, _ = read(path, False, monkeypatch, 1)
    ours, reader = read_by_gpu(path, cast("DecodeDevice", "qsv"))
    assert_equal(ours, theirs, is_concealed=False)
    assert all(isinstance(frame.picture, Yuv420Picture) for frame in ours)
    assert reader.device_remark == "the GPU can't decode h264 of this kind"


# --- windows


@pytest.fixture(scope="module")
def frame(tmp_path_factory: pytest.TempPathFactory) -> Frame:
    path = write_video(tmp_path_factory.mktemp("video") / "v.mp4", noise(1, 150, 98))
    with VideoReader(str(path), num_threads=1) as reader:
        (only,) = reader.frames()
    assert isinstance(only.picture, Yuv420Picture)
    return only


edges = st.tuples(st.integers(0, 150), st.integers(0, 150), st.integers(0, 98), st.integers(0, 98))


@given(edges=edges)
def test_a_window_has_the_pixels_of_the_whole_frame_there(frame: Frame, edges: tuple[int, int, int, int]) -> None:
    (left, right), (top, bottom) = sorted(edges[:2]), sorted(edges[2:])
    window = on_grain((left, top, right, bottom), frame.picture.size)
    there = frame.picture.bgr()[window[1] : window[3], window[0] : window[2]]
    part = frame.picture.window(window)
    assert part.size == (window[2] - window[0], window[3] - window[1])
    assert part.num_bytes == part.size[0] * part.size[1] * 3 // 2
    np.testing.assert_array_equal(part.bgr(), there)
    memory = np.full(part.num_bytes, 7, np.uint8)
    copy = part.copied(memory)
    np.testing.assert_array_equal(copy.bgr(), there)
    memory[:] = 128
    assert not part.num_bytes or (copy.bgr() == copy.bgr()[0, 0]).all(), "it lies in that memory"
    for whole in (Frame(0, 0.0, frame.picture), frame):
        np.testing.assert_array_equal(whole.bgr_of(window), there)
        assert whole.bgr.shape == (98, 150, 3)
        np.testing.assert_array_equal(whole.bgr_of(window), there)
    bgr = BgrPicture(frame.bgr).window(window)
    assert bgr.size == part.size
    np.testing.assert_array_equal(bgr.copied(np.zeros(bgr.num_bytes, np.uint8)).bgr(), there)


@given(window=st.tuples(*[st.integers(0, 30)] * 4), size=st.tuples(st.integers(30, 33), st.integers(30, 33)))
def test_the_least_window_on_grain_is_around_the_other(
    window: tuple[int, int, int, int], size: tuple[int, int]
) -> None:
    left, top, right, bottom = on_grain(window, size)
    assert 0 <= window[0] - left <= 1
    assert 0 <= window[1] - top <= 1
    assert 0 <= right - window[2] <= 1
    assert 0 <= bottom - window[3] <= 1
    assert left % 2 == top % 2 == 0
    assert right % 2 == 0 or right == size[0]
    assert bottom % 2 == 0 or bottom == size[1]


@pytest.mark.media
def test_real_videos_read_the_same(media: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("face_then_noface_pyfeat.mov", "peirce_psychopy.mp4", "obama_biden_pliers.mp4"):
        assert len(assert_same(media / "clips" / name, monkeypatch)) > 100


@pytest.mark.parametrize("num_threads", [None, 1, 2])
def test_av1_is_read_though_opencv_cannot(tmp_path: Path, num_threads: int | None) -> None:
    path = write_video(tmp_path / "v.mp4", moving_square(12), codec="libsvtav1", options={"preset": "12"})
    with VideoReader(str(path), num_threads=num_threads) as reader:
        frames = list(reader.sampled(5))
    assert [frame.index for frame in frames] == [read_index_code(frame.rgb) for frame in frames] == [0, 5, 10, 11]
    assert reader.num_frames_decoded == 12
