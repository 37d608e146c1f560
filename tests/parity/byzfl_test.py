"""Rules, pre-aggregations and attacks beside those of byzfl: the same outputs, and (slow) the time that both take."""

import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.swarm import attacks
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
    TrimmedMean,
)
from jaxgen.swarm.decentralised import MoNNA

torch = pytest.importorskip("torch", reason="byzfl runs in torch; it comes with the extra `byzfl`")
byzfl = pytest.importorskip("byzfl", reason="the rules to compare with; they come with the extra `byzfl`")

N, F, D = 11, 3, 500
# Relative to the largest entry; both sum float32 numbers, in another order.
TOLERANCE = 1e-5

RULES = {
    "mean": (Mean(), byzfl.Average()),
    "cwtm": (TrimmedMean(F), byzfl.TrMean(F)),
    "median": (Median(F), byzfl.Median()),
    "meamed": (Meamed(F), byzfl.Meamed(F)),
    "gm": (GeometricMedian(F, smoothing=0.1, iterations=3), byzfl.GeometricMedian(nu=0.1, T=3)),
    "krum": (Krum(F), byzfl.Krum(F)),
    "multikrum": (MultiKrum(F), byzfl.MultiKrum(F)),
    "cc": (CenteredClipping(F, radius=5.0, iterations=3), byzfl.CenteredClipping(L=3, tau=5.0)),
}
MIXES = {"nnm": (NNM(F), byzfl.NNM(F)), "arc": (ARC(F), byzfl.ARC(F))}
ATTACKS = {
    "sign flip": (attacks.SignFlip(), byzfl.SignFlipping()),
    "ipm": (attacks.IPM(2.0), byzfl.InnerProductManipulation(2.0)),
    # Theirs adds what ours, with the paper, takes away.
    "alie": (attacks.ALIE(-1.5), byzfl.ALittleIsEnough(1.5)),
    "mimic": (attacks.Mimic(2), byzfl.Mimic(2)),
}


def draw(seed, n=N):
    rows = np.random.default_rng(seed).normal(0.3, 1, (n, D)).astype(np.float32)
    rows[:F] *= 8
    return rows


def compare(ours, theirs):
    ours, theirs = np.asarray(ours), theirs.numpy()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE * np.abs(theirs).max())


@pytest.mark.parametrize("n", [N, N + 1])
@pytest.mark.parametrize("name", RULES)
def test_rules(name, n):
    ours, theirs = RULES[name]
    for seed in range(3):
        if name == "cc":
            theirs.m = None  # It keeps its centre from call to call.
        compare(ours(jnp.asarray(draw(seed, n))), theirs(torch.from_numpy(draw(seed, n))))


@pytest.mark.parametrize("name", MIXES)
def test_pre_aggregations(name):
    ours, theirs = MIXES[name]
    for seed in range(3):
        compare(ours(jnp.asarray(draw(seed))), theirs(torch.from_numpy(draw(seed))))


@pytest.mark.parametrize("name", ["cwtm", "median", "gm", "krum"])
def test_chains(name):
    ours, theirs = RULES[name]
    for seed in range(3):
        mixed = byzfl.NNM(F)(byzfl.ARC(F)(torch.from_numpy(draw(seed))))
        compare(Composed((ARC(F), NNM(F), ours))(jnp.asarray(draw(seed))), theirs(mixed))


def test_nearest_neighbours_of_ones_own_value():
    rows = draw(0)
    ours = MoNNA()(jnp.asarray(rows[4]), jnp.asarray(np.delete(rows, 4, axis=0)), jnp.full(N - 1, 1 / N), F)
    compare(ours, byzfl.MoNNA(F, 4)(torch.from_numpy(rows)))


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks(name):
    ours, theirs = ATTACKS[name]
    rows = draw(0)
    said = attacks.at_server(ours, jnp.asarray(rows), np.arange(N) >= N - F, jax.random.key(0))
    compare(said[-1], theirs(torch.from_numpy(rows[: N - F])))


@pytest.mark.slow
def test_speed():
    """At 20 sites and a million parameters. Apart, with a compiler that optimizes."""
    script = pathlib.Path(__file__).parent / "byzfl_speed.py"
    found = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=600)
    assert found.returncode == 0, found.stderr
    ratios = {name: float(ratio) for name, _, _, ratio in (line.split() for line in found.stdout.splitlines())}
    assert set(ratios) == {*RULES, *MIXES}
    for name, ratio in ratios.items():
        assert ratio >= (3 if name in ("median", "cwtm") else 1), found.stdout
