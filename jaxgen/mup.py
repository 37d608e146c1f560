"""μP: parameters that know their axes, and from them their layout, initial scale and optimizer multipliers.

Every parameter of the package is created by `param`, which is told its input and output axes by name and size. The axis
table says which of them grow with width, so the class of the parameter follows, and from the class (Yang and Hu, Tensor
Programs V, table 8; Scaling Diffusion Transformers Efficiently via μP, arXiv 2505.15270, §2) with ñ = size / base size:

  class    axes (input -> output)  initial std     forward  learning rate  weight decay  epsilon
  input    finite -> width         1/√fan_in       1        1              1             1/ñ_out
  hidden   width -> width          1/√fan_in       1        1/ñ_in         ñ_in          1/ñ_in
  output   width -> finite         1/√base fan_in  1/ñ_in   1              1             1/ñ_in
  vector   -> width (gain, bias)   1 or 0          1        1              1             1/ñ_out
  finite   no width axis           1/√fan_in       1        1              1             1

Under the standard parametrization every multiplier is 1 and an output starts at 1/√fan_in; at the base width both
are the same network with the same updates. The published one is the standard one from the start that the authors of a
model gave it (`nn.start`), its gates included.

Width alone grows, unless a base depth is told. Then a network of another depth is refused, or its residual branches are
multiplied by base depth / depth and the epsilons of the parameters within them too, rates staying as they are (CompleteP,
arXiv 2505.01618, table 1 with α = 1).
"""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from jaxgen import axes, types

AxisSize = tuple[str, int] | tuple[str, int, int]
"""Axis name, size, and (where it is not size / width ratio, as for a rounded hidden size) the size at base width. An axis with a
base size of its own grows with width, whatever the axis table says (a head dimension that is not fixed)."""


class Parametrization(enum.StrEnum):
    MUP = "mup"
    STANDARD = "standard"
    PUBLISHED = "published"


class DepthRule(enum.StrEnum):
    """What a depth other than the base depth changes."""

    NONE = "none"
    """Nothing: it is refused."""
    COMPLETE_P = "complete_p"
    """Residual branches and epsilons within them shrink as one over the depth."""


Initializer = Callable[[jax.Array, tuple[int, ...]], jax.Array]
"""Key and shape to a float32 value."""


class Start(Protocol):
    """How a published network starts (`nn.start.Start`)."""

    def initializer(self, name: str, fan_in: int, fan_out: int) -> Initializer | None:
        """What draws the parameter of this dotted name, None where nothing was published of it. A bias has its map's fan-in."""


@dataclasses.dataclass(frozen=True)
class Scaling:
    """How a model's hyper-parameters carry over between widths (`model.scaling`).

    Attributes:
      base_width: width at which all multipliers are 1; the width at which the hyper-parameters were found.
      parametrization: μP, or standard for contrast, or standard from the published start.
      output_multiplier: tunable factor on the forward pass of output layers.
      base_head_dim: head dimension at base width where it grows with width; None where it is the same at all widths.
      base_depth: number of blocks with which the hyper-parameters were found; None does not look at the depth.
      depth_rule: what another number of blocks changes, under μP.
    """

    base_width: int = 64
    parametrization: Parametrization = Parametrization.MUP
    output_multiplier: float = 1.0
    base_head_dim: int | None = None
    base_depth: int | None = None
    depth_rule: DepthRule = DepthRule.NONE

    def validate(self) -> None:
        if self.base_width < 1:
            raise types.BadInput("base_width", self.base_width, "a positive width")
        if self.output_multiplier <= 0:
            raise types.BadInput("output_multiplier", self.output_multiplier, "a positive factor")
        head = self.base_head_dim
        if head is not None and (head < 1 or self.base_width % head):
            raise types.BadInput("base_head_dim", head, f"a divisor of base_width={self.base_width}, or none")
        if self.base_depth is not None and self.base_depth < 1:
            raise types.BadInput("base_depth", self.base_depth, "a positive number of blocks, or none")
        if self.depth_rule != DepthRule.NONE and self.base_depth is None:
            raise types.BadInput("base_depth", None, f"the number of blocks from which depth_rule={self.depth_rule} starts")
        if self.depth_rule != DepthRule.NONE and self.parametrization != Parametrization.MUP:
            raise types.BadInput("depth_rule", str(self.depth_rule), f"none, as the parametrization is {self.parametrization}")

    def at(self, width: int, start: Start | None = None, blocks: int | None = None) -> Scale:
        """The multipliers for a model of this width, which was published with this start.

        Args:
          blocks: number of residual blocks of the model, for what is inside of them; None for what is outside.

        Raises:
          BadInput: the published parametrization of a model that was published with none.
        """
        published = self.parametrization == Parametrization.PUBLISHED
        if published and start is None:
            raise types.BadInput(
                "parametrization", str(self.parametrization), "mup or standard, as no start of this model was published"
            )
        return Scale(
            ratio=width / self.base_width,
            mup=self.parametrization == Parametrization.MUP,
            output_multiplier=self.output_multiplier,
            base_width=self.base_width,
            base_head_dim=self.base_head_dim,
            start=start if published else None,
            residual=1.0 if blocks is None or self.depth_rule == DepthRule.NONE else self.base_depth / blocks,
        )


