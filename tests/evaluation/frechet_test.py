import numpy as np
import pytest
import scipy.linalg

from jaxgen.evaluation import frechet


def independent(a, b):
    """The definition, with SciPy's square root of a matrix."""
    first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(first @ second).real
    return np.sum((a.mean(axis=0) - b.mean(axis=0)) ** 2) + np.trace(first + second - 2 * root)


def features(seed, count, size, scale=1.0):
    random = np.random.default_rng(seed)
    return random.standard_normal((count, size)) @ random.standard_normal((size, size)) * scale + random.standard_normal(size)


@pytest.mark.parametrize("counts, size", [((200, 300), 12), ((500, 65), 64), ((1000, 1000), 100)])
def test_agrees_with_an_independent_implementation(counts, size):
    a, b = features(0, counts[0], size), features(1, counts[1], size, 0.5)
    ours = frechet.distance(frechet.moments(a), frechet.moments(b))
    assert ours == pytest.approx(independent(a, b), rel=1e-6)


def test_fewer_samples_than_dimensions_agrees_with_padding_by_tiny_noise():
    # sqrtm of a singular product is unreliable; in the space that the samples span it is not.
    a, b = features(0, 20, 50), features(1, 30, 50)
    basis = np.linalg.svd(np.concatenate([a - a.mean(0), b - b.mean(0), (a.mean(0) - b.mean(0))[None]]), full_matrices=False)[2]
    ours = frechet.distance(frechet.moments(a), frechet.moments(b))
    root = lambda m: (lambda w, v: (v * np.sqrt(w.clip(0))) @ v.T)(*np.linalg.eigh(m))
    first, second = np.cov(a @ basis.T, rowvar=False), np.cov(b @ basis.T, rowvar=False)
    half = root(first)
    cross = np.sqrt(np.linalg.eigvalsh(half @ second @ half).clip(0)).sum()
    expected = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(first) + np.trace(second) - 2 * cross
    assert ours == pytest.approx(expected, rel=1e-5)


def test_gaussians_on_a_line_have_the_closed_form():
    a, b = features(0, 400, 1), features(1, 300, 1)
    expected = (a.mean() - b.mean()) ** 2 + (a.std(ddof=1) - b.std(ddof=1)) ** 2
    assert frechet.distance(frechet.moments(a), frechet.moments(b)) == pytest.approx(expected, rel=1e-9)


def test_zero_for_the_same_set_and_grows_with_a_shift():
    a = features(0, 100, 8)
    moments = frechet.moments(a)
    assert frechet.distance(moments, moments) == pytest.approx(0, abs=1e-9 * moments.variance)
    assert frechet.distance(moments, frechet.moments(a + 2.0)) == pytest.approx(8 * 4.0, rel=1e-9)


def test_invariant_under_rotation_and_symmetric():
    a, b = features(0, 100, 6), features(1, 90, 6)
    turn = np.linalg.qr(np.random.default_rng(2).standard_normal((6, 6)))[0]
    one = frechet.distance(frechet.moments(a), frechet.moments(b))
    assert frechet.distance(frechet.moments(a @ turn), frechet.moments(b @ turn)) == pytest.approx(one, rel=1e-9)
    assert frechet.distance(frechet.moments(b), frechet.moments(a)) == pytest.approx(one, rel=1e-9)


@pytest.mark.parametrize("count", [10, 200])
def test_published_statistics_give_the_same_distance(count):
    a, b = features(0, count, 20), frechet.moments(features(1, 100, 20))
    one = frechet.moments(a)
    again = frechet.from_covariance(one.mean, one.covariance)
    assert frechet.distance(again, b) == pytest.approx(frechet.distance(one, b), rel=1e-6)


@pytest.mark.parametrize("broken", [np.ones((1, 4)), np.ones((5,)), np.array([[0.0, np.nan]] * 3), np.array([[0.0, np.inf]] * 3)])
def test_sets_that_have_no_moments_are_refused(broken):
    with pytest.raises(ValueError, match="features: found"):
        frechet.moments(broken)


def test_statistics_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="statistics"):
        frechet.from_covariance(np.zeros(3), np.zeros((4, 4)))
    with pytest.raises(ValueError, match="not finite"):
        frechet.from_covariance(np.zeros(3), np.full((3, 3), np.nan))
    with pytest.raises(ValueError, match="dimensions"):
        frechet.distance(frechet.moments(features(0, 5, 3)), frechet.moments(features(0, 5, 4)))


def test_a_constant_set_is_a_point():
    point = frechet.moments(np.full((5, 3), 2.0))
    assert point.variance == 0
    other = features(0, 50, 3)
    expected = np.sum((other.mean(0) - 2) ** 2) + np.trace(np.cov(other, rowvar=False))
    assert frechet.distance(point, frechet.moments(other)) == pytest.approx(expected)
