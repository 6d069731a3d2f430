"""From a command line to a run folder: compose, check, build, stamp. Hydra and OmegaConf stay in here."""
