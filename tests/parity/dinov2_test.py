"""DINOv2 against transformers' `Dinov2Model`, with registers and without, every parameter random; and PyTorch's resampling."""

import functools
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import published
import pytest

from jaxgen import mup
from jaxgen.encoders.dinov2 import DINOv2
from jaxgen.encoders.teacher import RandomTeacher
from jaxgen.interop import dinov2, safetensors
from jaxgen.nn import resampling

torch = pytest.importorskip("torch", reason="needs PyTorch, of the extra `parity`")
pytest.importorskip("transformers", reason="needs transformers, of the extra `parity`")

REGISTERS = 3
SIZE = {"width": 64, "depth": 3, "head_dim": 16, "patch": 4, "channels": 3, "scaling": mup.Scaling(base_width=64)}
DRAWS = np.random.default_rng(0)
# The table is that of 5 × 5 patches: as it is, made larger and made smaller, and not square.
PICTURES = {"own grid": (20, 20), "larger": (28, 28), "smaller": (12, 12), "not square": (16, 24)}
each_kind = pytest.mark.parametrize("registers", [False, True], ids=["plain", "registers"])
each_size = pytest.mark.parametrize("spread", [0.1, 0.2], ids=["small", "doubled"])


def model(registers):
    more = {"registers": REGISTERS, "resampling": "bicubic_antialiased"} if registers else {}
    return DINOv2(grid=5, **SIZE, **more)


@functools.cache
def reference(registers, spread):
    """The network, and its checkpoint as written to a file."""
    import transformers

    like = {
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "patch_size": 4,
        "image_size": 20,
        "num_channels": 3,
        "attn_implementation": "eager",
    }
    if registers:
        config = transformers.Dinov2WithRegistersConfig(num_register_tokens=REGISTERS, **like)
        network = transformers.Dinov2WithRegistersModel(config).eval()
    else:
        network = transformers.Dinov2Model(transformers.Dinov2Config(**like)).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            gain = name.endswith(("norm1.weight", "norm2.weight", "layernorm.weight", "lambda1"))
            parameter.copy_(float(gain) + spread * torch.randn(parameter.shape, generator=generator))
    with tempfile.TemporaryDirectory() as folder:
        network.save_pretrained(folder)
        return network, safetensors.read(f"{folder}/model.safetensors", "checkpoint")


def published_name(name):
    """A parameter's name in files, which transformers has kept while those of its classes changed."""
    for own, kept in (("q_proj", "attention.query"), ("k_proj", "attention.key"), ("v_proj", "attention.value")):
        name = name.replace(f"attention.{own}", f"attention.{kept}")
    return name.replace("attention.o_proj", "attention.output.dense")


def params(registers, spread):
    return dinov2.dinov2(model(registers)).read(reference(registers, spread)[1])


@functools.cache
def network(registers):
    return jax.jit(lambda params, images, hidden: model(registers).apply({"params": params}, images, hidden))


@functools.cache
def images(kind):
    return np.random.default_rng(len(kind)).normal(size=(2, 3, *PICTURES[kind])).astype(np.float32)


@each_kind
@each_size
@pytest.mark.parametrize("kind", PICTURES)
def test_class_token_registers_and_patches_are_those_of_transformers(registers, spread, kind):
    with torch.no_grad():
        expected = reference(registers, spread)[0](torch.tensor(images(kind))).last_hidden_state.numpy()
    found = network(registers)(params(registers, spread), published.here(images(kind)), None)
    whole = np.concatenate([found.class_token[:, None], found.registers, found.patches], axis=1)
    published.close(whole, expected)


@each_kind
def test_hidden_patches_are_replaced_as_in_transformers(registers):
    x, hidden = images("own grid"), np.random.default_rng(1).random((2, 25)) < 0.4
    with torch.no_grad():
        out = reference(registers, 0.1)[0](torch.tensor(x), bool_masked_pos=torch.tensor(hidden)).last_hidden_state.numpy()
    found = network(registers)(params(registers, 0.1), published.here(x), jnp.asarray(hidden))
    published.close(found.patches, out[:, 1 + REGISTERS * registers :])


