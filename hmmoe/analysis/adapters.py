"""A trained model to and from files that other tools read: HF peft folders, merged towers in the library's format."""

import json
import logging
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from hmmoe.backbones.base import Backbone
from hmmoe.errors import CheckpointError, ConfigError
from hmmoe.model import AdaptedModel
from hmmoe.peft.hf_format import CONFIG, read, write
from hmmoe.types import Batch

log = logging.getLogger(__name__)

NOTE = "hmmoe.json"
"""Beside the folders: the fingerprint of the backbone that they belong to."""

CLOSE = 1e-4
"""Largest difference of features, relative to their largest value, between our model and what the library loads."""


def export_hf(model: AdaptedModel, folder: Path, fresh: Callable[[], Backbone], batch: Batch) -> dict[str, Path]:
    """One folder per tower that the method touches, loaded by HF peft itself and compared before it is handed out.

    Args:
        model: trained.
        folder: gets a folder per tower, and ``hmmoe.json``.
        fresh: builds the same frozen backbone once more.
        batch: to compare on; its content does not matter.

    Raises:
        ConfigError: HF peft has no such method, or what it loads gives other outputs (it is dead on fused qkv).
    """
    written = {}
    for name, (prefix, _) in model.backbone.libraries().items():
        stored = model.peft.stored(model.backbone, prefix)
        if stored is not None:
            written[name] = folder / name
            write(written[name], stored)
    if not written:
        raise ConfigError(f"{type(model.peft).__name__} changes no layer of a tower: there is nothing to export")
    _compare(model, written, fresh(), batch)
    (folder / NOTE).write_text(json.dumps({"fingerprint": model.fingerprint}) + "\n")
    return written


def _compare(model: AdaptedModel, written: Mapping[str, Path], other: Backbone, batch: Batch) -> None:
    """Run both on one batch."""
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the library's own doings, said once already when the method was attached
        for name, (_, library) in other.libraries().items():
            if name in written:
                PeftModel.from_pretrained(library, str(written[name]))
    other.eval()
    model.backbone.eval()
    mine, theirs = _features(model.backbone, batch), _features(other, batch)
    apart = {m: ((mine[m] - theirs[m]).abs().max() / mine[m].abs().max()).item() for m in mine}
    if wrong := {m: f"{gap:.1g}" for m, gap in apart.items() if not gap < CLOSE}:
        raise ConfigError(
            f"HF peft loads the exported folders and gives other features ({wrong}, relative): it replaces a layer's "
            "forward, and this tower reads the weight itself (fused qkv of Swin-V2, BEiT, EVA). Export it merged "
            "instead (--format merged), or train with peft.targets=[fc1,fc2]"
        )


@torch.no_grad()
def _features(backbone: Backbone, batch: Batch) -> dict[str, Tensor]:
    """Tokens by modality, nothing added at any site."""
    state = backbone.embed(batch)
    for site in backbone.sites:
        state, _ = backbone.open(site, state)
        state = backbone.close(site, state, {})
    return {m: features.tokens.float() for m, features in backbone.finish(state).items()}


def import_hf(model: AdaptedModel, folder: Path) -> list[str]:
    """Fill a LoRA-family method from HF peft's folders; the head, the routers and all else stay as they are.

    Args:
        model: fresh, with the method and rank that the folders were made with.
        folder: of ``export_hf``, with a folder per tower, or one adapter for the only tower there is.

    Returns:
        The towers that were filled.

    Raises:
        CheckpointError: another backbone, or an adapter of another method, rank or set of layers.
    """
    note = folder / NOTE
    known = json.loads(note.read_text())["fingerprint"] if note.is_file() else None
    if known not in (None, model.fingerprint):
        raise CheckpointError(
            f"init_from={folder} was made on another backbone (fingerprint {known[:12]}, this one has "
            f"{model.fingerprint[:12]}): use the same backbone weights, or init_from=null"
        )
    towers = model.backbone.libraries()
    if (folder / CONFIG).is_file():
        if len(towers) > 1:
            raise CheckpointError(
                f"init_from={folder} is one adapter, and this backbone has the towers {', '.join(towers)}: put it into "
                "a folder that bears its tower's name, and name the folder above"
            )
        given = {next(iter(towers)): folder}
    else:
        given = {name: folder / name for name in towers if (folder / name / CONFIG).is_file()}
    if not given:
        raise CheckpointError(f"init_from={folder} holds no {CONFIG}, nor a folder {' or '.join(towers)} that does")
    for name, place in given.items():
        model.peft.take(model.backbone, towers[name][0], read(place))
    log.info("adapters of %s from %s; the head starts fresh", ", ".join(given), folder)
    return list(given)


def export_merged(model: AdaptedModel, folder: Path) -> dict[str, Path]:
    """Merge, and write the weights in the formats that the ``weights`` keys of the backbone read.

    Towers are written each for itself as their libraries do it: transformers models become a folder (config.json,
    model.safetensors), timm and torchvision models one ``model.safetensors``. VLMo, BEiT-3 and VALOR become one torch
    file in the layout that their authors published.

    Raises:
        ConfigError: the method cannot be merged.
    """
    model.peft.merge(model.backbone)
    return model.backbone.publish(folder)
