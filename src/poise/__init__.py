"""poise: an inference server that keeps accuracy, latency and cost in balance."""

__all__ = ["__version__"]

__version__ = "0.1.0.dev0"
