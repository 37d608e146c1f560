"""How the recorded runs of the authors' networks are asked for: weights, inputs in the layout here, errors, gradients.

Tolerances are relative norms. Two float32 programs of some ten products differ by about 1e-6; moving the authors' own code to
another attention kernel and other threads moved its outputs and gradients by up to 8e-7. A tanh in the place of an exact GELU moves
outputs by 1e-5 and a single layer by 2e-4, which is why outputs and probes are asked for 5e-6.
"""

import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen import types
from jaxgen.models import interface

OUTPUTS, GRADIENTS = 5e-6, 2e-5

_SPEC = importlib.util.spec_from_file_location("parity_recorded", pathlib.Path(__file__).with_name("recorded.py"))
_RECORDED = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_RECORDED)
load = _RECORDED.load


def weights(runs, doubled, fixed=()):
    """The recorded weights; doubled, all but gains of norms and `fixed` ones times two."""
    found = {name.removeprefix("weight/"): value for name, value in runs.items() if name.startswith("weight/")}
    if not doubled:
        return found
    gain = lambda name, value: value.ndim == 1 and name.endswith(".weight")
    return {name: value if name in fixed or gain(name, value) else 2 * value for name, value in found.items()}


def recorded(runs, start, doubled):
    """What was recorded below `start`, by the rest of the name."""
    what, *rest = start.split("/")
    start = "/".join([what + ("_x2" if doubled else ""), *rest]) + "/"
    return {name.removeprefix(start): value for name, value in runs.items() if name.startswith(start)}


def error(found, expected):
    expected = np.asarray(expected, np.float64)
    return float(np.linalg.norm(np.asarray(found, np.float64) - expected) / np.linalg.norm(expected))


def close(found, expected, tolerance=OUTPUTS):
    assert np.shape(found) == np.shape(expected)
    assert error(found, expected) < tolerance


def here(x):
    """[B, C, H, W] to [B, H, W, C]."""
    return jnp.asarray(np.asarray(x).transpose(0, 2, 3, 1))


def there(x):
    return np.array(x).transpose(0, 3, 1, 2)


def guided(found, scale):
    """Outputs [conditional; unconditional] under guidance of the first three channels alone, as DiT and SiT were published."""
    half = len(found) // 2
    with_label, without = found[:half, :3], found[half:, :3]
    found[:, :3] = np.tile(without + scale * (with_label - without), (2, 1, 1, 1))
    return found


def labels(ids, null):
    """The stream of recorded labels, absent where they are the null label."""
    ids = jnp.asarray(ids, jnp.int32)[:, None]
    return {"label": types.Condition(ids, (ids != null).astype(jnp.int32))}


def network(model):
    """Jitted (params, x, t, streams) -> output, all in the layout and the time here."""
    return jax.jit(lambda params, x, t, streams: interface.velocity(model, params, x, t, streams, jnp.float32))


def gradients(model, params, x, t, streams, seed):
    """Gradients of sum(output · seed) by the parameters and by x."""

    def loss(params, x):
        return jnp.sum(interface.velocity(model, params, x, t, streams, jnp.float32) * seed)

    return jax.jit(jax.grad(loss, argnums=(0, 1)))(jax.tree.map(jnp.asarray, params), x)


def close_gradients(table, found, recorded):
    """Compares those tensors of a checkpoint whose gradients are recorded.

    A table's steps exchange elements, change signs and rotate; the gradient of what it read is what it reads of the gradient.
    """
    written = table.write(found)
    for name, expected in recorded.items():
        assert error(written[name], expected) < GRADIENTS, name
