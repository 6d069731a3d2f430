"""VALOR's checkpoint namespaces in the names of the library modules that ``Valor`` is composed of.

Source of the names: model/modeling.py, model/pretrain.py and train_utils.py of TXH-mercury/VALOR.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from hmmoe.backbones.timm_weights import published
from hmmoe.backbones.weights import log_resized, resize_grid
from hmmoe.errors import ConfigError

VISION, AUDIO, TEXT = "lower.towers.vision.library.", "lower.towers.audio.library.", "text.library."
VIDEO = ("video_encoder.", "clip_model.visual.")
State = dict[str, Tensor]


class Layout(NamedTuple):
    """What of a checkpoint a ``Valor`` holds."""

    clip: torch.nn.Module | None
    """timm's CLIP tower, None for Video Swin."""

    audio: bool
    cross: bool
    words: bool


def translate(state: Mapping[str, Tensor], layout: Layout, *, source: str) -> State:
    """A released checkpoint under ``Valor``'s names, without what this one has no use for; unknown keys stay.

    Raises:
        ConfigError: the checkpoint has the other video encoder, or a text encoder of its own.
    """
    state = {key.removeprefix("module."): value for key, value in state.items()}
    wanted, other = VIDEO if layout.clip is None else VIDEO[::-1]
    if not any(key.startswith(wanted) for key in state) and any(key.startswith(other) for key in state):
        raise ConfigError(
            f"{source} has {other}* (expected {wanted}*): VALOR-base runs on Video Swin, VALOR-large on CLIP, so take "
            "the other of backbone=valor_base, backbone=valor_large"
        )
    _check_shared_text(state, source)
    unused = _unused(layout)
    state = {key: value for key, value in state.items() if not key.startswith(unused)}
    return _video(state, layout, source) | _audio(state) | _text(state, layout.cross) | _rest(state, wanted)


def repeat_frames(state: State, trained: Mapping[str, int]) -> State:
    """Frame embeddings beyond the pretraining's number of frames get the last trained one, as VALOR loads them.

    Args:
        state: translated tensors.
        trained: frames (slices of audio) per sample in pretraining, by modality.
    """
    for modality, count in trained.items():
        key = f"bridges.{modality}.frame_embedding"
        if key in state:
            state[key] = state[key].clone()
            state[key][:, count:] = state[key][:, count - 1 : count]
    return state


def _check_shared_text(state: Mapping[str, Tensor], source: str) -> None:
    for key, value in state.items():
        if key.startswith("txt_encoder."):
            twin = state.get(key.replace("txt_encoder.", "multimodal_encoder.", 1))
            if twin is None or not torch.equal(twin, value):
                raise ConfigError(
                    f"{source} has a text encoder of its own ({key} is not that of multimodal_encoder): only "
                    "checkpoints that share it can be loaded (share_txt_and_multimodal: true, as both released ones)"
                )


def _unused(layout: Layout) -> tuple[str, ...]:
    """Prefixes of what this composition does not read: CLIP's text half, BERT's pooler, the other task's heads."""
    fine = ("text_fine_weight.", "video_fine_weight.", "audio_fine_weight.", "contra_temp", "va_fusion.")
    clip = ("transformer.", "token_embedding.", "positional_embedding", "ln_final.", "prompt_embedding.")
    clip += ("text_projection", "logit_scale", "visual.proj")
    own = tuple(f"clip_model.{name}" for name in clip)
    own += ("txt_encoder.", "multimodal_encoder.pooler.", *fine)
    if layout.cross:
        own += ("contra_head_",)
    else:
        own += ("video_type_", "video_frame_", "audio_type_", "audio_frame_", "hidden_trans_")
    if not layout.audio:
        own += ("audio_", "hidden_trans_audio_", "contra_head_a.")
    return own if layout.words else (*own, "cls.")


