import numpy as np
import pytest

from jaxgen.evaluation import bootstrap, frechet


def test_the_interval_of_a_mean_is_that_of_theory():
    values = np.random.default_rng(0).standard_normal(400)
    low, high = bootstrap.interval(values, np.mean, 2000)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)


def test_holds_the_truth_about_as_often_as_it_says():
    random = np.random.default_rng(1)
    held = 0
    for i in range(200):
        low, high = bootstrap.interval((random.random(150) < 0.8).astype(float), np.mean, 300, seed=i)
        held += low <= 0.8 <= high
    assert 180 <= held <= 199


def test_lies_around_the_figure_where_resampling_is_biased():
    # A sample that is drawn twice makes the covariance look poorer, so every resampled distance is too large.
    random = np.random.default_rng(2)
    a, b = random.standard_normal((60, 30)), frechet.moments(random.standard_normal((60, 30)))
    distance = lambda rows: frechet.distance(frechet.moments(rows), b)
    resampled = [distance(a[random.integers(0, 60, 60)]) for _ in range(50)]
    assert min(resampled) > distance(a)
    low, high = bootstrap.interval(a, distance, 100)
    assert low < distance(a) < high


def test_repeats_and_passes_over_what_is_not_finite():
    values = np.arange(10.0)
    assert bootstrap.interval(values, np.mean, 50) == bootstrap.interval(values, np.mean, 50)
    sometimes = lambda rows: float("nan") if rows[0] < 5 else rows.mean()
    assert np.isfinite(bootstrap.interval(values[::-1], sometimes, 50)).all()
