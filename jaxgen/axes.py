"""Names of array axes: what each means, whether it grows with the model's width, and where it lies on the mesh.

This is the only table that layout and μP read. A parameter or activation names its axes; the mesh axes are looked up
here (`jaxgen.parallel.sharding`) and so is the μP class (`jaxgen.mup`).
"""

from __future__ import annotations

import dataclasses

MESH_AXES = ("slice", "data", "fsdp", "context", "tensor")
BATCH_MESH_AXES = ("slice", "data", "fsdp")


@dataclasses.dataclass(frozen=True)
class Axis:
    """One named axis.

    Attributes:
      meaning: what the axis counts.
      width: True where the size grows with model width (Θ(width)), False where it stays finite.
      stacked: True where the axis counts maps side by side that are no part of one matrix.
      mesh: mesh axes in order of preference, each entry tried alone. The first that no earlier axis of the same array took
        and that divides the size is used; a tuple entry asks for several mesh axes at once.
    """

    meaning: str
    width: bool
    mesh: tuple[str | tuple[str, ...], ...] = ()
    stacked: bool = False


AXES: dict[str, Axis] = {
    # Parameters. Input and output sides have names of their own: one array may not carry a name twice.
    "embed": Axis("model width, input side", True, ("fsdp", "tensor")),
    "embed_out": Axis("model width, output side", True, ("fsdp", "tensor")),
    "heads": Axis("attention heads", True, ("tensor", "fsdp")),
    "kv": Axis("channels of one attention head", False),
    "mlp": Axis("hidden width of the feed-forward layer", True, ("tensor", "fsdp")),
    "qkv": Axis("query, key and value", False, stacked=True),
    "branch": Axis("gate and value of a gated feed-forward layer", False, stacked=True),
    "modulation": Axis("shift, scale and gate", False),
    "patch": Axis("values of one patch", False),
    "latent": Axis("channels of latents", False),
    "features": Axis("channels of a condition's features or of a sinusoid", False, ("fsdp",)),
    "vocabulary": Axis("rows of a lookup table", False, ("tensor",)),
    "codes": Axis("values of a token of a discrete autoencoder", False, ("tensor",)),
    "classes": Axis("classes that a classifier tells apart", False),
    "neighbour": Axis("places of a window of neighbouring tokens", False),
    "position": Axis("rows of a learned position table", False),
    "layers": Axis("stacked layers of a scan", False),
    # Activations.
    "batch": Axis("examples", False, (BATCH_MESH_AXES,)),
    "length": Axis("tokens", False, ("context",)),
    "activation_embed": Axis("model width of an activation", True),
    "activation_heads": Axis("attention heads of an activation", True, ("tensor",)),
    "activation_mlp": Axis("feed-forward width of an activation", True, ("tensor",)),
}
