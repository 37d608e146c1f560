"""DDT-XL/2 on ImageNet 256 × 256 (Wang et al., arXiv 2504.05741), for a slice of 16 v5e chips. Never run on one.

jaxgen preflight configs/ddt_xl2_imagenet256.py --slice v5e:4x4      # does it fit, how fast will it be
jaxgen train configs/ddt_xl2_imagenet256.py --run gs://BUCKET/ddt    # on the slice
bash launch/local.sh train configs/ddt_xl2_imagenet256.py:tiny       # a few steps on this machine

There is no reader of encoded ImageNet here yet: `data.source` is `synthetic`, which makes up pictures of 32 × 32 × 4 in the place
of an autoencoder's latents (10 of the 1000 classes), so a run of this learns nothing of ImageNet, and no samples are drawn. As many
pictures as in the paper's 80 epochs (400 000 steps of 256), in steps of 1024; without the representation alignment that the
published networks are trained with. `improved` is the same network without the split.

Preflight: peak 15.2 of 15.75 GiB, 415 to 462 ms a step [communication hidden, as compiled], MFU 62 to 56 %: .86 of the pictures a
second of DiT-XL/2, by whose FLOPs it would be nine tenths. Of the 462: products 279, kernels 78 (attention, and 26 of norms and
rotations of heads), memory-bound 58, exposed collectives 47. What limits it: norms and rotations, which DiT has not, and the
backward pass of gated layers, whose product runs at 57 % of the peak beside what it reads and writes. Tried, as compiled: 472 with
gate and value cut from one product, which is copied out of the stack as a whole; 482 with two products in the place of one for each
number that the kernel of heads hands to channels; 519 with kernels of several axes gathered as they lie, and 665 with norms and
rotations as plain operations and an axis of two halves in the gated layer besides. What took 482 there took on 16 chips of other
kinds: v6e 200 to 230 ms, where DiT takes 154 to 183; v5p 185 to 205.

The paper's FID-50K of DDT-XL/2 after 80 epochs, with alignment: 6.62 without guidance, 1.52 with guidance 2.0 in the interval
(0.3, 1) of its time, by 250 Euler steps of which the last is 0.04 long. The variant `sampled` has this sampler, and
`preflight --sample` compiles its drawing. At 512 × 512 (`at_512`) the paper trains on from the network for 256 × 256 and reports
1.90 after 100 000 steps and 1.28 after 500 000, with guidance 3.0 in the same interval.
"""

import dataclasses

from jaxgen.autoencoders.identity import Identity
from jaxgen.data.pipeline import Data
from jaxgen.data.synthetic import Synthetic
from jaxgen.experiment import Experiment, Precision
from jaxgen.models.ddt import DDT, VARIANTS, ImprovedDiT
from jaxgen.mup import Scaling
from jaxgen.objectives.flow_matching import FlowMatching
from jaxgen.parallel.mesh import MeshShape
from jaxgen.samplers.sampler import Sampler
from jaxgen.samplers.time_grids import Uniform
from jaxgen.training.optimizer import AdamW
from jaxgen.training.settings import Training


def get_config() -> Experiment:
    """DDT-XL/2: an encoder of 22 blocks and a decoder of 6."""
    return Experiment(
        model=DDT(**VARIANTS["XL/2"], channels=4, classes=1000, remat="dots", scaling=Scaling(base_width=1152)),
        autoencoder=Identity(),
        objective=FlowMatching(),
        data=Data(source=Synthetic(), batch_size=1024, resolution=32, channels=4, text_length=64),
        precision=Precision(compute="bfloat16"),
        optimizer=AdamW(learning_rate=1e-4, b2=0.95, schedule="constant", warmup_steps=0, weight_decay=0.0, clip_norm=None),
        training=Training(
            steps=100_000,
            log_every=100,
            checkpoint_every=10_000,
            ema=(0.9999,),
            tpu_options=("xla_tpu_scoped_vmem_limit_kib=32768",),
        ),
        sampler=None,
        mesh=MeshShape(data=1, fsdp=-1),
    )


def improved() -> Experiment:
    """The improved DiT-XL/2: 28 blocks in one stack."""
    config = get_config()
    shared = {field.name: getattr(config.model, field.name) for field in dataclasses.fields(ImprovedDiT) if field.init}
    return dataclasses.replace(config, model=ImprovedDiT(**shared))


def at_512() -> Experiment:
    """Pictures of 512 × 512 (latents of 64 × 64), 500 000 steps of 256.

    Preflight, v5e:4x4: peak 15.4 of 15.75 GiB, 514 to 552 ms a step, MFU 55 to 51 %; 1,140 to 1,230 chip-hours in all.
    """
    config = get_config()
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, batch_size=256, resolution=64),
        training=dataclasses.replace(config.training, steps=500_000),
    )


def sampled() -> Experiment:
    """DDT-XL/2 with the paper's sampler."""
    # The published interval is (0.3, 1), of a time that runs from noise to data.
    sampler = Sampler(steps=250, grid=Uniform(last_step=0.04), guidance=2.0, guidance_interval=(0.0, 0.7))
    return dataclasses.replace(get_config(), sampler=sampler)


def tiny() -> Experiment:
    """The same in a few steps on a CPU."""
    config = get_config()
    return dataclasses.replace(
        config,
        model=config.model.clone(width=32, depth=3, encoder_depth=2, head_dim=16, scaling=Scaling(base_width=32)),
        data=dataclasses.replace(config.data, batch_size=16, resolution=8),
        training=Training(steps=20, log_every=1, checkpoint_every=10),
        mesh=MeshShape(),
    )
