import numpy as np

from jaxgen.evaluation import baselines


def test_stratified_takes_as_many_of_each_class_spread_over_the_set():
    available = np.arange(100) % 4
    wanted = np.repeat([0, 1, 2], [5, 0, 30])
    places = baselines.stratified(available, wanted)
    assert len(set(places)) == len(places)
    assert np.bincount(available[places], minlength=4).tolist() == [5, 0, 25, 0]
    first = places[available[places] == 0]
    assert first.max() >= 75 and np.diff(first).min() >= 16


def test_class_gaussian_has_the_moments_of_each_class():
    random = np.random.default_rng(0)
    labels = np.repeat([0, 1], 300)
    mixing = random.standard_normal((2, 12, 12)) * 6
    pixels = np.concatenate([120 + 10 * c + random.standard_normal((300, 12)) @ mixing[c] for c in range(2)])
    images = pixels.clip(0, 255).round().astype(np.uint8).reshape(600, 2, 2, 3)
    wanted = np.array([0] * 4000 + [1] * 4000)
    drawn = baselines.class_gaussian(images, labels, wanted)
    assert drawn.shape == (8000, 2, 2, 3) and drawn.dtype == np.uint8
    for c in range(2):
        real, made = (x.reshape(-1, 12).astype(float) for x in (images[labels == c], drawn[wanted == c]))
        np.testing.assert_allclose(made.mean(0), real.mean(0), atol=2.0)
        scale = np.sqrt(np.outer(real.var(0), real.var(0)))
        np.testing.assert_allclose(np.cov(made.T) / scale, np.cov(real.T) / scale, atol=0.12)
    np.testing.assert_array_equal(drawn, baselines.class_gaussian(images, labels, wanted))


def test_class_gaussian_of_a_class_without_pictures_is_the_mean():
    images = np.stack([np.full((2, 2, 1), value, np.uint8) for value in (0, 100)])
    drawn = baselines.class_gaussian(images, np.array([0, 1]), np.array([1, 7]))
    assert (drawn == 50).all()
