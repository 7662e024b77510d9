"""``python -m pipeline.index VIDEOS OUT.parquet``: the index of the input that everything else starts from."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.catalog import INDEX_ENDING, build_index, write_index
from pipeline.cli import debug_option, plain_errors


@click.command()
@click.argument("videos")
@click.argument("out", metavar="OUT.parquet")
@click.option(
    "--labels",
    metavar="FILE",
    help="Labels: DFDC's metadata.json, Celeb-DF's list of test videos, or a CSV. '': none given.",
)
@debug_option
def main(videos: str, out: str, labels: str | None, debug: bool) -> None:
    """Lists the videos below VIDEOS with their labels and groups in OUT.parquet.

    VIDEOS is a folder (searched through), one video, a quoted glob, or an index. Without --labels, every DFDC
    metadata.json found is read, and the folder layouts of FaceForensics++ and Celeb-DF are recognised.

    A CSV has the columns path,label[,original][,group]; a label is REAL or 0, FAKE or 1, or empty.
    """
    with plain_errors(debug):
        if not out.lower().endswith(INDEX_ENDING) or Path(out).is_dir():
            raise click.UsageError(
                f"OUT {out!r} must be a file that ends in {INDEX_ENDING}, or no command will know it"
            )
        index, report = build_index(videos, labels or None)
        write_index(out, index)
    for line in report.lines():
        click.echo(line)
    click.echo(f"wrote {out!r}")


if __name__ == "__main__":
    main()
