"""``python -m notebooks.render``: the notebook, executed, as a page of the documentation with its pictures beside it.

A page in a repository shows neither pictures inside of its text nor videos nor styles. So pictures become files, made
small, a video one that moves, and styles go. Everything else is as the notebook shows it.
"""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import av
import nbformat
from nbconvert.exporters import MarkdownExporter
from nbconvert.preprocessors import ExecutePreprocessor
from nbformat import NotebookNode
from PIL import Image

PROJECT = Path(__file__).parent.parent
NOTEBOOK = PROJECT / "notebooks" / "inspect_clips.ipynb"
PAGE = PROJECT / "docs" / "inspect-clips.md"
PICTURES = "images/inspect-clips"
"""Folder of the pictures, from the page's."""
HEAD = "<!-- Made by `make notebook` from notebooks/inspect_clips.ipynb: change that, not this page. -->\n\n"

JPEG_QUALITY = 88
MOST_COLOURS_DRAWN = 4096
"""Lines and letters with their soft edges have fewer, photographs more."""
MOVING_PIXELS, MOVING_EVERY = 192, 2
"""Width of a picture that moves, and which frames of the video it shows."""
_STYLE = re.compile(r"<style.*?</style>\s*", re.DOTALL)
_PICTURE = re.compile(r'src="data:image/jpeg;base64,([^"]+)"')
_VIDEO = re.compile(r'<video[^>]* src="data:video/mp4;base64,([^"]+)"[^>]*>.*?</video>', re.DOTALL)


def main() -> None:
    """Execute the notebook in the project's folder, where its paths begin, and write the page."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]
    executor = ExecutePreprocessor(timeout=600, kernel_name="python3")  # type: ignore[no-untyped-call]
    executor.preprocess(notebook, {"metadata": {"path": str(PROJECT)}})
    text, pictures = page_of(notebook)
    folder = PAGE.parent / PICTURES
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    for name, content in pictures.items():
        (folder / name).write_bytes(content)
    PAGE.write_text(text, encoding="utf-8")
    size = sum(map(len, pictures.values()))
    print(f"wrote {PAGE} with {len(pictures)} pictures of {size / 1e6:.2f} MB")  # noqa: T201


def page_of(notebook: NotebookNode) -> tuple[str, dict[str, bytes]]:
    """An executed notebook as markdown, and the pictures it names by file name. The notebook's outputs are changed."""
    pictures: dict[str, bytes] = {}
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if "image/png" in data:
                ending, content = small_picture(base64.b64decode(data["image/png"]))
                output.data = {
                    "text/markdown": f"![{cell.id.replace('-', ' ')}]({_add(pictures, cell.id, ending, content)})"
                }
            elif "text/html" in data:
                output.data = {"text/html": _plain_html(data["text/html"], cell.id, pictures)}
    text, _ = MarkdownExporter().from_notebook_node(notebook)  # type: ignore[no-untyped-call]
    return f"{HEAD}{text.strip()}\n", pictures


def small_picture(png: bytes) -> tuple[str, bytes]:
    """A picture's ending and contents: a PNG of 256 colours of what is drawn, a JPEG where there are photographs."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    buffer = io.BytesIO()
    if picture.getcolors(MOST_COLOURS_DRAWN) is None:
        picture.save(buffer, "jpeg", quality=JPEG_QUALITY, optimize=True)
        return "jpg", buffer.getvalue()
    picture.quantize(256, dither=Image.Dither.NONE).save(buffer, "png", optimize=True)
    return "png", buffer.getvalue()


def moving_picture(mp4: bytes) -> bytes:
    """A video as an animated WebP, smaller and with fewer frames."""
    with av.open(io.BytesIO(mp4), "r") as container:
        milliseconds = round(1000 * MOVING_EVERY / float(container.streams.video[0].average_rate or 30))
        every = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)][::MOVING_EVERY]
    height = round(MOVING_PIXELS * every[0].shape[0] / every[0].shape[1])
    first, *others = (Image.fromarray(rgb).resize((MOVING_PIXELS, height)) for rgb in every)
    buffer = io.BytesIO()
    first.save(buffer, "webp", save_all=True, append_images=others, duration=milliseconds, loop=0, quality=60)
    return buffer.getvalue()


def _plain_html(html: str, cell_id: str, pictures: dict[str, bytes]) -> str:
    def video(match: re.Match[str]) -> str:
        name = _add(pictures, cell_id, "webp", moving_picture(base64.b64decode(match[1])))
        return f'<img src="{name}" alt="the clip, moving"><p>In the notebook this is a video with controls.</p>'

    def picture(match: re.Match[str]) -> str:
        return f'src="{_add(pictures, cell_id, "jpg", base64.b64decode(match[1]))}"'

    return _PICTURE.sub(picture, _VIDEO.sub(video, _STYLE.sub("", html)))


def _add(pictures: dict[str, bytes], cell_id: str, ending: str, content: bytes) -> str:
    """Keep a picture under a name of its own, and say where the page finds it."""
    number = sum(name.startswith(f"{cell_id}.") for name in pictures) + 1
    name = f"{cell_id}.{number}.{ending}"
    pictures[name] = content
    return f"{PICTURES}/{name}"


if __name__ == "__main__":
    main()
