"""A search without further packages: random mixes, of which the better ones train longer. The place is Hydra's wish."""
