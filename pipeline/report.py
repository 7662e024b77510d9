"""``python -m pipeline.report STORE OUT.html``: a page to look at what an extraction came to."""

from __future__ import annotations

import os

import click

from pipeline.cli import FILE, FOLDER, debug_option, plain_errors
from pipeline.files import StoreFiles, write_file
from pipeline.pictures import AMPLIFICATION, FRAME_PIXELS
from pipeline.reporting.clip_reader import ClipReader
from pipeline.reporting.distributions_view import distributions
from pipeline.reporting.folders import largest_folders
from pipeline.reporting.notices import notices
from pipeline.reporting.page import render
from pipeline.reporting.pairs_view import pairs_views
from pipeline.reporting.score_table import read_score_table
from pipeline.reporting.scores_view import scores_view
from pipeline.reporting.store_view import failures, folder_rows, remarks, store_view
from pipeline.reporting.tally import statuses_of
from pipeline.reporting.throughput import throughput
from pipeline.reporting.tracks_view import extremes_views, sheet_view
from pipeline.schema import PER_FRAME_COLUMNS, TRACKS_SCHEMA, VIDEOS_SCHEMA
from pipeline.store import FaceStore

ENDING = ".html"
VIDEO_COLUMNS = tuple(name for name in VIDEOS_SCHEMA.names if name != "thresholds")
TRACK_COLUMNS = tuple(name for name in TRACKS_SCHEMA.names if name not in {*PER_FRAME_COLUMNS, "checksum"})
"""What is read of every track: nothing that grows with its frames."""
FOLDERS_SHOWN = 12
MOST_SHEET_TRACKS = 400
"""The page has their pictures in it, some 5 KB each."""


def make_report(store: FaceStore, num_pairs: int = 12, num_sheet: int = 48, scores: str | None = None) -> str:
    """The page of a store, as HTML; the same for the same store.

    A clip that is to be shown and can't be read has a place on the page that says so.

    Args:
        store: of which tables are read whole by column, and frames of what is shown.
        num_pairs: shown in each section of pairs at most.
        num_sheet: tracks of the contact sheet at most.
        scores: file of scores of this store.

    Raises:
        StoreFormatError: a table can't be read.
        InputError: the scores can't be read, or are of another store.
    """
    videos = store.read_table("videos", VIDEO_COLUMNS).combine_chunks()
    score_table = None if scores is None else read_score_table(scores, store, videos["video_id"])
    tracks = store.read_table("tracks", TRACK_COLUMNS).combine_chunks()
    clips = ClipReader(store)
    folders = largest_folders(videos["video_id"], FOLDERS_SHOWN)
    about = store_view(store, videos, tracks)
    of_scores = None if score_table is None else scores_view(clips, videos, tracks, score_table)
    pairs, unchanged = pairs_views(clips, videos, tracks, num_pairs)
    sections: dict[str, object] = {
        "store": about,
        "statuses": statuses_of(videos),
        "folders": folder_rows(videos, folders),
        "failures": failures(videos),
        "remarks": remarks(videos),
        "sheet": sheet_view(clips, tracks, folders, num_sheet),
        "distributions": distributions(videos, tracks),
        "extremes": extremes_views(clips, tracks, folders),
        "scores": of_scores,
        "pairs": pairs,
        "unchanged": unchanged,
        "throughput": throughput(videos),
    }
    # After all others: now every clip has been read that is shown.
    sections["notices"] = notices(about, videos, of_scores, len(clips.problems), clips.num_read)
    return render(
        **sections, damaged=sorted(clips.problems.items()), amplification=AMPLIFICATION, frame_pixels=FRAME_PIXELS
    )


@click.command()
@click.argument("store", type=FOLDER)
@click.argument("out", type=FILE, metavar="OUT.html")
@click.option(
    "--pairs",
    "num_pairs",
    metavar="N",
    type=click.IntRange(min=0),
    default=12,
    show_default=True,
    help="Pairs shown at most, and as many unchanged faces of fakes.",
)
@click.option(
    "--sheet",
    "num_sheet",
    metavar="N",
    type=click.IntRange(0, MOST_SHEET_TRACKS),
    default=48,
    show_default=True,
    help="Tracks of the contact sheet at most, sampled from all labels and folders.",
)
@click.option(
    "--scores",
    type=FILE,
    metavar="scores.parquet",
    help="Scores of this store, as written by inference.predict: adds how good they are, their calibration, and the "
    "worst videos with what each model said of them over time. Windows, tracks and models are averaged plainly.",
)
@debug_option
def main(store: str, out: str, num_pairs: int, num_sheet: int, scores: str | None, debug: bool) -> None:
    """Write a page about STORE into OUT.html: what is there, and what went wrong.

    Outcomes, failures, a contact sheet with filters, distributions, tracks that stand out, fakes beside their
    originals, where the time went, and settings. It is one file without scripts that loads nothing from anywhere. It
    shows people's faces: keep it as safe as the store.

    \b
    Example:   python -m pipeline.report data/store data/report.html \\
                   --scores results/validation/scores.parquet
    Exit code: 0 done, 1 the run failed, 2 bad usage, 130 interrupted.
    """
    with plain_errors(debug):
        folder, name = os.path.split(out)
        files = StoreFiles(folder or ".")
        if not name.lower().endswith(ENDING) or files.is_folder(name):
            raise click.UsageError(f"OUT {out!r} must be a file that ends in {ENDING}")
        page = make_report(FaceStore.open(store), num_pairs, num_sheet, scores)
        files.make_folder("")
        write_file(files, name, page.encode())
    click.echo(f"wrote {out!r}")


if __name__ == "__main__":
    main()
