"""jaxgen: train, sample, distil and evaluate image, video and interleaved generative models on TPU pods, in JAX."""

__version__ = "0.1.0"
