"""The process launcher: every job of a sweep is a clean process of its own. The place is Hydra's wish."""
