"""The report in a browser: Debian's Chromium, driven by Playwright, without a network."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from pipeline.report import make_report
from tests.reports import broken, fake, original, score_rows, write_scores
from tests.stores import make_video, write_store

playwright_api = pytest.importorskip("playwright.sync_api", reason="Playwright isn't installed")

pytestmark = pytest.mark.slow

NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync",
)  # fmt: skip
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
Scheme = Literal["light", "dark"]
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with everything on it; names are as long as names are."""
    folder = tmp_path_factory.mktemp("report")
    long = "manipulated_sequences/NeuralTextures/c23/videos/" + "a_name_without_a_single_space_" * 4
    a, b = original("real/a.mp4", faces=2), original("real/b.mp4")
    videos = [
        a, fake("fake/a1.mp4", a, [9.0, 0.5]), b, fake(f"{long}1.mp4", b, [7.0]), make_video(f"{long}2.mp4", [9]),
        broken("real/x.mp4", f"/videos/real/x.mp4: {long}"), make_video("real/none.mp4"),
    ]  # fmt: skip
    store = write_store(folder / "store", [videos])
    said = {"real/a.mp4": 0.9, "fake/a1.mp4": 0.1, "real/b.mp4": 0.2, f"{long}1.mp4": None, f"{long}2.mp4": 0.7}
    scores = write_scores(folder / "scores.parquet", store, score_rows(store, said, ["mc3_18", long], 2))
    out = folder / "report.html"
    out.write_text(make_report(store, scores=scores), encoding="utf-8")
    return out


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    executable = next(filter(None, map(shutil.which, NAMES)), None)
    if executable is None:
        pytest.skip(f"no browser here: none of {', '.join(NAMES)} is in the PATH")
    with playwright_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=executable, args=list(ARGUMENTS))
        yield started
        started.close()


@pytest.fixture
def opened(browser: Any, page_file: Path) -> Iterator[Open]:
    """Opens the page; at the end it must have asked for nothing but itself, and have complained of nothing."""
    contexts: list[Any] = []
    asked: list[str] = []
    complaints: list[str] = []

    def open_page(viewport: dict[str, int] = WIDE, scheme: Scheme = "light", **options: Any) -> Any:
        contexts.append(browser.new_context(viewport=viewport, color_scheme=scheme, **options))
        page = contexts[-1].new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(page_file.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert {url for url in asked if not url.startswith("data:")} == {page_file.as_uri()}
    assert complaints == []


def shown_names(page: Any) -> list[str]:
    return [cell.locator(".id").inner_text() for cell in page.locator(".cell").all() if cell.is_visible()]


def option(page: Any, facet: str, name: str) -> Any:
    """A radio button by what a screen reader says of it."""
    return page.get_by_role("group", name=facet).locator("label", has_text=name).get_by_role("radio")


def test_it_loads_with_all_of_its_pictures(opened: Open) -> None:
    page = opened()
    assert page.title().endswith("store: face clips")
    # Pictures further down are loaded when they are near.
    page.evaluate("() => document.querySelectorAll('img').forEach(image => { image.loading = 'eager'; })")
    sizes = page.evaluate(
        "() => Promise.all([...document.images].map(i => i.decode().then(() => [i.naturalWidth, i.alt])))"
    )
    assert len(sizes) > 20
    assert all(width > 0 and alt for width, alt in sizes)


def test_a_click_filters_the_sheet(opened: Open) -> None:
    page = opened()
    everything = shown_names(page)
    assert len(everything) == 7
    option(page, "Label of the video", "FAKE").click()
    assert option(page, "Label of the video", "FAKE").is_checked()
    assert set(shown_names(page)) == {name for name in everything if "1.mp4" in name}
    # Both filters at once.
    option(page, "Folder", "fake/").click()
    assert shown_names(page) == ["fake/a1.mp4"] * 2
    counted = page.evaluate("() => getComputedStyle(document.querySelector('.shown'), '::before').content")
    assert counted == "counter(shown)"
    page.get_by_role("button", name="Show all").click()
    assert shown_names(page) == everything


def test_keys_filter_the_sheet(opened: Open) -> None:
    page = opened()
    everything = shown_names(page)
    option(page, "Label of the video", "all").focus()
    page.keyboard.press("ArrowRight")
    assert option(page, "Label of the video", "REAL").is_checked()
    assert set(shown_names(page)) == {"real/a.mp4", "real/b.mp4"}
    # One stop each filter, and nothing is sent anywhere.
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert option(page, "Label of the face", "all").evaluate("radio => radio === document.activeElement")
    page.keyboard.press("ArrowRight")
    assert set(shown_names(page)) == {"real/a.mp4", "real/b.mp4"}
    page.get_by_role("button", name="Show all").focus()
    page.keyboard.press("Space")
    assert shown_names(page) == everything


def test_what_has_the_focus_is_seen_to_have_it(opened: Open) -> None:
    page = opened()
    option(page, "Label of the video", "all").focus()
    page.keyboard.press("ArrowRight")
    outline = page.evaluate("() => getComputedStyle(document.activeElement.nextElementSibling).outlineStyle")
    assert outline == "solid"


@pytest.mark.parametrize("viewport", [PHONE, {"width": 320, "height": 700}, WIDE])
def test_the_page_does_not_scroll_sideways(opened: Open, viewport: dict[str, int]) -> None:
    page = opened(viewport)
    page.evaluate("() => document.querySelectorAll('details').forEach(one => { one.open = true; })")
    assert page.evaluate("() => document.documentElement.scrollWidth") <= viewport["width"]


def test_it_is_dark_where_that_is_preferred(opened: Open) -> None:
    def brightness(page: Any) -> float:
        colour = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        return sum(float(part) for part in re.findall(r"[\d.]+", colour)[:3]) / 3

    assert brightness(opened()) > 200
    assert brightness(opened(scheme="dark")) < 60


def test_the_skip_link_leads_past_the_navigation(opened: Open) -> None:
    page = opened()
    page.keyboard.press("Tab")
    link = page.get_by_role("link", name="Skip to the content")
    assert link.evaluate("link => link === document.activeElement && link.getBoundingClientRect().top >= 0")
    page.keyboard.press("Enter")
    assert page.evaluate("() => document.activeElement.id") == "content"
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.closest('nav')") is None


def test_links_lead_to_headings_that_the_bar_does_not_cover(opened: Open) -> None:
    page = opened(reduced_motion="reduce")
    names = [link.inner_text() for link in page.get_by_role("navigation").get_by_role("link").all()]
    assert {"Overview", "Failures", "Scores", "Settings"} <= set(names)
    for name in names:
        page.get_by_role("navigation").get_by_role("link", name=name, exact=True).click()
        section = page.evaluate("() => location.hash.slice(1)")
        top, bar = page.evaluate(
            "id => [document.querySelector(`#${id} h2`).getBoundingClientRect().top,"
            " document.querySelector('nav').getBoundingClientRect().bottom]",
            section,
        )
        assert bar <= top < WIDE["height"]


def test_printed_it_has_its_settings_and_no_navigation(opened: Open) -> None:
    page = opened()
    page.emulate_media(media="print")
    assert not page.get_by_role("navigation").is_visible()
    assert page.locator(".filters").is_hidden()