def _video(state: State, layout: Layout, source: str) -> State:
    if layout.clip is not None:
        tower = {key.removeprefix("clip_model."): v for key, v in state.items() if key.startswith("clip_model.visual.")}
        key = "visual.positional_embedding"
        if key in tower:
            grid = layout.clip.patch_embed.grid_size
            side = round((len(tower[key]) - 1) ** 0.5)
            if (side, side) != tuple(grid):
                sized = resize_grid(tower[key], 1, (side, side), tuple(grid), mode="bilinear")
                log_resized(source, tower, {key: sized})
                tower[key] = sized
        fitted = published(layout.clip, tower, source=source) if tower else {}
        return {VISION + key: value for key, value in fitted.items() if not key.startswith("head.")}
    out = {}
    for key, value in state.items():
        if key.startswith("video_encoder."):
            name = key.removeprefix("video_encoder.").replace(".mlp.fc1.", ".mlp.0.").replace(".mlp.fc2.", ".mlp.3.")
            name = re.sub(r"^layers\.(\d+)\.blocks\.", lambda m: f"features.{2 * int(m[1])}.", name)
            name = re.sub(r"^layers\.(\d+)\.downsample\.", lambda m: f"features.{2 * int(m[1]) + 1}.", name)
            out[VISION + name] = value
    return out


AUDIO_NAMES = {
    "audio_embeddings.first_conv.": "patch_embed.proj.",
    "audio_embeddings.cls_token": "cls_token",
    "audio_encoder.last_layernorm.": "norm.",
    "audio_encoder.layer.": "blocks.",
    ".layernorm": ".norm",
    ".attention.linears.3.": ".attn.proj.",
    ".ff_layer.linear": ".mlp.fc",
}


def _audio(state: State) -> State:
    out: State = {}
    for key, value in state.items():
        if not key.startswith(("audio_embeddings.", "audio_encoder.")):
            continue
        if key == "audio_embeddings.position_embeddings.weight":
            out[f"{AUDIO}pos_embed"] = value[None]
        elif match := re.fullmatch(r"(audio_encoder\.layer\.\d+)\.attention\.linears\.([012])\.(weight|bias)", key):
            parts = [state.get(f"{match[1]}.attention.linears.{i}.{match[3]}") for i in range(3)]
            block = match[1].replace("audio_encoder.layer.", "blocks.")
            if all(part is not None for part in parts):
                out[f"{AUDIO}{block}.attn.qkv.{match[3]}"] = torch.cat(parts)
        else:
            for old, new in AUDIO_NAMES.items():
                key = key.replace(old, new)
            out[AUDIO + key] = value
    return out


def _text(state: State, cross: bool) -> State:
    """The prompt's type embedding becomes the third row of the type table."""
    out = {}
    for key, value in state.items():
        if key.startswith("multimodal_encoder.") and (cross or ".cross_attn." not in key):
            name = key.removeprefix("multimodal_encoder.")
            name = name.replace(".cross_attn.cross.", ".crossattention.self.")
            out[TEXT + name.replace(".cross_attn.output.", ".crossattention.output.")] = value
    types, prompt = f"{TEXT}embeddings.token_type_embeddings.weight", f"{TEXT}embeddings.prompt_embedding.weight"
    if types in out and prompt in out:
        out[types] = torch.cat((out[types], out.pop(prompt)))
    return out


REST_NAMES = {
    "video_type_embeddings": "bridges.vision.type_embedding",
    "video_frame_embedding": "bridges.vision.frame_embedding",
    "audio_type_embeddings": "bridges.audio.type_embedding",
    "audio_frame_embedding": "bridges.audio.frame_embedding",
    "hidden_trans_video_multimodal.": "bridges.vision.fit.",
    "hidden_trans_audio_multimodal.": "bridges.audio.fit.",
    "contra_head_v.linear.": "contrast.vision.",
    "contra_head_a.linear.": "contrast.audio.",
    "contra_head_t.linear.": "contrast.text.",
    "cls.layernorm.": "words.transform.LayerNorm.",
    "cls.dense.": "words.transform.dense.",
    "cls.decoder.": "words.decoder.",
}


