"""DiT-XL/2-μP on ImageNet 256 × 256 (arXiv 2505.15270), for a slice of 16 v5e chips. Never run on one.

jaxgen preflight configs/dit_mup_xl2_imagenet256.py --slice v5e:4x4    # does it fit, how fast will it be
jaxgen mup-check configs/dit_mup_xl2_imagenet256.py:proxy --widths 144,288,576,1152
jaxgen mup-sweep configs/dit_mup_xl2_imagenet256.py:proxy --widths 144,288,576 --rates 2^-13:2^-9
jaxgen train configs/dit_mup_xl2_imagenet256.py --run gs://BUCKET/dit  # on the slice
bash launch/local.sh train configs/dit_mup_xl2_imagenet256.py:tiny     # a few steps on this machine

There is no reader of encoded ImageNet here yet: `data.source` is `synthetic`, which makes up pictures of 32 × 32 × 4 in the place
of an autoencoder's latents (10 of the 1000 classes), so a run of this learns nothing of ImageNet, and no samples are drawn.

Preflight: peak 3.9 of 15.75 GiB, 101 to 127 ms a step of 256 [communication hidden, as compiled], MFU 57 to 46 %: a batch that is
small for 16 chips leaves a fifth of the step to collectives. 1,080 to 1,350 chip-hours in all.

The rate is found on `proxy`, a quarter as wide (42.6 million parameters) and as deep, and holds here; `standard` is the published
DiT at its published rate. The paper's FID-50K without guidance, by 250 steps of the reverse chain, `sampled` here:

| steps    | 0.4 M | 0.8 M | 1.2 M | 1.6 M | 2.0 M | 2.4 M | 7 M |
|----------|-------|-------|-------|-------|-------|-------|-----|
| standard | 20.4  | 14.7  | 12.8  | 11.8  | 10.9  | 10.7  | 9.6 |
| μP       | 18.6  | 12.9  | 11.3  | 10.2  | 9.7   | 9.43  | –   |

`jaxgen reproduce mup-transfer` and `mup-proxy-beats-baseline` repeat the claim at the size of a CPU.
"""

import dataclasses

from jaxgen.autoencoders.identity import Identity
from jaxgen.data.pipeline import Data
from jaxgen.data.synthetic import Synthetic
from jaxgen.experiment import Experiment, Precision
from jaxgen.models.dit import PUBLISHED, VARIANTS, DiT
from jaxgen.mup import Parametrization, Scaling
from jaxgen.nn.modulation import Gates
from jaxgen.objectives.gaussian_diffusion import GaussianDiffusion
from jaxgen.parallel.mesh import MeshShape
from jaxgen.samplers.gaussian import Diffusion, Respaced
from jaxgen.samplers.sampler import Sampler
from jaxgen.samplers.stochastic import DDPM
from jaxgen.training.optimizer import AdamW
from jaxgen.training.settings import Training


def get_config() -> Experiment:
    """DiT-XL/2 at the rate of the proxy."""
    return Experiment(
        model=DiT(
            **VARIANTS["XL"],
            **PUBLISHED,
            patch=2,
            channels=4,
            classes=1000,
            gates=Gates.RANDOM,
            remat="dots",
            scaling=Scaling(base_width=288, base_depth=28),
        ),
        autoencoder=Identity(),
        objective=GaussianDiffusion(process=Diffusion(learned_variance=True)),
        data=Data(source=Synthetic(), batch_size=256, resolution=32, channels=4, text_length=64),
        precision=Precision(compute="bfloat16"),
        optimizer=AdamW(learning_rate=2**-10, b2=0.999, schedule="constant", warmup_steps=0, weight_decay=0.0, clip_norm=None),
        training=Training(steps=2_400_000, log_every=100, checkpoint_every=10_000, ema=(0.9999,)),
        sampler=None,
        mesh=MeshShape(data=1, fsdp=-1),
    )


def proxy() -> Experiment:
    """The width at which the rate is found; 40 epochs a trial."""
    config = get_config()
    return dataclasses.replace(
        config, model=config.model.clone(width=288), training=dataclasses.replace(config.training, steps=200_000)
    )


def standard() -> Experiment:
    """The published DiT-XL/2: zero gates and one rate for all parameters, 7 million steps."""
    config = get_config()
    return dataclasses.replace(
        config,
        model=config.model.clone(gates=Gates.ZERO, scaling=Scaling(base_width=1152, parametrization=Parametrization.PUBLISHED)),
        optimizer=dataclasses.replace(config.optimizer, learning_rate=1e-4),
        training=dataclasses.replace(config.training, steps=7_000_000),
    )


def sampled() -> Experiment:
    """DiT-XL/2 with the paper's sampler."""
    return dataclasses.replace(get_config(), sampler=Sampler(steps=250, stepper=DDPM(), grid=Respaced()))


def tiny() -> Experiment:
    """The same in a few steps on a CPU."""
    config = get_config()
    return dataclasses.replace(
        config,
        model=config.model.clone(width=32, depth=2, head_dim=16, scaling=Scaling(base_width=32)),
        data=dataclasses.replace(config.data, batch_size=16, resolution=8),
        precision=Precision(),
        training=Training(steps=20, log_every=1, checkpoint_every=10),
        mesh=MeshShape(),
    )
