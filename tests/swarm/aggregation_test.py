"""Rules at a server: what defines them, what they stand, and how far the worst attack moves them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import experiment as experiments
from jaxgen import types
from jaxgen.swarm import aggregation, attacks
from jaxgen.swarm.aggregation import (
    ARC,
    NNM,
    CenteredClipping,
    Composed,
    GeometricMedian,
    Krum,
    Meamed,
    Mean,
    Median,
    MultiKrum,
    Robust,
    TrimmedMean,
)

N, F = 10, 2
ROBUST = [
    TrimmedMean(F),
    Median(F),
    Meamed(F),
    GeometricMedian(F),
    Krum(F),
    MultiKrum(F),
    CenteredClipping(F, radius=2.0),
    Robust(("arc", "nnm", "cwtm"), F),
    Robust(("nnm", "krum"), F),
]
COORDINATEWISE = (TrimmedMean, Median, Meamed)
each_rule = pytest.mark.parametrize("rule", ROBUST, ids=lambda rule: ",".join(getattr(rule, "rules", [type(rule).__name__])))


@functools.cache
def compiled(rule):
    return jax.jit(rule)


def tree(rows):
    """Rows [n, 12] as a pytree of three leaves."""
    return {"a": rows[:, :5], "b": {"c": rows[:, 5:6].reshape(-1), "d": rows[:, 6:].reshape(-1, 2, 3)}}


def flat(found):
    return np.concatenate([np.ravel(found["a"]), np.ravel(found["b"]["c"]), np.ravel(found["b"]["d"])])


def draw(seed=0, n=N):
    return np.random.default_rng(seed).normal(1.0, 1.0, (n, 12)).astype(np.float32)


def merge(rule, rows):
    return flat(compiled(rule)(tree(jnp.asarray(rows))))


# --- definitions, against NumPy --------------------------------------------------------------------------------------


def distances(rows):
    return ((rows[:, None] - rows[None]) ** 2).sum(-1)


def nearest_mean(rows):
    return np.stack([rows[np.argsort(row)[: N - F]].mean(0) for row in distances(rows)])


def krum_scores(rows):
    return np.sort(distances(rows), axis=1)[:, : N - F].sum(1)


def test_each_rule_is_what_it_says():
    rows = draw()
    ordered = np.sort(rows, axis=0)
    np.testing.assert_allclose(merge(Mean(), rows), rows.mean(0), rtol=1e-5)
    np.testing.assert_allclose(merge(TrimmedMean(F), rows), ordered[F:-F].mean(0), rtol=1e-5)
    np.testing.assert_allclose(merge(Median(F), rows), np.median(rows, axis=0), rtol=1e-5)
    near = np.argsort(np.abs(rows - np.median(rows, axis=0)), axis=0)[: N - F]
    np.testing.assert_allclose(merge(Meamed(F), rows), np.take_along_axis(rows, near, 0).mean(0), rtol=1e-5)
    scores = krum_scores(rows)
    np.testing.assert_array_equal(merge(Krum(F), rows), rows[scores.argmin()])
    np.testing.assert_allclose(merge(MultiKrum(F), rows), rows[np.argsort(scores)[: N - F]].mean(0), rtol=1e-5)
    np.testing.assert_allclose(merge(MultiKrum(F, 3), rows), rows[np.argsort(scores)[:3]].mean(0), rtol=1e-5)
    mixed = compiled(NNM(F))(tree(jnp.asarray(rows)))
    np.testing.assert_allclose([flat(jax.tree.map(lambda x, i=i: x[i], mixed)) for i in range(N)], nearest_mean(rows), rtol=1e-5)


def test_the_geometric_median_has_the_least_sum_of_distances():
    rows = draw()
    cost = lambda z: np.linalg.norm(rows - z, axis=1).sum()
    found = merge(GeometricMedian(F, smoothing=1e-3, iterations=60), rows)
    assert all(cost(found) < cost(found + step) for step in 0.02 * np.random.default_rng(1).normal(size=(50, 12)))


def test_centred_clipping_starts_where_it_is_told():
    rows, start = draw(), draw(5, 1)[0]
    expected = start
    for _ in range(3):
        away = rows - expected
        expected = expected + (away * np.minimum(1, 2 / np.linalg.norm(away, axis=1))[:, None]).mean(0)
    rule = CenteredClipping(F, radius=2.0, iterations=3)
    found = rule(tree(jnp.asarray(rows)), start=jax.tree.map(lambda x: x[0], tree(jnp.asarray(start[None]))))
    np.testing.assert_allclose(flat(found), expected, rtol=1e-5)


def test_clipping_has_its_check_value():
    rows = jnp.array([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]])
    np.testing.assert_allclose(ARC(1)(rows)[2], 4.41004009 * np.array([1, 8 / 7, 9 / 7]), rtol=1e-6)
    np.testing.assert_array_equal(ARC(1)(rows)[:2], rows[:2])
    np.testing.assert_array_equal(ARC(0)(rows), rows)
    # ⌊2 f (n − f) / n⌋ in whole numbers; with floats 2 · 3 / 15 · 12 falls below 4.8 ... and 2 · 1 / 49 · 48 around 1.96.
    assert [ARC(f).clipped(n) for f, n in ((1, 3), (2, 10), (3, 12), (1, 2), (4, 9))] == [1, 3, 4, 1, 4]


def test_clipping_twice_is_clipping_once_and_no_update_is_longer_than_the_longest_honest_one():
    for seed in range(5):
        rows = draw(seed)
        rows[:F] *= 1e6
        once = ARC(F)(jnp.asarray(rows))
        np.testing.assert_allclose(ARC(F)(once), once, rtol=1e-6)
        assert np.linalg.norm(once, axis=1).max() <= np.linalg.norm(rows[F:], axis=1).max() * (1 + 1e-6)
        np.testing.assert_allclose(ARC(F)(jnp.asarray(3 * rows)), 3 * once, rtol=1e-5)


def test_a_chain_is_applied_from_left_to_right_and_the_other_order_is_another_rule():
    rows = draw()
    rows[:F] *= 50
    norms = np.linalg.norm(rows, axis=1)
    limit = np.sort(norms)[::-1][2 * F * (N - F) // N]
    clipped = rows * np.minimum(1, limit / norms)[:, None]
    expected = np.sort(nearest_mean(clipped), axis=0)[F:-F].mean(0)
    np.testing.assert_allclose(merge(aggregation.Robust(("arc", "nnm", "cwtm"), F), rows), expected, rtol=1e-5)
    np.testing.assert_allclose(merge(Composed((ARC(F), NNM(F), TrimmedMean(F))), rows), expected, rtol=1e-5)
    assert np.abs(merge(aggregation.Robust(("nnm", "arc", "cwtm"), F), rows) - expected).max() > 1e-2


def test_mixing_maps_every_honest_update_to_their_mean_where_the_others_are_far():
    rows = draw()
    rows[:F] += 1e4
    mixed = np.asarray(NNM(F)(jnp.asarray(rows)))
    np.testing.assert_allclose(mixed[F:], np.tile(rows[F:].mean(0), (N - F, 1)), rtol=1e-4)


# --- symmetries ------------------------------------------------------------------------------------------------------


@each_rule
def test_the_order_of_sites_does_not_matter(rule):
    rows = draw()
    np.testing.assert_allclose(merge(rule, rows[np.random.default_rng(1).permutation(N)]), merge(rule, rows), rtol=2e-5)


@pytest.mark.parametrize("rule", [TrimmedMean(F), Median(F), Meamed(F), Krum(F), MultiKrum(F)], ids=lambda r: type(r).__name__)
def test_moving_and_scaling_all_updates_moves_and_scales_the_result(rule):
    rows = draw()
    shift = draw(3, 1)
    np.testing.assert_allclose(merge(rule, 4 * rows + shift), 4 * merge(rule, rows) + shift[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "rule",
    [GeometricMedian(F), Krum(F), Robust(("nnm", "krum"), F), Robust(("arc", "nnm", "gm"), F)],
    ids=["gm", "krum", "nnm", "arc"],
)
def test_turning_all_updates_turns_the_result(rule):
    rows = draw()
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(12, 12)))[0].astype(np.float32)
    np.testing.assert_allclose(merge(rule, rows @ turn), merge(rule, rows) @ turn, atol=2e-5)


def test_mixing_permutes_with_the_sites():
    rows = jnp.asarray(draw())
    order = np.random.default_rng(1).permutation(N)
    np.testing.assert_allclose(NNM(F)(rows[order]), NNM(F)(rows)[order], rtol=1e-5)


def test_distances_are_right_between_long_updates_that_nearly_agree():
    # Weights and not differences of them: norms 1e3 times the distances. Squares in float32 alone would leave nothing of these.
    rows = draw(n=N)
    far = rows * 1e-3 + 100 * np.random.default_rng(7).normal(size=12).astype(np.float32)
    stored = far.astype(np.float64)
    assert (merge(Krum(F), far) == far[krum_scores(stored).argmin()]).all()
    np.testing.assert_allclose(compiled(NNM(F))(jnp.asarray(far)), nearest_mean(stored), rtol=1e-6)


# --- what they stand -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30, 3e38])
@each_rule
def test_sites_that_are_not_finite_leave_no_trace(rule, bad):
    rows = draw()
    rows[3] = bad
    rows[8, 7] = bad
    found = merge(rule, rows)
    assert np.isfinite(found).all()
    honest = np.delete(rows, [3, 8], axis=0)
    assert (found <= honest.max(0) + 1e-4).all() and (found >= np.minimum(honest.min(0), 0) - 1e-4).all()


def test_the_mean_does_not_hide_what_is_not_finite():
    rows = draw()
    rows[3, 0] = np.nan
    assert np.isnan(merge(Mean(), rows)[0])


@pytest.mark.parametrize("rule", [TrimmedMean(F), Median(F)], ids=["cwtm", "median"])
def test_each_coordinate_stays_between_those_of_honest_sites(rule):
    for seed in range(10):
        rows = draw(seed)
        rows[:F] = np.random.default_rng(seed).normal(0, 10.0 ** (seed - 3), (F, 12))
        found = merge(rule, rows)
        assert (found <= rows[F:].max(0)).all() and (found >= rows[F:].min(0)).all()


ATTACKS = [
    attacks.SignFlip(),
    attacks.SignFlip(3.0),
    attacks.Gaussian(30.0),
    attacks.Constant(200.0),
    attacks.ALIE(),
    attacks.ALIE(1.5),
    attacks.IPM(0.1),
    attacks.IPM(2.0),
    attacks.ZeroSum(),
    attacks.Mimic(1),
]


@functools.cache
def attacked(f, draws=150):
    """(what is said [tries, N, 4], mean of the honest [tries, 4], their variance [tries]), over ten attacks."""
    key_rows, key_attack = jax.random.split(jax.random.key(0, impl="threefry2x32"))
    rows = jax.random.normal(key_rows, (draws, N, 4))
    hostile = jnp.arange(N) >= N - f
    keys = jax.random.split(key_attack, draws)
    said = [jax.vmap(functools.partial(attacks.at_server, attack, hostile=hostile))(rows, key=keys) for attack in ATTACKS]
    mean = np.asarray(rows[:, : N - f]).mean(1)
    variance = ((np.asarray(rows[:, : N - f]) - mean[:, None]) ** 2).sum(-1).mean(1)
    return np.concatenate(said), np.tile(mean, (len(ATTACKS), 1)), np.tile(variance, len(ATTACKS))


def worst(rule, f):
    """Largest ‖rule − mean of the honest‖² in units of the variance of the honest, over ten attacks."""
    said, mean, variance = attacked(f)
    return float((((np.asarray(jax.jit(jax.vmap(rule))(said)) - mean) ** 2).sum(1) / variance).max())


def bound(name, f):
    q = f / (N - 2 * f)
    return {"cwtm": 6 * q * (1 + q), "krum": 6 * (1 + q), "gm": 4 * (1 + q) ** 2, "median": 4 * (1 + q) ** 2}[name]


@pytest.mark.parametrize("f", [2, 4])
@pytest.mark.parametrize("name", ["cwtm", "median", "gm", "krum"])
def test_no_attack_that_is_tried_moves_a_rule_farther_than_its_bound(name, f):
    kappa = bound(name, f)
    assert worst(Robust((name,), f), f) <= kappa
    assert worst(Robust(("nnm", name), f), f) <= 8 * f / (N - f) * (kappa + 1)


def test_clipping_and_mixing_alone_tame_the_mean_though_no_bound_promises_it():
    plain = worst(Mean(), F)
    tamed = Composed((ARC(F), NNM(F), Mean()))
    assert plain > 1000 and worst(tamed, F) < plain / 100


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rule, n, said",
    [
        (TrimmedMean(5), 10, "f: found 5, needed less than half of the 10 sites"),
        (ARC(2), 4, "f: found 2, needed less than half of the 4 sites"),
        (Median(-1), 4, "f: found -1, needed 0 or more"),
        (MultiKrum(2, 9), 10, "m: found 9, needed 0 (n − f), or at most n − f = 8"),
        (Mean(1), 10, "f: found 1, needed 0: the mean stands no hostile site"),
        (Composed((TrimmedMean(1), ARC(1))), 10, "steps: found ('TrimmedMean', 'ARC'), needed pre-aggregations"),
        (Robust(("nnm", "arc"), 1), 10, "rules: found 'nnm,arc', needed pre-aggregations"),
        (Robust(("mean",), 1), 10, "f: found 1, needed 0: the mean"),
        (GeometricMedian(1, smoothing=0.0), 10, "smoothing: found 0.0, needed a positive distance"),
        (CenteredClipping(1, radius=0.0), 10, "radius: found 0.0, needed a positive norm"),
    ],
)
def test_what_a_rule_cannot_do_is_refused(rule, n, said):
    with pytest.raises(types.BadInput) as complaint:
        rule(jnp.zeros((n, 3)))
    assert str(complaint.value).startswith(said)


def test_sites_of_different_shapes_are_refused():
    with pytest.raises(types.BadInput, match="one and the same leading axis"):
        TrimmedMean(1)({"a": jnp.zeros((5, 2)), "b": jnp.zeros((6, 2))})


def test_a_rule_for_fewer_sites_guards_against_as_many_as_it_can():
    assert [TrimmedMean(2).among(n).f for n in (7, 5, 4, 3, 2, 1)] == [2, 2, 1, 1, 0, 0]
    assert MultiKrum(2, m=4).among(5) == MultiKrum(2, m=3) and MultiKrum(2).among(5) == MultiKrum(2)
    assert Composed((ARC(2), TrimmedMean(1))).among(4) == Composed((ARC(1), TrimmedMean(1)))
    for name in aggregation.NAMES:
        rule = Robust((name,) if name not in ("arc", "nnm") else (name, "cwtm"), 0 if name == "mean" else 2)
        for n in range(1, 7):
            rule.among(n).check_sites(n)


def test_a_name_that_is_no_rule_is_refused():
    with pytest.raises(types.BadInput, match="rules: found 'trimmed', needed names among mean, cwtm"):
        aggregation.Robust(("arc", "trimmed"), 1).validate()


def test_rules_are_options_that_a_configuration_writes_and_reads():
    rule = Robust(("nnm", "median"), 2)
    assert experiments.rebuild(experiments.dump(rule)) == rule
    assert experiments.override(rule, "rules=arc,nnm,cwtm").rules == ("arc", "nnm", "cwtm")
    with pytest.raises(types.BadInput, match="rules: found 'arcs', needed one of mean, cwtm"):
        experiments.override(rule, "rules=arcs,cwtm")
