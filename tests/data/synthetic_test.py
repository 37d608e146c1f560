import pathlib
import subprocess
import sys

import numpy as np
import pytest

from jaxgen import types
from jaxgen.data import pipeline
from jaxgen.data.synthetic import Synthetic


def opened(split="train", seed=0, shuffle=False, source=Synthetic(count=200), **options):
    return pipeline.Data(source=source, **options).open(split, seed, shuffle)


@pytest.mark.parametrize("resolution, channels", [(4, 1), (8, 3), (17, 1)])
def test_rows_are_as_described(resolution, channels):
    options = {"resolution": resolution, "channels": channels}
    rows = opened(**options).rows(range(12))
    features = pipeline.Data(**options).features()
    assert set(rows) == set(features)
    for name, feature in features.items():
        assert rows[name].shape == (12, *feature.shape) and rows[name].dtype == feature.dtype, name


def test_a_picture_depends_on_its_index_and_split_alone():
    stored, shuffled = opened().rows(range(200)), opened(seed=7, shuffle=True).rows(range(200, 400))
    np.testing.assert_array_equal(shuffled["image"], stored["image"][shuffled["index"]])
    np.testing.assert_array_equal(np.sort(shuffled["index"]), np.arange(200))
    assert not np.array_equal(shuffled["index"], np.arange(200))
    other = opened("test").rows(range(200))["image"]
    assert len({image.tobytes() for image in (*stored["image"], *other)}) == 400


@pytest.mark.parametrize("resolution", [4, 8, 32])
def test_pictures_show_their_class(resolution):
    train, test = (opened(split, resolution=resolution).rows(range(200)) for split in ("train", "test"))
    means = np.stack([train["image"][train["label"] == label].mean(axis=0) for label in range(10)])
    distances = ((test["image"][:, None].astype(float) - means) ** 2).sum(axis=(2, 3, 4))
    np.testing.assert_array_equal(distances.argmin(axis=1), test["label"])


def test_only_testing_has_held_out_captions():
    assert not opened(shuffle=True).rows(range(400))["heldout"].any()
    assert opened("test").rows(range(200))["heldout"].mean() == 0.5


def test_encoded_captions_have_a_vector_for_each_id_and_one_for_the_whole():
    ids = opened(resolution=4).rows(range(40))
    data = pipeline.Data(source=Synthetic(count=200, text_features=6, pooled_features=3), resolution=4)
    rows = data.open("train", 0, False).rows(range(40))
    for name, feature in data.features().items():
        assert rows[name].shape == (40, *feature.shape) and rows[name].dtype == feature.dtype, name
    assert not rows["text"][~rows["text_mask"]].any()
    # Equal ids have equal vectors, others have others.
    present = rows["text_mask"]
    vectors = {
        number: {tuple(v) for v in rows["text"][present & (ids["text"] == number)]} for number in np.unique(ids["text"][present])
    }
    assert all(len(found) == 1 for found in vectors.values())
    assert len(set.union(*vectors.values())) == len(vectors)
    captions = {caption.tobytes(): pooled.tobytes() for caption, pooled in zip(ids["text"], rows["pooled"])}
    assert len(set(captions.values())) == len(captions)
    assert 0.5 < rows["pooled"].std() < 2


def test_fingerprints_tell_apart_what_differs():
    prints = {
        opened().fingerprint,
        opened("test").fingerprint,
        opened(source=Synthetic(count=201)).fingerprint,
        opened(source=Synthetic(count=200, text_features=2)).fingerprint,
        opened(source=Synthetic(count=200, pooled_features=2)).fingerprint,
    }
    assert len(prints) == 5
    assert opened(seed=3, shuffle=True).fingerprint in prints


def test_numpy_is_enough():
    code = (
        "import sys\n"
        "for name in ('grain', 'tensorflow_datasets', 'array_record', 'sklearn', 'PIL', 'upath', 'tensorflow'):\n"
        "    sys.modules[name] = None\n"
        "import jax\n"
        "from jaxgen.data import loader, pipeline\n"
        "data = pipeline.Data(batch_size=4)\n"
        "data.validate()\n"
        "mesh = jax.sharding.Mesh(jax.devices()[:1], ('data',))\n"
        "spec = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('data'))\n"
        "stream = loader.batches(data.open('train', 0, True), data.features(), 4, spec, 0, 2)\n"
        "assert next(stream)[1]['image'].shape == (4, 8, 8, 1)\n"
        "data.open('test', 0, False).rows(range(4))\n"
    )
    root = pathlib.Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("options, source, option", [
    ({}, {"count": 0}, "source.count"),
    ({}, {"text_features": -1}, "source.text_features"),
    ({}, {"pooled_features": -1}, "source.pooled_features"),
    ({}, {"languages": ()}, "source.languages"),
    ({"resolution": 3}, {}, "resolution"),
    ({"text_length": 9}, {}, "text_length"),
])  # fmt: skip
def test_bad_options_are_refused(options, source, option):
    with pytest.raises(types.BadInput) as complaint:
        pipeline.Data(source=Synthetic(**source), **options).validate()
    assert complaint.value.option == option
