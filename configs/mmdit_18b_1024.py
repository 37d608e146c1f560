"""An MMDiT of 18 billion parameters on pictures of 1024 × 1024, for a slice of 256 v5p chips. Never run on one.

jaxgen preflight configs/mmdit_18b_1024.py --slice v5p:8x8x4         # does it fit, how fast will it be; 2 minutes on a core
jaxgen mup-sweep configs/mmdit_18b_1024.py:proxy --widths 256,512 --rates 2^-13:2^-9  # where the rate is found
jaxgen train configs/mmdit_18b_1024.py --run gs://BUCKET/mmdit       # on the slice
bash launch/local.sh train configs/mmdit_18b_1024.py:tiny            # a few steps on this machine

There is no reader of encoded pictures and text here yet: `data.source` is `synthetic`, which makes up pictures of 128 × 128 × 16 in
the place of an autoencoder's latents and captions of up to 512 bytes, so a run of this learns nothing of pictures, and no samples
are drawn.

The rate is one for width 512 under μP (hidden layers here learn at an eighth of it), where `proxy` searches it: arXiv 2505.15270
searched an MMDiT of 18 billion so, by 80 trials of one of 0.18 billion for 3 % of what experts' tuning had cost, and reports a
GenEval of 0.8218 against the experts' 0.8154.

Preflight: peak 53.7 of 95.74 GiB, 2.49 to 2.62 s a step [communication hidden, as compiled], MFU 69 to 66 %. Of the 2.62: products
1.88, kernels 0.40, memory-bound 0.21, exposed collectives 0.12. What limits it: gradients are summed with nothing beside them,
and a shard of 16 of 4096 rows is less than a tile, which makes of some gathers sums that cost twice as much. Tried, as compiled
(beside products: `OVERLAPPED_COLLECTIVES`), with more products in the kernel of norms and rotations:

| mesh               | remat | modulation's kernels | kernels are gathered | s    | MFU    | peak GiB |
|--------------------|-------|----------------------|----------------------|------|--------|----------|
| fsdp=256           | names | gathered             | alone                | 3.49 | 49.5 % | 31.7     |
| fsdp=256           | dots  | gathered             | alone                | 3.02 | 57 %   | 51.6     |
| fsdp=256           | dots  | stay divided         | alone                | 2.75 | 63 %   | 54.2     |
| fsdp=256           | dots  | stay divided         | beside products      | 2.68 | 65 %   | 54.0     |
| data=8 × fsdp=32   | dots  | stay divided         | beside products      | 2.69 | 64 %   | 64.4     |

With 64 MiB of vector memory for a fusion, worth a tenth of FLUX's step, the compiler had not ended after 14 minutes of a core.
"""

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
from jaxgen.training.settings import OVERLAPPED_COLLECTIVES, Training


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
            scaling=Scaling(base_width=512, base_depth=30),
        ),
        autoencoder=Identity(),
        objective=FlowMatching(base_pixels=1024),
        data=Data(source=Synthetic(), batch_size=1024, resolution=128, channels=16, text_length=512),
        precision=Precision(compute="bfloat16"),
        optimizer=AdamW(learning_rate=2**-10, warmup_steps=1000),
        training=Training(steps=250_000, log_every=50, checkpoint_every=1000, ema=(0.9999,), tpu_options=OVERLAPPED_COLLECTIVES),
        sampler=None,
        mesh=MeshShape(data=1, fsdp=-1),
    )


def proxy() -> Experiment:
    """The width at which hyper-parameters are searched, an eighth: 0.29 billion parameters; 30 000 steps a trial."""
    config = get_config()
    training = dataclasses.replace(config.training, steps=30_000)
    return dataclasses.replace(config, model=config.model.clone(width=512), training=training)


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
