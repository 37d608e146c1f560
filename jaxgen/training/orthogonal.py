"""The orthogonal matrix nearest to a given one, by Newton-Schulz iteration (Jordan et al. 2024, the update of Muon)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of x, x³ and x⁵: five applications bring singular values from above 1/500 of the Frobenius norm into 0.7 … 1.2."""
STEPS = 5
EPSILON = 1e-8
"""Added to the norm, so that rounding noise in place of a gradient does not grow to a whole update."""
OBLONG = 1.5
"""Long side over short side from which iterating on the Gram matrix takes fewer multiplications."""


def orthogonalized(matrices: jax.Array) -> jax.Array:
    """[..., M, N] to the same shape: the singular vectors are kept, the singular values brought near to 1.

    An oblong matrix X enters only by its small Gram matrix A = Xᵀ X: each step multiplies X by a polynomial P(A), which commutes
    with A, so that the product Q of all P and the next A = P A P need small matrices alone, and X is multiplied once, by Q.
    """
    if matrices.shape[-2] < matrices.shape[-1]:
        return _transposed(orthogonalized(_transposed(matrices)))
    norm = jnp.sqrt(jnp.sum(jnp.square(matrices), axis=(-2, -1), keepdims=True))
    x = matrices / (norm + EPSILON)
    if x.shape[-2] < OBLONG * x.shape[-1]:
        for _ in range(STEPS):
            x = _times(x, _polynomial(_gram(x)))
        return x
    gram = _gram(x)
    product = factor = _polynomial(gram)
    for _ in range(STEPS - 1):
        gram = _times(_times(factor, gram), factor)
        factor = _polynomial(gram)
        product = _times(product, factor)
    return _times(x, product)


def _gram(x: jax.Array) -> jax.Array:
    return jnp.einsum("...mi,...mj->...ij", x, x, precision=jax.lax.Precision.HIGHEST)


def _polynomial(gram: jax.Array) -> jax.Array:
    one, third, fifth = COEFFICIENTS
    return one * jnp.eye(gram.shape[-1], dtype=gram.dtype) + third * gram + fifth * _times(gram, gram)


def _times(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _transposed(x: jax.Array) -> jax.Array:
    return jnp.swapaxes(x, -1, -2)
