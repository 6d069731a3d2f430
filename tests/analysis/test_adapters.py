"""Adapters to and from HF peft's folders, judged by what HF peft itself loads on the library's own models."""

import json
from functools import partial

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertModel

from hmmoe.analysis.adapters import export_hf, export_merged, import_hf
from hmmoe.backbones.hf_vit import HfViT
from hmmoe.backbones.multiway import Multiway
from hmmoe.backbones.towers import Towers
from hmmoe.errors import CheckpointError, ConfigError
from hmmoe.model import AdaptedModel
from hmmoe.peft.lora import LoRA
from tests import small
from tests.backbones import test_multiway as multiway
from tests.backbones import valor_small
from tests.peft.methods import factory

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*is_gradient_checkpointing.*:FutureWarning",  # HF peft 0.21 asks transformers 5.23 by its old name
)

ALL = ("vision", "audio", "text")
FAMILY = ["lora", "lora_fa", "dora", "rslora", "pissa", "adalora", "ia3", "oft", "boft", "loha", "lokr", "vera"]
QKV = partial(LoRA, rank=4, alpha=8.0, targets=["q", "v", "fc1"])


def trained(method, *modalities, seed=3):
    torch.manual_seed(seed)
    model = small.model(*modalities, peft=method).eval()
    small.move(model, 0.05)
    return model


def tokens(model, batch):
    with torch.no_grad():
        return {m: f.tokens for m, f in model(batch).features.items()}


@pytest.mark.parametrize("name", FAMILY)
def test_there_and_back(name, tmp_path):
    """What HF peft loads gives our outputs (the export compares them), and so does a fresh run started from it."""
    model, batch = trained(factory(name), *ALL), small.batch(*ALL)
    written = export_hf(model, tmp_path, partial(small.towers, *ALL), batch)
    assert set(written) == set(ALL)
    assert all((tmp_path / m / "adapter_config.json").is_file() for m in ALL)
    torch.manual_seed(8)
    other = AdaptedModel(small.towers(*ALL), factory(name), small.head()).eval()
    import_hf(other, tmp_path)
    torch.testing.assert_close(tokens(other, batch), tokens(model, batch), rtol=1e-5, atol=1e-5)


def test_the_library_s_own_models_load_the_folders(tmp_path):
    """Not our towers' forward: the library's."""
    towers = {"vision": HfViT, "audio": small.ast, "text": small.bert}
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}

    @small.seeded
    def host():
        vit = HfViT(**sizes, image_size=32, patch_size=16)
        backbone = Towers({"vision": vit, "audio": towers["audio"](), "text": towers["text"]()})
        small.perturb(backbone)
        return backbone

    model = AdaptedModel(host(), QKV, small.head()).eval()
    small.move(model, 0.2)
    batch = small.batch(*ALL)
    export_hf(model, tmp_path, host, batch)
    mine, plain = tokens(model, batch), host()
    inputs = {
        "vision": {"pixel_values": batch["vision"].flatten(0, 1)},
        "audio": {"input_values": batch["audio"].flatten(0, 1).squeeze(1).transpose(1, 2)},
        "text": {"input_ids": batch["text"]["ids"], "attention_mask": batch["text"]["keep"].long()},
    }
    for m, given in inputs.items():
        library = peft.PeftModel.from_pretrained(plain.tower(m).library, str(tmp_path / m)).eval()
        with torch.no_grad():
            theirs = library(**given).last_hidden_state
        torch.testing.assert_close(theirs, mine[m].flatten(0, 1), rtol=1e-5, atol=1e-5)


def test_timm_s_own_model_loads_the_folder(tmp_path):
    model, batch = trained(QKV, "vision"), small.batch("vision")
    export_hf(model, tmp_path, partial(small.towers, "vision"), batch)
    library = peft.PeftModel.from_pretrained(small.towers("vision").tower("vision").library, str(tmp_path / "vision"))
    with torch.no_grad():
        theirs = library.base_model.model.forward_features(batch["vision"].flatten(0, 1))
    torch.testing.assert_close(theirs, tokens(model, batch)["vision"].flatten(0, 1), rtol=1e-5, atol=1e-5)
    b = load_file(tmp_path / "vision" / "adapter_model.safetensors")["base_model.model.blocks.0.attn.qkv.lora_B.weight"]
    assert b.shape == (96, 4) and not b[32:64].any() and b[:32].any(), "rows of k are zero"