def _rest(state: State, video: str) -> State:
    taken = (video, "audio_embeddings.", "audio_encoder.", "multimodal_encoder.")
    out = {}
    for key, value in state.items():
        if not key.startswith(taken):
            old = next((old for old in REST_NAMES if key.startswith(old)), "")
            out[key.replace(old, REST_NAMES.get(old, ""), 1)] = value
    return out


def released(state: Mapping[str, Tensor], layout: Layout) -> State:
    """``Valor``'s tensors under the released names, the way back of ``translate``."""
    out: State = {}
    for name, tensor in state.items():
        if name.startswith(VISION):
            back = _clip_back if layout.clip is not None else _video_back
            out |= back(name.removeprefix(VISION), tensor)
        elif name.startswith(AUDIO):
            out |= _audio_back(name.removeprefix(AUDIO), tensor)
        elif name.startswith(TEXT):
            out |= _text_back(name.removeprefix(TEXT), tensor)
        else:
            old, new = next((old, new) for old, new in REST_NAMES.items() if name.startswith(new))
            out[name.replace(new, old, 1)] = tensor
    return out


def _video_back(name: str, tensor: Tensor) -> State:
    name = name.replace(".mlp.0.", ".mlp.fc1.").replace(".mlp.3.", ".mlp.fc2.")
    if match := re.match(r"features\.(\d+)\.", name):
        stage, merging = divmod(int(match[1]), 2)
        name = f"layers.{stage}.{'downsample' if merging else 'blocks'}.{name[match.end() :]}"
    return {f"video_encoder.{name}": tensor}


CLIP_NAMES = {
    "norm_pre.": "ln_pre.",
    "norm.": "ln_post.",
    "patch_embed.proj.": "conv1.",
    "blocks.": "transformer.resblocks.",
    ".norm1.": ".ln_1.",
    ".norm2.": ".ln_2.",
    ".attn.qkv.": ".attn.in_proj_",
    ".attn.proj.": ".attn.out_proj.",
    ".mlp.fc1.": ".mlp.c_fc.",
    ".mlp.fc2.": ".mlp.c_proj.",
}
"""timm's names of a CLIP tower and OpenAI's; the way there is timm's own filter."""


def _clip_back(name: str, tensor: Tensor) -> State:
    if name in ("cls_token", "pos_embed"):
        own = {"cls_token": ("class_embedding", tensor.flatten()), "pos_embed": ("positional_embedding", tensor[0])}
        name, tensor = own[name]
    for old, new in CLIP_NAMES.items():
        name = name.replace(old, new)
    return {f"clip_model.visual.{name}": tensor}


def _audio_back(name: str, tensor: Tensor) -> State:
    if name == "pos_embed":
        return {"audio_embeddings.position_embeddings.weight": tensor[0]}
    if match := re.fullmatch(r"blocks\.(\d+)\.attn\.qkv\.(weight|bias)", name):
        place = f"audio_encoder.layer.{match[1]}.attention.linears"
        return {f"{place}.{i}.{match[2]}": part.clone() for i, part in enumerate(tensor.chunk(3))}
    for old, new in AUDIO_NAMES.items():
        name = name.replace(new, old)
    return {name: tensor}


def _text_back(name: str, tensor: Tensor) -> State:
    if name == "embeddings.token_type_embeddings.weight":
        prompt = "multimodal_encoder.embeddings.prompt_embedding.weight"
        return {f"multimodal_encoder.{name}": tensor[:2].clone(), prompt: tensor[2:].clone()}
    name = name.replace(".crossattention.self.", ".cross_attn.cross.")
    return {f"multimodal_encoder.{name.replace('.crossattention.output.', '.cross_attn.output.')}": tensor}