@each_kind
@each_size
def test_all_gradients_are_those_of_transformers(registers, spread):
    theirs = reference(registers, spread)[0]
    x, seed = images("larger"), DRAWS.normal(size=(2, 49, 64)).astype(np.float32)
    hidden = np.random.default_rng(2).random((2, 49)) < 0.4
    theirs.zero_grad()
    inputs = torch.tensor(x, requires_grad=True)
    out = theirs(inputs, bool_masked_pos=torch.tensor(hidden)).last_hidden_state[:, 1 + REGISTERS * registers :]
    torch.sum(out * torch.tensor(seed)).backward()

    def loss(params, x):
        return jnp.sum(model(registers).apply({"params": params}, x, jnp.asarray(hidden)).patches * seed)

    here = jax.tree.map(jnp.asarray, params(registers, spread))
    found, by_x = jax.jit(jax.grad(loss, argnums=(0, 1)))(here, published.here(x))
    published.close(published.there(by_x), inputs.grad.numpy(), published.GRADIENTS)
    by_name = {published_name(name): p.grad.numpy() for name, p in theirs.named_parameters()}
    # A bias on keys shifts all products of a query alike: its gradient is zero but for rounding, on both sides.
    keys = {name: value for name, value in by_name.items() if name.endswith("key.bias")}
    assert len(keys) == 3 and all(np.abs(value).max() < 1e-4 * np.abs(inputs.grad.numpy()).max() for value in keys.values())
    rest = {name: value for name, value in by_name.items() if name not in keys}
    published.close_gradients(dinov2.dinov2(model(registers)), found, rest)


@each_kind
@pytest.mark.parametrize("size, hidden, depth", [("S/14", 384, 12), ("B/14", 768, 12), ("L/14", 1024, 24)])
def test_published_sizes_have_the_tensors_of_transformers(registers, size, hidden, depth):
    import transformers

    like = {
        "hidden_size": hidden,
        "num_hidden_layers": depth,
        "num_attention_heads": hidden // 64,
        "image_size": 518,
        "patch_size": 14,
    }
    with torch.device("meta"):
        if registers:
            theirs = transformers.Dinov2WithRegistersModel(transformers.Dinov2WithRegistersConfig(**like))
        else:
            theirs = transformers.Dinov2Model(transformers.Dinov2Config(**like))
    table = dinov2.dinov2(dinov2.published(size, registers))
    assert {e.source: e.shape for e in table.entries} == {
        published_name(name): tuple(p.shape) for name, p in theirs.named_parameters()
    }


SIZES = [((16, 16), (14, 14)), ((37, 37), (16, 16)), ((5, 5), (7, 9)), ((8, 6), (4, 3))]


@pytest.mark.parametrize("method", resampling.METHODS)
@pytest.mark.parametrize("before, after", SIZES)
def test_resampling_is_that_of_pytorch(method, before, after):
    x = np.random.default_rng(3).normal(size=(2, *before, 3)).astype(np.float32)
    mode, _, antialiased = method.partition("_")
    expected = torch.nn.functional.interpolate(
        torch.tensor(x.transpose(0, 3, 1, 2)), size=after, mode=mode, align_corners=False, antialias=bool(antialiased)
    )
    published.close(resampling.resample(jnp.asarray(x), after, method), expected.numpy().transpose(0, 2, 3, 1))


def test_pictures_enter_as_in_the_published_training():
    x = np.random.default_rng(4).uniform(0, 1, (2, 3, 32, 32)).astype(np.float32)
    mean, deviation = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    theirs = (torch.tensor(x) - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(deviation).view(1, 3, 1, 1)
    theirs = torch.nn.functional.interpolate(theirs, size=(28, 28), mode="bicubic")

    class Mirror(DINOv2):
        def features(self, images):
            return images

    teacher = RandomTeacher(module=Mirror(channels=3, patch=14), normalization="imagenet", resolution=28)
    published.close(published.there(teacher.features({}, published.here(2 * x - 1), jnp.float32)), theirs.numpy())