MIXED = partial(LoRA, rank=4, alpha=8.0, targets=["q", "v", "fc1"])
FFN = partial(LoRA, rank=4, alpha=8.0, targets=["fc1", "fc2"])


def one_sequence(name):
    def host(**weights):
        model = multiway.MODELS[name](**weights) if weights else multiway.filled(name)
        return Multiway(model, inputs={"text": {"length": 8}})

    return host, multiway.batch()


def of_valor(variant, **options):
    def host(**weights):
        backbone = valor_small.valor(variant, **options, **weights)
        if not weights:
            small.perturb(backbone, 0.1)
        return backbone

    return host, {key: value for key, value in valor_small.batch(variant).items() if key != "answer"}


HOSTS = {
    "vlmo": (*one_sequence("vlmo"), MIXED, {"backbone"}),
    "vlmo_plus": (*one_sequence("vlmo_plus"), MIXED, {"backbone"}),
    "beit3": (*one_sequence("beit3"), MIXED, {"backbone"}),
    "valor_base": (*of_valor("base", words=True, prompts=True), FFN, {"vision", "audio", "text"}),
    "valor_base_dual": (*of_valor("base", cross=False), FFN, {"vision", "audio", "text"}),
    "valor_large": (*of_valor("large"), MIXED, {"vision", "audio", "text"}),
}
"""Hosts that are no tower of a library, or more than towers: how to build one, a batch, a method, what is exported."""


def moved(host, method):
    torch.manual_seed(3)
    model = AdaptedModel(host(), method, small.head()).eval()
    small.move(model, 0.2)
    return model


