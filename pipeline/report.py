"""``python -m pipeline.report STORE OUT.html``: a page to look at what an extraction came to."""

from __future__ import annotations

import os

import click

from pipeline.cli import debug_option, plain_errors
from pipeline.files import StoreFiles, write_file
from pipeline.page import render
from pipeline.pairs_view import TRACK_COLUMNS, pairs_views
from pipeline.pictures import AMPLIFICATION, FRAME_PIXELS
from pipeline.store import FaceStore
from pipeline.store_view import failures, store_view

ENDING = ".html"
VIDEO_COLUMNS = (
    "video_id", "path", "label", "source_id", "status", "error_type", "message", "tracks_from", "pairing_note",
)  # fmt: skip


def make_report(store: FaceStore, num_pairs: int) -> str:
    """The page of a store, as HTML; the same for the same store.

    Args:
        store: of which tables are read whole by column, and frames of what is shown.
        num_pairs: shown in each section at most.

    Raises:
        StoreFormatError: a table, or a clip that is to be shown, can't be read.
    """
    videos = store.read_table("videos", VIDEO_COLUMNS)
    tracks = store.read_table("tracks", TRACK_COLUMNS)
    pairs, unchanged = pairs_views(store, videos, tracks, num_pairs)
    return render(
        store=store_view(store, videos, tracks),
        pairs=pairs,
        unchanged=unchanged,
        failures=failures(videos),
        amplification=AMPLIFICATION,
        frame_pixels=FRAME_PIXELS,
    )


@click.command()
@click.argument("store")
@click.argument("out", metavar="OUT.html")
@click.option(
    "--pairs",
    "num_pairs",
    metavar="N",
    type=click.IntRange(min=0),
    default=12,
    show_default=True,
    help="Pairs shown at most, and as many unchanged faces of fakes.",
)
@debug_option
def main(store: str, out: str, num_pairs: int, debug: bool) -> None:
    """Writes a page about STORE into OUT.html: outcomes, labels, failures, and fakes beside their originals.

    It is one file without scripts that loads nothing from anywhere. It shows people's faces: keep it as safe as the
    store.
    """
    with plain_errors(debug):
        folder, name = os.path.split(out)
        files = StoreFiles(folder or ".")
        if not name.lower().endswith(ENDING) or files.is_folder(name):
            raise click.UsageError(f"OUT {out!r} must be a file that ends in {ENDING}")
        page = make_report(FaceStore.open(store), num_pairs)
        files.make_folder("")
        write_file(files, name, page.encode())
    click.echo(f"wrote {out!r}")


if __name__ == "__main__":
    main()
