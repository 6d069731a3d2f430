"""Sentences to token ids of fixed length, by a transformers tokenizer."""

import logging
from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Bool, Int64
from torch import Tensor
from transformers import AutoTokenizer

from hmmoe.assets import locate
from hmmoe.errors import ConfigError

log = logging.getLogger(__name__)


class Text:
    """Tokenise as the text tower wants it (``inputs.text``).

    Args:
        tokenizer: local folder of a saved tokenizer, "mini:<name>" in the package, or a name on the Hugging Face hub.
        length: tokens per sentence, special tokens included; longer ones are cut, shorter ones padded.
    """

    def __init__(self, *, tokenizer: str | Path, length: int) -> None:
        if length < 1:
            raise ConfigError(f"backbone.inputs.text.length={length}: expected 1 or more")
        try:
            where = locate(str(tokenizer))
            self.tokenizer = AutoTokenizer.from_pretrained(where, local_files_only=Path(where).is_dir())
        except (OSError, ValueError) as fault:
            raise ConfigError(
                f"no tokenizer at backbone.inputs.text.tokenizer={tokenizer}: expected a folder with tokenizer.json "
                f"and tokenizer_config.json, or a hub name that can be reached ({str(fault).splitlines()[0]})"
            ) from fault
        if self.tokenizer.pad_token_id is None:
            raise ConfigError(f"the tokenizer {tokenizer} has no padding token: set one in its folder")
        self.length = length

    def encode(self, sentences: Sequence[str]) -> tuple[Int64[Tensor, "n L"], Bool[Tensor, "n L"]]:
        """Ids and where they are real."""
        whole = self.tokenizer(list(sentences))["input_ids"]
        if cut := sum(len(ids) > self.length for ids in whole):
            log.warning("%d of %d sentences are cut at backbone.inputs.text.length=%d", cut, len(whole), self.length)
        coded = self.tokenizer(
            list(sentences),
            padding="max_length",
            truncation=True,
            max_length=self.length,
            return_attention_mask=True,
            return_tensors="pt",
        )
        return coded["input_ids"], coded["attention_mask"].bool()
