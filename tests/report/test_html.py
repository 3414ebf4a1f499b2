"""The page: one file, nothing fetched, everything of the user's escaped; looked at in a headless Chromium."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from edgekd.report import html
from tests.report.chromium import PROGRAM, Browser
from tests.report.sample import odd, previews, sample, samples

STYLE = (Path(html.__file__).parent / "report.css").read_text("utf-8")
VOID = {"meta", "link", "br", "img", "circle", "line", "path", "!doctype"}


def named(report: dict[str, Any]) -> dict[str, list[float]]:
    found = samples(report)
    return {
        f"{target['name']}/{one['name']}": found[one["name"]]
        for target in report["targets"]
        for one in target["candidates"]
        if one["name"] in found
    }


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    texts = {"sample": html.render(sample(), samples(), previews()), "odd": html.render(odd(), named(odd()))}
    for name, text in texts.items():
        (folder / f"{name}.html").write_text(text, "utf-8")
    return {name: folder / f"{name}.html" for name in texts}


class Balance(HTMLParser):
    """Fails where a tag is closed that is not open; counts ids and collects tags."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_every_tag_is_closed_and_no_script_is_there(pages: dict[str, Path]) -> None:
    for page in pages.values():
        parser = Balance()
        parser.feed(page.read_text("utf-8"))
        assert parser.open == []
        assert not parser.seen & {"script", "iframe", "object", "form"}


def test_the_page_asks_for_nothing(pages: dict[str, Path]) -> None:
    for page in pages.values():
        text = page.read_text("utf-8")
        assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in text
        asked = re.findall(r"""(?:src|href|action)=["']([^"']*)""", text)
        assert asked[0] == "data:," and all(one.startswith("data:image/png;base64,") for one in asked[1:])
        assert not re.search(r"https?://|@import|url\(|@font-face| style=\"(?!width:)", text)


def test_what_users_wrote_is_escaped(pages: dict[str, Path]) -> None:
    text = pages["odd"].read_text("utf-8")
    assert "&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt;" in text
    assert "rack &amp; &lt;board&gt;" in text
    assert "<b>66.9 kB" not in text


def test_everything_is_on_the_page(pages: dict[str, Path]) -> None:
    text = pages["sample"].read_text("utf-8")
    for said in (
        "14.7× faster",
        "22.3× smaller",
        "its share of the allowed",
        "QLinearConv",
        "from the store",
        "p90 limit 500 µs",
    ):
        assert said in text
    for digest in sample()["provenance"]["digests"].values():
        assert digest in text


def test_what_was_calibrated_on_is_told_and_shown(pages: dict[str, Path]) -> None:
    text = pages["sample"].read_text("utf-8")
    assert "512 inputs made up by bn_statistics" in text and "No data was read for them." in text
    assert text.count("<img src=") == 1 and len(text) < 400_000
    text = pages["odd"].read_text("utf-8")
    assert "1 input from images" in text and "a single &lt;b&gt;input" in text and "&lt;i&gt;mine" in text
    assert "<img" not in text, "a picture that is not there is not asked for"


def test_what_each_layer_costs_is_drawn_and_told(pages: dict[str, Path]) -> None:
    text = pages["sample"].read_text("utf-8")
    assert text.index("body.0.conv1</text>") < text.index("stem.0</text>") < text.index("body.1.conv1</text>")
    assert "0.0187 · float" in text and "0.00081 · 4 bits" in text
    assert (
        "In float: body.0.conv1. On validation, 1.50 points lost with every layer quantized; 0.20 points lost so"
        in text
    )
    assert "body.0.conv1 in float: 1.06× slower than with it quantized" in text
    assert "58.9 kB of 60.0 kB" in text
    odd_page = pages["odd"].read_text("utf-8")
    assert "and 16 more layers" in odd_page and "<b>layer</b>" not in odd_page


