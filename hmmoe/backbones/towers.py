"""Any number of encoders in lockstep: at every site all of them stand open at their FFN output."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, Literal, NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor, nn

from hmmoe.backbones.base import Backbone, Context, Encoder, Half, LinearPart, Store
from hmmoe.backbones.inputs import checked
from hmmoe.errors import ConfigError
from hmmoe.types import Batch, Features, Site, Stream, Widths


class TowerState(NamedTuple):
    """Where one tower stands. ``keep`` is per token (text) or per row, True for all where None.

    ``levels`` are the hidden states at the ends of the stages that lie behind it, the last stage excepted.
    """

    x: Tensor
    ctx: Context
    keep: Bool[Tensor, "S n"] | None
    segments: int
    block: int = 0
    half: Half | None = None
    levels: tuple[Tensor, ...] = ()


def meeting_blocks(depths: Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
    """Which block of every tower takes part in which site.

    Stage by stage where all towers have as many stages, else over the whole depth: the shallowest tower sets the
    number of sites, and site j meets block floor((j + 1) n / n_min) - 1 of a tower of n blocks. This gives the
    pairing of DG-SCT (18 blocks against 6: every third) without a table.
    """
    if len({len(stages) for stages in depths.values()}) > 1:
        depths = {name: (sum(stages),) for name, stages in depths.items()}
    blocks: dict[str, list[int]] = {name: [] for name in depths}
    first = dict.fromkeys(depths, 0)
    for stage in zip(*depths.values(), strict=True):
        sites = min(stage)
        for name, count in zip(depths, stage, strict=True):
            blocks[name] += [first[name] + (j + 1) * count // sites - 1 for j in range(sites)]
            first[name] += count
    return blocks


class Towers(Backbone):
    """Encoders in lockstep by a schedule.

    Args:
        towers: encoder by modality.
        shared: modality -> modality whose encoder object it runs on too (LAVISH: sound on the vision tower).
        meet: "segment" pairs segment t of every modality (S = B*T), "sample" lets all tokens of a sample meet (S = B).
        schedule: block indices by modality, one per site; None spreads the sites by ``meeting_blocks``.
        inputs: what each modality's input must look like (size, mels, frames, length, ...); checked on every batch.
        store: see ``Backbone.freeze``.

    Raises:
        ConfigError: unequal schedules, unknown modality, or a batch that breaks ``inputs``.
    """

    def __init__(
        self,
        towers: Mapping[str, Encoder],
        *,
        shared: Mapping[str, str] | None = None,
        meet: Literal["segment", "sample"] = "sample",
        schedule: Mapping[str, Sequence[int]] | None = None,
        inputs: Mapping[str, Mapping[str, Any]] | None = None,
        store: Store = "float32",
    ) -> None:
        super().__init__()
        if meet not in ("segment", "sample"):
            raise ConfigError(f"backbone.meet must be segment or sample, not {meet!r}")
        self.towers = nn.ModuleDict(dict(towers))
        self.owner = {name: name for name in towers} | dict(shared or {})
        unknown = set(self.owner.values()) - set(towers)
        if unknown:
            raise ConfigError(f"backbone.shared names {sorted(unknown)}, but the towers are {sorted(towers)}")
        self.modalities = tuple(self.owner)
        self.meet = meet
        self.inputs = {name: dict(spec) for name, spec in (inputs or {}).items()}
        self.schedule = self._check(schedule or meeting_blocks({m: self.tower(m).stages for m in self.modalities}))
        self.widths = Widths(
            {m: self.tower(m).widths[-1] for m in self.modalities},
            levels={m: [self.tower(m).widths[end - 1] for end in self._ends(m)] for m in self.modalities},
        )
        self.sites = tuple(
            Site(i, f"site{i:02d}", {m: self.tower(m).widths[self.schedule[m][i]] for m in self.modalities})
            for i in range(len(self.schedule[self.modalities[0]]))
        )
        self.freeze(store)

    def tower(self, modality: str) -> Encoder:
        """The encoder that a modality runs on."""
        return self.towers[self.owner[modality]]

    def _check(self, schedule: Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
        if set(schedule) != set(self.modalities) or len({len(blocks) for blocks in schedule.values()}) != 1:
            raise ConfigError(
                f"backbone.schedule needs one list of equal length for each of {self.modalities}, found "
                f"{ {name: len(blocks) for name, blocks in schedule.items()} }"
            )
        for name, blocks in schedule.items():
            depth = len(self.tower(name).widths)
            if list(blocks) != sorted(set(blocks)) or not all(0 <= k < depth for k in blocks):
                raise ConfigError(f"backbone.schedule.{name} must rise within 0..{depth - 1}, found {list(blocks)}")
        return {name: list(blocks) for name, blocks in schedule.items()}

    def embed(self, batch: Batch) -> dict[str, TowerState]:
        """Batch to one state per modality; segments are folded into rows."""
        state = {m: self._embed_one(m, batch) for m in self.modalities}
        counts = {m: tower.segments for m, tower in state.items()}
        if self.meet == "segment" and len(set(counts.values())) > 1:
            raise ConfigError(
                f"backbone.meet=segment pairs equal numbers of segments, found {counts}: set meet: sample"
            )
        return state

    def _embed_one(self, modality: str, batch: Batch) -> TowerState:
        value = checked(batch, modality, self.modalities, self.inputs.get(modality, {}))
        segment_keep = batch.get("keep", {}).get(modality)
        keep = None if segment_keep is None else segment_keep.flatten()[:, None]
        if isinstance(value, dict):
            token_keep = value["keep"] if keep is None else value["keep"] & keep
            x, ctx = self.tower(modality).embed(value["ids"], value["keep"])
            return TowerState(x, ctx, token_keep, 1)
        tower = self.tower(modality)
        if tower.clips:
            x, ctx = tower.embed(value, None)
            return TowerState(x, ctx, None if segment_keep is None else segment_keep.any(1, keepdim=True), 1)
        x, ctx = tower.embed(value.flatten(0, 1), None)
        return TowerState(x, ctx, keep, value.shape[1])

    def open(self, site: Site, state: dict[str, TowerState]) -> tuple[dict[str, TowerState], dict[str, Stream]]:
        """Run every tower to its block of this site and open it at the FFN output."""
        opened = {m: self._run(m, state[m], self.schedule[m][site.index]) for m in self.modalities}
        opened = {m: s._replace(half=self.tower(m).half(s.block, s.x, s.ctx)) for m, s in opened.items()}
        return opened, {m: self._stream(s) for m, s in opened.items()}

    def _ends(self, modality: str) -> list[int]:
        """How many blocks lie before the end of every stage."""
        return list(accumulate(self.tower(modality).stages))

    def _run(self, modality: str, state: TowerState, stop: int) -> TowerState:
        tower = self.tower(modality)
        for k in range(state.block, stop):
            state = self._passed(modality, state, tower.merge(k, tower.half(k, state.x, state.ctx), state.ctx))
        return state

    def _passed(self, modality: str, state: TowerState, x: Tensor) -> TowerState:
        """The state after one more block, whose output is ``x``."""
        block = state.block + 1
        levels = (*state.levels, x) if block in self._ends(modality)[:-1] else state.levels
        return state._replace(x=x, block=block, half=None, levels=levels)

    def _stream(self, state: TowerState) -> Stream:
        keep = None if state.keep is None else state.keep.expand(state.half.out.shape[:2])
        if self.meet == "segment":
            return Stream(*state.half, keep, rows=state.segments)
        joined = [join(part, state.segments) for part in state.half]
        return Stream(*joined, None if keep is None else join(keep, state.segments), parts=state.segments)

    def close(
        self, site: Site, state: dict[str, TowerState], outs: dict[str, Float[Tensor, "S _N _D"]]
    ) -> dict[str, TowerState]:
        """Finish this site's blocks with the given FFN outputs."""
        closed = {}
        for m, tower_state in state.items():
            half = tower_state.half
            if m in outs:
                half = half._replace(out=outs[m].reshape(half.out.shape))
            x = self.tower(m).merge(tower_state.block, half, tower_state.ctx)
            closed[m] = self._passed(m, tower_state, x)
        return closed

    def finish(self, state: dict[str, TowerState]) -> dict[str, Features]:
        """Run the blocks after the last site, then the tower's own ending."""
        features = {}
        for m, tower_state in state.items():
            tower = self.tower(m)
            done = self._run(m, tower_state, len(tower.widths))
            tokens = tower.finish(done.x, done.ctx)
            keep = None if done.keep is None else done.keep.expand(tokens.shape[:2])
            split = (-1, done.segments)
            levels = (*(level.flatten(1, -2) for level in done.levels), tokens)
            features[m] = Features(
                tokens.unflatten(0, split),
                None if keep is None else keep.unflatten(0, split),
                tower.pool(tokens, keep).unflatten(0, split),
                tuple(level[:, tower.prefix :].unflatten(0, split) for level in levels),
            )
        return features

    def linears(self, role: str) -> list[LinearPart]:
        """Linear layers of all towers that play ``role``; a shared tower counts once."""
        return [
            part._replace(name=f"towers.{name}.{part.name}")
            for name, tower in self.towers.items()
            for part in tower.linears(role)
        ]


def join(x: Tensor, segments: int) -> Tensor:
    """(B*T, N, ...) to (B, T*N, ...)."""
    return x.unflatten(0, (-1, segments)).flatten(1, 2)
