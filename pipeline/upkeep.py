"""Looking after a store: what it holds, whether it is whole, and clearing away what killed attempts left."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.files import StoreFiles
from pipeline.runs import attempts_left, latest_run, settle
from pipeline.schema import ADDED_COLUMNS, PER_FRAME_COLUMNS, face_label, frames_name
from pipeline.store import FaceStore, StoreFormatError
from pipeline.types import STATUSES
from pipeline.writer import frames_checksum, to_parquet


def find_orphans(store: FaceStore) -> list[str]:
    """Files and arrays that belong to no committed partition: left by attempts that were killed.

    What a run that is alive may still be writing is not among them.
    """
    latest = latest_run(store.files)
    return _orphans(store, is_in_work=latest is not None and latest.is_alive())


def _orphans(store: FaceStore, is_in_work: bool) -> list[str]:
    files = store.files
    # In this order: what is begun or committed meanwhile is then not taken for an orphan.
    arrays, tables = files.names("arrays"), [name for name in files.names("tracks") if name.endswith(".parquet")]
    temporaries = [] if is_in_work else _temporaries(files)
    attempts = attempts_left(files)
    in_work = set(attempts) if is_in_work else set()
    now = FaceStore.open(store.url)
    referenced = {array for array in now.read_table("tracks", ["array"])["array"].to_pylist() if array is not None}
    known = in_work | set(now.partition_names)
    return sorted(
        [
            *temporaries,
            *(
                f"arrays/{name}"
                for name in arrays
                if frames_name(name) not in referenced and name.rsplit("-", 1)[0] not in in_work
            ),
            *(f"tracks/{name}" for name in tables if name.removesuffix(".parquet") not in known),
            *(f"runs/{name}.json" for name in attempts if name not in in_work),
        ]
    )


def remove_orphans(store: FaceStore) -> list[str]:
    """Remove what :func:`find_orphans` finds. Only by who has the store alone (:func:`pipeline.runs.only_run`).

    Returns:
        What was removed.
    """
    found = set(_orphans(store, is_in_work=False))
    settle_attempts(store.files)
    left = _orphans(store, is_in_work=False)
    for name in left:
        store.files.remove(name)
    # A table that there is now is the empty one of an attempt that was settled.
    return [name for name in sorted({*found, *left}) if not store.files.exists(name)]


def settle_attempts(files: StoreFiles) -> None:
    """End what killed attempts have left open, and remove what they wrote. Only by who has the store alone.

    It looks at these alone, so that it takes as long in a store of any size; :func:`remove_orphans` looks everywhere.
    """
    for name in attempts_left(files):
        settle(files, name)
    committed = {name.removesuffix(".parquet") for name in files.names("videos")}
    tables = [name for name in files.names("tracks") if name.endswith(".parquet")]
    without_commit = [f"tracks/{name}" for name in tables if name.removesuffix(".parquet") not in committed]
    for name in [*_temporaries(files), *without_commit]:
        files.remove(name)


def _temporaries(files: StoreFiles) -> list[str]:
    """What a kill amid a write leaves."""
    return [
        *(name for name in files.names() if name.startswith(".store.json.")),
        *(
            f"{folder}/{name}"
            for folder in ("runs", "tracks", "videos")
            for name in files.names(folder)
            if name.startswith(".")
        ),
    ]


def forget_videos(
    store: FaceStore, statuses: Collection[str], asked: Callable[[list[str]], Collection[str]]
) -> list[str]:
    """Take back the rows of videos that ended so, which have no tracks, so that the next run does them again.

    Args:
        store: of which nobody else writes.
        statuses: such as ``failed``.
        asked: which of some ``video_id`` are meant.

    Returns:
        Their ``video_id``.
    """
    forgotten: list[str] = []
    for name in store.partition_names:
        videos = store.read_partition("videos", name)
        ended_so = videos.filter(pc.is_in(videos["status"], pa.array(list(statuses), pa.string())))
        if ended_so.num_rows == 0:
            continue
        chosen = pc.is_in(videos["video_id"], pa.array(list(asked(ended_so["video_id"].to_pylist())), pa.string()))
        if pc.any(chosen).as_py():
            forgotten += videos.filter(chosen)["video_id"].to_pylist()
            # One atomic replacement: a kill leaves the old rows or none.
            store.files.write(f"videos/{name}.parquet", to_parquet(videos.filter(pc.invert(chosen))))
    return forgotten


def verify_store(store: FaceStore) -> Iterator[str]:
    """Check every row against its array, one partition at a time.

    Yields:
        One line for each thing that is wrong, naming partition and track.
    """
    return (line for _, line in find_problems(store))


def drop_partition(store: FaceStore, name: str) -> list[str]:
    """Take a partition out of the store, so that the next run does its videos again. Only by who has the store alone.

    The ``videos`` file goes first: what a kill leaves then is what any killed attempt leaves.

    Returns:
        What was removed.
    """
    arrays = [f"arrays/{array}" for array in store.files.names("arrays") if array.rsplit("-", 1)[0] == name]
    removed = [f"videos/{name}.parquet", f"tracks/{name}.parquet", *arrays]
    for file in removed:
        store.files.remove(file)
    return removed


def find_problems(store: FaceStore) -> Iterator[tuple[str, str]]:
    """The name of a partition, and one line on what is wrong with it; as often as something is."""
    seen: dict[str, str] = {}
    for name in store.partition_names:
        try:
            videos, tracks = store.read_partition("videos", name), store.read_partition("tracks", name)
        except StoreFormatError as error:
            yield name, str(error)
            continue
        yield from ((name, line) for line in _verify_videos(name, videos, tracks, seen))
        stop_of_array: dict[str, int] = {}
        for row in tracks.sort_by([("array", "ascending"), ("row_start", "ascending")]).to_pylist():
            where = f"{name}: {row['video_id']} track {row['track_id']}"
            length = row["row_stop"] - row["row_start"]
            if row["row_start"] < stop_of_array.get(row["array"], 0):
                yield name, f"{where}: shares rows of {row['array']} with another track"
            stop_of_array[row["array"]] = row["row_stop"]
            if length != len(range(row["frame_start"], row["frame_stop"], row["frame_step"])):
                yield name, f"{where}: {length} rows for frames [{row['frame_start']}, {row['frame_stop']})"
            for column in PER_FRAME_COLUMNS:
                found = row[column]
                if (found is None and column not in ADDED_COLUMNS) or (found is not None and len(found) != length):
                    yield name, f"{where}: {'no' if found is None else len(found)} {column} for {length} rows"
            if row["face_label"] not in (None, face_label(row["label"], row["change_score"], store.min_change)):
                yield name, f"{where}: face_label {row['face_label']} doesn't follow from label and change_score"
            try:
                checksum = frames_checksum(store.frames(row))
                if store.has_masks:
                    store.masks(row)
            except (StoreFormatError, IndexError) as error:
                yield name, f"{where}: {error}"
            else:
                if checksum != row["checksum"]:
                    yield name, f"{where}: frames don't match their checksum"


def _verify_videos(name: str, videos: pa.Table, tracks: pa.Table, seen: dict[str, str]) -> Iterator[str]:
    """Each video once in the store, with a known status and as many tracks as its row says."""
    counts = {row["values"]: row["counts"] for row in pc.value_counts(tracks["video_id"]).to_pylist()}
    for row in videos.select(["video_id", "status", "num_tracks"]).to_pylist():
        video_id = row["video_id"]
        if video_id in seen:
            yield f"{name}: {video_id} has a row in {seen[video_id]} already"
        seen[video_id] = name
        if row["status"] not in STATUSES:
            yield f"{name}: {video_id} has the unknown status {row['status']!r}"
        if counts.pop(video_id, 0) != row["num_tracks"]:
            yield f"{name}: {video_id} should have {row['num_tracks']} tracks"
    for video_id in counts:
        yield f"{name}: tracks of {video_id}, which has no row here"


def describe_store(store: FaceStore) -> Iterator[str]:
    """What a store holds, a line each."""
    videos = store.read_table("videos", ["status", "label", "size_bytes"])
    tracks = store.read_table("tracks", ["row_start", "row_stop"])
    num_frames = sum(tracks["row_stop"].to_pylist()) - sum(tracks["row_start"].to_pylist())
    size = store.manifest["settings"]["crop"]["size"]
    stored_bytes = sum(store.files.size_bytes(folder) for folder in ("arrays", "tracks", "videos"))
    raw_bytes = num_frames * size * size * 3
    yield f"{store.url}: format version {store.manifest['format_version']}, fingerprint {store.fingerprint}"
    yield f"partitions  {len(store.partition_names)}"
    yield f"videos      {videos.num_rows} ({_counts(videos['status'].to_pylist())})"
    labels = {0: "REAL", 1: "FAKE", None: "unlabelled"}
    yield f"labels      {_counts([labels.get(label, '?') for label in videos['label'].to_pylist()])}"
    yield f"tracks      {tracks.num_rows}, {num_frames} frames of {size}x{size}"
    ratio = f", {raw_bytes / stored_bytes:.2f} times smaller than raw" if num_frames else ""
    yield f"on disk     {stored_bytes / 1e6:.1f} MB{ratio}"
    for section, values in store.manifest["settings"].items():
        yield f"{section:<11} " + ", ".join(f"{key} {value}" for key, value in values.items())


def _counts(values: list[str]) -> str:
    return ", ".join(f"{values.count(value)} {value}" for value in sorted(set(values))) or "none"
