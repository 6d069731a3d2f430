"""Training step and inference of HMMoE beside its rivals, on the shapes of ViT-B + AST-B, ViT-B + BERT-B or Swin-V2-B.

    python -m benchmarks.step                                # table on the screen
    python -m benchmarks.step --markdown docs/performance.md --json bench.json
    python -m benchmarks.step --host swinv2_b --precision bf16 --batch 8 --only "hmmoe wide + hmmoe loop"
    python -m benchmarks.step --precision bf16 --store bfloat16                  # frozen weights in half the memory
    python -m benchmarks.step --compile --only "hmmoe wide + hmmoe wide, compiled + series_adapter, compiled"

Ratios to the bottleneck adapter of equal rank, paired round by round in one process. Absolute times of a busy machine
move by a factor of two; believe the ratios, and those only when they repeat.
"""

import argparse
import json
import platform
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import timm
import torch
import transformers
from torch import Tensor
from torch.nn import functional as F

from benchmarks.contestants import (
    COMPILED,
    EQUAL,
    EXECUTORS,
    HOSTS,
    PLAIN,
    REFERENCE,
    UPPER,
    Sizes,
    contestants,
    draw,
    every,
    field,
    files,
    names,
)
from benchmarks.memory import kept, saved_bytes
from benchmarks.report import Row, machine, table, write_section
from benchmarks.timing import Spread, ratios, rounds
from hmmoe.model import AdaptedModel
from hmmoe.trainable import counts, roles
from hmmoe.types import Batch


class Contest:
    """A model with its optimizer, ready to take steps and to infer.

    Args:
        model: moved away from the identity.
        batches: taken in turn.
        bf16: autocast.
        device: cpu or cuda.
        compiled: options of torch.compile, None to run as it is.
    """

    def __init__(
        self,
        model: AdaptedModel,
        batches: Sequence[Batch],
        *,
        bf16: bool,
        device: str,
        compiled: Mapping[str, str] | None = None,
    ) -> None:
        self.model, self.bf16, self.device, self.compiled = model, bf16, device, compiled
        # Names of samples are for reports; a compiled model would look at them.
        self.batches = [{key: value for key, value in batch.items() if key != "id"} for batch in batches]
        if compiled is not None:
            model.compile(**compiled, dynamic=False, fullgraph=True)
        trained = roles(model)
        parameters = [parameter for name, parameter in model.named_parameters() if name in trained]
        # No learning rate: the work of a step without its effect, so late rounds measure the same weights.
        self.optimizer = torch.optim.AdamW(parameters, lr=0.0, fused=True)

    def _context(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device, torch.bfloat16) if self.bf16 else nullcontext()

    def loss(self, number: int) -> Tensor:
        """Forward pass with its graph."""
        batch = self.batches[number % len(self.batches)]
        with self._context():
            logits = self.model(batch).logits
        return F.cross_entropy(logits.float(), batch["label"])

    def train(self, number: int) -> None:
        """One whole step."""
        self.model.train()
        self.optimizer.zero_grad()
        self.loss(number).backward()
        self.optimizer.step()

    def infer(self, number: int) -> Tensor:
        """Logits of one forward pass without a graph."""
        self.model.eval()
        with torch.inference_mode(), self._context():
            return self.model(self.batches[number % len(self.batches)]).logits


def check(contests: Mapping[str, Contest]) -> None:
    """Before any timing: is all finite, every trained tensor reached, are twins equal, is nothing kept too low?

    Twins are the executors, and a compiled contestant and its eager one. Too low is below the first adapter.

    Raises:
        AssertionError: what is wrong, by contestant.
    """
    for name, contest in contests.items():
        contest.model.zero_grad()
        contest.loss(0).backward()
        parameters = dict(contest.model.named_parameters())
        dead = [key for key in roles(contest.model) if parameters[key].grad is None]
        wrong = [key for key, p in parameters.items() if p.grad is not None and not p.grad.isfinite().all()]
        assert not dead and not wrong, f"{name}: no gradient {dead[:3]}, not finite {wrong[:3]}"
        if name.endswith(UPPER):
            below = kept(contest.model, lambda contest=contest: contest.loss(0)).below(middle(contest.model))
            assert not below, f"{name}: {below} bytes are kept below the first adapter"
    groups: dict[str, list[Contest]] = {}
    for name, contest in contests.items():
        plain = name.removesuffix(COMPILED)
        groups.setdefault("hmmoe" if plain in EXECUTORS else plain, []).append(contest)
    for twins in groups.values():
        first, *others = (contest.infer(0).float().clone() for contest in twins)  # a CUDA graph reuses its output
        near = {"rtol": 1e-2, "atol": 1e-2} if twins[0].bf16 else {"rtol": 1e-4, "atol": 1e-5}
        for other in others:
            torch.testing.assert_close(other, first, **near)


def middle(model: AdaptedModel) -> int:
    """Index of the first site of the upper half, where ``peft.at=upper`` begins."""
    return (len(model.backbone.sites) + 1) // 2


