"""mlbox: a whole ML platform for one GPU box."""

__version__ = "0.1.0"
