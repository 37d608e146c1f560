"""Updates of n sites as rows of one matrix: inner products, mixing, weighted and coordinate-wise reduction, whole or in shards.

Rules of aggregation are written once against `Stack`. A row is a whole pytree, however many leaves and devices it lies on. Rows
are mixed lazily, by an n × n matrix, so that a chain of rules reads the updates two or three times and never copies them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxgen import types

# Elements of one row that are worked on at a time: n of them stay in a core's cache.
_CHUNK = 2**15
# On several devices a chunk is one exchange: not too many, and each a small share of an update.
_EXCHANGES = 16
_EXACT = jax.lax.Precision.HIGHEST


@dataclasses.dataclass(frozen=True)
class Layout:
    """How updates lie on a mesh.

    Attributes:
      mesh: with the axis of sites among its axes.
      specs: per leaf, the `PartitionSpec` of [n, ...]; its first entry is the axis of sites, the others may be axes of the model.
      axis: name of the axis of sites.
    """

    mesh: jax.sharding.Mesh
    specs: types.PyTree
    axis: str = "site"

    def check(self, n: int) -> None:
        """Raises BadInput unless the mesh has the axis, the sites divide over it, and every leaf is laid out along it."""
        if self.axis not in self.mesh.shape:
            raise types.BadInput("layout.mesh", tuple(self.mesh.shape), f"a mesh with the axis {self.axis!r}")
        if n % self.mesh.shape[self.axis]:
            raise types.BadInput("updates", f"{n} sites", f"a multiple of {self.axis}={self.mesh.shape[self.axis]}")
        for spec in jax.tree.leaves(self.specs, is_leaf=_is_spec):
            if not spec or spec[0] != self.axis:
                raise types.BadInput("layout.specs", spec, f"layouts whose first entry is {self.axis!r}")

    @property
    def merged(self) -> types.PyTree:
        """Layouts of one tree without the axis of sites, the same on all of them."""
        return jax.tree.map(lambda spec: PartitionSpec(*spec[1:]), self.specs, is_leaf=_is_spec)


def sites(updates: types.PyTree) -> int:
    """Number of sites n of a pytree whose leaves are [n, ...].

    Raises:
      BadInput: no leaves, or leaves of different n.
    """
    counts = {leaf.shape[0] if leaf.ndim else None for leaf in jax.tree.leaves(updates)}
    if len(counts) != 1 or None in counts:
        raise types.BadInput("updates", sorted(map(str, counts)), "leaves with one and the same leading axis of sites")
    return counts.pop()


def over(body: Callable[[Stack], types.PyTree], updates: types.PyTree, layout: Layout | None, rows: bool = False) -> types.PyTree:
    """`body(Stack)`, on the devices that the layout says.

    Args:
      rows: the result has a row for each site, and otherwise one tree.
    """
    if layout is None:
        return body(Stack(updates))
    layout.check(sites(updates))
    return jax.shard_map(
        lambda updates: body(Stack(updates, layout)),
        mesh=layout.mesh,
        in_specs=(layout.specs,),
        out_specs=layout.specs if rows else layout.merged,
        check_vma=False,
    )(updates)


class Stack:
    """Updates of n sites, mixed by an n × n matrix. Under a layout, what one device holds of them.

    Args:
      updates: leaves [n, ...]; under a layout, called within `shard_map`.
      layout: None for one device, or where the compiler shares out the work.

    Attributes:
      n: number of sites.
      mixing: [n, n], row i of this stack is Σ_j mixing[i, j] · (row j of `updates`); None is the identity.
    """

    def __init__(self, updates: types.PyTree, layout: Layout | None = None):
        self._leaves, self._tree = jax.tree.flatten(updates)
        self._layout = layout
        self._ways = layout.mesh.shape[layout.axis] if layout else 1
        specs = jax.tree.leaves(layout.specs, is_leaf=_is_spec) if layout else [PartitionSpec()] * len(self._leaves)
        self._inner = [_names(spec[1:]) for spec in specs]
        self.n = self._leaves[0].shape[0] * self._ways
        self.mixing: jax.Array | None = None
        self._factors: jax.Array | None = None
        self._reset: jax.Array | None = None
        # Of unmixed rows, and measured once for all stacks that are mixed from this one.
        self._measured: dict[str, Any] = {}

    # --- what rules read ------------------------------------------------------------------------------------------------

    @property
    def finite(self) -> jax.Array:
        """[n] bool: false for a site with an entry that is not finite, or so large that its norm is not."""
        return self._lengths()[0] if self._reset is None else self._reset

    @property
    def norms(self) -> jax.Array:
        """[n] norms of whole rows; infinite where not `finite`."""
        squares = self._lengths()[1] if self.mixing is None else _quadratic(self._points(), self._gram())
        return jnp.where(self.finite, jnp.sqrt(squares), jnp.inf)

    @property
    def squared_distances(self) -> jax.Array:
        """[n, n] between rows; infinitely far from everything, itself included, is a row that is not `finite`."""
        gram, reference = self._gram(), self._lengths()[2]
        points = self._points()
        # Differences of coefficients come first, so that what all rows have in common cancels exactly.
        relative = points - points[reference]
        inner = _product(_product(relative, gram), relative.T)
        squares = jnp.diagonal(inner)
        found = jnp.maximum(squares[:, None] + squares[None] - 2 * inner, 0)
        found = jnp.where(jnp.eye(self.n, dtype=bool), 0, found)
        return jnp.where(self.finite[None], found, jnp.inf)

    def squared_distances_from(self, weights: jax.Array) -> jax.Array:
        """[n] from Σ_i weights[i] · row i; infinite for a row that is not `finite`."""
        points = self._points()
        squares = _quadratic(points - _product(weights[None], points), self._gram())
        return jnp.where(self.finite, squares, jnp.inf)

    # --- what rules do --------------------------------------------------------------------------------------------------

    def mixed(self, matrix: jax.Array, finite: bool = False) -> Stack:
        """The stack whose row i is Σ_j matrix[i, j] · row j. Rows that are not finite count as zero in it.

        Args:
          finite: all rows of the result are to count as finite.
        """
        made = Stack(jax.tree.unflatten(self._tree, self._leaves), self._layout)
        made._reset = jnp.ones(self.n, bool) if finite else self.finite
        made._measured = self._measured
        made.mixing = matrix if self.mixing is None else _product(matrix, self.mixing)
        return made

    def scaled(self, factors: jax.Array) -> Stack:
        """The stack whose row i is factors[i] · row i, as `mixed` by a diagonal matrix."""
        made = self.mixed(jnp.diag(factors))
        # A row alone is cheaper to scale than all to mix.
        made._factors = factors if self.mixing is None else None
        return made

    def combined(self, weights: jax.Array, keep_not_finite: bool = False) -> types.PyTree:
        """Σ_i weights[i] · row i, without the axis of sites.

        Args:
          keep_not_finite: a row that is not finite makes the result so; otherwise it counts as zero.
        """
        weights = weights if self.mixing is None else _product(weights[None], self.mixing)[0]
        finite = None if keep_not_finite else self._own(self._lengths()[0])
        weights = self._own(weights)

        def one(leaf: jax.Array) -> jax.Array:
            total = 0
            # Row by row, which fuses into one pass over the rows.
            for i in range(leaf.shape[0]):
                row = _wide(leaf[i])
                row = row if finite is None else jnp.where(finite[i], row, 0)
                total += weights[i].astype(row.dtype) * row
            total = jax.lax.psum(total, self._layout.axis) if self._layout else total
            return total.astype(leaf.dtype)

        return jax.tree.unflatten(self._tree, [one(leaf) for leaf in self._leaves])

    def coordinatewise(self, reduce: Callable[[list[jax.Array]], jax.Array]) -> types.PyTree:
        """The tree whose every coordinate is `reduce` of that coordinate of all rows, n arrays of one shape.

        In rows that were not mixed NaN reads as +∞; in mixed ones, rows that were not finite count as zero.
        """

        def one(leaf: jax.Array) -> jax.Array:
            def chunk(rows: jax.Array) -> jax.Array:
                rows = self._exchanged(rows)
                rows = jnp.where(jnp.isnan(rows), jnp.inf, rows) if self.mixing is None else self._rows(rows)
                merged = reduce([rows[i] for i in range(self.n)])
                return jax.lax.all_gather(merged, self._layout.axis, tiled=True) if self._layout else merged

            flat = leaf.reshape(leaf.shape[0], -1)
            return _each_chunk(chunk, flat, self._chunk(flat), ()).reshape(leaf.shape[1:])

        return jax.tree.unflatten(self._tree, [one(leaf) for leaf in self._leaves])

    def updates(self) -> types.PyTree:
        """The rows as a pytree with a leading axis of sites."""
        if self.mixing is None:
            return jax.tree.unflatten(self._tree, self._leaves)
        if self._factors is not None:
            finite, factors = self._own(self._lengths()[0]), self._own(self._factors)

            def scaled(leaf: jax.Array) -> jax.Array:
                shape = (-1, *(1,) * (leaf.ndim - 1))
                return jnp.where(finite.reshape(shape), _wide(leaf) * factors.reshape(shape), 0).astype(leaf.dtype)

            return jax.tree.unflatten(self._tree, [scaled(leaf) for leaf in self._leaves])

        def one(leaf: jax.Array) -> jax.Array:
            def chunk(rows: jax.Array) -> jax.Array:
                mixed = self._rows(self._exchanged(rows))
                if not self._layout:
                    return mixed
                return jax.lax.all_to_all(mixed, self._layout.axis, split_axis=0, concat_axis=1, tiled=True)

            flat = leaf.reshape(leaf.shape[0], -1)
            return _each_chunk(chunk, flat, self._chunk(flat), leaf.shape[:1]).reshape(leaf.shape)

        return jax.tree.unflatten(self._tree, [one(leaf) for leaf in self._leaves])

    # --- inner products -------------------------------------------------------------------------------------------------

    def _points(self) -> jax.Array:
        """[n, n + 1] rows in the base of `_gram`: differences of unmixed rows to the reference, and the reference."""
        mixing = jnp.eye(self.n) if self.mixing is None else self.mixing
        return jnp.concatenate([mixing, mixing.sum(1, keepdims=True)], axis=1)

    def _lengths(self) -> tuple[jax.Array, jax.Array, jax.Array]:
        """(finite [n], squared norms [n], number of the row that is the reference), of unmixed rows.

        The reference is the shortest finite row. Distances between rows that nearly agree survive so, though the rows are long;
        and a hostile row, which may be the shortest, cannot make the base worse than the origin is.
        """
        if "lengths" not in self._measured:
            squares = jnp.zeros(self.n, jnp.float32)
            for leaf, inner in zip(self._leaves, self._inner, strict=True):
                flat = _wide(leaf).reshape(leaf.shape[0], -1)
                own = jnp.sum(jnp.square(flat), axis=1)
                if self._layout:
                    own = jax.lax.psum(own, inner) if inner else own
                    own = jax.lax.all_gather(own, self._layout.axis, tiled=True)
                squares += own
            # Room for the squares of differences and their sums.
            finite = squares < float(jnp.finfo(squares.dtype).max) / 64
            self._measured["lengths"] = finite, squares, jnp.argmin(jnp.where(finite, squares, jnp.inf))
        return self._measured["lengths"]

    def _gram(self) -> jax.Array:
        """[n + 1, n + 1] inner products of the base: unmixed rows less the reference, and the reference."""
        if "gram" not in self._measured:
            reference = self._lengths()[2]
            total = jnp.zeros((self.n + 1, self.n + 1))
            for leaf, inner in zip(self._leaves, self._inner, strict=True):

                def part(rows: jax.Array) -> jax.Array:
                    rows = self._sanitised(self._exchanged(rows))
                    base = rows[reference]
                    rows = jnp.concatenate([rows - base, base[None]])
                    return jax.lax.dot_general(rows, rows, (((1,), (1,)), ((), ())), precision=_EXACT)

                found = _sum_of_chunks(part, (flat := leaf.reshape(leaf.shape[0], -1)), self._chunk(flat))
                total += jax.lax.psum(found, (self._layout.axis, *inner)) if self._layout else found
            self._measured["gram"] = total
        return self._measured["gram"]

    # --- chunks ---------------------------------------------------------------------------------------------------------

    def _chunk(self, flat: jax.Array) -> int:
        size = max(_CHUNK, -(-flat.shape[1] // _EXCHANGES)) if self._layout else _CHUNK
        return min(size, flat.shape[1])

    def _own(self, values: jax.Array) -> jax.Array:
        """The entries of [n] that belong to this device's sites."""
        if not self._layout:
            return values
        count = self.n // self._ways
        return jax.lax.dynamic_slice_in_dim(values, jax.lax.axis_index(self._layout.axis) * count, count)

    def _exchanged(self, rows: jax.Array) -> jax.Array:
        """From this device's rows of a chunk to all rows of its share of the chunk, at least float32."""
        if self._layout:
            rows = jnp.pad(rows, ((0, 0), (0, -rows.shape[1] % self._ways)))
            rows = jax.lax.all_to_all(rows, self._layout.axis, split_axis=1, concat_axis=0, tiled=True)
        return _wide(rows)

    def _sanitised(self, rows: jax.Array) -> jax.Array:
        return jnp.where(self._lengths()[0][:, None], rows, 0)

    def _rows(self, rows: jax.Array) -> jax.Array:
        if self._factors is not None:
            return self._sanitised(rows) * self._factors.astype(rows.dtype)[:, None]
        return _product(self.mixing.astype(rows.dtype), self._sanitised(rows))


