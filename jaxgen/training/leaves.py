"""The arrays of a checkpoint's items by their path in the tree, and how what is saved compares with what is wanted.

Keyed by path ("block/kernel") a tree needs no structure of its own on the disk: named tuples, tuples, None and empty
subtrees come back as the reader's tree has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen import types

_FORMAT = 1


def by_path(item: str, tree: types.PyTree) -> dict[str, Any]:
    """Leaves by path, in the tree's order; the path of a tree that is one leaf is "value".

    Raises:
      ValueError: two leaves have one path.
    """
    pairs = jax.tree_util.tree_flatten_with_path(tree)[0]
    leaves = {jax.tree_util.keystr(path, simple=True, separator="/") or "value": leaf for path, leaf in pairs}
    if len(leaves) != len(pairs):
        raise ValueError(f"{item} has two leaves of one path: a key contains '/'")
    return leaves


def arrays(item: str, tree: types.PyTree) -> dict[str, jax.Array]:
    """Leaves by path of a tree to save.

    Raises:
      TypeError: a leaf is not a `jax.Array`, or is a typed random key.
    """
    leaves = by_path(item, tree)
    for name, leaf in leaves.items():
        if not isinstance(leaf, jax.Array):
            raise TypeError(f"{item}:{name} is a {type(leaf).__name__}, needed a jax.Array")
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            raise TypeError(f"{item}:{name} is a random key; keys follow from seed and step and are not saved")
    return leaves


def targets(item: str, tree: types.PyTree) -> dict[str, jax.ShapeDtypeStruct]:
    """Leaves by path of a tree to restore.

    Raises:
      ValueError: a leaf has no sharding.
    """
    leaves = by_path(item, tree)
    for name, leaf in leaves.items():
        if leaf.sharding is None:
            raise ValueError(f"target {item}:{name} has no sharding; the one at saving is never taken over")
    return leaves


def empty(target: jax.ShapeDtypeStruct) -> jax.Array:
    """The array without elements that `target` describes, made without compiling."""
    data = np.zeros(target.shape, target.dtype)
    return jax.make_array_from_callback(target.shape, target.sharding, lambda index: data[index])


def describe(items: Mapping[str, Mapping[str, jax.Array]], about: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON that a checkpoint carries about itself: shapes and dtypes by item and path, and the caller's `about`."""
    shapes = {item: {name: [list(leaf.shape), leaf.dtype.name] for name, leaf in tree.items()} for item, tree in items.items()}
    return {"format": _FORMAT, "about": dict(about), "leaves": shapes}


def described(description: Mapping[str, Any]) -> dict[str, dict[str, jax.ShapeDtypeStruct]]:
    """Shapes and dtypes by item and path out of what `describe` made.

    Raises:
      BadInput: it is of another format.
    """
    if description.get("format") != _FORMAT:
        found = f"a checkpoint in format {description.get('format')}"
        raise types.BadInput("checkpoints", found, f"format {_FORMAT}, which this version writes and reads")
    return {
        item: {name: jax.ShapeDtypeStruct(tuple(shape), jnp.dtype(dtype)) for name, (shape, dtype) in tree.items()}
        for item, tree in description["leaves"].items()
    }


def differences(
    saved: Mapping[str, Mapping[str, jax.ShapeDtypeStruct]], wanted: Mapping[str, types.PyTree]
) -> tuple[list[str], list[str]]:
    """What is saved and what is wanted of each leaf where they differ, for the items in `wanted`; empty where none does."""
    found, needed = [], []
    for item, tree in wanted.items():
        have = {name: _words(leaf) for name, leaf in saved.get(item, {}).items()}
        want = {name: _words(leaf) for name, leaf in by_path(item, tree).items()}
        for name in sorted(have.keys() | want.keys()):
            if have.get(name) != want.get(name):
                found.append(f"{item}:{name} {have.get(name, 'missing')}")
                needed.append(f"{item}:{name} {want.get(name, 'absent')}")
    return found, needed


def _words(leaf: Any) -> str:
    return f"{tuple(leaf.shape)} {leaf.dtype.name}"
