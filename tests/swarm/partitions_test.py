"""Every example lies at exactly one site, and sites are as skewed as asked."""

import numpy as np
import pytest

from jaxgen import types
from jaxgen.swarm import degree
from jaxgen.swarm.partitions import Dirichlet, MainClasses, QuantitySkew, Shards

LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 150))
ALL = [Dirichlet(0.1), Dirichlet(100.0), Shards(2), Shards(3), MainClasses(), MainClasses(2, 0.8, 1), QuantitySkew(0.3)]


def divided(partition, seed=0, labels=LABELS, sites=10):
    return partition(labels, len(LABELS), sites, np.random.default_rng(seed))


def counts(parts):
    return np.array([[np.sum(LABELS[part] == label) for label in range(10)] for part in parts])


@pytest.mark.parametrize("partition", ALL, ids=repr)
def test_every_example_is_at_one_site_and_no_site_is_empty(partition):
    parts = divided(partition)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(len(LABELS)))
    assert min(map(len, parts)) > 0


@pytest.mark.parametrize("partition", ALL, ids=repr)
def test_the_seed_decides(partition):
    same = [np.array_equal(a, b) for a, b in zip(divided(partition), divided(partition))]
    other = [np.array_equal(a, b) for a, b in zip(divided(partition), divided(partition, seed=1))]
    assert all(same) and not all(other)


def test_small_alpha_is_more_skewed():
    degrees = [
        np.mean([degree.of_counts(counts(divided(Dirichlet(alpha), seed))).mean() for seed in range(5)]) for alpha in (0.1, 1, 100)
    ]
    assert degrees[0] > degrees[1] + 0.1 and degrees[1] > degrees[2] + 0.1
    # The sheet measured 0.58, 0.20 and 0.06, at 10 sites and 10 classes.
    np.testing.assert_allclose(degrees, [0.58, 0.20, 0.06], atol=0.05)


def test_shards_leave_a_site_few_classes():
    there = np.count_nonzero(counts(divided(Shards(2))), axis=1)
    # A shard of sorted examples has one class, or two where a class ends in it.
    assert there.max() <= 4


def test_main_classes_are_mostly_at_their_sites_and_a_little_everywhere():
    found = counts(divided(MainClasses(2, 0.8)))
    assert (found > 0).all()
    for site in range(10):
        own = [site, (site + 1) % 10]
        assert found[site, own].sum() > 0.75 * found[site].sum()
    assert (np.count_nonzero(found > 0.2 * 150, axis=0) == 2).all()


def test_minor_classes_are_the_next_ones_and_few():
    found = counts(divided(MainClasses(2, 0.8, minor=1)))
    assert (np.count_nonzero(found, axis=0) == 3).all()
    for site in range(10):
        assert set(np.flatnonzero(found[site])) == {(site + turn) % 10 for turn in range(3)}
        assert 0 < found[site, (site + 2) % 10] < 0.2 * found[site, site]
    everywhere, all_others = divided(MainClasses(2, 0.8)), divided(MainClasses(2, 0.8, minor=8))
    assert all(np.array_equal(a, b) for a, b in zip(everywhere, all_others, strict=True))


def test_quantity_skew_changes_amounts_and_keeps_the_mix():
    found = counts(divided(QuantitySkew(0.3)))
    sizes = found.sum(axis=1)
    assert sizes.max() > 20 * sizes.min()
    big = found[sizes > 300]
    np.testing.assert_allclose(big / big.sum(axis=1, keepdims=True), 0.1, atol=0.05)


@pytest.mark.parametrize(
    "partition, labels, sites, option",
    [
        (Dirichlet(0.1), None, 10, ""),
        (Shards(2), None, 10, ""),
        (MainClasses(2), None, 10, ""),
        (Dirichlet(1.0, least=200), LABELS, 10, "least"),
        (Dirichlet(0.001, least=20), LABELS, 40, "least"),
        (Shards(200), LABELS, 10, "each"),
        (MainClasses(11), LABELS, 10, "classes"),
        (MainClasses(2), LABELS, 5, "classes"),
        (MainClasses(2, minor=9), LABELS, 10, "minor"),
    ],
    ids=str,
)
def test_what_cannot_be_divided_is_refused(partition, labels, sites, option):
    with pytest.raises(types.BadInput) as error:
        divided(partition, labels=labels, sites=sites)
    assert error.value.option == option
