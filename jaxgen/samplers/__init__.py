"""How pictures are drawn (`types.Sampler`). From noise to data by five separate things that compose:

`process` and `gaussian` relate data, noise and what a network predicts; `time_grids` says at which times the network is asked;
`steppers` and `stochastic` go from one time to the next; `guidance` combines conditional and unconditional velocities; `sampler`
is the loop.

A sampler sees a function `velocity(x_t [B, ...], t [B], carry) -> (v, carry)` and nothing else of the network. Times
run from t = 1 (noise) to t = 0 (data), x_t = (1 - t) x_0 + t ε, v = ε - x_0 = dx_t/dt, and the state is float32 whatever
the network computes in. A process that is no flow is sampled in the coordinates in which it is one.

`autoregressive` draws codes of pictures one after another instead.
"""