@dataclasses.dataclass(frozen=True)
class Scale:
    """A `Scaling` bound to a width; handed to every submodule as its field `scale`.

    Attributes:
      ratio: width / base width.
      mup: False under the standard parametrization.
      start: under the published one, how the network was published to start.
      residual: factor on residual branches, for what is inside of blocks.
    """

    ratio: float
    mup: bool
    output_multiplier: float
    base_width: int
    base_head_dim: int | None
    start: Start | None = None
    residual: float = 1.0

    def branch(self, x: jax.Array) -> jax.Array:
        """What a residual branch puts out, as it is added to what it read."""
        return x if self.residual == 1 else self.residual * x

    def base_size(self, axis: AxisSize) -> float:
        """Size of this axis at base width."""
        if len(axis) == 3:
            return axis[2]
        return axis[1] / self.ratio if axes.AXES[axis[0]].width else axis[1]

    def growth(self, group: Sequence[AxisSize]) -> float:
        """ñ of a group of axes: product of sizes over product of base sizes."""
        return math.prod(axis[1] for axis in group) / math.prod(self.base_size(axis) for axis in group)

    def head_axes(self, heads: int, head_dim: int) -> tuple[AxisSize, AxisSize]:
        """The axes of a projection to or from attention heads."""
        if self.base_head_dim is None:
            return (("heads", heads), ("kv", head_dim))
        return (("heads", heads, self.base_width // self.base_head_dim), ("kv", head_dim, self.base_head_dim))

    def attention_scale(self, head_dim: int) -> float:
        """Factor on query-key products: 1/√K, or √K_base/K where the head dimension grows under μP."""
        if self.mup and self.base_head_dim is not None:
            return math.sqrt(self.base_head_dim) / head_dim
        return 1 / math.sqrt(head_dim)


@dataclasses.dataclass(frozen=True)
class Matrix:
    """Which axes of a parameter make it a matrix, counted from the last one (-1); what is left stacks matrices.

    Attributes:
      inputs: axes that a product contracts. outputs: axes that it produces.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


class Parameter(nn.LogicallyPartitioned):
    """A parameter's value boxed with what was said of it at its creation.

    Lives in the abstract result of `init` only; training state, optimizer and checkpoints hold plain arrays.

    Attributes:
      names: axis name per dimension of the value (from Flax; a scan puts "layers" in front).
      kind: dense, embedding, gain, bias or output.
      group: μP class: input, hidden, output, vector or finite.
      matrix: the axes of a map from width to width, modulation aside; None for other parameters.
      learning_rate, weight_decay, epsilon: multipliers of the optimizer's settings; weight_decay is 0 for gains and biases.
    """

    kind: str = flax.struct.field(default="", pytree_node=False)
    group: str = flax.struct.field(default="", pytree_node=False)
    matrix: Matrix | None = flax.struct.field(default=None, pytree_node=False)
    learning_rate: float = flax.struct.field(default=1.0, pytree_node=False)
    weight_decay: float = flax.struct.field(default=1.0, pytree_node=False)
    epsilon: float = flax.struct.field(default=1.0, pytree_node=False)

    def unbox(self, apply_constraint: bool = True) -> jax.Array:
        """The plain value. Layout is given once, where the training state is created, not at each use."""
        del apply_constraint
        return self.value


def param(
    module: nn.Module,
    name: str,
    *,
    inputs: Sequence[AxisSize] = (),
    outputs: Sequence[AxisSize],
    kind: str,
    std: float | None = None,
    of: Sequence[AxisSize] = (),
) -> jax.Array:
    """Creates (or reads) a parameter of `module`, whose field `scale` is a `Scale`.

    Args:
      module: a Linen module inside a compact method or setup.
      name: the parameter's name.
      inputs: axes that a matmul contracts (or a lookup indexes), in the order of the array.
      outputs: the remaining axes, after the inputs.
      kind: "dense", "embedding" (lookup table), "gain" (starts at 1), "bias" (starts at 0) or "output" (a map from width
        to a finite size, whose result the caller multiplies by `forward_multiplier`).
      std: initial standard deviation at base width; None takes 1/√fan_in for matmuls and 1 for tables; 0 starts at zero.
      of: of a bias, the input axes of the map that it belongs to, by whose size some published ones start.

    Returns:
      The value, float32, of shape (sizes of inputs, sizes of outputs).

    Raises:
      ValueError: an unknown axis or kind, no axes, or a map from width to a finite size that is not declared an output.
    """
    described = describe(module.scale, name, inputs, outputs, kind)
    shape = tuple(axis[1] for axis in (*inputs, *outputs))
    initializer = None
    if module.scale.start is not None and kind != "gain":
        fan_in, fan_out = (math.prod(axis[1] for axis in group) for group in (of or inputs, outputs))
        initializer = module.scale.start.initializer(".".join((*module.path, name)), fan_in, fan_out)
    if initializer is None:
        initializer = _initializer(module.scale, inputs, kind, std)
    return module.param(name, lambda key: described.replace(value=initializer(key, shape)))


def forward_multiplier(scale: Scale, inputs: Sequence[AxisSize]) -> float:
    """Factor on the forward pass of an output layer: output_multiplier / ñ_in under μP."""
    return scale.output_multiplier / (scale.growth(inputs) if scale.mup else 1.0)


def describe(scale: Scale, name: str, inputs: Sequence[AxisSize], outputs: Sequence[AxisSize], kind: str) -> Parameter:
    """The `Parameter` (without a value) that `param` would box."""
    group = classify(name, inputs, outputs, kind)
    into, out = scale.growth(inputs), scale.growth(outputs)
    learning_rate = weight_decay = epsilon = 1.0
    if scale.mup:
        if group == "hidden":
            learning_rate, weight_decay = 1 / into, into
        epsilon = {"input": 1 / out, "vector": 1 / out, "hidden": 1 / into, "output": 1 / into, "finite": 1.0}[group]
        epsilon *= scale.residual
    if kind in ("gain", "bias"):
        weight_decay = 0.0
    return Parameter(
        value=None,
        names=tuple(axis[0] for axis in (*inputs, *outputs)),
        kind=kind,
        group=group,
        matrix=_matrix(inputs, outputs) if group == "hidden" else None,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        epsilon=epsilon,
    )


def classify(name: str, inputs: Sequence[AxisSize], outputs: Sequence[AxisSize], kind: str) -> str:
    """μP class of a parameter from its axes."""
    if kind not in ("dense", "embedding", "gain", "bias", "output"):
        raise ValueError(f"parameter {name!r}: kind {kind!r} is not one of dense, embedding, gain, bias, output")
    if not outputs or (kind in ("dense", "embedding", "output") and not inputs):
        raise ValueError(f"parameter {name!r} of kind {kind}: inputs={inputs}, outputs={outputs}; axes are missing")
    for axis in (*inputs, *outputs):
        if axis[0] not in axes.AXES:
            raise ValueError(f"parameter {name!r}: axis {axis[0]!r} is not in jaxgen/axes.py")
    wide_in = any(len(axis) == 3 or axes.AXES[axis[0]].width for axis in inputs)
    wide_out = any(len(axis) == 3 or axes.AXES[axis[0]].width for axis in outputs)
    if wide_in and not wide_out:
        if kind != "output":
            raise ValueError(
                f"parameter {name!r} maps {[a[0] for a in inputs]}, which grow with width, to {[a[0] for a in outputs]}, "
                "which do not: declare it kind='output' and apply its forward multiplier"
            )
        return "output"
    if kind == "output":
        raise ValueError(f"parameter {name!r} is declared an output but does not map a width axis to finite ones")
    if wide_in:
        return "hidden"
    if wide_out:
        return "input" if inputs else "vector"
    return "finite"


def _matrix(inputs: Sequence[AxisSize], outputs: Sequence[AxisSize]) -> Matrix | None:
    names = [axis[0] for axis in (*inputs, *outputs)]
    if "modulation" in names:
        # Reads one vector a picture, not one a token, and learns faster element by element (2 % lower loss in one short trial).
        return None
    whole = [i - len(names) for i, name in enumerate(names) if not axes.AXES[name].stacked]
    return Matrix(tuple(i for i in whole if i < -len(outputs)), tuple(i for i in whole if i >= -len(outputs)))


@flax.struct.dataclass
class Multipliers:
    """Per-parameter factors on the optimizer's settings, trees of floats in the shape of the parameters; and in that shape too,
    which of them are matrices (`Parameter.matrix`)."""

    learning_rate: types.PyTree
    weight_decay: types.PyTree
    epsilon: types.PyTree
    matrix: types.PyTree = flax.struct.field(pytree_node=False, default=None)


def multipliers(boxed: types.PyTree) -> Multipliers:
    """Reads the multipliers off a boxed tree of parameters."""
    fields = ("learning_rate", "weight_decay", "epsilon", "matrix")
    return Multipliers(*(_read(boxed, lambda box, f=f: getattr(box, f)) for f in fields))


def require_boxes(boxed: types.PyTree, owner: str) -> None:
    """Raises ValueError where a leaf was not created by `param`."""
    leaves = jax.tree_util.tree_flatten_with_path(boxed, is_leaf=is_parameter)[0]
    bare = [jax.tree_util.keystr(path) for path, leaf in leaves if not is_parameter(leaf)]
    if bare:
        raise ValueError(f"{owner}: parameters without axes: {', '.join(bare[:5])}; create them by jaxgen.mup.param")


def is_parameter(leaf: object) -> bool:
    return isinstance(leaf, Parameter)


def _read(boxed: types.PyTree, field: Callable[[Parameter], Any]) -> types.PyTree:
    return jax.tree.map(field, boxed, is_leaf=is_parameter)


def _initializer(scale: Scale, inputs: Sequence[AxisSize], kind: str, std: float | None) -> Initializer:
    if kind == "gain":
        return lambda key, shape: jnp.ones(shape, jnp.float32)
    if kind == "bias" or std == 0:
        return lambda key, shape: jnp.zeros(shape, jnp.float32)
    fan_in = math.prod(axis[1] for axis in inputs)
    if kind == "embedding":
        deviation = 1.0 if std is None else std
    elif kind == "output" and scale.mup:
        base_fan_in = math.prod(scale.base_size(axis) for axis in inputs)
        deviation = 1 / math.sqrt(base_fan_in) if std is None else std
    else:
        deviation = 1 / math.sqrt(fan_in) if std is None else std / math.sqrt(scale.growth(inputs))
    return lambda key, shape: deviation * jax.random.normal(key, shape, jnp.float32)
