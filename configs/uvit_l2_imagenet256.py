"""U-ViT-L/2 on ImageNet 256 × 256 (Bao et al., arXiv 2209.12152), for a slice of 16 v5e chips. Never run on one.

jaxgen preflight configs/uvit_l2_imagenet256.py --slice v5e:4x4       # does it fit, how fast will it be
jaxgen train configs/uvit_l2_imagenet256.py --run gs://BUCKET/uvit    # on the slice
bash launch/local.sh train configs/uvit_l2_imagenet256.py:tiny        # a few steps on this machine

There is no reader of encoded ImageNet here yet: `data.source` is `synthetic`, which makes up pictures of 32 × 32 × 4 in the place
of an autoencoder's latents (10 of the 1000 classes), so a run of this learns nothing of ImageNet, and no samples are drawn.

Preflight: peak 9.3 of 15.75 GiB, 355 to 369 ms a step [communication hidden, as compiled], MFU 42 to 40 %. Of the 369: products
197, attention 56, memory-bound 101, exposed collectives 15. 470 to 490 chip-hours in all.

Batch, steps, rate, decays and the share of dropped labels are the paper's, which reports FID 3.40 after 300 000 steps with the
noise of a variance-preserving process and 50 steps of DPM-Solver under guidance; the process here is flow matching.
"""

import dataclasses

from jaxgen.autoencoders.identity import Identity
from jaxgen.data.pipeline import Data
from jaxgen.data.synthetic import Synthetic
from jaxgen.experiment import Experiment, Precision
from jaxgen.models.uvit import VARIANTS, UViT
from jaxgen.mup import Scaling
from jaxgen.objectives.flow_matching import FlowMatching
from jaxgen.parallel.mesh import MeshShape
from jaxgen.training.optimizer import AdamW
from jaxgen.training.settings import Training


def get_config() -> Experiment:
    """U-ViT-L/2."""
    return Experiment(
        model=UViT(
            **VARIANTS["L"], patch=2, channels=4, grid=(16, 16), classes=1000, remat="dots", scaling=Scaling(base_width=1024)
        ),
        autoencoder=Identity(),
        objective=FlowMatching(condition_dropout=0.15),
        data=Data(source=Synthetic(), batch_size=1024, resolution=32, channels=4, text_length=64),
        precision=Precision(compute="bfloat16"),
        optimizer=AdamW(learning_rate=2e-4, b1=0.99, b2=0.99, weight_decay=0.03, clip_norm=None, warmup_steps=5000),
        training=Training(steps=300_000, log_every=100, checkpoint_every=10_000, ema=(0.9999,)),
        sampler=None,
        mesh=MeshShape(data=1, fsdp=-1),
    )


def tiny() -> Experiment:
    """The same in a few steps on a CPU."""
    config = get_config()
    return dataclasses.replace(
        config,
        model=config.model.clone(width=32, depth=4, head_dim=16, grid=(4, 4), scaling=Scaling(base_width=32)),
        data=dataclasses.replace(config.data, batch_size=16, resolution=8),
        precision=Precision(),
        training=Training(steps=20, log_every=1, checkpoint_every=10),
        mesh=MeshShape(),
    )
