"""Random streams: apart from each other, the same on any number of devices, and in every later version."""

import ast
import itertools
import pathlib
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.parallel import keys

PACKAGE = pathlib.Path(__file__).parents[2] / "jaxgen"


def data(key):
    return tuple(np.asarray(jax.random.key_data(key)).tolist())


def stream_names():
    """Names of streams that the package spells out."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("stream") and len(node.args) == 2:
                if isinstance(node.args[1], ast.Constant):
                    found.add(node.args[1].value)
    return found


def test_keys_are_typed_threefry_whatever_the_default_is():
    with jax.default_prng_impl("rbg"):
        key = keys.root(0)
    assert jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    assert str(jax.random.key_impl(key)) == "threefry2x32"


def test_keys_stay_what_they_are_so_that_old_runs_resume():
    assert data(keys.root(0)) == (0, 0)
    assert data(keys.root(7)) == (0, 7)
    assert data(keys.stream(keys.root(0), "train")) == (2561911289, 2218184944)


def test_a_traced_seed_gives_the_key_of_the_number():
    traced = jax.jit(lambda seed: keys.stream(keys.root(seed), "init"))(np.uint32(3_000_000_000))
    assert data(traced) == data(keys.stream(keys.root(3_000_000_000), "init"))


def test_streams_of_other_names_seeds_and_parents_differ():
    made = [
        keys.stream(parent, name)
        for seed in (0, 1, 2**32 - 1)
        for parent in (keys.root(seed), keys.stream(keys.root(seed), "train"))
        for name in ("train", "init", "sample", "noise", "t", "", "Train", "train ")
    ]
    assert len({data(key) for key in made}) == len(made)


def test_a_stream_does_not_depend_on_which_others_were_made():
    alone = data(keys.stream(keys.root(5), "noise"))
    key = keys.root(5)
    for name in ("t", "drop", "a new stream"):
        keys.stream(key, name)
    assert data(keys.stream(key, "noise")) == alone


def test_the_package_names_its_streams_apart():
    names = stream_names()
    assert {"train", "init", "noise", "t", "sample"} <= names
    assert len({zlib.crc32(name.encode()) for name in names}) == len(names)


def test_draws_of_different_streams_and_steps_do_not_correlate():
    count = 4096
    root = keys.root(0)
    draws = [
        np.asarray(jax.random.normal(jax.random.fold_in(keys.stream(root, name), step), (count,)))
        for name, step in itertools.product(("train", "init", "sample"), (0, 1))
    ]
    correlations = np.corrcoef(draws)[np.triu_indices(len(draws), 1)]
    # Six standard deviations of the correlation of independent draws.
    assert np.abs(correlations).max() < 6 / np.sqrt(count)


@pytest.mark.parametrize("parts", [1, 2, 8])
def test_a_draw_is_the_same_on_any_number_of_devices(parts):
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:parts]), ("data",))
    layout = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    key = keys.stream(keys.root(0), "noise")
    spread = jax.jit(lambda key: jax.random.normal(key, (16, 5)), out_shardings=layout)(key)
    assert len(spread.sharding.device_set) == parts
    np.testing.assert_array_equal(np.asarray(spread), np.asarray(jax.random.normal(key, (16, 5))))


def test_a_draw_under_vmap_is_the_draw_alone():
    made = jax.vmap(lambda index: jax.random.fold_in(keys.root(0), index))(jnp.arange(4))
    together = jax.vmap(lambda key: jax.random.normal(key, (3,)))(made)
    alone = jnp.stack([jax.random.normal(jax.random.fold_in(keys.root(0), index), (3,)) for index in range(4)])
    np.testing.assert_array_equal(together, alone)
