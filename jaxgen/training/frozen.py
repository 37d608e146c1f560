"""Networks that are used and never trained (`types.Frozen`): made or read where they are to lie, and told apart by a hash."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from jaxgen import mup, types
from jaxgen.parallel import keys, sharding


class FrozenNetworks:
    """Some frozen networks on a mesh. Calling it with a seed returns their parameters by name.

    Attributes:
      abstract: by name, with shardings.
    """

    def __init__(self, networks: Sequence[types.Frozen], mesh: jax.sharding.Mesh) -> None:
        everywhere = sharding.replicated(mesh)
        boxed = {network.name: jax.eval_shape(lambda n=network: n.load(jax.random.key(0))) for network in networks}
        layouts = {
            name: sharding.parameter_shardings(tree, mesh) if _is_boxed(tree) else jax.tree.map(lambda _: everywhere, tree)
            for name, tree in boxed.items()
        }
        plain = jax.tree.map(lambda box: box.value, boxed, is_leaf=mup.is_parameter)
        self.abstract = sharding.with_layout(plain, layouts)
        self._stored = [network for network in networks if network.read is not None]
        self._found: dict[str, types.PyTree] | None = None
        made = [network for network in networks if network.read is None]

        def load_frozen(seed: jax.Array) -> dict[str, types.PyTree]:
            key = keys.stream(keys.root(seed), "frozen")
            return {network.name: nn.meta.unbox(network.load(keys.stream(key, network.name))) for network in made}

        self._program = jax.jit(load_frozen, out_shardings={network.name: layouts[network.name] for network in made})

    def read(self) -> dict[str, types.PyTree]:
        """Those that lie in files, read once; compiles nothing.

        Raises:
          BadInput: they cannot be read.
        """
        if self._found is None:
            self._found = {network.name: network.read(self.abstract[network.name]) for network in self._stored}
        return self._found

    def __call__(self, seed: Any) -> dict[str, types.PyTree]:
        # What cannot be read is refused before the program compiles.
        found = self.read()
        return self._program(seed) | found

    def lower(self, seed: Any) -> Any:
        """The jitted program that makes what is not read, lowered."""
        return self._program.lower(seed)


def autoencoder(experiment: Any, mesh: jax.sharding.Mesh) -> types.PyTree:
    """Parameters of the experiment's autoencoder, and of no other frozen network; None where it has none.

    Raises:
      BadInput: they cannot be read.
    """
    network = experiment.autoencoder.frozen(types.AUTOENCODER)
    return None if network is None else FrozenNetworks((network,), mesh)(np.uint32(experiment.seed))[network.name]


def described(networks: Sequence[types.Frozen], params: Mapping[str, types.PyTree]) -> dict[str, dict[str, str]]:
    """Source and hash of each, as checkpoints keep them."""
    found = {}
    for network in networks:
        digest = hashlib.blake2b(digest_size=16)
        for leaf in jax.tree.leaves(params[network.name]):
            digest.update(np.ascontiguousarray(sharding.fetch(leaf)).tobytes())
        found[network.name] = {"source": network.source, "hash": digest.hexdigest()}
    return found


def _is_boxed(tree: types.PyTree) -> bool:
    return any(mup.is_parameter(leaf) for leaf in jax.tree.leaves(tree, is_leaf=mup.is_parameter))
