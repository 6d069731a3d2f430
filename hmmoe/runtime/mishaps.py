"""What goes wrong while a run computes and can be set right: said in the words of the settings, not of the library."""

import errno
from typing import Any

from hmmoe.errors import DiskFull, OutOfMemory, UserError


def mishap(error: BaseException | None, settings: dict[str, Any]) -> UserError | None:
    """A known misfortune as a message; None for everything else."""
    chain, seen = error, set()
    while chain is not None and id(chain) not in seen:
        seen.add(id(chain))  # whoever raises the cause of an error from that error ties a ring
        if isinstance(chain, OSError) and chain.errno in (errno.ENOSPC, errno.EDQUOT):
            return _disk_full(chain)
        if _out_of_memory(chain):
            return OutOfMemory(_advice(chain, settings))
        chain = chain.__cause__ or chain.__context__
    return None


def _disk_full(error: OSError) -> DiskFull:
    place = f" while writing {error.filename}" if error.filename else ""
    return DiskFull(
        f"no space left on the disk{place} ({error.strerror}). What was written before is whole: make room, then go on "
        "from last.ckpt; paths.log_dir moves new runs elsewhere"
    )


def _out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


def _advice(error: BaseException, settings: dict[str, Any]) -> str:
    size = settings["data"].get("batch_size")
    steps = settings["trainer"].get("accumulate_grad_batches", 1)
    advice = []
    if isinstance(size, int) and size > 1:
        advice.append(
            f"data.batch_size={size // 2} trainer.accumulate_grad_batches={2 * steps} takes the same steps in half"
        )
    if not settings["checkpointing"]:
        advice.append("checkpointing=true recomputes in place of keeping")
    if settings["precision"] == "32-true":
        advice.append("precision=bf16-mixed halves what is kept")
    first = str(error).strip().partition("\n")[0]
    what = f"data.batch_size={size}, trainer.accumulate_grad_batches={steps}"
    return f"out of memory at {what} ({first[:160]}). {'; '.join(advice) or 'Use a smaller backbone'}"