def _each_chunk(function: Callable, flat: jax.Array, size: int, lead: tuple[int, ...]) -> jax.Array:
    """[*lead, d] of `function`, [m, c] to [*lead, ≥ c], of chunks of [m, d]. The last chunk overlaps the one before."""
    count = flat.shape[1]
    crop = lambda rows: function(rows)[..., :size].astype(flat.dtype)
    if size == count:
        return crop(flat)

    def body(i: jax.Array, made: jax.Array) -> jax.Array:
        start = jnp.minimum(i * size, count - size)
        rows = jax.lax.dynamic_slice_in_dim(flat, start, size, axis=1)
        return jax.lax.dynamic_update_slice_in_dim(made, crop(rows), start, axis=len(lead))

    return jax.lax.fori_loop(0, -(-count // size), body, jnp.zeros((*lead, count), flat.dtype))


def _sum_of_chunks(function: Callable, flat: jax.Array, size: int) -> jax.Array:
    """Sum of `function` over the chunks of [m, d]."""
    whole = flat.shape[1] // size
    start = function(flat[:, whole * size :]) if flat.shape[1] % size else 0
    part = lambda i: function(jax.lax.dynamic_slice_in_dim(flat, i * size, size, axis=1))
    if whole == 1:
        return start + part(0)
    return start + jax.lax.fori_loop(1, whole, lambda i, total: total + part(i), part(0))


def _quadratic(points: jax.Array, gram: jax.Array) -> jax.Array:
    return jnp.maximum(jnp.sum(_product(points, gram) * points, axis=1), 0)


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision=_EXACT)


def _wide(values: jax.Array) -> jax.Array:
    return values.astype(jnp.promote_types(values.dtype, jnp.float32))


def _names(entries: Sequence) -> tuple[str, ...]:
    """Mesh axes of a layout's entries."""
    return tuple(name for entry in entries if entry is not None for name in ((entry,) if isinstance(entry, str) else entry))


def _is_spec(value: object) -> bool:
    return isinstance(value, PartitionSpec)
