"""BEiT-3's sentencepiece file as the folder that the data sets read a tokenizer from.

python -m scripts.beit3_tokenizer beit3.spm weights/beit3
"""

import argparse
from pathlib import Path

from transformers import XLMRobertaTokenizer
from transformers.convert_slow_tokenizer import import_protobuf


def convert(spm: Path, folder: Path) -> XLMRobertaTokenizer:
    """Write tokenizer.json and tokenizer_config.json.

    The ids are XLM-R's, which the word table was trained with: <s> <pad> </s> <unk>, the file's pieces from the fourth
    on (the first three are <unk> <s> </s> again), <mask>. This is fairseq's order, not the file's own.
    """
    model = import_protobuf().ModelProto()
    model.ParseFromString(spm.read_bytes())
    pieces = [(piece.piece, piece.score) for piece in model.pieces[3:]]
    special = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
    tokenizer = XLMRobertaTokenizer(
        vocab=[*special, *pieces, ("<mask>", 0.0)],
        _spm_precompiled_charsmap=model.normalizer_spec.precompiled_charsmap or None,
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def main() -> None:
    """Convert, and say how many ids there are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spm", type=Path)
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    print(f"{len(convert(given.spm, given.folder))} ids in {given.folder}; beit3.spm gives 64010")


if __name__ == "__main__":
    main()