def test_predictions_of_a_pruning_are_told_beside_measurements(pages: dict[str, Path]) -> None:
    text = pages["sample"].read_text("utf-8")
    part = text[text.index("Pruned to a budget: predicted and measured</h2>") :]
    assert "predicted 400 µs, measured 392 µs (−2.0%), the whole student 820 µs" in part[: part.index("</section>")]
    assert "&lt;b&gt;mine" in pages["odd"].read_text("utf-8")


def test_what_was_tried_is_drawn_and_told(pages: dict[str, Path]) -> None:
    """Four students were measured, two of them distilled; the losses have a table and no picture."""
    text = pages["sample"].read_text("utf-8")
    picture = text[text.index("latency and similarity to the teacher, before any training") :]
    picture = picture[: picture.index("</svg>")]
    assert picture.count('<g class="disc') == 4 and picture.count('class="disc integer"') == 2
    assert picture.count('class="ring"') == 1 and 'class="limit"' in picture
    assert "width = 16, depth = 2: 390 µs, similarity −0.0241, chosen" in picture
    assert "5 students tried within a latency of 0.5x (410 µs)" in text and "2 of them distilled briefly" in text
    assert "2 sets of losses tried within 60 epochs" in text and "ValueError: width must be a multiple of 8" in text
    assert text.count("before any training</h3>") == 1


def test_a_report_of_almost_nothing_is_drawn() -> None:
    report = sample()
    report.update(ledger=[], plan=[], first_loss=None, calibration=[], sensitivity=[], search=[], pruned=[])
    report["targets"][0].update(
        candidates=[], chosen=None, reason="No engine could be chosen.", race=None, samples_file=None
    )
    text = html.render(report, {})
    assert "No engine keeps the budget" in text
    assert "<figure>" not in text


def test_two_renderings_are_equal(pages: dict[str, Path]) -> None:
    assert html.render(sample(), samples(), previews()) == pages["sample"].read_text("utf-8")


def colours(scheme: str) -> dict[str, str]:
    light, _, rest = STYLE.partition("@media screen and (prefers-color-scheme: dark)")
    found = dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6})", light))
    return found | (dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6})", rest)) if scheme == "dark" else {})


