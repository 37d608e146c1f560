"""PixArt-α against diffusers' `PixArtTransformer2DModel`, every parameter random, in the same process."""

import functools
import math

import jax.numpy as jnp
import numpy as np
import published
import pytest

from jaxgen import mup, types
from jaxgen.interop import pixart as interop
from jaxgen.models.pixart import VARIANTS, PixArt

torch = pytest.importorskip("torch", reason="needs PyTorch, of the extra `parity`")
pytest.importorskip("diffusers", reason="needs diffusers, of the extra `parity`")

BATCH, LENGTH, FEATURES = 3, 7, 24
MODEL, TABLE = interop.pixart(
    PixArt(
        width=64,
        depth=3,
        channels=4,
        learn_variance=True,
        text_features=FEATURES,
        text_length=LENGTH,
        scaling=mup.Scaling(base_width=64),
    ),
    4,
)
DRAWS = np.random.default_rng(0)
X = DRAWS.normal(size=(BATCH, 4, 8, 8)).astype(np.float32)
T = np.array([950, 412, 7])
TEXT = DRAWS.normal(size=(BATCH, LENGTH, FEATURES)).astype(np.float32)
PRESENT = np.arange(LENGTH) < np.array([[7], [3], [1]])
SEED = DRAWS.normal(size=(BATCH, 8, 8, 8)).astype(np.float32)
INPUTS = (
    published.here(X),
    jnp.asarray(T / 1000, jnp.float32),
    {"text": types.Condition(jnp.asarray(TEXT), jnp.asarray(PRESENT, jnp.int32))},
)
each_size = pytest.mark.parametrize("spread", [0.05, 0.1], ids=["as_recorded_ones", "doubled"])


@functools.cache
def reference(spread):
    """State, output, and gradients by name and of x, of sum(output · SEED)."""
    from diffusers import PixArtTransformer2DModel

    network = PixArtTransformer2DModel(
        num_attention_heads=4,
        attention_head_dim=16,
        in_channels=4,
        out_channels=8,
        num_layers=3,
        cross_attention_dim=64,
        sample_size=8,
        caption_channels=FEATURES,
        use_additional_conditions=False,
    ).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(spread * torch.randn(parameter.shape, generator=generator))
    x = torch.tensor(X, requires_grad=True)
    mask = torch.tensor(PRESENT, dtype=torch.float32)
    out = network(x, torch.tensor(TEXT), torch.tensor(T), encoder_attention_mask=mask, return_dict=False)[0]
    torch.sum(out * torch.tensor(SEED)).backward()
    state = {name: value.numpy() for name, value in network.state_dict().items()}
    return state, out.detach().numpy(), {name: p.grad.numpy() for name, p in network.named_parameters()}, x.grad.numpy()


def params(spread):
    return interop.with_null(TABLE.read(reference(spread)[0]), np.zeros((LENGTH, FEATURES), np.float32))


@each_size
def test_the_output_is_that_of_diffusers(spread):
    found = published.network(MODEL)(params(spread), *INPUTS)
    published.close(published.there(found), reference(spread)[1])


@each_size
def test_all_gradients_are_those_of_diffusers(spread):
    found, x = published.gradients(MODEL, params(spread), *INPUTS, published.here(SEED))
    *_, by_name, by_x = reference(spread)
    published.close(published.there(x), by_x, published.GRADIENTS)
    # A bias on keys shifts all products of a query alike: its gradient is zero but for rounding, on both sides.
    keys = {name: value for name, value in by_name.items() if name.endswith("to_k.bias")}
    assert len(keys) == 6 and all(np.abs(value).max() < 1e-4 * np.abs(by_x).max() for value in keys.values())
    published.close_gradients(TABLE, found, {name: value for name, value in by_name.items() if name not in keys})


def test_the_published_size_has_as_many_parameters_as_the_class_of_diffusers():
    from diffusers import PixArtTransformer2DModel

    with torch.device("meta"):
        network = PixArtTransformer2DModel(sample_size=64, caption_channels=4096)
    _, table = interop.pixart(PixArt(**VARIANTS["XL"], channels=4, learn_variance=True), 32)
    assert {e.source: e.shape for e in table.entries} == {name: tuple(p.shape) for name, p in network.named_parameters()}
    assert sum(math.prod(e.shape) for e in table.entries) == 610_856_096


def test_the_null_caption_is_read_as_diffusers_reads_the_text_that_it_holds():
    null = np.random.default_rng(1).normal(size=(LENGTH, FEATURES)).astype(np.float32)
    run, whole = published.network(MODEL), jnp.ones((BATCH, LENGTH), jnp.int32)
    told = {"text": types.Condition(jnp.asarray(np.repeat(null[None], BATCH, 0)), whole)}
    absent = {"text": types.Condition(jnp.asarray(TEXT), 0 * whole)}
    having = interop.with_null(params(0.1), null)
    published.close(run(having, *INPUTS[:2], absent), run(having, *INPUTS[:2], told))
