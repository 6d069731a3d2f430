"""Train: ``python train.py experiment=ave_hmmoe``; everything else is a setting (``--help``)."""

from omegaconf import DictConfig

from hmmoe.runtime.command import start


def train(cfg: DictConfig) -> float | None:
    """One run, from settings to a folder that explains itself; the monitored score, for a sweeper."""
    from hmmoe.runtime.check import check
    from hmmoe.runtime.restore import settle

    settle(cfg)
    settings = check(cfg)

    # Torch, Lightning and their kin take ten seconds: a typo is answered before.
    from hmmoe.runtime import build
    from hmmoe.runtime.session import Session

    with Session(cfg, settings) as session:
        data = build.data(cfg)  # missing files show here, before any weights are read
        task = build.task(cfg, data, session)
        trainer = build.trainer(cfg, session, task, data)
        if cfg.train:
            trainer.fit(task, datamodule=data, ckpt_path=cfg.ckpt_path, weights_only=True)
        if cfg.test:
            trainer.test(task, datamodule=data, ckpt_path=session.best(trainer, cfg), weights_only=True, verbose=False)
        return session.conclude(trainer, task, data)


def main() -> None:
    """Console entry."""
    start(train)


if __name__ == "__main__":
    main()
