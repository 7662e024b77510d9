"""``python -m pipeline.index VIDEOS OUT.parquet``: the index of the input that everything else starts from."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.catalog import INDEX_ENDING, build_index, write_index
from pipeline.cli import FILE, OneGlob, debug_option, plain_errors


@click.command(cls=OneGlob)
@click.argument("videos", type=FILE)
@click.argument("out", type=FILE, metavar="OUT.parquet")
@click.option(
    "--labels",
    type=FILE,
    metavar="FILE",
    help="Labels: DFDC's metadata.json, Celeb-DF's list, or a CSV. '': none given.",
)
@debug_option
def main(videos: str, out: str, labels: str | None, debug: bool) -> None:
    """List the videos below VIDEOS with their labels and groups in OUT.parquet.

    VIDEOS is a folder (searched through), one video, a quoted glob, or an index. Without --labels, every DFDC
    metadata.json found is read, and the folder layouts of FaceForensics++ and Celeb-DF are recognised.

    A CSV has the columns path,label[,original][,group]; a label is REAL or 0, FAKE or 1, or empty.

    \b
    Example:   python -m pipeline.index data/sample/train data/index.parquet \\
                   --labels data/sample/labels.csv
    Exit code: 0 done, 1 the run failed, 2 bad usage, 130 interrupted.
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
