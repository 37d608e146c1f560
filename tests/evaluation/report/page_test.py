import base64
import html.parser
import io
import math
import re

import numpy as np
import pytest
from PIL import Image

from jaxgen.evaluation.report import curves, markup, metrics, pictures
from jaxgen.evaluation.report.page import EvaluatedRun, render

VOID = {"meta", "img", "br"}
METRICS = {
    "frechet_distance": 4.2,
    "frechet_distance_real": 2.0,
    "frechet_distance_class_gaussian": 12.5,
    "recall": 0.75,
    "recall_real": 0.8,
    "caption_agreement": 0.9,
    "judge_accuracy": 0.983,
    "nfe": 25,
    "intervals": {"frechet_distance": [4.0, 4.5], "recall": [0.7, 0.79]},
    "flags": ["recall: fewer than 50 samples"],
    "samples": 60,
    "step": 3000,
    "weights": "ema 0.999",
    "sampler": {"steps": 25},
    "confusion": {"labels": ["cat", "dog"], "counts": [[5, 1], [0, 6]]},
}


class Page(html.parser.HTMLParser):
    """Elements in order, as (tag, attributes, text within up to the next tag), and whether tags are balanced."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open = [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append([tag, dict(attributes), ""])
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append([tag, dict(attributes), ""])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        self.elements.append(["/" + tag, {}, ""])

    def handle_data(self, data):
        if self.elements:
            self.elements[-1][2] += data

    def all(self, tag):
        return [(attributes, text) for name, attributes, text in self.elements if name == tag]

    @property
    def text(self):
        return " ".join(text for tag, _, text in self.elements if tag != "style")


def run(name="first", count=60, side=8, channels=1, nearest=3, seed=0, **changes):
    rng = np.random.default_rng(seed)
    drawn = lambda *axes: rng.integers(0, 256, (*axes, side, side, channels), dtype=np.uint8)
    words = ("one", "two", "three", "七")
    values = {
        "metrics": METRICS,
        "images": drawn(count),
        "captions": [f"picture {i} of {words[i % 4]}" for i in range(count)],
        "real": drawn(count),
        "neighbours": drawn(count, nearest),
        "distances": np.sort(rng.uniform(1, 2, (count, nearest))),
        "curves": [{"step": 20 * i, "loss": 1 / (i + 1), "loss_by_time/0.00-0.50": None if i < 2 else 0.5} for i in range(9)],
        "options": {"seed": seed, "model.width": 64},
        "differences": {},
        "recipe": "configs/quickstart.py:long",
        "versions": {"jax": "0.10.0"},
    }
    return EvaluatedRun(name=name, **(values | changes))


def decoded(attributes):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(attributes["src"].partition(",")[2]))))


def rows(page):
    """Cells of the table of all metrics by the metric's name, tags stripped."""
    table = re.search(r'<table class="metrics">.*?</table>', page, re.S)[0]
    found = {}
    for row in re.findall(r"<tr><th scope=\"row\">.*?</tr>", table):
        key = re.search(r"<code>(.*?)</code>", row)[1]
        found[key] = [re.sub(r"<[^>]*>", " ", cell).split() for cell in re.findall(r"<td.*?</td>", row)]
    return found


def test_the_page_has_headings_landmarks_and_balanced_tags():
    page = Page(render([run()], "A title"))
    assert not page.open
    assert [text for _, text in page.all("title")][0] == "A title"
    assert [text for _, text in page.all("h2")] == [
        "Key figures",
        "All metrics",
        "What the judge saw",
        "Samples beside real pictures",
        "Nearest training pictures",
        "Training",
        "Configuration",
    ]
    assert all(page.all(tag) for tag in ("header", "nav", "main"))
    anchors = {attributes["id"] for attributes, _ in page.all("section")}
    assert {attributes["href"] for attributes, _ in page.all("a")} == {f"#{anchor}" for anchor in anchors}


