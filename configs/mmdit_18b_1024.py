"""An MMDiT of 18 billion parameters on pictures of 1024 × 1024, in latents of 128 × 128 × 16."""

import dataclasses

from jaxgen.autoencoders.identity import Identity
from jaxgen.data.pipeline import Data
from jaxgen.data.synthetic import Synthetic
from jaxgen.experiment import Experiment, Precision
from jaxgen.models.mmdit import MMDiT
from jaxgen.mup import Scaling
from jaxgen.objectives.flow_matching import FlowMatching
from jaxgen.parallel.mesh import MeshShape
from jaxgen.training.optimizer import AdamW
from jaxgen.training.settings import Training


def get_config() -> Experiment:
    """Text to image: 4096 tokens of picture and 512 of text."""
    return Experiment(
        model=MMDiT(
            width=4096,
            depth=30,
            head_dim=128,
            patch=2,
            channels=16,
            text_length=512,
            remat="dots",
            scaling=Scaling(base_width=4096),
        ),
        autoencoder=Identity(),
        objective=FlowMatching(base_pixels=1024),
        data=Data(source=Synthetic(), batch_size=1024, resolution=128, channels=16, text_length=512),
        precision=Precision(compute="bfloat16"),
        optimizer=AdamW(learning_rate=1e-4, warmup_steps=1000),
        training=Training(steps=250_000, log_every=50, checkpoint_every=1000, ema=(0.9999,)),
        sampler=None,
        mesh=MeshShape(data=1, fsdp=-1),
    )


def tiny() -> Experiment:
    """The same in a few steps on a CPU."""
    config = get_config()
    return dataclasses.replace(
        config,
        model=config.model.clone(width=32, depth=2, head_dim=16, text_length=64, scaling=Scaling(base_width=32)),
        objective=FlowMatching(base_pixels=64),
        data=dataclasses.replace(config.data, batch_size=16, resolution=8, text_length=64),
        training=Training(steps=20, log_every=1, checkpoint_every=10),
        mesh=MeshShape(),
    )
