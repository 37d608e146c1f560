"""DiT against diffusers' `DiTTransformer2DModel`, every parameter random, in the same process.

In two places diffusers is not what the authors published and recorded (`dit_test.py`), and is made so here: the ε of a block's
second norm, 1e-5 for 1e-6, and the frequencies of the time's sinusoid, which end at 1/10 000 instead of one step short of it.
"""

import jax.numpy as jnp
import numpy as np
import published
import pytest

from jaxgen import mup
from jaxgen.interop import dit as interop
from jaxgen.models.dit import DiT

torch = pytest.importorskip("torch", reason="needs PyTorch, of the extra `parity`")
pytest.importorskip("diffusers", reason="needs diffusers, of the extra `parity`")

DEPTH, CLASSES = 3, 10
MODEL, TABLE = interop.dit(DiT(width=64, depth=DEPTH, channels=4, learn_variance=True, scaling=mup.Scaling(base_width=64)), 4)
DRAWS = np.random.default_rng(0)
CHECKPOINT = {entry.source: (0.1 * DRAWS.normal(size=entry.shape)).astype(np.float32) for entry in TABLE.entries} | {
    name: value.astype(np.float32) for name, value in TABLE.fixed.items()
}
LAYERS = {"adaLN_modulation.1": "norm1.linear", "attn.proj": "attn1.to_out.0", "mlp.fc1": "ff.net.0.proj", "mlp.fc2": "ff.net.2"}
SHARED = {"t_embedder.mlp.0": "timestep_embedder.linear_1", "t_embedder.mlp.2": "timestep_embedder.linear_2"}
SHARED |= {"y_embedder.embedding_table": "class_embedder.embedding_table"}
ENDS = {"x_embedder.proj": "pos_embed.proj", "final_layer.adaLN_modulation.1": "proj_out_1", "final_layer.linear": "proj_out_2"}


def renamed():
    """The checkpoint under diffusers' names, where every block has its own copy of what embeds time and label."""
    found = {}
    for name, value in CHECKPOINT.items():
        layer, _, kind = name.rpartition(".")
        if layer in ENDS:
            found[f"{ENDS[layer]}.{kind}"] = value
        elif layer in SHARED:
            found |= {f"transformer_blocks.{i}.norm1.emb.{SHARED[layer]}.{kind}": value for i in range(DEPTH)}
        elif layer.endswith("attn.qkv"):
            parts = zip(("to_q", "to_k", "to_v"), np.split(value, 3), strict=True)
            found |= {f"transformer_{layer.removesuffix('.attn.qkv')}.attn1.{to}.{kind}": part for to, part in parts}
        elif name != "pos_embed":
            block, own = ".".join(layer.split(".")[:2]), ".".join(layer.split(".")[2:])
            found[f"transformer_{block}.{LAYERS[own]}.{kind}"] = value
    return {name: torch.tensor(value) for name, value in found.items()}


def test_the_output_is_that_of_diffusers():
    from diffusers import DiTTransformer2DModel
    from diffusers.models.embeddings import Timesteps

    network = DiTTransformer2DModel(
        num_attention_heads=4,
        attention_head_dim=16,
        in_channels=4,
        out_channels=8,
        num_layers=DEPTH,
        sample_size=8,
        num_embeds_ada_norm=CLASSES,
        norm_eps=1e-6,
    ).eval()
    for block in network.transformer_blocks:
        block.norm1.emb.time_proj = Timesteps(num_channels=256, flip_sin_to_cos=True, downscale_freq_shift=0)
    network.load_state_dict(renamed(), strict=True)
    x, t, y = DRAWS.normal(size=(3, 4, 8, 8)).astype(np.float32), np.array([950, 412, 7]), np.array([3, 7, CLASSES])
    with torch.no_grad():
        expected = network(torch.tensor(x), torch.tensor(t), torch.tensor(y), return_dict=False)[0].numpy()
    t, streams = jnp.asarray(t / 1000, jnp.float32), published.labels(y, CLASSES)
    found = published.network(MODEL)(TABLE.read(CHECKPOINT), published.here(x), t, streams)
    published.close(published.there(found), expected)
