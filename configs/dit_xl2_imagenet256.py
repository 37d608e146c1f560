"""DiT-XL/2 on ImageNet 256 × 256 in latents of 32 × 32 × 4."""

import dataclasses

from jaxgen.autoencoders.identity import Identity
from jaxgen.data.pipeline import Data
from jaxgen.data.synthetic import Synthetic
from jaxgen.experiment import Experiment, Precision
from jaxgen.models.dit import DiT
from jaxgen.mup import Scaling
from jaxgen.objectives.flow_matching import FlowMatching
from jaxgen.parallel.mesh import MeshShape
from jaxgen.training.optimizer import AdamW
from jaxgen.training.settings import Training


def get_config() -> Experiment:
    """DiT-XL/2."""
    return Experiment(
        model=DiT(
            width=1152,
            depth=28,
            head_dim=72,
            patch=2,
            channels=4,
            classes=1000,
            remat="dots",
            scaling=Scaling(base_width=1152),
        ),
        autoencoder=Identity(),
        objective=FlowMatching(),
        data=Data(source=Synthetic(), batch_size=1024, resolution=32, channels=4, text_length=64),
        precision=Precision(compute="bfloat16"),
        optimizer=AdamW(learning_rate=1e-4, schedule="constant", warmup_steps=1000),
        training=Training(steps=400_000, log_every=100, checkpoint_every=10_000, ema=(0.9999,)),
        sampler=None,
        mesh=MeshShape(data=1, fsdp=16),
    )


def tiny() -> Experiment:
    """The same in a few steps on a CPU."""
    config = get_config()
    return dataclasses.replace(
        config,
        model=config.model.clone(width=32, depth=2, head_dim=16, scaling=Scaling(base_width=32)),
        data=dataclasses.replace(config.data, batch_size=16, resolution=8),
        training=Training(steps=20, log_every=1, checkpoint_every=10),
        mesh=MeshShape(),
    )
