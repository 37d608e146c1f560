"""QK-norm and rotations of heads on TPUs, in one pass over what their projection leaves.

A head of 72 or 64 channels does not fill the 128 lanes of a tile. As plain operations on [B, L, N, K] its norm and rotation take
several passes over padded float32 arrays; here a tile of [B, L, 3·N·K] is read once, and queries, keys and values are written once,
in the layout that the flash kernel reads. Heads are never cut out of the lanes: what a head has in common, its mean square and the
factors of its rotation, goes to and from its channels by products with matrices of zeros and ones. Matrix units are what limits
this, so numbers go there as two of bfloat16, their high and their low part, side by side in one product.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxgen.nn import attention_tiles, rope
from jaxgen.nn.norms import RMS_EPSILON
from jaxgen.parallel import sharding

ROWS = 16  # of a tile of two-byte numbers
MOST = 3 << 17  # numbers of queries in a tile, whose work is written out whole: more would only compile for longer
PARTS = 3  # queries, keys, values

Arrays = tuple[jax.Array, ...]


@dataclasses.dataclass(frozen=True)
class Plan:
    """Attributes:
    rows: tokens of a tile.
    vector_memory: bytes that a kernel may use of a core's vector memory; None leaves it to the compiler.
    interpret: runs the kernels in Python on any platform, for tests.
    """

    rows: int
    vector_memory: int | None = None
    interpret: bool = False


def applies(x: jax.Array, heads: int, width: int) -> bool:
    """Whether the mesh is one of TPUs that divides no heads, and tokens x [B, L, …] in bfloat16 on one of them make tiles."""
    mesh, device = jax.sharding.get_abstract_mesh(), sharding.device()
    if device is None or device.platform != "tpu" or mesh.shape.get("tensor", 1) > 1:
        return False
    length, rest = divmod(x.shape[1], mesh.shape.get("context", 1))
    # What does not divide over `context` is refused by attention, by name.
    whole = x.dtype == jnp.bfloat16 and heads * width % attention_tiles.LANES == 0 and not rest
    return whole and _plan(device.device_kind, length, heads * width) is not None


def normed_and_turned(qkv: jax.Array, gains: jax.Array, positions: jax.Array | None) -> Arrays:
    """Queries and keys under RMSNorm and then rotated, and values as they are, where `applies`.

    Args:
      qkv: [B, L, 3, N, K], of one projection. gains: float32 [2, K] of queries and keys.
      positions: [B, L, axes] of `rope.rotate`; None rotates nothing.

    Returns:
      Three arrays [B, L, N, K] in the dtype of `qkv`.
    """
    mesh = jax.sharding.get_abstract_mesh()
    sizes, kind = sharding.automatic(mesh), sharding.device().device_kind
    turning = () if positions is None else tuple(map(in_two_parts, rope.factors(positions, qkv.shape[-1])))
    axes = 0 if positions is None else positions.shape[-1]

    def local(qkv: jax.Array, gains: jax.Array, turning: Arrays) -> Arrays:
        return heads(qkv, gains, turning, axes, _plan(kind, qkv.shape[1], qkv.shape[2] // PARTS))

    # Flat: an array of heads has a layout of its own.
    flat = qkv.reshape(*qkv.shape[:2], -1)
    spec = lambda x: sharding.partition_spec(("batch", "length", None), x.shape, sizes)
    specs = spec(flat), jax.sharding.PartitionSpec(), jax.tree.map(spec, turning)
    mapped = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=(specs[0],) * PARTS, axis_names=set(sizes), check_vma=False)
    return tuple(x.reshape(*qkv.shape[:2], *qkv.shape[3:]) for x in mapped(flat, gains, turning))


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def heads(qkv: jax.Array, gains: jax.Array, turning: Arrays, axes: int, plan: Plan) -> Arrays:
    """As `normed_and_turned`, on one device, with heads side by side.

    Args:
      qkv: [B, L, 3·N·K]. gains: float32 [2, K].
      turning: cos and sin of `rope.factors`, `in_two_parts`, [B, L, K] each, or nothing. axes: of the positions behind them.
      plan: its rows divide L.

    Returns:
      Three arrays [B, L, N·K].
    """
    return _forward(qkv, gains, turning, axes, plan)[0]


def _forward(qkv, gains, turning, axes, plan):
    batch, length, channels = qkv.shape[0], qkv.shape[1], qkv.shape[2] // PARTS
    whole, part = _blocks(plan.rows, channels)
    constants, specs = _constants(gains, turning, axes, plan.rows, channels)
    found = pl.pallas_call(
        functools.partial(_forward_kernel, half=_half(gains, axes)),
        grid=(batch, length // plan.rows),
        in_specs=[whole, *specs],
        out_specs=[part] * PARTS,
        out_shape=[jax.ShapeDtypeStruct((batch, length, channels), qkv.dtype)] * PARTS,
        compiler_params=_parameters(plan),
        interpret=plan.interpret,
        name="heads_forward",
    )(qkv, *constants)
    return tuple(found), (qkv, gains, turning)


def _backward(axes, plan, saved, gradients):
    qkv, gains, turning = saved
    batch, length, channels = qkv.shape[0], qkv.shape[1], qkv.shape[2] // PARTS
    whole, part = _blocks(plan.rows, channels)
    constants, specs = _constants(gains, turning, axes, plan.rows, channels)
    dqkv, dgains = pl.pallas_call(
        functools.partial(_backward_kernel, half=_half(gains, axes)),
        grid=(batch, length // plan.rows),
        in_specs=[whole, part, part, part, *specs],
        out_specs=[whole, pl.BlockSpec((1, 1, 2, channels), lambda b, i: (b, i, 0, 0))],
        out_shape=[
            jax.ShapeDtypeStruct(qkv.shape, qkv.dtype),
            jax.ShapeDtypeStruct((batch, length // plan.rows, 2, channels), jnp.float32),
        ],
        compiler_params=_parameters(plan),
        interpret=plan.interpret,
        name="heads_backward",
    )(qkv, *gradients, *constants)
    dgains = jnp.sum(dgains, axis=(0, 1)).reshape(2, -1, gains.shape[1]).sum(axis=1)
    # Positions are data.
    return dqkv, dgains, jax.tree.map(jnp.zeros_like, turning)


heads.defvjp(_forward, _backward)


def in_two_parts(x: jax.Array) -> jax.Array:
    """float32 [..., n] to bfloat16 [..., 2n]: rounded, and beside it what that leaves; 16 bits together."""
    high = x.astype(jnp.bfloat16)
    return jnp.concatenate([high, (x - high.astype(jnp.float32)).astype(jnp.bfloat16)], axis=-1)


def _forward_kernel(qkv, gains, of_heads, *refs, half):
    *turning, q, k, v = refs
    width = q.shape[2]
    turn = _turn(turning, half)
    for which, out in enumerate((q, k)):
        unit, _ = _normed(qkv[0, :, which * width : (which + 1) * width], of_heads)
        out[0] = turn(unit * gains[which : which + 1], False).astype(out.dtype)
    v[0] = qkv[0, :, 2 * width :]


def _backward_kernel(qkv, dq, dk, dv, gains, of_heads, *refs, half):
    *turning, dqkv, dgains = refs
    width = dq.shape[2]
    turn = _turn(turning, half)
    for which, gradient in enumerate((dq, dk)):
        lanes = slice(which * width, (which + 1) * width)
        unit, inverse = _normed(qkv[0, :, lanes], of_heads)
        dy = turn(gradient[0].astype(jnp.float32), True)
        dgains[0, 0, which : which + 1] = jnp.sum(dy * unit, axis=0, keepdims=True)
        dy = dy * gains[which : which + 1]
        along = _to_channels(_head_means(dy * unit, of_heads), of_heads)
        dqkv[0, :, lanes] = (inverse * (dy - unit * along)).astype(dqkv.dtype)
    dqkv[0, :, 2 * width :] = dv[0]


def _normed(x, of_heads):
    """x [rows, N·K] over the root mean square of its heads, and one over that, in float32."""
    x = x.astype(jnp.float32)
    inverse = _to_channels(jax.lax.rsqrt(_head_means(x * x, of_heads) + RMS_EPSILON), of_heads)
    return x * inverse, inverse


def _turn(turning, half):
    """The rotation of float32 [rows, N·K], and back; what it is given where nothing turns."""
    if not turning:
        return lambda x, back: x
    cos, sin, of_pairs, signs = turning
    cos = _dot(cos[0], of_pairs[...], ((1,), (0,)))
    sin = _dot(sin[0], of_pairs[...], ((1,), (0,))) * signs[...]
    of_first = signs[...] < 0

    def partners(x):
        return jnp.where(of_first, pltpu.roll(x, x.shape[1] - half, 1), pltpu.roll(x, half, 1))

    return lambda x, back: x * cos + (partners(x * sin) if back else partners(x) * sin)


def _head_means(x, of_heads):
    """float32 [rows, N·K] to [rows, 2·N], each mean twice. What is added is rounded to bfloat16, which the mean hardly notices."""
    return _dot(x.astype(jnp.bfloat16), of_heads[...], ((1,), (0,))) * (of_heads.shape[1] / 2 / of_heads.shape[0])


def _to_channels(x, of_heads):
    """float32 [rows, 2·N], each number of a head twice, to [rows, N·K], as `in_two_parts` has numbers."""
    high = x.astype(jnp.bfloat16).astype(jnp.float32)
    first = jax.lax.broadcasted_iota(jnp.int32, x.shape, 1) < x.shape[1] // 2
    return _dot(jnp.where(first, high, x - high).astype(jnp.bfloat16), of_heads[...], ((1,), (1,)))


def _dot(a, b, contracted):
    return jax.lax.dot_general(a, b, (contracted, ((), ())), preferred_element_type=jnp.float32)


def _blocks(rows, channels):
    """Of [B, L, 3·N·K] and of [B, L, N·K]."""
    at = lambda b, i: (b, i, 0)
    return pl.BlockSpec((1, rows, PARTS * channels), at), pl.BlockSpec((1, rows, channels), at)


def _half(gains, axes):
    """How far apart the channels of a pair are."""
    return gains.shape[1] // max(axes, 1) // 2


def _constants(gains, turning, axes, rows, channels):
    """Arrays besides those of tokens, and their blocks.

    They are gains of all channels [2, N·K], and which head a channel is of, twice [N·K, 2·N]; and where there are rotations cos and
    sin, which channels of all heads take each of their columns [K, N·K], and -1 for the first of a pair and 1 for the second
    [1, N·K].
    """
    width = gains.shape[1]
    heads = channels // width
    of_heads = np.kron(np.eye(heads), np.ones((width, 1)))
    arrays = [jnp.tile(gains, (1, heads)), jnp.asarray(np.tile(of_heads, 2), jnp.bfloat16)]
    if turning:
        pair, first = (np.tile(of_one, heads) for of_one in rope.pairs(width, axes))
        of_pairs = np.arange(width // 2)[:, None] == pair
        arrays += [*turning, jnp.asarray(np.tile(of_pairs, (2, 1)), jnp.bfloat16), jnp.asarray(1 - 2 * first[None], jnp.float32)]
    tile = pl.BlockSpec((1, rows, width), lambda b, i: (b, i, 0))
    still = lambda x: pl.BlockSpec(x.shape, lambda b, i: (0, 0))
    return arrays, [tile if x.ndim == 3 else still(x) for x in arrays]


def _parameters(plan):
    return pltpu.CompilerParams(dimension_semantics=("parallel", "parallel"), vmem_limit_bytes=plan.vector_memory)


def _plan(kind: str, length: int, channels: int) -> Plan | None:
    """For N·K channels on such a chip; None where no tile divides the length or fits."""
    memory = attention_tiles.CHIPS.get(kind, attention_tiles.CHIPS["TPU v4"]).vector_memory * attention_tiles.MIB
    # The backward pass reads and writes 3·N·K each in two bytes, twice for what is under way, and works on as much in four.
    per_row = 2 * 2 * PARTS * channels * 2 + 4 * PARTS * channels * 2
    most = min(memory * 3 // 4 // per_row, length, MOST // channels)
    rows = max((rows for rows in range(ROWS, most + 1, ROWS) if length % rows == 0), default=None)
    return None if rows is None else Plan(rows, memory)
