"""Autoencoders and generators of their latents, continuous and discrete, all as small as can be, on made-up pictures."""

import dataclasses

from jaxgen.autoencoders.convolutional import ConvolutionalAutoencoder
from jaxgen.autoencoders.finite_scalar import FiniteScalar
from jaxgen.autoencoders.frozen import RandomAutoencoder
from jaxgen.autoencoders.identity import Identity
from jaxgen.data.pipeline import Data
from jaxgen.data.synthetic import Synthetic
from jaxgen.experiment import Experiment
from jaxgen.models.causal import CausalTransformer
from jaxgen.models.dit import DiT
from jaxgen.objectives.flow_matching import FlowMatching
from jaxgen.objectives.next_token import NextToken
from jaxgen.objectives.reconstruction import Reconstruction
from jaxgen.parallel.mesh import MeshShape
from jaxgen.samplers.autoregressive import Autoregressive
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


TOKENIZER = MODULE.clone(latent_channels=2, quantizer=FiniteScalar((3, 2)))


def tokenizer() -> Experiment:
    return dataclasses.replace(autoencoder(), model=TOKENIZER, objective=Reconstruction(noise=0.0))


def codes() -> Experiment:
    return dataclasses.replace(
        get_config(),
        model=CausalTransformer(width=16, depth=1, head_dim=8, mlp_ratio=1, codes=6),
        autoencoder=SavedAutoencoder(module=TOKENIZER, path="nowhere"),
        objective=NextToken(),
        sampler=Autoregressive(guidance=2.0, images_per_device=8),
    )


def random_codes() -> Experiment:
    """Codes of a tokenizer that no one trained, behind plans."""
    tree = codes()
    return dataclasses.replace(
        tree,
        model=tree.model.clone(width=64, head_dim=16, plan=Synthetic(plans=True).plan_ids),
        autoencoder=RandomAutoencoder(module=TOKENIZER),
        data=dataclasses.replace(tree.data, source=Synthetic(plans=True)),
    )