def test_nothing_is_loaded_and_nothing_runs():
    text = render([run(), run("second")], "Title")
    page = Page(text)
    assert not page.all("script") and not page.all("link") and "http:" not in text and "https:" not in text
    assert "url(" not in text and "@import" not in text
    assert all(attributes["src"].startswith("data:image/") for attributes, _ in page.all("img"))
    assert not [name for _, attributes, _ in page.elements for name in attributes if name.startswith("on")]
    (policy,) = [a["content"] for a, _ in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")


def test_all_text_is_escaped():
    bad = '<script>alert("1")</script>&\'"><img src=x onerror=alert(1)>'
    faulty = run(
        name=bad,
        count=2,
        captions=[bad, bad],
        metrics=METRICS
        | {bad: 1.0, "flags": [bad], "weights": bad, "sampler": {bad: bad}, "confusion": {"labels": [bad], "counts": [[1]]}},
        curves=[{"step": 1, "loss": 1.0, bad: 2.0}],
        options={bad: bad},
        differences={bad: (bad, bad)},
        recipe=bad,
        versions={bad: bad},
    )
    for runs in ([faulty], [faulty, run(versions={bad: "2"})]):
        page = Page(render(runs, bad))
        assert not page.open and not page.all("script")
        assert all("onerror" not in attributes and attributes["src"] != "x" for attributes, _ in page.all("img"))
        assert bad in page.text


def test_every_picture_has_an_alternative_text():
    images = Page(render([run()], "Title")).all("img")
    assert images and all(attributes["alt"].strip() for attributes, _ in images)


def test_captions_stand_beside_their_real_picture_and_their_sample():
    one, other = run(), run("second", seed=1)
    page = Page(render([one, other], "Title"))
    shown = {attributes["alt"]: decoded(attributes) for attributes, _ in page.all("img") if "training" not in attributes["alt"]}
    chosen = pictures.varied(one.captions, pictures.SHOWN)
    assert len(chosen) == pictures.SHOWN
    for i in range(60):
        np.testing.assert_array_equal(shown[f"Real picture for: {one.captions[i]}"], one.real[i, ..., 0])
        np.testing.assert_array_equal(shown[f"Sample of first for: {one.captions[i]}"], one.images[i, ..., 0])
        np.testing.assert_array_equal(shown[f"Sample of second for: {one.captions[i]}"], other.images[i, ..., 0])


def test_runs_of_other_captions_are_matched_by_caption():
    one = run(count=3, captions=["a", "b", "c"])
    other = run("second", count=2, seed=1, captions=["c", "a"])
    text = render([one, other], "Title")
    shown = {a["alt"]: decoded(a) for a, _ in Page(text.split('id="neighbours"')[0]).all("img")}
    np.testing.assert_array_equal(shown["Sample of second for: a"], other.images[1, ..., 0])
    np.testing.assert_array_equal(shown["Sample of second for: c"], other.images[0, ..., 0])
    assert "Sample of second for: b" not in shown and text.count("no sample") == 1


def test_a_varied_choice_covers_the_classes_of_all_languages():
    """Also one that comes up ten times less often than the others, before further captions of those."""
    classes = ("zebra", "an apple", "数字七", "数字八") * 30 + ("a quince",) * 3
    captions = [f"{word}, wording {i % 2}" for i, word in enumerate(classes)]
    chosen = pictures.varied(captions, 8)
    assert len(set(chosen)) == 8 and chosen == sorted(chosen)
    text = " ".join(captions[i] for i in chosen)
    assert all(word in text for word in ("zebra", "apple", "七", "八", "quince"))


def test_a_varied_choice_of_equal_captions_is_spread():
    chosen = pictures.varied([""] * 1000, 10)
    assert len(set(chosen)) == 10 and max(np.diff([0, *chosen, 1000])) < 250
    assert pictures.varied(["a", "b"], 40) == [0, 1] and pictures.varied([], 40) == []


def test_the_most_suspicious_samples_come_first():
    distances = np.full((60, 3), 5.0)
    distances[17] = (0.001, 5.0, 5.0)
    distances[40] = (math.nan, 5.0, 5.0)
    faulty = run(distances=distances)
    section = render([faulty], "Title").split('id="neighbours-title"')[1].split("</section>")[0]
    images = Page("<section><h2" + section + "</section>").all("img")
    np.testing.assert_array_equal(decoded(images[0][0]), faulty.images[17, ..., 0])
    for rank in range(3):
        np.testing.assert_array_equal(decoded(images[1 + rank][0]), faulty.neighbours[17, rank, ..., 0])
    assert "at distance 1.00e-03" in images[1][0]["alt"] or "at distance 0.001" in images[1][0]["alt"]
    suspicious = section.split("Taken at random")[0]
    assert f"for: {faulty.captions[40]}&" not in suspicious and faulty.captions[40] + '"' not in suspicious


def test_without_neighbours_or_a_judge_or_a_log_the_page_is_shorter():
    page = Page(render([run(nearest=0, metrics={"frechet_distance": 3.0}, curves=[])], "Title"))
    headings = ["Key figures", "All metrics", "Samples beside real pictures", "Training", "Configuration"]
    assert [text for _, text in page.all("h2")] == headings
    assert "No log of the training" in page.text


def test_metrics_stand_beside_their_references_and_intervals():
    found = rows(render([run()], "Title"))
    assert found["frechet_distance"] == [["4.20", "[4.00,", "4.50]"], ["2.00"], ["12.5"]]
    assert found["caption_agreement"] == [["0.900"], ["0.983", "judge_accuracy"], ["–"]]
    assert found["nfe"] == [["25"], ["–"], ["–"]]
    assert "judge_accuracy" not in found and "frechet_distance_real" not in found


def test_flags_are_shown_beside_their_metric_and_on_top():
    text = render([run()], "Title")
    assert rows(text)["recall"][0][-5:] == ["⚠", "fewer", "than", "50", "samples"]
    assert "recall: fewer than 50 samples" in Page(text.split('id="metrics"')[0]).text


@pytest.mark.parametrize("value", [None, math.nan])
def test_what_was_not_measured_is_a_dash(value):
    found_metrics = METRICS | {"recall": value, "intervals": {"frechet_distance": [math.nan, 2.0]}, "confusion": None, "flags": []}
    found = rows(render([run(metrics=found_metrics)], "Title"))
    assert found["recall"][0] == ["–"] and found["frechet_distance"][0] == ["4.20"]


def test_unknown_metrics_are_shown_and_grouped():
    found_metrics = {
        "geneval": 0.8,
        "geneval_counting": 0.5,
        "zeal_a": 1.5,
        "zeal_b": 2.5,
        "single": 3.5,
        "colour_shape_count_unseen": 0.4,
    }
    text = render([run(metrics=found_metrics)], "Title")
    assert {key: cells[0] for key, cells in rows(text).items()} == {
        "geneval": ["0.800"],
        "geneval_counting": ["0.500"],
        "zeal_a": ["1.50"],
        "zeal_b": ["2.50"],
        "single": ["3.50"],
        "colour_shape_count_unseen": ["0.400"],
    }
    groups = re.findall(r'scope="colgroup">(.*?)</th>', text)
    assert groups == ["Agreement with captions", "GenEval", "zeal", "Other figures"]


def test_several_runs_have_a_column_each_and_a_dash_where_one_lacks_a_metric():
    other = {"frechet_distance": 9.0, "extra": 1.25, "intervals": {"frechet_distance": [8.0, 9.5]}}
    text = render([run(), run("second", metrics=other)], "Title")
    found = rows(text)
    assert [cell[0] for cell in found["frechet_distance"][:2]] == ["4.20", "9.00"]
    assert [cell[0] for cell in found["extra"][:2]] == ["–", "1.25"]
    assert [cell[0] for cell in found["nfe"][:2]] == ["25", "–"]


@pytest.mark.parametrize(
    ("values", "intervals", "best"),
    [
        ((4.0, 9.0), ([3.5, 4.5], [8.0, 10.0]), 0),
        ((9.0, 4.0), ([8.0, 10.0], [3.5, 4.5]), 1),
        ((4.0, 5.0), ([3.5, 4.7], [4.6, 5.5]), None),
        ((4.0, 9.0), ([3.5, 4.5], None), None),
    ],
)
def test_a_run_is_best_only_beyond_both_intervals(values, intervals, best):
    runs = [
        run(name, metrics={"frechet_distance": value, "intervals": {"frechet_distance": bounds}})
        for name, value, bounds in zip(("first", "second"), values, intervals)
    ]
    cells = rows(render(runs, "Title"))["frechet_distance"]
    assert [place for place, cell in enumerate(cells) if "★" in cell] == ([] if best is None else [best])


def test_higher_is_better_turns_the_comparison():
    runs = [run(str(v), metrics={"recall": v, "intervals": {"recall": [v - 0.01, v + 0.01]}}) for v in (0.5, 0.7)]
    assert "★" in rows(render(runs, "Title"))["recall"][1]


def test_references_that_differ_between_runs_are_both_shown():
    text = render([run(), run("second", metrics=METRICS | {"recall_real": 0.85})], "Title")
    assert rows(text)["recall"][2][:3] == ["0.800", "/", "0.850"]


def test_cards_tell_the_ratio_to_real_pictures():
    headline = render([run()], "Title").split('id="metrics"')[0]
    assert "2.10 × real" in headline and "[4.00, 4.50]" in headline and "12.5" in headline
    no_reference = metrics.cards([run(metrics={"frechet_distance": 4.0, "frechet_distance_real": 0.0})])
    assert "× real" not in no_reference


def test_confusions_name_the_most_frequent_mistake():
    assert "Most frequent mistakes: cat taken for dog (1×)." in Page(render([run()], "Title")).text


def test_configuration_tells_differences_from_the_recipe_and_between_runs():
    runs = [
        run(options={"seed": 0, "a.b": [1, 2]}, differences={"a.b": ([3], [1, 2])}),
        run("second", options={"seed": 1, "a.b": [1, 2]}),
    ]
    section = render(runs, "Title").split('id="configuration"')[1]
    assert section.index("Differences of first from its recipe") < section.index("Whole configuration")
    assert "second</span> is its recipe <code>configs/quickstart.py:long</code>, unchanged" in section
    between = section.split("<caption>Differences between the runs")[1].split("</table>")[0]
    assert "<code>seed</code>" in between and "<code>a.b</code>" not in between
    assert "<td>[3]</td><td>[1, 2]</td>" in section


def test_logged_values_have_charts_whatever_their_name():
    rows = [{"step": i, "loss": 1.0, "loss_by_time/0.00-0.50": 1.0, "reward/mean": i, "time/step": 0.1} for i in range(5)]
    one = curves.drawn([run(curves=rows)])
    assert [title.strip() for title in re.findall(r"<figcaption>([^<]*)", one)] == [
        "Loss",
        "Loss by noise level",
        "Time a step",
        "reward/mean",
    ]
    assert one.index("<details>") < one.index("reward/mean")
    two = curves.drawn([run(curves=rows), run("second", curves=rows[:2])])
    assert two.count("second</li>") == 4


def test_smoothing_keeps_constants_and_gaps():
    values = [2.0] * 5 + [None, math.nan] + [2.0] * 5
    assert curves.smoothed(values, 5) == [2.0] * 5 + [None, None] + [2.0] * 5
    noisy = list(np.random.default_rng(0).normal(size=400))
    assert np.std(curves.smoothed(noisy, 9)) < 0.5 * np.std(noisy)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"), (math.nan, "–"), ("text", "–"), (True, "–"), (math.inf, "∞"), (0.0, "0"), (0.98312, "0.983"), (2.345, "2.35"),
        (34.21, "34.2"), (-0.5, "−0.500"), (123456.7, "123,457"), (3000, "3,000"), (0.00001234, "1.23e-05"),
    ],
)  # fmt: skip
def test_numbers_are_short(value, shown):
    assert markup.number(value) == shown


