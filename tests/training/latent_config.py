"""An autoencoder and a generator of its latents, both as small as can be, on made-up pictures."""

import dataclasses

from jaxgen.autoencoders.convolutional import ConvolutionalAutoencoder
from jaxgen.autoencoders.identity import Identity
from jaxgen.data.pipeline import Data
from jaxgen.data.synthetic import Synthetic
from jaxgen.experiment import Experiment
from jaxgen.models.dit import DiT
from jaxgen.objectives.flow_matching import FlowMatching
from jaxgen.objectives.reconstruction import Reconstruction
from jaxgen.parallel.mesh import MeshShape
from jaxgen.samplers.sampler import Sampler
from jaxgen.training.optimizer import AdamW
from jaxgen.training.saved_network import SavedAutoencoder
from jaxgen.training.settings import Training

MODULE = ConvolutionalAutoencoder(1, 4, width=8, multipliers=(1,), blocks=1)


def get_config() -> Experiment:
    return Experiment(
        model=DiT(width=16, depth=1, head_dim=8, mlp_ratio=1, patch=2, channels=4),
        autoencoder=SavedAutoencoder(module=MODULE, path="nowhere"),
        objective=FlowMatching(time_buckets=1),
        data=Data(source=Synthetic(), batch_size=8, text_length=40),
        optimizer=AdamW(learning_rate=1e-2, warmup_steps=0),
        training=Training(steps=2, checkpoint_every=1),
        sampler=Sampler(steps=2, images_per_device=8),
        mesh=MeshShape(data=1),
    )


def autoencoder() -> Experiment:
    return dataclasses.replace(get_config(), model=MODULE, autoencoder=Identity(), objective=Reconstruction(), sampler=None)
