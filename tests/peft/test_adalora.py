"""AdaLoRA's budget falls while it trains, its matrices stay near orthogonal, and a resumed run goes on as it was."""

import peft
import pytest
import torch

from hmmoe.errors import ConfigError
from tests import small
from tests.peft.methods import factory

LAYERS, INIT, TARGET = 6, 4, 2


def built(**options):
    torch.manual_seed(3)
    return small.model("vision", peft=factory("adalora", **options)).train()


def steps(model, numbers, optimizer=None):
    """Optimizer steps by number; the sum of ranks after each."""
    optimizer = optimizer or torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
    ranks = []
    for step in numbers:
        torch.manual_seed(step)
        optimizer.zero_grad()
        (model(small.batch("vision")).logits.square().sum() + model.peft.penalty()).backward()
        optimizer.step()
        model.peft.after_step(step)
        ranks.append(sum(model.peft.ranks().values()))
    return ranks


def test_the_budget_falls_as_a_cubic_from_init_to_target():
    model = built()
    small.move(model, 0.05)
    model.peft.begin(20)  # 2 steps at the first rank, 10 at the last
    ranks = steps(model, range(1, 21))
    high, low = INIT * LAYERS, TARGET * LAYERS
    expected = [high] * 2 + [int((high - low) * (1 - (step - 2) / 8) ** 3 + low) for step in range(3, 11)] + [low] * 10
    assert ranks == expected
    assert len(set(model.peft.ranks().values())) > 1, "the budget is shared out by importance, not evenly"


def test_the_schedule_survives_a_checkpoint():
    whole, first, second = built(), built(), built()
    for model in (whole, first):
        small.move(model, 0.05)
        model.peft.begin(12)
    expected = steps(whole, range(1, 13))
    seen = steps(first, range(1, 4))
    second.load_state_dict(first.state_dict())
    second.peft.resume(torch.load(_saved(first.peft.schedule()), weights_only=True))
    second.peft.begin(12)
    assert seen + steps(second, range(4, 13)) == expected
    for name, tensor in second.state_dict().items():
        torch.testing.assert_close(tensor, whole.state_dict()[name], rtol=0, atol=0)


def _saved(content):
    import io

    file = io.BytesIO()
    torch.save(content, file)
    file.seek(0)
    return file


def test_the_price_is_the_library_s():
    """HF peft adds it to ``outputs.loss`` of the wrapped model."""
    model = built()
    small.move(model, 0.05)

    class Priced(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1 = torch.nn.Linear(6, 5)

        def forward(self, x):
            return type("Out", (), {"loss": self.fc1(x).sum() * 0})()

    library = peft.get_peft_model(Priced(), peft.AdaLoraConfig(target_modules=["fc1"], total_step=9, init_r=4))
    layer = library.base_model.model.fc1
    theirs = library.base_model(torch.zeros(1, 6)).loss  # PeftModel itself goes past it
    gaps = [
        (layer.lora_A["default"] @ layer.lora_A["default"].T - torch.eye(4)).norm(),
        (layer.lora_B["default"].T @ layer.lora_B["default"] - torch.eye(4)).norm(),
    ]
    torch.testing.assert_close(theirs, 0.5 * sum(gaps) / 2)
    ours = []
    for name in model.peft.attached:
        part = model.backbone.get_submodule(name)
        q, p = part.lora_A["default"], part.lora_B["default"]
        ours += [(q @ q.T - torch.eye(INIT)).norm(), (p.T @ p - torch.eye(INIT)).norm()]
    torch.testing.assert_close(model.peft.penalty(), 0.1 * sum(ours) / len(ours))


def test_a_run_too_short_keeps_its_rank_and_says_so(caplog):
    model = built()
    small.move(model, 0.05)
    model.peft.begin(1)
    assert "too few for the rank to fall" in caplog.text
    assert steps(model, [1]) == [INIT * LAYERS]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": 0.5, "settle": 0.5}, r"peft\.start=0\.5 and peft\.settle=0\.5 are shares"),
        ({"config": {"target_r": 4}}, r"peft\.config\.target_r must lie below peft\.config\.init_r=4"),
    ],
    ids=str,
)
def test_schedules_that_cannot_be(options, message):
    with pytest.raises(ConfigError, match=message):
        built(**options)