def measure(contests: Mapping[str, Contest], *, count: int) -> tuple[list[Row], dict[str, dict[str, Spread]]]:
    """One row per contestant, in the given order; and the share of its eager time that a compiled one takes."""
    train = rounds({name: contest.train for name, contest in contests.items()}, count=count)
    infer = rounds({name: contest.infer for name, contest in contests.items()}, count=count)
    update = rounds({name: lambda _, c=c: c.optimizer.step() for name, c in contests.items()}, count=count)
    updates = ratios(update, REFERENCE)
    clocks = {
        (phase, clock): ratios(times, REFERENCE, clock=clock)
        for phase, times in (("train", train), ("infer", infer))
        for clock in ("cpu", "wall")
    }
    rows = []
    tokens = 0
    for name, contest in contests.items():
        contest.model.train()
        below = None
        if contest.compiled is None:
            found = kept(contest.model, lambda contest=contest: contest.loss(0))
            saved, below, tokens = sum(found.by_site), found.below(middle(contest.model)), found.tokens
        else:  # its hooks are compiled away; the tokens are those of the others
            saved = saved_bytes(contest.model, lambda contest=contest: contest.loss(0))
        rows.append(
            Row(
                name=name,
                trained=int(counts(contest.model)["trained"]),
                saved=saved,
                saved_below=below,
                saved_per_token=saved / tokens,
                train=clocks["train", "cpu"][name],
                train_wall=clocks["train", "wall"][name],
                infer=clocks["infer", "cpu"][name],
                infer_wall=clocks["infer", "wall"][name],
                optimizer=updates[name],
                train_seconds=min(clock.cpu for clock in train[name]),
                infer_seconds=min(clock.cpu for clock in infer[name]),
            )
        )
    gains = {
        name: {
            "train": ratios(train, name.removesuffix(COMPILED))[name],
            "infer": ratios(infer, name.removesuffix(COMPILED))[name],
        }
        for name, contest in contests.items()
        if contest.compiled is not None and name.removesuffix(COMPILED) in contests
    }
    return rows, gains


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step", description=__doc__.splitlines()[0])
    parser.add_argument("--host", choices=HOSTS, default=Sizes().host)
    for name in ("batch", "rank", "experts"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Sizes(), name))
    parser.add_argument("--tiny", action="store_true", help="the mini towers, to try the command itself")
    field_of = parser.add_mutually_exclusive_group()
    field_of.add_argument("--every", action="store_true", help="every file of conf/peft, not the usual contestants")
    field_of.add_argument("--equal", action="store_true", help="all at the size that trains what hmmoe wide trains")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--store", choices=("float32", "bfloat16"), default="float32", help="of the frozen weights")
    parser.add_argument(
        "--compile",
        nargs="?",
        const="default",
        metavar="MODE",
        help="some contestants compiled too: default, reduce-overhead (CUDA graphs) or max-autotune",
    )
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--only", default="", help="contestants, separated by +; the reference always runs")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    parser.add_argument("--markdown", type=Path, help="write the table into this file, between its markers")
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> None:
    """Build, check, measure, report."""
    args = arguments(given)
    if args.store == "bfloat16" and args.precision != "bf16":
        raise SystemExit("--store bfloat16 runs under bf16 autocast only: add --precision bf16")
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    sizes = Sizes(**{name: getattr(args, name) for name in Sizes._fields})
    known = files() if args.every else names(compiled=args.compile is not None)
    usual = [name for name in known if name.endswith(EQUAL) == args.equal or name in PLAIN]
    wanted = {REFERENCE, *(name.strip() for name in args.only.split("+"))} if args.only else set(usual)
    if unknown := wanted - set(known):
        raise SystemExit(f"--only names {sorted(unknown)}; choose from: {' + '.join(known)}")
    models = contestants(sizes, every(sizes, wanted) if args.every else field(sizes, wanted))
    batches = [move(draw(sizes, seed), args.device) for seed in range(3)]
    contests = {
        name: Contest(
            model.to(args.device),
            batches,
            bf16=args.precision == "bf16",
            device=args.device,
            compiled={"mode": args.compile, "backend": args.backend} if name.endswith(COMPILED) else None,
        )
        for name, model in models.items()
    }
    check(contests)
    rows, gains = measure(contests, count=args.rounds)
    own = ("rounds", "threads", "precision", "device", "compile")
    setting = sizes._asdict() | {key: getattr(args, key) for key in own}
    setting["frozen_mib"] = frozen_bytes(models[REFERENCE]) / 2**20
    versions = {"torch": torch.__version__, "timm": timm.__version__, "transformers": transformers.__version__}
    record = {"setting": setting, "machine": machine(args.device), "python": platform.python_version(), **versions}
    record["compiled"] = gains
    text = table(rows, record, gains)
    print(text)
    if args.json:
        args.json.write_text(json.dumps(record | {"rows": [row._asdict() for row in rows]}, indent=2) + "\n")
    if args.markdown:
        kind = args.precision + (" stored" if args.store == "bfloat16" else "")
        kind += (" compiled" if args.compile else "") + (" every method" if args.every else "")
        kind += (" equal parameters" if args.equal else "") + (" tiny" if args.tiny else "")
        write_section(args.markdown, f"step {args.host} {kind} batch {args.batch}", text)


def frozen_bytes(model: AdaptedModel) -> int:
    """Bytes of the weights that do not train, the backbone's but for frozen parts of a method."""
    return sum(p.numel() * p.element_size() for p in model.parameters() if not p.requires_grad)


def move(batch: Batch, device: str) -> Batch:
    """Tensors of a batch on the device."""
    return {key: value.to(device) if isinstance(value, Tensor) else value for key, value in batch.items()}


if __name__ == "__main__":
    main()
