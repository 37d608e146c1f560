"""MMDiT against diffusers' `SD3Transformer2DModel`, every parameter random, in the same process."""

import functools
import math

import jax.numpy as jnp
import numpy as np
import published
import pytest

from jaxgen import mup, types
from jaxgen.interop import sd3 as interop
from jaxgen.models.mmdit import VARIANTS, MMDiT

torch = pytest.importorskip("torch", reason="needs PyTorch, of the extra `parity`")
pytest.importorskip("diffusers", reason="needs diffusers, of the extra `parity`")

BATCH, LENGTH, FEATURES, POOLED = 3, 7, 24, 20
GRID, TABLE = 4, 6
SIZES = {"width": 64, "depth": 3, "channels": 4, "vocabulary": 0, "text_features": FEATURES, "text_length": LENGTH}
SIZES |= {"pooled_features": POOLED, "scaling": mup.Scaling(base_width=64)}
KINDS = {name: interop.sd3(MMDiT(**SIZES, qk_norm=norm), GRID, TABLE) for name, norm in (("medium", False), ("large", True))}
DRAWS = np.random.default_rng(0)
X = DRAWS.normal(size=(BATCH, 4, 8, 8)).astype(np.float32)
WIDE = DRAWS.normal(size=(BATCH, 4, 4, 12)).astype(np.float32)  # 2 × 6 tokens, as wide as the table
T = np.array([950, 412, 7], np.float32)
TEXT = DRAWS.normal(size=(BATCH, LENGTH, FEATURES)).astype(np.float32)
ONE = DRAWS.normal(size=(BATCH, POOLED)).astype(np.float32)
SEED = DRAWS.normal(size=X.shape).astype(np.float32)
each_kind = pytest.mark.parametrize("kind", KINDS)
each_size = pytest.mark.parametrize("spread", [0.05, 0.1], ids=["as_recorded_ones", "doubled"])


def streams(text=TEXT, one=ONE, present=1):
    entries = lambda count: jnp.full((BATCH, count), present, jnp.int32)
    return {
        "text": types.Condition(jnp.asarray(text), entries(LENGTH)),
        "pooled": types.Condition(jnp.asarray(one)[:, None], entries(1)),
    }


@functools.cache
def network(kind, spread):
    from diffusers import SD3Transformer2DModel

    found = SD3Transformer2DModel(
        sample_size=2 * GRID,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=3,
        attention_head_dim=16,
        num_attention_heads=4,
        joint_attention_dim=FEATURES,
        caption_projection_dim=64,
        pooled_projection_dim=POOLED,
        pos_embed_max_size=TABLE,
        qk_norm="rms_norm" if kind == "large" else None,
    ).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in found.named_parameters():
            gain = parameter.ndim == 1 and name.endswith(("_q.weight", "_k.weight"))
            parameter.copy_(gain + spread * torch.randn(parameter.shape, generator=generator))
    return found


def there(kind, spread, x, text=TEXT, one=ONE):
    """What diffusers puts out, a tensor."""
    text, one, t = (torch.tensor(np.asarray(value), dtype=torch.float32) for value in (text, one, T))
    return network(kind, spread)(x, text, one, t, return_dict=False)[0]


@functools.cache
def params(kind, spread):
    return KINDS[kind][1].read({name: value.numpy() for name, value in network(kind, spread).state_dict().items()})


def here(kind, spread, x, streams):
    return published.there(
        published.network(KINDS[kind][0])(params(kind, spread), published.here(x), jnp.asarray(T / 1000), streams)
    )


@each_kind
@each_size
@pytest.mark.parametrize("x", [X, WIDE], ids=["square", "as_wide_as_the_table"])
def test_the_output_is_that_of_diffusers(kind, spread, x):
    with torch.no_grad():
        expected = there(kind, spread, torch.tensor(x)).numpy()
    published.close(here(kind, spread, x, streams()), expected)


@each_kind
@each_size
def test_all_gradients_are_those_of_diffusers(kind, spread):
    x = torch.tensor(X, requires_grad=True)
    own = network(kind, spread)
    own.zero_grad()
    torch.sum(there(kind, spread, x) * torch.tensor(SEED)).backward()
    by_name = {name: parameter.grad.numpy() for name, parameter in own.named_parameters()}
    t = jnp.asarray(T / 1000)
    model, table = KINDS[kind]
    found, by_x = published.gradients(model, params(kind, spread), published.here(X), t, streams(), published.here(SEED))
    published.close(published.there(by_x), x.grad.numpy(), published.GRADIENTS)
    # Of the last block the queries of text are asked for by nobody.
    last = "transformer_blocks.2.attn."
    unread = {name for name in by_name if name.startswith((f"{last}add_q_proj", f"{last}norm_added_q"))}
    assert len(unread) == (2 if kind == "medium" else 3) and not any(by_name[name].any() for name in unread)
    written = table.write(found)
    assert not any(written[name].any() for name in unread)
    published.close_gradients(table, found, {name: value for name, value in by_name.items() if name not in unread})


@each_kind
def test_an_absent_text_is_the_zeros_that_it_was_trained_with(kind):
    with torch.no_grad():
        expected = there(kind, 0.1, torch.tensor(X), np.zeros_like(TEXT), np.zeros_like(ONE)).numpy()
    published.close(here(kind, 0.1, X, streams(present=0)), expected)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_published_sizes_have_as_many_parameters_as_the_class_of_diffusers(name):
    from diffusers import SD3Transformer2DModel

    depth = VARIANTS[name]["depth"]
    with torch.device("meta"):
        # The table of positions, which no parameter depends on, in little.
        network = SD3Transformer2DModel(
            num_layers=depth,
            num_attention_heads=depth,
            caption_projection_dim=64 * depth,
            sample_size=8,
            pos_embed_max_size=4,
            qk_norm="rms_norm" if VARIANTS[name]["qk_norm"] else None,
        )
    _, table = interop.sd3(MMDiT(**VARIANTS[name], vocabulary=0, channels=16), 4, 4)
    shapes = {e.source: e.shape for e in table.entries}
    assert shapes == {name: tuple(p.shape) for name, p in network.named_parameters()}
    assert sum(map(math.prod, shapes.values())) == {"SD3-medium": 2_028_328_000, "SD3.5-large": 8_056_627_520}[name]