def luminance(colour: str) -> float:
    """Relative luminance. Source: WCAG 2.1, https://www.w3.org/TR/WCAG21/#dfn-relative-luminance."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_contrast(scheme: str) -> None:
    """Text at least 4.5 to 1 on what it stands on (WCAG 2.1, 1.4.3)."""
    found = colours(scheme)
    pairs = [(text, "paper") for text in ("ink", "soft", "good", "bad", "teacher", "integer", "float")]
    for text, ground in [*pairs, ("good", "wash"), ("bad", "badwash")]:
        low, high = sorted((luminance(found[text]), luminance(found[ground])))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (text, ground)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if PROGRAM is None:
        pytest.skip("chromium is not installed")
    opened = Browser()
    yield opened
    opened.close()


OVERFLOW = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"

CUT = """[...document.querySelectorAll('h1,h2,h3,p,dt,dd,th,td,small,li,code,.pill')].filter(e => {
  const box = e.getBoundingClientRect();
  return box.width && !e.closest('thead') && (e.scrollWidth > e.clientWidth + 1 && e.clientWidth
    || box.right > document.documentElement.clientWidth + 1 || box.left < -1);
}).map(e => e.tagName + ': ' + e.textContent.slice(0, 50))"""

PICTURES = """[...document.querySelectorAll('svg')].filter(s => s.getBoundingClientRect().width).flatMap(svg => {
  const frame = svg.getBoundingClientRect();
  const texts = [...svg.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()]);
  const out = texts.filter(([_, b]) => b.left < frame.left - 1 || b.right > frame.right + 1
    || b.top < frame.top - 1 || b.bottom > frame.bottom + 1).map(([t]) => 'outside: ' + t);
  const over = texts.flatMap(([t, a], i) => texts.slice(0, i).filter(([_, b]) =>
    Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 4
  ).map(([u]) => 'over: ' + t + ' / ' + u));
  return [...out, ...over];
})"""


@pytest.mark.parametrize("page", ["sample", "odd"])
@pytest.mark.parametrize("width", [320, 390, 768, 921, 1280])
def test_nothing_is_cut_or_overlaps_at_any_width(
    browser: Browser, pages: dict[str, Path], page: str, width: int
) -> None:
    browser.open(pages[page], width=width)
    scroll, client = browser.eval(OVERFLOW)
    assert client == width
    assert scroll <= client
    assert browser.eval(CUT) == []
    assert browser.eval(PICTURES) == []


def test_no_request_and_nothing_on_the_console(browser: Browser, pages: dict[str, Path]) -> None:
    for page in pages.values():
        browser.open(page)
        browser.eval("new Promise(done => setTimeout(done, 300))")
        asked = [event["request"]["url"] for event in browser.happened("Network.requestWillBeSent")]
        assert [url for url in asked if not url.startswith("data:")] == [page.as_uri()]
        for event in ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown"):
            assert browser.happened(event) == []


def test_its_policy_would_stop_a_request(browser: Browser, pages: dict[str, Path], tmp_path: Path) -> None:
    """The check above can fail: an image put into the page is refused, and the console says so."""
    copy = tmp_path / "copy.html"
    copy.write_text(pages["sample"].read_text("utf-8").replace("<main>", '<main><img src="other.png" alt="">'), "utf-8")
    browser.open(copy)
    assert any("Content Security Policy" in event["entry"]["text"] for event in browser.happened("Log.entryAdded"))


def test_a_phone_shows_the_narrow_pictures_in_readable_letters(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["sample"], width=390)
    assert browser.eval("[...document.querySelectorAll('.wide')].every(e => !e.offsetWidth)")
    shown = "[...document.querySelectorAll('svg text')].filter(t => t.getBoundingClientRect().width)"
    assert browser.eval(f"Math.min(...{shown}.map(t => parseFloat(getComputedStyle(t).fontSize)))") >= 11
    assert browser.eval(
        "[...document.querySelectorAll('.narrow svg')].every(s => s.getBoundingClientRect().width >= 349)"
    )


def test_dark_mode_is_dark_and_print_is_not(browser: Browser, pages: dict[str, Path]) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    browser.open(pages["sample"], scheme="dark")
    assert browser.eval(ground) == "rgb(19, 22, 21)"
    browser.open(pages["sample"], scheme="light")
    assert browser.eval(ground) == "rgb(255, 255, 255)"
    browser.open(pages["sample"], width=703, scheme="dark", media="print")
    assert browser.eval(ground) == "rgb(255, 255, 255)"


@pytest.mark.parametrize("page", ["sample", "odd"])
def test_paper_holds_everything(browser: Browser, pages: dict[str, Path], page: str) -> None:
    """A4 less 12 mm margins is 186 mm: 703 pixels."""
    browser.open(pages[page], width=703, media="print")
    scroll, client = browser.eval(OVERFLOW)
    assert scroll <= client
    assert browser.eval(CUT) == []
    assert browser.eval(PICTURES) == []
    assert browser.eval("[...document.querySelectorAll('.wide')].every(e => e.offsetWidth > 600)")
    assert browser.pdf().startswith(b"%PDF")


def test_it_can_be_read_aloud(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["sample"], width=390)
    assert browser.eval("document.documentElement.lang") == "en"
    assert browser.eval(
        "[...document.querySelectorAll('svg')].every(s => s.getAttribute('role') && s.getAttribute('aria-label'))"
    )
    assert browser.eval("[...document.querySelectorAll('table')].every(t => t.getAttribute('role') == 'table')")
    assert browser.eval("[...document.querySelectorAll('thead th')].every(t => t.scope == 'col')")
    assert browser.eval("[...document.querySelectorAll('tbody th')].every(t => t.scope == 'row')")
    assert browser.eval("document.querySelectorAll('h1').length") == 1
