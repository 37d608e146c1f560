"""The one door to attention: a mask is described, never materialised by the caller, and the kernel is chosen here.

The mesh says what it is chosen for: TPUs, also those of a topology that is only compiled for, take the flash kernel of
`attention_tpu`; GPUs take cuDNN's where it applies; the rest, and programs outside of a mesh, take plain XLA operations. Where the
mesh axis `context` is longer than one device, the sequence stays divided over it (`context_parallel`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import jax

from jaxgen import types
from jaxgen.nn import attention_gpu, attention_tiles, attention_tpu, attention_xla, context_parallel
from jaxgen.nn.attention_mask import Mask
from jaxgen.parallel import sharding


def attention(q: jax.Array, k: jax.Array, v: jax.Array, mask: Mask, scale: float, context: str = "all_gather") -> jax.Array:
    """Softmax attention; a query that sees no key gets zeros.

    The result carries the checkpoint name "attention", and so does what the backward pass of a kernel needs besides: saved under
    that name, it is not computed again.

    Args:
      q: [B, L, N, K]. k, v: [B, S, N, K].
      mask: which keys each query sees.
      scale: factor on query-key products (`mup.Scale.attention_scale`).
      context: how keys reach queries on other devices of the mesh axis `context`, a name in `context_parallel.METHODS`.

    Returns:
      [B, L, N, K] in the dtype of `q`. Products accumulate and the softmax is taken in float32.

    Raises:
      BadInput: heads do not divide over the mesh axis `tensor`, or tokens over `context`.
    """
    mesh = jax.sharding.get_abstract_mesh()
    require_divisible(q.shape[2], (q.shape[1], k.shape[1]), mesh.shape)
    device = sharding.device()
    divided = mesh.shape.get(context_parallel.AXIS, 1) > 1

    def local(q: jax.Array, k: jax.Array, v: jax.Array, mask: Mask) -> jax.Array:
        """On what one device holds."""
        if not divided:
            return _kernel(device, q, k, mask)(q, k, v, mask, scale, None)
        if context == "ring":
            return context_parallel.ring(q, k, v, mask, scale, _kernel(device, q, k, mask))
        k, v, mask = context_parallel.gather_keys(k, v, mask)
        return _kernel(device, q, k, mask)(q, k, v, mask, scale, jax.lax.axis_index(context_parallel.AXIS) * q.shape[1])

    if device is None or (device.platform == "cpu" and not divided):
        return local(q, k, v, mask)
    names = ("batch", "length", "activation_heads", None)
    sizes = sharding.automatic(mesh)
    specs = jax.tree.map(lambda x: sharding.partition_spec(names[: x.ndim], x.shape, sizes), (q, k, v, mask))
    mapped = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=specs[0], axis_names=set(sizes), check_vma=False)
    return mapped(q, k, v, mask)


def require_divisible(heads: int, lengths: Iterable[int], mesh: Mapping[str, int]) -> None:
    """Refuses heads and tokens that do not divide over a mesh with these axis sizes.

    Raises:
      BadInput: naming the size of the mesh axis.
    """
    tensor, context = mesh.get("tensor", 1), mesh.get(context_parallel.AXIS, 1)
    if heads % tensor:
        raise types.BadInput("mesh.tensor", tensor, f"a divisor of the {heads} attention heads (model.width / model.head_dim)")
    for length in lengths:
        if length % context:
            raise types.BadInput("mesh.context", context, f"a divisor of the {length} tokens that attention sees")


def _kernel(device: Any, q: jax.Array, k: jax.Array, mask: Mask) -> context_parallel.Kernel:
    """The kernel for arrays of these shapes on one such device; None stands for any."""
    platform = "" if device is None else device.platform
    if platform == "tpu":
        skips = mask.causal or mask.window is not None or mask.query_blocks is not None
        plan = attention_tiles.plan(device.device_kind, q.shape[2], q.shape[1], k.shape[1], q.shape[3], q.dtype, skips)
        return attention_tpu.Flash(plan)
    if platform == "gpu" and attention_gpu.applies(q, k):
        return attention_gpu.CuDNN()
    return attention_xla.XLA()
