import numpy as np
import pytest
import upath

from jaxgen.evaluation import sample_store

COUNT, PART = 23, 5


class Killed(Exception):
    pass


def drawing(rows, after=None, asked=None):
    """Sample i is a picture of i; `rows` come at once; stops after some calls."""

    def draw(places):
        if asked is not None:
            asked.append(places.tolist())
        for call, start in enumerate(range(0, len(places), rows)):
            if call == after:
                raise Killed
            numbers = places[start : start + rows]
            yield np.broadcast_to(numbers[:, None, None, None], (len(numbers), 2, 2, 1)).astype(np.uint8), numbers % 7 != 3

    return draw


def check(found):
    images, finite = found
    np.testing.assert_array_equal(images[:, 0, 0, 0], np.arange(COUNT))
    np.testing.assert_array_equal(finite, np.arange(COUNT) % 7 != 3)


@pytest.mark.parametrize("rows", [1, 3, 5, 8, 23, 64])
def test_a_killed_drawing_goes_on_with_what_is_missing(tmp_path, rows):
    path = upath.UPath(tmp_path) / "evaluation" / "samples.npz"
    for after in (2, 0, 1):
        asked = []
        try:
            check(sample_store.draw(path, COUNT, PART, drawing(rows, after, asked)))
        except Killed:
            written = sorted(int(file.stem) for file in (path.parent / "samples").glob("*.npz")) if path.parent.exists() else []
            assert all(start % PART == 0 for start in written)
    asked = []
    check(sample_store.draw(path, COUNT, PART, drawing(4, asked=asked)))
    if rows == 3:
        assert asked == [list(range(5, 23))], "two calls of three make one part of five, one more call none"
    assert [file.name for file in path.parent.iterdir()] == ["samples.npz"]


def test_whole_samples_are_read_and_not_drawn(tmp_path):
    path = upath.UPath(tmp_path) / "samples.npz"
    check(sample_store.draw(path, COUNT, PART, drawing(5)))
    check(sample_store.draw(path, COUNT, PART, drawing(5, after=0)))
    with np.load(path) as saved:
        assert saved["arr_0"].dtype == np.uint8 and saved["arr_0"].shape == (COUNT, 2, 2, 1)


def test_a_damaged_file_is_drawn_again(tmp_path):
    path = upath.UPath(tmp_path) / "samples.npz"
    with pytest.raises(Killed):
        sample_store.draw(path, COUNT, PART, drawing(5, after=3))
    part = tmp_path / "samples" / "00000005.npz"
    part.write_bytes(part.read_bytes()[:-30])
    asked = []
    check(sample_store.draw(path, COUNT, PART, drawing(5, asked=asked)))
    assert asked[0][:5] == [5, 6, 7, 8, 9] and 0 not in asked[0]
    path.write_bytes(b"no archive")
    check(sample_store.draw(path, COUNT, PART, drawing(5)))