def test_chinese_captions_ask_for_chinese_glyphs():
    assert 'lang="zh-Hans"' in markup.caption("数字七")
    assert "lang=" not in markup.caption("seven") and "lang=" not in markup.caption("これは七")
    assert "(no caption)" in markup.caption("")


@pytest.mark.parametrize(("side", "width"), [(8, 72), (28, 84), (32, 96), (128, 128), (512, 128)])
def test_small_pictures_grow_by_whole_factors(side, width):
    assert pictures.displayed((side, side, 3)) == (width, width)


def test_large_pictures_are_compressed_to_keep_the_page_small():
    large = run(count=200, side=256, channels=3, nearest=1)
    text = render([large], "Title")
    assert len(text.encode()) < 6e6
    images = Page(text).all("img")
    assert max(max(decoded(attributes).shape) for attributes, _ in images) == pictures.REDUCED_SIDE
    assert "compressed with loss" in text and "pixel for pixel" not in text


def test_small_pictures_make_a_small_page():
    assert len(render([run(count=355, nearest=5), run("b", count=355, nearest=5)], "Title").encode()) < 1e6


@pytest.mark.parametrize(
    ("message", "changes"),
    [
        ("images", {"images": np.zeros((60, 8, 8, 1), np.float32)}),
        ("images", {"images": np.zeros((59, 8, 8, 1), np.uint8)}),
        ("real", {"real": np.zeros((60, 8, 8), np.uint8)}),
        ("neighbours", {"neighbours": np.zeros((60, 8, 8, 1), np.uint8)}),
        ("distances", {"distances": np.zeros((60, 2))}),
    ],
)
def test_arrays_that_do_not_fit_are_refused_by_name(message, changes):
    with pytest.raises(ValueError, match=message):
        run(**changes)


def test_no_runs_are_refused():
    with pytest.raises(ValueError, match="runs"):
        render([], "Title")


def test_the_same_runs_make_the_same_page():
    assert render([run()], "Title") == render([run()], "Title")
