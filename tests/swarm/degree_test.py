"""The degree is 0 for everybody's mix, near 1 for one kind, and knows no order of classes or sites."""

import numpy as np
import pytest

from jaxgen import types
from jaxgen.swarm import degree
from jaxgen.swarm.partitions import Dirichlet

RANDOM = np.random.default_rng(0)


def test_everybodys_mix_has_degree_0_and_one_class_of_ten_has_0_9():
    even = np.full((10, 10), 7)
    np.testing.assert_allclose(degree.of_counts(even), 0, atol=1e-7)
    single = np.diag(np.full(10, 30))
    # W = 0.9 and 1 - 1/10 = 0.9.
    np.testing.assert_allclose(degree.of_counts(single), 0.9, rtol=1e-6)


def test_classes_and_sites_have_no_order():
    counts = RANDOM.integers(0, 20, (6, 10))
    found = degree.of_counts(counts)
    sites, classes = RANDOM.permutation(6), RANDOM.permutation(10)
    np.testing.assert_allclose(degree.of_counts(counts[:, classes]), found, rtol=1e-6)
    np.testing.assert_allclose(degree.of_counts(counts[sites]), found[sites], rtol=1e-6)


def test_a_class_that_nobody_has_counts_as_none():
    counts = RANDOM.integers(1, 20, (6, 10))
    wider = np.concatenate([counts, np.zeros((6, 3), int)], axis=1)
    np.testing.assert_allclose(degree.of_counts(wider), degree.of_counts(counts), rtol=1e-6)


def test_the_sliced_distance_is_that_of_sorted_samples_and_of_a_shift():
    one = np.sort(RANDOM.standard_normal((50, 3)), axis=0)
    assert degree.sliced(one, one) == pytest.approx(0, abs=1e-12)
    assert degree.sliced(one, one + 0.7) == pytest.approx(0.7)
    # Each value twice is the same law.
    assert degree.sliced(one, np.repeat(one, 2, axis=0)) == pytest.approx(0, abs=1e-12)
    other = np.sort(RANDOM.standard_normal((50, 3)), axis=0)
    assert degree.sliced(one, other) == pytest.approx(np.abs(one - other).mean())


def test_features_give_nearly_0_for_the_same_law_and_nearly_1_for_copies_of_one_example():
    shared = RANDOM.standard_normal((128, 8))
    same, one = RANDOM.standard_normal((1000, 8)), np.repeat(shared[:1], 50, axis=0)
    found = degree.of_features([same, one], shared, buckets=16, directions=32)
    assert found[0] < 0.1 and found[1] > 0.8


def test_features_order_the_skews_of_digits_as_labels_do():
    from sklearn.datasets import load_digits

    digits = load_digits()
    shared, rest = np.arange(0, 1797, 18), np.setdiff1d(np.arange(1797), np.arange(0, 1797, 18))
    means = []
    for alpha in (0.1, 1.0, 100.0):
        parts = Dirichlet(alpha)(digits.target[rest], len(rest), 10, np.random.default_rng(0))
        features = [digits.data[rest[part]] for part in parts]
        means.append(degree.of_features(features, digits.data[shared], buckets=64, directions=64).mean())
    assert means[0] > means[1] + 0.05 and means[1] > means[2] + 0.05


def test_labels_that_are_missing_are_refused():
    with pytest.raises(types.BadInput, match="swarm.degree=features"):
        degree.Labels()([np.arange(3)], np.arange(2), None, lambda places: {})