@pytest.mark.parametrize("name", HOSTS)
def test_hosts_of_their_own_export_and_import(name, tmp_path):
    host, batch, method, names = HOSTS[name]
    model = moved(host, method)
    assert set(export_hf(model, tmp_path, host, batch)) == names
    other = AdaptedModel(host(), method, small.head()).eval()
    assert set(import_hf(other, tmp_path)) == names
    expected = tokens(model, batch)
    torch.testing.assert_close(tokens(other, batch), expected, rtol=1e-5, atol=1e-5)
    backbone = host()
    for part, (_, module) in backbone.libraries().items():  # as the docs say it
        peft.PeftModel.from_pretrained(module, str(tmp_path / part))
    plain = AdaptedModel(host(), factory("linear_probe"), small.head()).eval()
    theirs = {m: f.tokens for m, f in multiway.run(backbone, batch).items()}
    for m, features in expected.items():
        torch.testing.assert_close(theirs[m], features, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(tokens(plain, batch)[m], features, atol=1e-2), "the adapter does something"


@pytest.mark.parametrize("name", HOSTS)
def test_hosts_of_their_own_are_merged_into_the_file_that_weights_reads(name, tmp_path):
    host, batch, method, _ = HOSTS[name]
    model = moved(host, method)
    expected = tokens(model, batch)
    written = export_merged(model, tmp_path)
    again = host(weights=str(written["backbone"]))
    assert again.fingerprint() == model.backbone.fingerprint(), "every tensor, bit by bit"
    plain = AdaptedModel(again, factory("linear_probe"), small.head()).eval()
    torch.testing.assert_close(tokens(plain, batch), expected, rtol=1e-4, atol=1e-5)


def test_where_hf_peft_is_dead_nothing_is_handed_out(tmp_path):
    def host():
        backbone = Towers({"vision": small.swin()})
        small.perturb(backbone)
        return backbone

    model = AdaptedModel(host(), QKV, small.head()).eval()
    small.move(model, 0.3)
    with pytest.raises(ConfigError, match=r"gives other features.*--format merged\), or train with peft\.targets"):
        export_hf(model, tmp_path, host, small.batch("vision"))


def test_an_adapter_that_others_trained_on_a_whole_model(tmp_path):
    """Names begin with ``bert.``, alpha and rank stabilisation differ, and a classifier lies beside it."""
    whole = torch.nn.Module()
    whole.bert = small.towers("text").tower("text").library
    whole.classifier = torch.nn.Linear(16, 3)
    config = peft.LoraConfig(
        r=4, lora_alpha=2, use_rslora=True, target_modules=["query", "value"], modules_to_save=["classifier"]
    )
    theirs = peft.get_peft_model(whole, config)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "lora_" in name:
                parameter.normal_()
    theirs.save_pretrained(str(tmp_path))
    model = AdaptedModel(small.towers("text"), partial(LoRA, rank=4), small.head()).eval()
    assert import_hf(model, tmp_path) == ["text"]
    batch = small.batch("text")
    library: BertModel = theirs.base_model.model.bert.eval()
    with torch.no_grad():
        out = library(input_ids=batch["text"]["ids"], attention_mask=batch["text"]["keep"].long()).last_hidden_state
    torch.testing.assert_close(tokens(model, batch)["text"][:, 0], out, rtol=1e-5, atol=1e-5)


def test_what_does_not_fit_is_refused(tmp_path):
    model = trained(QKV, "vision", "text")
    export_hf(model, tmp_path, partial(small.towers, "vision", "text"), small.batch("vision", "text"))
    folder = tmp_path / "vision"

    def fresh(*modalities, **options):
        return small.model(*modalities, peft=partial(LoRA, **({"rank": 4, "targets": ["q", "v", "fc1"]} | options)))

    for method, message in [
        ({"rank": 8}, r"stored with rank 4 for a layer .*set peft\.rank"),
        ({"targets": ["q", "fc1"]}, r"rows that peft\.targets leave alone"),
        ({"targets": ["q", "v"]}, r"have no place in this model .*widen peft\.targets"),
        ({"targets": ["q", "v", "fc1", "fc2"]}, r"holds blocks\.0\.mlp\.fc2\.lora_A\.weight 0 times"),
    ]:
        with pytest.raises(CheckpointError, match=message):
            import_hf(fresh("vision", **method), folder)
    with pytest.raises(CheckpointError, match=r"holds LORA, this run has VERA"):
        import_hf(small.model("vision", peft=factory("vera")), folder)
    with pytest.raises(CheckpointError, match=r"is one adapter, and this backbone has the towers vision, text"):
        import_hf(fresh("vision", "text"), folder)
    with pytest.raises(CheckpointError, match=r"holds no adapter_config\.json, nor a folder audio"):
        import_hf(fresh("audio"), _bare(tmp_path))
    (tmp_path / "hmmoe.json").write_text(json.dumps({"fingerprint": "f" * 64}))
    with pytest.raises(CheckpointError, match="was made on another backbone"):
        import_hf(fresh("vision", "text"), tmp_path)
    with pytest.raises(ConfigError, match="HF peft has no format for HMMoE"):
        export_hf(small.model("vision"), tmp_path, partial(small.towers, "vision"), small.batch("vision"))


def _bare(folder):
    (folder / "bare").mkdir()
    return folder / "bare"


def test_merged_towers_are_read_back_as_weights(tmp_path):
    model = trained(QKV, "vision", "text")
    batch = small.batch("vision", "text")
    expected = tokens(model, batch)
    written = export_merged(model, tmp_path)
    assert written == {"vision": tmp_path / "vision" / "model.safetensors", "text": tmp_path / "text"}
    again = Towers(
        {"vision": small.vit(weights=str(written["vision"])), "text": small.bert(weights=str(written["text"]))}
    )
    plain = AdaptedModel(again, factory("linear_probe"), small.head()).eval()
    torch.testing.assert_close(tokens(plain, batch), expected, rtol=1e-5, atol=1e-5)


def test_a_broken_folder_is_named(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "NEW"}))
    with pytest.raises(CheckpointError, match=r"no adapter_model\.safetensors"):
        import_hf(small.model("vision", peft=QKV), tmp_path)
    save_file({"a": torch.zeros(1)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=r"\(NEW\) is nothing that HF peft knows"):
        import_hf(small.model("vision", peft=QKV), tmp_path)
