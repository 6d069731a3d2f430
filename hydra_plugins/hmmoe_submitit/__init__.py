"""Sweeps whose jobs a cluster's queue runs. The place is Hydra's wish."""
