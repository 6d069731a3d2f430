"""Text tower: masked words of templated sentences, and what a sentence says, slot by slot."""

import json
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from datamodules.mini.sentences import sample_said
from scripts.pretraining.fit import fit, save_half, shuffled

LENGTH = 32
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MORE_WORDS = (Path(__file__).parent / "words.txt").read_text().split()
"""Common words of the domain and a few beside it, whether or not the grammar uses them."""


def vocabulary() -> dict[str, int]:
    """Words of the grammar, common words beside them, and every character, so that no word is unknown."""
    rng = np.random.default_rng(0)
    words = {word for _ in range(6000) for word in sample_said(rng).words.split()}
    letters = [chr(c) for c in range(33, 127) if not chr(c).isupper()]
    pieces = [
        *SPECIAL,
        *letters,
        *(f"##{letter}" for letter in letters),
        *sorted((words | set(MORE_WORDS)) - set(letters)),
    ]
    return {piece: i for i, piece in enumerate(pieces)}


def tokenizer() -> PreTrainedTokenizerFast:
    """A WordPiece tokenizer in the layout that AutoTokenizer reads."""
    raw = Tokenizer(models.WordPiece(vocabulary(), unk_token="[UNK]"))
    raw.normalizer = normalizers.BertNormalizer(lowercase=True)
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = [(name, raw.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    raw.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=special)
    names = {f"{name.strip('[]').lower()}_token": name for name in SPECIAL}
    return PreTrainedTokenizerFast(tokenizer_object=raw, model_max_length=64, **names)


def pool(seed: int, count: int, words: PreTrainedTokenizerFast) -> tuple[list[str], Tensor, dict[str, list[str]]]:
    """Sentences as ids (zero-padded), and by slot the values it takes; row i of ids has slots[name][i]."""
    rng = np.random.default_rng(seed)
    said = [sample_said(rng) for _ in range(count)]
    ids = words(
        [s.words + "." * (rng.random() < 0.3) for s in said], padding="max_length", max_length=LENGTH, truncation=True
    )
    names = sorted({name for s in said for name in s.slots})
    slots = {name: [s.slots.get(name, "-") for s in said] for name in names}
    return [s.words for s in said], torch.tensor(ids["input_ids"]), slots


def pretrain(folder: Path, *, seed: int, steps: int) -> None:
    """Train, then save in transformers' layout with the tokenizer."""
    torch.manual_seed(seed)
    words = tokenizer()
    words.save_pretrained(folder)
    _, ids, slots = pool(seed, 40_000, words)
    values = {name: {value: i for i, value in enumerate(sorted(set(column)))} for name, column in slots.items()}
    labels = torch.tensor([[values[name][v] for v in slots[name]] for name in values]).T
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=128,
        num_hidden_layers=5,
        num_attention_heads=4,
        intermediate_size=512,
        max_position_embeddings=64,
        pad_token_id=0,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    heads = {f"slot_{name}": nn.Linear(128, len(known)) for name, known in values.items()}
    parts = nn.ModuleDict(
        {"tower": BertModel(config, add_pooling_layer=False), "word": nn.Linear(128, len(words)), **heads}
    )
    noise = torch.Generator().manual_seed(seed)

    def loss(ids: Tensor, labels: Tensor) -> Tensor:
        ids = ids[:, : int((ids != 0).sum(1).max())]
        hidden = (torch.rand(ids.shape, generator=noise) < 0.12) & (ids > len(SPECIAL))
        masked = ids.masked_fill(hidden, SPECIAL.index("[MASK]"))
        keep = (ids != 0).long()
        plain = len(ids) // 2  # half of the sentences are read whole, half with gaps
        seen = torch.cat((ids[:plain], masked[plain:]))
        tokens = parts["tower"](input_ids=seen, attention_mask=keep).last_hidden_state
        gaps = hidden[plain:]
        price = F.cross_entropy(parts["word"](tokens[plain:][gaps]), ids[plain:][gaps])
        for i, name in enumerate(values):
            price = price + 0.5 * F.cross_entropy(parts[f"slot_{name}"](tokens[:plain, 0]), labels[:plain, i])
        return price

    fit(parts, shuffled((ids, labels), 48, seed), loss, steps=steps, lr=1.5e-3, folder=folder)
    config.save_pretrained(folder)
    save_half(parts["tower"].state_dict(), folder / "model.safetensors")
    _check(parts, values, words, seed, folder)


def _check(parts: nn.ModuleDict, values: dict, words: PreTrainedTokenizerFast, seed: int, folder: Path) -> None:
    """Held-out accuracy of every slot beside the most frequent value."""
    _, ids, slots = pool(seed + 77, 3000, words)
    with torch.no_grad():
        first = parts["tower"](input_ids=ids, attention_mask=(ids != 0).long()).last_hidden_state[:, 0]
    scores = {}
    for name, known in values.items():
        label = torch.tensor([known.get(value, -1) for value in slots[name]])
        right = (parts[f"slot_{name}"](first).argmax(-1) == label).float().mean().item()
        scores[name] = {"accuracy": round(right, 4), "majority": round(label.bincount().max().item() / len(label), 4)}
    print(json.dumps(scores, indent=1))
