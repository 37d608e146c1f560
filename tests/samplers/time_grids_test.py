import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.samplers.time_grids import Uniform, shift
from jaxgen.types import BadInput


@pytest.mark.parametrize("steps", [1, 2, 7, 1000])
@pytest.mark.parametrize("alpha", [0.3, 1.0, 3.0, 12.0])
def test_grid_falls_strictly_from_one_to_zero(steps, alpha):
    times = Uniform(alpha)(steps)
    assert times.shape == (steps + 1,) and times.dtype == np.float32
    assert times[0] == 1 and times[-1] == 0
    assert np.all(np.diff(times) < 0)


def test_grid_without_shift_has_equal_steps():
    np.testing.assert_allclose(np.diff(Uniform()(8)), -1 / 8, rtol=1e-6)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 3.0])
def test_shift_adds_the_logarithm_to_the_logit(alpha):
    t = np.linspace(0.05, 0.95, 19)
    moved = shift(t, alpha)
    np.testing.assert_allclose(np.log(moved / (1 - moved)), np.log(t / (1 - t)) + np.log(alpha), atol=1e-12)


def test_shift_above_one_moves_towards_noise():
    assert shift(0.5, 3.0) > 0.5


def test_shifts_compose():
    t = jnp.linspace(0.0, 1.0, 9)
    np.testing.assert_allclose(jax.jit(lambda t: shift(shift(t, 2.0), 3.0))(t), shift(t, 6.0), atol=1e-6)


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_shift_is_refused(alpha):
    with pytest.raises(BadInput, match="shift"):
        Uniform(alpha).validate()


def test_the_last_step_is_as_long_as_asked_and_the_others_share_the_rest():
    times = Uniform(last_step=0.04)(250)
    assert times.shape == (251,) and times[-1] == 0
    np.testing.assert_allclose(times[:-1], 1 - np.arange(250) * 0.96 / 249, atol=1e-7)


def test_the_shift_moves_the_last_step_with_the_others():
    straight, shifted = Uniform(last_step=0.04)(250).astype(np.float64), Uniform(2.0, 0.04)(250)
    np.testing.assert_allclose(shifted, shift(straight, 2.0), atol=2e-7)


def test_one_step_is_the_whole_way_whatever_the_last_step():
    np.testing.assert_array_equal(Uniform(last_step=0.04)(1), [1, 0])


def test_a_last_step_as_long_as_the_others_changes_nothing():
    np.testing.assert_allclose(Uniform(last_step=1 / 8)(8), Uniform()(8), atol=1e-7)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_the_middle_moves_as_published(alpha):
    # Published with time from noise to data: 1/2 goes to 1 / (1 + shift).
    np.testing.assert_allclose(1 - shift(0.5, alpha), 1 / (1 + alpha), atol=1e-7)


@pytest.mark.parametrize("length", [0.0, 1.0, -0.1, float("nan")])
def test_a_last_step_that_is_no_part_of_the_way_is_refused(length):
    with pytest.raises(BadInput, match="last_step"):
        Uniform(last_step=length).validate()
