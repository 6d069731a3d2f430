"""Marks by which ``trainable.py`` tells whose parameter is whose, without looking at names."""

from torch import nn


class Inserted(nn.Module):
    """A trainable part that lives inside the frozen backbone, such as a LoRA parametrisation."""


class Routes(nn.Module):
    """A module whose parameters decide who computes: its own optimizer group, its own line in the counts."""
