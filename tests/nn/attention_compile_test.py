"""The TPU's compiler takes the flash kernel at real sizes, with every mask and with gradients, for chips that are not here."""

import importlib.util
import os
import subprocess
import sys

import pytest

PROGRAM = """
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies

from jaxgen.nn.attention import attention
from jaxgen.nn.attention_mask import BlockKind, Blocks, Mask
from jaxgen.parallel import mesh as meshes

name, bounds, context = sys.argv[1], tuple(map(int, sys.argv[2].split(","))), int(sys.argv[3])
more = {"chip_config_name": "megacore"} if name.startswith("v4") else {}
chips = topologies.get_topology_desc(platform="tpu", topology_name=name, chips_per_host_bounds=bounds, **more).devices
mesh = meshes.build(meshes.MeshShape(data=1, context=context, fsdp=len(chips) // context), chips)


def compiled(tokens, heads, width, mask, method):
    q = jax.ShapeDtypeStruct((len(chips), tokens, heads, width), jnp.bfloat16)

    def both(q, k, v, mask):
        out, back = jax.vjp(lambda *x: attention(*x, mask, 0.1, method), q, k, v)
        return out, back(out)

    with jax.set_mesh(mesh):
        layout = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=jax.NamedSharding(mesh, jax.P("fsdp", "context")))
        arrays = jax.tree.map(layout, (q, q, q, mask))
        return jax.jit(both).trace(*arrays).lower(lowering_platforms=("tpu",)).compile()


def masks(tokens):
    owner = jax.ShapeDtypeStruct((len(chips), tokens), jnp.int32)
    blocks = Blocks(owner, owner)
    table = (BlockKind(causal=True, sees=(0, 1)), BlockKind(causal=False, sees=(0, 1)), BlockKind(causal=False, sees=(0,)))
    return {
        "none": Mask(),
        "causal": Mask(causal=True),
        "window": Mask(window=1000),
        "segments": Mask(owner, owner),
        "blocks": Mask(query_blocks=blocks, key_blocks=blocks, kinds=table),
        "all": Mask(owner, owner, blocks, blocks, causal=True, window=1000, kinds=table),
    }


for tokens, heads, width in ((4608, 4, 128), (1000, 4, 72), (256, 16, 72)) if context == 1 else ((4608, 4, 128),):
    for kind, mask in masks(tokens).items():
        for method in ("all_gather", "ring") if context > 1 else ("all_gather",):
            program = compiled(tokens, heads, width, mask, method).as_text()
            print(tokens, kind, method, program.count("tpu_custom_call"), flush=True)
"""
HERE = {"TPU_ACCELERATOR_TYPE": "v5litepod-8", "TPU_WORKER_HOSTNAMES": "localhost", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs the TPU's compiler: pip install 'jaxgen[tpu]'")
@pytest.mark.parametrize(
    "name, bounds, context, programs",
    [
        ("v5e:1x1", "1,1,1", 1, 18),
        ("v6e:1x1", "1,1,1", 1, 18),
        ("v5p:1x1x1", "1,1,1", 1, 18),
        ("v4:1x1x1", "1,1,1", 1, 18),
        ("v5p:2x2x1", "2,2,1", 2, 12),
    ],
    ids=["v5e", "v6e", "v5p", "v4", "divided"],
)
def test_the_compiler_takes_every_mask_with_gradients(name, bounds, context, programs):
    environment = os.environ | HERE | {"JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", PROGRAM, name, bounds, str(context)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    # One kernel forward and one backward.
    assert len(lines) == programs and all(int(line.split()[-1]) >= 2 for line in lines)
