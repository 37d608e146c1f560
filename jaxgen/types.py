"""What all rooms share: batches, tokens, conditions, metrics, and the protocols of objectives, sources and autoencoders.

Conventions: t = 0 is data and t = 1 is noise, x_t = (1 - t) x_0 + t ε, velocity v = ε - x_0. Letters in shapes: B batch,
T frames, H/W latent grid, L image tokens, S condition tokens, D width, N heads, K head dim, F hidden width, C channels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from jaxgen import bad_input

BadInput = bad_input.BadInput

Batch = dict[str, jax.Array]
"""Global arrays by name, leading axis B. Always `weight` [B] float32 (0 = a row that does not count) and `index` [B] int32
(the example's number in its source); images are uint8 [B, H, W, C] under `image`; `label` [B] int32; `text` [B, S] int32 with
`text_mask` [B, S] bool; `plan` [B, P] int32."""

PyTree = Any


@flax.struct.dataclass
class Tokens:
    """A sequence that a generator reads and writes.

    Attributes:
      values: [B, L, P] token values (patches of latents); their dtype is the dtype that the network computes in.
      positions: [B, L, axes] float32 coordinates, one per spatial or temporal axis, zero-centred.
      segments: [B, L] int32; tokens attend within equal numbers, 0 is padding.
      grid: rows and columns where each example is one picture in row-major order, for layers that look at neighbours; None for
        packed rows.
    """

    values: jax.Array
    positions: jax.Array
    segments: jax.Array
    grid: tuple[int, int] | None = flax.struct.field(pytree_node=False, default=None)


@flax.struct.dataclass
class Condition:
    """A named stream that a generator is conditioned on (text, a label, reference features).

    Attributes:
      values: [B, S] integer ids or [B, S, C] features.
      segments: [B, S] int32, the segment each entry belongs to; 0 is absent. A stream whose entries are all absent is the
        null condition, for which the network has a learned stand-in.
    """

    values: jax.Array
    segments: jax.Array

    def dropped(self, drop: jax.Array) -> Condition:
        """The stream with the examples where `drop` [B] is true made null."""
        return self.replace(segments=jnp.where(drop[:, None], 0, self.segments))


@flax.struct.dataclass
class Mean:
    """A metric as a weighted sum and its weight, so that parts of a batch combine exactly."""

    total: jax.Array
    weight: jax.Array

    @classmethod
    def of(cls, values: jax.Array, weights: jax.Array) -> Mean:
        """Mean of `values` under `weights` (same shape, weights not negative)."""
        return cls(jnp.sum(values * weights), jnp.sum(weights))

    def __add__(self, other: Mean) -> Mean:
        return Mean(self.total + other.total, self.weight + other.weight)

    def or_zero(self) -> jax.Array:
        """The mean; 0, with zero gradient, where the weight is 0."""
        return self.total / jnp.where(self.weight > 0, self.weight, 1.0)

    def value(self) -> jax.Array:
        """The mean; NaN where the weight is 0 (nothing was seen)."""
        return self.total / self.weight


Metrics = dict[str, Mean]


@flax.struct.dataclass
class Views:
    """Networks as an objective may look at them, without gradient.

    Attributes:
      params: newest parameters by player.
      ema: averaged parameters by player and decay (as written in the configuration, for example "0.999").
      frozen: parameters of the networks that no one trains, by name.
      modules: the Linen module of each player and frozen network, and the experiment's `autoencoder` (static).
      compute: dtype that networks compute in (static).
    """

    params: dict[str, PyTree]
    ema: dict[str, dict[str, PyTree]]
    frozen: dict[str, PyTree]
    modules: dict[str, Any] = flax.struct.field(pytree_node=False)
    compute: Any = flax.struct.field(pytree_node=False, default=jnp.float32)


@dataclasses.dataclass(frozen=True)
class Player:
    """A network that an objective trains.

    Attributes:
      name: key of its parameters, optimizer and averages in the state and in checkpoints.
      module: the Linen module.
      inputs: returns example arguments of `module.__call__` for initialization; called inside jit.
      optimizer: an `Optimizer`; None takes the experiment's.
      ema: decays of its averages; None takes `training.ema`.
      every: the player is updated at steps divisible by this.
      joint_with: a player declared before, from whose loss this one learns in the same backward pass, and as often; it has no
        loss of its own. That loss finds its parameters, differentiable, in `Views.params`.
    """

    name: str
    module: Any
    inputs: Callable[[], tuple]
    optimizer: Optimizer | None = None
    ema: tuple[float, ...] | None = None
    every: int = 1
    joint_with: str | None = None


@dataclasses.dataclass(frozen=True)
class Frozen:
    """A network that is used and never trained. Its weights are not saved with the run: only `source` and a hash are.

    Attributes:
      name: key in `Views.frozen`.
      module: the Linen module.
      load: key -> parameters (boxed or plain), traced inside jit.
      source: where the weights come from, in words; stored with checkpoints and compared on resume.
      read: where weights lie in files, reads them on the host: takes the shapes of `load` with their shardings, plain, and returns
        arrays laid out so; raises BadInput. `load` says then what they are, and is never run.
    """

    name: str
    module: Any
    load: Callable[[jax.Array], PyTree]
    source: str
    read: Callable[[PyTree], PyTree] | None = None


class Optimizer(Protocol):
    """Configuration of an update rule."""

    def build(self, multipliers: Any, steps: int) -> Any:
        """An optax transformation. `multipliers` are the per-parameter μP factors, `steps` the length of training."""

    def rate(self, step: jax.Array, steps: int) -> jax.Array:
        """Base learning rate at `step`, before per-parameter factors."""


class GradientMerge(Protocol):
    """Configuration of how the gradients of slices become one, where a plain mean is not safe.

    Attributes:
      f: slices whose gradient may be anything.
    """

    f: int

    def check_slices(self, slices: int) -> None:
        """Raises BadInput where it does not stand f of so many slices."""

    def over_mesh(self, gradients: PyTree, mesh: jax.sharding.Mesh, specs: PyTree, axis: str) -> PyTree:
        """Leaves [slices, ...] to leaves [...].

        Args:
          specs: `PartitionSpec` of each leaf, the first entry being `axis`, the mesh axis of slices.
        """


class Objective(Protocol):
    """What is minimised. A frozen dataclass of options; all methods are pure.

    One whose network is sampled from noise holds what it was trained on as `process` (`jaxgen.samplers.process:Process`).

    An objective that needs ordinary Python between preparing and updating (a reward computed on the host) also defines
    `host_features() -> {name: per-example ShapeDtypeStruct}` and `host(rows) -> {name: np.ndarray [rows, ...]}`, which
    receives this host's rows of the prepared batch as NumPy arrays and whose result joins the batch.
    """

    def players(self, experiment: Any) -> tuple[Player, ...]:
        """The networks to train, in the order in which they update within a step."""

    def frozen(self, experiment: Any) -> tuple[Frozen, ...]:
        """The networks used as they are."""

    def memory(self, experiment: Any) -> PyTree:
        """What is carried from step to step besides networks (a queue, running statistics); `()` for none."""

    def prepare(self, views: Views, batch: Batch, key: jax.Array) -> Batch:
        """Encodes, draws noise, rolls out a sampler: everything without gradient, once for the whole global batch."""

    def loss(
        self, player: str, params: PyTree, views: Views, batch: Batch, key: jax.Array, step: jax.Array, memory: PyTree
    ) -> tuple[jax.Array, Metrics, PyTree]:
        """Loss of one player (a mean over rows weighted by `batch["weight"]`), metrics, and the new memory."""


@runtime_checkable
class Examples(Protocol):
    """An opened source: a pure function from a row's number in the run to an example.

    Attributes:
      fingerprint: changes when the data change; stored with checkpoints and compared on resume.
    """

    fingerprint: str

    def __len__(self) -> int:
        """Number of distinct examples."""

    def rows(self, numbers: Sequence[int]) -> dict[str, np.ndarray]:
        """Examples for these row numbers (step · batch size + row), stacked, with the fields of `Source.features`."""


class Source(Protocol):
    """Configuration of where examples come from. `data` is the whole data configuration (`jaxgen.data.pipeline:Data`)."""

    def features(self, data: Any) -> dict[str, jax.ShapeDtypeStruct]:
        """Shape and dtype of each field of one example (no batch axis), without opening anything."""

    def open(self, data: Any, split: str, seed: int, shuffle: bool) -> Examples:
        """Opens `split` ("train" or "test"). Shuffled and repeated without end, or in stored order.

        Raises:
          BadInput: an empty, missing or unreadable source.
        """


class Teacher(Protocol):
    """Configuration of a frozen encoder of pictures, from which a generator learns what they show.

    Attributes:
      width: channels F of its features.
    """

    def grid(self, resolution: int, channels: int) -> tuple[int, int]:
        """Rows and columns of its features for square pictures of so many pixels a side.

        Raises:
          BadInput: pictures that it cannot take; the option's name is relative to the teacher.
        """

    def frozen(self, name: str) -> Frozen:
        """The network, under a name in `Views.frozen`."""

    def features(self, params: PyTree, images: jax.Array, compute: Any) -> jax.Array:
        """Images [B, H, W, C] in [-1, 1] to [B, rows·columns, F] in dtype `compute`."""


class Autoencoder(Protocol):
    """Maps pictures to latents and back, float32. `factor` is the spatial down-sampling.

    Attributes:
      quantizer: numbers the latents where these are discrete (`jaxgen.autoencoders.finite_scalar:FiniteScalar`), else None.
    """

    quantizer: Any

    def channels(self, image_channels: int) -> int:
        """Channels of the latents of pictures with this many channels."""

    def frozen(self, name: str) -> Frozen | None:
        """The network, under a name in `Views.frozen`; None where there is none, and `params` are None below."""

    def encode(self, params: PyTree, images: jax.Array) -> jax.Array:
        """[B, H, W, 3 or 1] in [-1, 1] to latents [B, h, w, C]."""

    def decode(self, params: PyTree, latents: jax.Array) -> jax.Array:
        """Latents to pictures in [-1, 1]."""


AUTOENCODER = "autoencoder"
"""Name of the experiment's autoencoder among frozen networks."""

Velocity = Callable[[jax.Array, jax.Array, PyTree], tuple[jax.Array, PyTree]]
"""`velocity(x_t [B, ..., C], t [B], carry) -> (v [B, ..., C], carry)`: all that a sampler knows of a network.

Networks that learn the variance of a reverse step put out C channels more, behind those of v."""


class Sampler(Protocol):
    """Configuration of how latents are drawn from a trained network.

    Attributes:
      ema: decay of the parameter average to draw from, as of `jaxgen.samplers.sampler:Sampler`.
      images_per_device: images that a device computes at once, always.
    """

    ema: float | None
    images_per_device: int

    def nfe(self, experiment: Any) -> int:
        """Calls of the network per image; a guided call, conditional and unconditional rows together, counts as 1."""

    def latents(
        self, experiment: Any, params: PyTree, streams: dict[str, Condition], indices: jax.Array, root: jax.Array
    ) -> jax.Array:
        """Latents [B, h, w, C]; row r depends on its own conditions, on `root` and on indices[r] alone.

        Args:
          params: of the experiment's model.
          streams: its conditions, of B rows.
          indices: [B] int32, the numbers of the images.
          root: key of all draws.
        """
