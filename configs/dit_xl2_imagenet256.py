"""DiT-XL/2 on ImageNet 256 × 256 (Peebles and Xie, arXiv 2212.09748), for a slice of 16 v5e chips. Never run on one.

jaxgen preflight configs/dit_xl2_imagenet256.py --slice v5e:4x4      # does it fit, how fast will it be
jaxgen train configs/dit_xl2_imagenet256.py --run gs://BUCKET/dit    # on the slice
bash launch/local.sh train configs/dit_xl2_imagenet256.py:tiny       # a few steps on this machine

There is no reader of encoded ImageNet here yet: `data.source` is `synthetic`, which makes up pictures of 32 × 32 × 4 in the place
of an autoencoder's latents (10 of the 1000 classes), so a run of this learns nothing of ImageNet, and no samples are drawn. As many
pictures as in the paper (400 000 steps of 256), in steps of 1024. `at_512` has latents of 512 × 512.

Preflight: peak 12.4 of 15.75 GiB, 363 to 398 ms a step [communication hidden, as compiled], MFU 64 to 58 %. Of the 398: products
233, attention 53, memory-bound 78, exposed collectives 34. What limits it: what is kept of a block is copied out of the stack of
all before it is read, and gradients are summed after each block with nothing beside them. Tried, as compiled, with 16 MiB of vector
memory for a fusion unless said otherwise:

| batch | mesh             | remat | attention | kernels                                | ms  | MFU  | peak GiB |
|-------|------------------|-------|-----------|----------------------------------------|-----|------|----------|
| 1024  | fsdp=16          | dots  | flash     | the same, gathered flat; 32 MiB        | 398 | 58 % | 12.4     |
| 1024  | fsdp=16          | dots  | flash     | parts cut from flat products; 32 MiB   | 439 | 53 % | 12.4     |
| 1024  | fsdp=16          | dots  | flash     | products of two matrices; 32 MiB       | 454 | 51 % | 12.4     |
| 1024  | fsdp=16          | dots  | flash     | products of two matrices; 64 MiB       | 463 | 50 % | 12.4     |
| 1024  | fsdp=16          | dots  | flash     | the same; `OVERLAPPED_COLLECTIVES`     | 459 | 50 % | 12.4     |
| 1024  | data=16          | dots  | flash     | products of two matrices               | –   | –    | 25.2: no |
| 256   | fsdp=16          | dots  | XLA       | as the partitioner likes: cut in 16    | 195 | 30 % | 3.7      |
| 512   | data=4 × fsdp=4  | dots  | XLA       | as the partitioner likes               | 255 | 45 % |          |
| 1024  | fsdp=16          | names | flash     | gathered                               | 503 | 46 % | 8.4      |
| 1024  | fsdp=16          | dots  | flash     | gathered                               | 483 | 48 % | 13.8     |
| 1024  | fsdp=16          | dots  | flash     | gathered, products of two matrices     | 459 | 50 % | 12.4     |
| 1024  | fsdp=16          | dots  | flash     | the same, gradients shared out in one  | 533 | 43 % | 12.5     |
"""

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


def at_512() -> Experiment:
    """Pictures of 512 × 512 (latents of 64 × 64), 3 million steps of 256, for the paper's FID of 3.04.

    Preflight, v5e:4x4: peak 12.6 of 15.75 GiB, 453 to 476 ms a step, MFU 56 to 54 %; 6,040 to 6,340 chip-hours in all.
    """
    config = get_config()
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, batch_size=256, resolution=64),
        training=dataclasses.replace(config.training, steps=3_000_000),
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
