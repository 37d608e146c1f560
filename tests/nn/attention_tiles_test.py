import jax.numpy as jnp
import pytest

from jaxgen.nn.attention_tiles import CHIPS, LANES, plan

SIZES = [
    (16, 256, 256, 72),
    (24, 4608, 4608, 128),
    (3, 100, 77, 64),
    (6, 4173, 4173, 128),
    (1, 70_000, 70_000, 256),
    (7, 128, 4096, 40),
]


@pytest.mark.parametrize("kind", [*CHIPS, "TPU v9"])
@pytest.mark.parametrize("heads, queries, keys, width", SIZES)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("skips", [False, True])
def test_tiles_divide_the_heads_and_pad_the_tokens_little(kind, heads, queries, keys, width, dtype, skips):
    found = plan(kind, heads, queries, keys, width, dtype, skips)
    assert found.gathered >= found.backward.queries
    for tile in (found.forward, found.backward):
        assert heads % tile.heads == 0
        # A block is whole lanes wide, or as wide as the array.
        lanes = tile.heads * -(-width // found.lanes) * found.lanes
        assert lanes % LANES == 0 or tile.heads == heads
        for length, size in ((queries, tile.queries), (keys, tile.keys)):
            assert size % LANES == 0
            padded = -(-length // size) * size
            # Each tile is rounded up to whole lanes and no more.
            assert padded - length < LANES * (padded // size)
        parts = list(tile.parts())
        assert [start for start, _ in parts] == [0, *(start + count for start, count in parts[:-1])]
        assert sum(count for _, count in parts) == tile.keys and all(count % LANES == 0 for _, count in parts)


def test_short_sequences_take_several_heads_at_once():
    assert plan("TPU v5 lite", 16, 256, 256, 72, jnp.bfloat16, False).forward.heads > 1
    assert plan("TPU v5 lite", 16, 4096, 4096, 72, jnp.bfloat16, False).forward.heads == 1
