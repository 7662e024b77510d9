"""How many bytes DVC reads to know that a store is the one it pinned, against the bytes of the store.

    python -m benchmarks.dvc_reads [STORE]

Run it in the project's folder after `dvc repro`. DVC starts with an empty cache of hashes, so it hashes all that it
watches, and every file that it opens is seen by an audit hook of the interpreter that runs it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from benchmarks.machine import describe_machine

WATCHED = """
import json, os, sys
opened = set()
def see(event, arguments):
    if event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
        opened.add(os.path.abspath(os.fsdecode(arguments[0])))
sys.addaudithook(see)
from dvc.cli import main
code = main(["status", "--quiet"])
print(json.dumps({"code": code, "opened": sorted(opened)}))
"""


def opened_by_dvc(project: Path) -> list[Path]:
    """Files that `dvc status` opens below the project, with nothing remembered of earlier calls."""
    with tempfile.TemporaryDirectory() as scratch:
        environment = os.environ | {"DVC_SITE_CACHE_DIR": scratch}
        ran = subprocess.run(  # noqa: S603
            [sys.executable, "-c", WATCHED], cwd=project, env=environment, capture_output=True, text=True, check=True
        )
    found = json.loads(ran.stdout.splitlines()[-1])
    if found["code"] != 0:
        raise SystemExit("dvc status says that something has changed; run `dvc repro` first")
    paths = [Path(name) for name in found["opened"]]
    return [path for path in paths if path.is_relative_to(project) and path.is_file()]


def main() -> None:
    project = Path.cwd()
    store = (project / (sys.argv[1] if len(sys.argv) > 1 else "data/store")).resolve()
    sizes = Counter[str]()
    for path in store.rglob("*"):
        if path.is_file():
            sizes[path.relative_to(store).parts[0]] += path.stat().st_size
    read = Counter[str]()
    for path in opened_by_dvc(project):
        if path.is_relative_to(store):
            read[path.relative_to(store).parts[0]] += path.stat().st_size
    print(describe_machine())
    print(f"{'part of the store':<20}{'bytes':>16}{'read by DVC':>16}")
    for name in sorted(sizes):
        print(f"{name:<20}{sizes[name]:>16,}{read[name]:>16,}")
    total, total_read = sizes.total(), read.total()
    print(f"{'in all':<20}{total:>16,}{total_read:>16,}   {total_read / total:.3%}")


if __name__ == "__main__":
    main()
