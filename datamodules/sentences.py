"""The sentences of a split, each tokenised once."""

from collections.abc import Iterable

from torch import Tensor

from datamodules.media.text import Text


class Sentences:
    """Token ids by sentence.

    Args:
        text: tokenizer; None where the backbone reads no text.
        sentences: all that will be asked for, repeats allowed.
    """

    def __init__(self, text: Text | None, sentences: Iterable[str]) -> None:
        distinct = list(dict.fromkeys(sentences)) if text else []
        self._row = {sentence: row for row, sentence in enumerate(distinct)}
        self._ids, self._keep = text.encode(distinct) if text and distinct else (None, None)

    def get(self, sentence: str) -> dict[str, dict[str, Tensor]]:
        """{"text": {ids (L,), keep (L,)}}, to be merged into a sample; empty without a tokenizer."""
        if self._ids is None or self._keep is None:
            return {}
        row = self._row[sentence]
        return {"text": {"ids": self._ids[row], "keep": self._keep[row]}}
