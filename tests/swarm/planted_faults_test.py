"""Four faults that are easily made, each planted into the source: the test that guards against it fails."""

import inspect
import pathlib
import sys
import types

import pytest

from jaxgen.swarm import allocation, mdsl, selection

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import allocation_test  # noqa: E402
import mdsl_test  # noqa: E402
import selection_test  # noqa: E402
import toy  # noqa: E402


def planted(module, before, after):
    """The module with one piece of its text replaced; the module itself stays as it is."""
    text = inspect.getsource(module)
    assert text.count(before) == 1, "the text that the fault replaces has changed"
    made = types.ModuleType(module.__name__)
    made.__file__ = module.__file__
    exec(compile(text.replace(before, after), module.__file__, "exec"), vars(made))
    return made


SCORE = "score = lambda params: self.scorer.score(params, networks, bank, state.seed)"
SWARM_FAULTS = {
    "personal best by reference": (
        "personal=jax.tree.map(lambda new, kept: jnp.where(_along(better, new), new, kept), params, sites.personal)",
        "personal=params",
    ),
    "score bank redrawn every round": (
        SCORE,
        'bank = bank | {"image": bank["image"] + jax.random.normal(self._round_key(state, "bank"), bank["image"].shape)}\n        '
        + SCORE,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", SWARM_FAULTS)
def test_a_best_position_that_does_not_keep_its_score_is_seen(fault, monkeypatch):
    monkeypatch.setattr(toy, "mdsl", planted(mdsl, *SWARM_FAULTS[fault]))
    monkeypatch.setattr(mdsl_test, "noisy", lambda run=mdsl_test.noisy.__wrapped__(): run)
    with pytest.raises(AssertionError):
        mdsl_test.test_a_best_position_keeps_its_score_for_good()


def test_a_threshold_of_this_round_is_seen(monkeypatch):
    made = planted(
        selection,
        "limit = jnp.where(first, after.threshold, book.threshold)",
        "limit = after.threshold",
    )
    monkeypatch.setattr(selection_test, "Threshold", made.Threshold)
    with pytest.raises(AssertionError, match="not equal"):
        selection_test.test_later_thresholds_are_means_of_the_round_before()


def test_a_price_step_with_the_new_price_is_seen(monkeypatch):
    made = planted(allocation, "primal_step * (slope + price / agents)", "primal_step * (slope + after / agents)")
    monkeypatch.setattr(allocation_test, "allocations", made)
    monkeypatch.setattr(allocation_test, "play", allocation_test.play.__wrapped__)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        allocation_test.test_the_primal_step_takes_the_price_from_before_the_merge()
