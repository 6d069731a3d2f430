"""Fine-tune frozen multi-modal models with small trainable parts."""

__version__ = "0.1.0"
