"""Compiles one small program for one slice and prints what is read of it, as JSON. Run with the compiler's environment."""

import json
import pathlib
import sys

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxgen.parallel import mesh as meshes
from jaxgen.parallel import slices
from jaxgen.preflight import hlo, hlo_cost, kernels, target

LAYERS, BATCH, LENGTH, WIDTH, HIDDEN = 6, 8, 1024, 2048, 8192


def matmul(mesh):
    """8192³ on each chip."""
    side = 8192
    layout = NamedSharding(mesh, P())
    given = jax.ShapeDtypeStruct((side, side), jnp.bfloat16, sharding=layout)
    return jax.jit(lambda a, b: a @ b, out_shardings=layout), (given, given)


def stack(mesh, unroll, parts=1):
    """Gradient of six layers, scanned or unrolled; with several parts, in a scan over parts of the batch.

    That of the input too: otherwise layers written out leave out one product of the first, which a loop over all cannot.
    """
    rows, whole = NamedSharding(mesh, P(None, ("data", "fsdp"))), NamedSharding(mesh, P(None, "fsdp"))
    params = {
        "in": jax.ShapeDtypeStruct((LAYERS, WIDTH, HIDDEN), jnp.float32, sharding=whole),
        "out": jax.ShapeDtypeStruct((LAYERS, HIDDEN, WIDTH), jnp.float32, sharding=whole),
    }
    batch = jax.ShapeDtypeStruct((parts, BATCH, LENGTH, WIDTH), jnp.bfloat16, sharding=rows)

    def layer(x, p):
        hidden = jax.nn.gelu(x @ p["in"].astype(x.dtype))
        return x + hidden @ p["out"].astype(x.dtype), None

    def loss(params, x):
        x, _ = jax.lax.scan(jax.checkpoint(layer), x, params, unroll=unroll)
        return jnp.mean(jnp.square(x.astype(jnp.float32)))

    def gradient(params, batch):
        def body(total, x):
            of_params, of_input = jax.grad(loss, (0, 1))(params, x)
            return jax.tree.map(jnp.add, total, of_params), of_input

        zeros = jax.tree.map(jnp.zeros_like, params)
        return jax.lax.scan(body, zeros, batch, unroll=unroll)

    return jax.jit(gradient, out_shardings=({"in": whole, "out": whole}, rows)), (params, batch)


def attention(mesh):
    """The stock flash kernel, forward, 2 × 8 heads of 4096 × 128, in blocks of 512."""
    from jax.experimental.pallas.ops.tpu import flash_attention as flash

    layout = NamedSharding(mesh, P())
    given = jax.ShapeDtypeStruct((2, 8, 4096, 128), jnp.bfloat16, sharding=layout)
    blocks = flash.BlockSizes(block_q=512, block_k_major=512, block_k=512, block_b=1)
    one = lambda q, k, v: flash.flash_attention(q, k, v, block_sizes=blocks)
    return jax.jit(jax.shard_map(one, mesh=mesh, in_specs=P(), out_specs=P(), check_vma=False)), (given,) * 3


PROGRAMS = {
    "matmul": matmul,
    "attention": attention,
    "scanned": lambda mesh: stack(mesh, 1),
    "unrolled": lambda mesh: stack(mesh, True),
    "nested": lambda mesh: stack(mesh, 1, parts=3),
    "nested unrolled": lambda mesh: stack(mesh, True, parts=3),
}


def main(name, slice_name, bundles):
    wanted = target.Target(slices.parse(slice_name))
    mesh = meshes.build(meshes.MeshShape(data=1, fsdp=-1), wanted.devices())
    with jax.set_mesh(mesh):
        program, given = PROGRAMS[name](mesh)
        compiled = program.trace(*given).lower(lowering_platforms=("tpu",)).compile()
    module = hlo.parse(compiled.as_text())
    found = kernels.read(module, pathlib.Path(bundles), wanted.chip)
    reading = hlo_cost.read(module, wanted.torus(list(mesh.devices.flat)), found)
    moved = {}
    for line in reading.lines:
        moved[line.name] = moved.get(line.name, 0.0) + line.bytes
    print(
        json.dumps(
            {
                "seconds": {kind: reading.waited(kind) for kind in hlo_cost.KINDS},
                "flops": reading.flops,
                "unknown": reading.unknown,
                "kernels": list(found.values()),
                "bytes": moved,
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
