"""The report in a real browser, opened from a file, wide and narrow, light and dark."""

import re
import shutil

import numpy as np
import pytest

from jaxgen.evaluation.report import page

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
VIEWS = [(width, scheme) for width in (1280, 390) for scheme in ("light", "dark")]


def run(name, seed):
    rng = np.random.default_rng(seed)
    pictures = lambda *axes: rng.integers(0, 256, (*axes, 8, 8, 1), dtype=np.uint8)
    count = 60
    figures = {"frechet_distance": 4.2, "precision": 0.8, "recall": 0.75, "caption_agreement": 0.9, "memorised": 0.5}
    metrics = figures | {f"{key}_real": 1.01 * value for key, value in figures.items()}
    metrics |= {f"{key}_class_gaussian": 0.8 * value for key, value in figures.items()}
    metrics |= {
        "geneval_a_rather_long_name_without_a_break_in_it": 0.25,
        "intervals": {key: [0.9 * value, 1.1 * value] for key, value in figures.items()},
        "flags": ["recall: fewer than 500 samples"],
        "confusion": {"labels": list(range(20)), "counts": rng.integers(0, 40, (20, 20)).tolist()},
        "features": "a_long_name_of_features_without_any_place_to_break_" * 3,
    }
    return page.EvaluatedRun(
        name=name,
        metrics=metrics,
        images=pictures(count),
        captions=[f"the digit 数字 {i} " + "unbroken" * (10 if i % 7 == 0 else 0) for i in range(count)],
        real=pictures(count),
        neighbours=pictures(count, 5),
        distances=rng.uniform(1, 9, (count, 5)),
        curves=[{"step": 20 * i, "loss": 1 / (i + 1), "loss_by_time/0.00-0.50": 0.5, "reward": i} for i in range(90)],
        options={f"model.{'deep.' * i}option": "value" * i for i in range(9)},
        differences={"model.deep.deep.deep.deep.deep.deep.deep.deep.width": (64, "x" * 90)},
        recipe="configs/quickstart.py",
        versions={"jax": "0.10.0"},
    )


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="needs the Python package playwright")
    program = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)
    if program is None:
        pytest.skip("needs Chromium or Chrome on the path")
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=FLAGS.split())
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(
        page.render([run("one", 0), run("a-run-of-a-long-name-" * 3, 1)], f"Evaluation of {'unbroken' * 12}"), encoding="utf-8"
    )
    return path


@pytest.fixture(scope="module", params=VIEWS, ids=lambda view: f"{view[0]}-{view[1]}")
def view(browser, file, request):
    """The opened page, what it said and what it asked for; every fold open."""
    width, scheme = request.param
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    said, asked = [], []
    page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: said.append(f"error: {error}"))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file.as_uri())
    page.evaluate("() => { for (const fold of document.querySelectorAll('details')) fold.open = true; }")
    page.evaluate("() => Promise.all([...document.images].map(image => image.decode().catch(() => null)))")
    yield page, said, asked, width, scheme
    page.close()


def luminance(colour):
    """Relative luminance of WCAG 2.1 of a computed colour."""
    channels = np.array([float(part) for part in re.findall(r"[\d.]+", colour)[:3]]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


def test_the_browser_has_nothing_to_complain_about(view):
    assert not [line for line in view[1] if line.startswith(("error", "warning"))]


def test_nothing_is_fetched(view, file):
    assert [url for url in view[2] if not url.startswith("data:")] == [file.as_uri()]


def test_the_page_does_not_scroll_sideways(view):
    width, inner = view[0].evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert inner == view[3] and width <= inner


def test_every_picture_is_decoded(view):
    widths = view[0].evaluate("[...document.images].map(image => image.naturalWidth)")
    assert len(widths) > 300 and min(widths) > 0


def test_small_pictures_are_crisp_whole_multiples(view):
    shown = view[0].evaluate(
        """[...document.images].map(image => [
          image.clientWidth / image.naturalWidth, image.clientWidth / image.clientHeight, getComputedStyle(image).imageRendering
        ])"""
    )
    assert {(scale == round(scale), ratio, kind) for scale, ratio, kind in shown} == {(True, 1, "pixelated")}


def test_the_background_follows_the_scheme(view):
    found = luminance(view[0].evaluate("getComputedStyle(document.body).backgroundColor"))
    assert found < 0.05 if view[4] == "dark" else found > 0.8


def test_text_stands_out_from_what_is_behind_it(view):
    """Every element with text of its own, against the nearest opaque background."""
    pairs = view[0].evaluate(
        """() => {
          const found = new Map();
          for (const element of document.querySelectorAll('body *')) {
            if (element.closest('.hidden')) continue;
            if (![...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim())) continue;
            let behind = element, colour = 'rgba(0, 0, 0, 0)';
            while (behind && colour === 'rgba(0, 0, 0, 0)') {
              colour = getComputedStyle(behind).backgroundColor;
              behind = behind.parentElement;
            }
            const style = getComputedStyle(element);
            const ink = element.namespaceURI.endsWith('svg') ? style.fill : style.color;
            if (element.tagName !== 'title') found.set(ink + ' on ' + colour, [ink, colour, element.outerHTML.slice(0, 80)]);
          }
          return [...found.values()];
        }"""
    )
    assert len(pairs) >= 5
    for ink, behind, where in pairs:
        if behind.startswith("color("):  # what color-mix computes to, with channels from 0 to 1
            behind = " ".join(str(255 * float(part)) for part in re.findall(r"(?<=[ ])[\d.]+", behind)[:3])
        lighter, darker = sorted((luminance(ink), luminance(behind)), reverse=True)
        assert (lighter + 0.05) / (darker + 0.05) >= 4.5, f"{ink} on {behind}: {where}"


def test_lines_stand_out_from_the_chart(view):
    strokes = set(view[0].evaluate("[...document.querySelectorAll('.chart path.line')].map(path => getComputedStyle(path).stroke)"))
    behind = view[0].evaluate("getComputedStyle(document.querySelector('.chart')).backgroundColor")
    assert len(strokes) == 2
    for stroke in strokes:
        lighter, darker = sorted((luminance(stroke), luminance(behind)), reverse=True)
        assert (lighter + 0.05) / (darker + 0.05) >= 3
