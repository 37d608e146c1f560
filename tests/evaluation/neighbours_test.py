import numpy as np
import prdc
import pytest

from jaxgen.evaluation import neighbours


def features(seed, count, size, shift=0.0):
    return np.random.default_rng(seed).standard_normal((count, size)) + shift


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("shift", [0.0, 0.4, 3.0])
def test_precision_and_recall_are_those_of_an_independent_implementation(k, shift):
    real, fake = features(0, 150, 6), features(1, 130, 6, shift)
    theirs = prdc.compute_prdc(real, fake, nearest_k=k)
    assert neighbours.inside(fake, real, neighbours.radii(real, k)).mean() == theirs["precision"]
    assert neighbours.inside(real, fake, neighbours.radii(fake, k)).mean() == theirs["recall"]


def test_the_radius_is_the_distance_to_the_kth_other():
    line = np.array([[0.0], [1.0], [3.0], [7.0]])
    np.testing.assert_allclose(neighbours.radii(line, 1), [1, 1, 2, 4])
    np.testing.assert_allclose(neighbours.radii(line, 2), [3, 2, 3, 6])
    np.testing.assert_allclose(neighbours.nearest_other(line), [1, 1, 2, 4])
    assert np.isinf(neighbours.nearest_other(line[:1])).all()
    with pytest.raises(ValueError, match="neighbours=4"):
        neighbours.radii(line, 4)


def test_nearest_does_not_depend_on_how_the_sequence_is_cut():
    points, others = features(0, 20, 5), features(1, 100, 5)
    between = np.linalg.norm(points[:, None] - others[None], axis=-1)
    for size in (1, 7, 100):
        places, found = neighbours.nearest(points, (others[i : i + size] for i in range(0, 100, size)), 4)
        np.testing.assert_array_equal(places, np.argsort(between, axis=1)[:, :4])
        np.testing.assert_allclose(found, np.sort(between, axis=1)[:, :4])
    places, found = neighbours.nearest(points, [others[:2]], 4)
    assert places.shape == found.shape == (20, 2)


def test_a_copy_is_found():
    others = features(1, 100, 5)
    places, found = neighbours.nearest(others[[17, 3]], [others], 1)
    assert places[:, 0].tolist() == [17, 3]
    np.testing.assert_allclose(found, 0, atol=1e-6)
