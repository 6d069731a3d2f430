"""Run a function on several processes that share a gloo group: 0.2 s, because they are forked, not started."""

import socket
import traceback
from collections.abc import Callable
from typing import Any

import torch
from torch import distributed, multiprocessing


def run_ranks(function: Callable[[int], Any], world: int = 2) -> list[Any]:
    """What ``function(rank)`` returns on each rank, by rank; results are pickled, so return numbers or tensors."""
    context = multiprocessing.get_context("fork")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    queue = context.SimpleQueue()
    workers = [context.Process(target=_one, args=(function, rank, world, port, queue)) for rank in range(world)]
    for worker in workers:
        worker.start()
    answers = dict(queue.get() for _ in workers)
    for worker in workers:
        worker.join()
    for answer in answers.values():
        if isinstance(answer, str) and answer.startswith("Traceback"):
            raise AssertionError(answer)
    return [answers[rank] for rank in range(world)]


def _one(function: Callable[[int], Any], rank: int, world: int, port: int, queue: Any) -> None:
    torch.set_num_threads(1)
    try:
        address = f"tcp://127.0.0.1:{port}"
        distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=world)
        queue.put((rank, function(rank)))
        distributed.barrier()
        distributed.destroy_process_group()
    except BaseException:
        queue.put((rank, traceback.format_exc()))
