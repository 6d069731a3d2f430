"""Evaluate: ``python eval.py ckpt_path=<run>/checkpoints/best.ckpt``; settings come out of the checkpoint."""

from omegaconf import DictConfig

from hmmoe.runtime.command import start


def evaluate(cfg: DictConfig) -> float | None:
    """Score the test splits again, in a folder of its own below the run."""
    from hmmoe.runtime.check import check

    settings = check(cfg)

    # Torch, Lightning and their kin take ten seconds: a typo is answered before.
    from hmmoe.runtime import build
    from hmmoe.runtime.importance import leave_out
    from hmmoe.runtime.session import Session

    with Session(cfg, settings, job="eval") as session:
        data = build.data(cfg)
        task = build.task(cfg, data, session)
        trainer = build.trainer(cfg, session, task, data)
        trainer.test(task, datamodule=data, ckpt_path=cfg.ckpt_path, weights_only=True, verbose=False)
        score = session.conclude(trainer, task, data)
        if cfg.importance is not None:
            leave_out(cfg, trainer, task, data)
        return score


def main() -> None:
    """Console entry."""
    start(evaluate, needs_checkpoint=True)


if __name__ == "__main__":
    main()
