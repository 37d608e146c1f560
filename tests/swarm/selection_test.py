"""Who uploads."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.swarm.selection import Best, Book, Everybody, Threshold

RANDOM = np.random.default_rng(0)
SITES = 6
DEGREES = jnp.asarray([0.1, 0.5, 0.3, 0.9, 0.2, 0.6], jnp.float32)


def claims(*values):
    return jnp.asarray(values, jnp.float32)


FIRST = claims(1.0, 2.0, 3.0, 4.0, 5.0, 6.0)


def scores(losses, tau=0.5):
    unit = lambda values: (values - values.min()) / (values.max() - values.min())
    return np.asarray(tau * unit(losses) + (1 - tau) * unit(DEGREES))


def aged(book, age):
    return book.replace(age=jnp.asarray(age, jnp.int32))


def test_everybody_uploads_in_federated_averaging_whatever_they_claim():
    chosen, _ = Everybody()(FIRST.at[2].set(jnp.nan), DEGREES, Book.blank(SITES))
    assert chosen.all() and not Everybody.claims


def test_the_best_uploads_alone_unless_it_is_suspected():
    book = Book.blank(SITES)
    losses = claims(3.0, jnp.nan, 1.0, 2.0, -jnp.inf, 5.0)
    assert np.flatnonzero(Best()(losses, DEGREES, book)[0]).tolist() == [2]
    book = book.replace(suspected=jnp.arange(SITES) == 2)
    assert np.flatnonzero(Best()(losses, DEGREES, book)[0]).tolist() == [3]
    assert not Best()(losses, DEGREES, book.replace(suspected=jnp.ones(SITES, bool)))[0].any()


def test_the_first_threshold_is_the_rounds_own_mean():
    chosen, _ = Threshold()(FIRST, DEGREES, Book.blank(SITES))
    found = scores(FIRST)
    np.testing.assert_array_equal(chosen, found <= found.mean())


def test_later_thresholds_are_means_of_the_round_before():
    select = Threshold(age_limit=0)
    # One bad site of six lifts the mean of the first round little and that of the second not at all.
    second = claims(1.0, 9.0, 9.0, 9.0, 9.0, 9.0)
    _, book = select(FIRST, DEGREES, Book.blank(SITES))
    chosen, after = select(second, DEGREES, book)
    before, now = scores(FIRST).mean(), scores(second)
    assert (now <= before).tolist() != (now <= now.mean()).tolist(), "the case tells the two apart"
    np.testing.assert_array_equal(chosen, now <= before)
    assert float(after.threshold) == pytest.approx(now.mean(), rel=1e-6)


def test_alone_a_site_decides_by_what_was_broadcast_and_its_own_loss():
    select = Threshold(alone=True, age_limit=0)
    _, book = select(FIRST, DEGREES, Book.blank(SITES))
    losses = claims(0.5, 2.0, 3.5, 4.0, 1.0, 6.0)
    chosen, _ = select(losses, DEGREES, book)
    # What others claim changes nothing for a site.
    for site in range(SITES):
        for others in (1e-3, 30.0):
            changed = jnp.full(SITES, others, jnp.float32).at[site].set(losses[site])
            again, _ = select(changed, DEGREES, book)
            # Nobody below the threshold makes the best one upload.
            assert bool(again[site]) == bool(chosen[site]) or int(again.sum()) == 1
    assert select.broadcasts == 4 and Threshold().broadcasts == 0


def test_with_tau_1_the_degree_does_not_matter_and_with_tau_0_the_loss_does_not():
    book = Book.blank(SITES)
    _, book = Threshold(tau=1.0)(FIRST, DEGREES, book)
    second = claims(2.0, 1.0, 2.5, 7.0, 3.0, 4.0)
    one = Threshold(tau=1.0)(second, DEGREES, book)[0]
    other = Threshold(tau=1.0)(second, DEGREES[::-1], book)[0]
    np.testing.assert_array_equal(one, other)
    found = []
    select, book = Threshold(tau=0.0, age_limit=0), Book.blank(SITES)
    for _ in range(5):
        chosen, book = select(jnp.asarray(RANDOM.uniform(1, 3, SITES), jnp.float32), DEGREES, book)
        found.append(np.asarray(chosen))
    assert (np.array(found) == found[0]).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_site_without_a_finite_loss_is_never_chosen_and_spoils_no_threshold(bad):
    select, book = Threshold(age_limit=1), Book.blank(SITES)
    for _ in range(4):
        losses = jnp.asarray(RANDOM.uniform(1, 3, SITES), jnp.float32).at[0].set(bad)
        chosen, book = select(losses, DEGREES, aged(book, [9] * SITES))
        assert not chosen[0] and chosen.any() and np.isfinite(book.threshold)


def test_somebody_always_uploads_unless_all_are_suspected():
    select = Threshold(age_limit=0)
    book = Book.blank(SITES).replace(threshold=jnp.float32(-1))
    chosen, _ = select(FIRST, DEGREES, book)
    assert np.flatnonzero(chosen).tolist() == [int(np.argmin(scores(FIRST)))]
    assert not select(FIRST, DEGREES, book.replace(suspected=jnp.ones(SITES, bool)))[0].any()


def test_a_site_that_waited_for_long_uploads_unless_it_is_suspected_or_far_off():
    losses = claims(1.0, 1.0, 1.0, 1.2, 30.0, 6.0)
    book = aged(Book.blank(SITES).replace(threshold=jnp.float32(0.0)), [0, 0, 0, 10, 10, 10])
    book = book.replace(suspected=jnp.arange(SITES) == 5)
    chosen, _ = Threshold(age_limit=10)(losses, DEGREES, book)
    assert chosen[3] and not chosen[4] and not chosen[5]
    assert not Threshold(age_limit=11)(losses, DEGREES, book)[0][3]
    assert not Threshold(age_limit=0)(losses, DEGREES, book)[0][3]


def test_sites_have_no_order():
    select, book = Threshold(), Book.blank(SITES)
    _, book = select(FIRST, DEGREES, book)
    order = RANDOM.permutation(SITES)
    losses = jnp.asarray(RANDOM.uniform(1, 3, SITES), jnp.float32)
    chosen, _ = select(losses, DEGREES, book)
    again, _ = select(losses[order], DEGREES[order], book)
    np.testing.assert_array_equal(again, chosen[order])
