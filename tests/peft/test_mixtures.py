"""MoLoRA, MoV, MoA, Soft-MoA: an independent transcription of each formula, token by token, and closed counts."""

import pytest
import torch

from hmmoe.errors import ConfigError
from hmmoe.peft.moa import MoA
from hmmoe.peft.molora import MoLoRA, MoV
from hmmoe.peft.soft_moa import SoftMoA
from hmmoe.types import Site, Stream
from tests import small

D, R, E = 10, 3, 4
SITE = Site(0, "site00", {"text": D})
KEEP = torch.arange(8) < torch.tensor([8, 5, 3])[:, None]


def text() -> Stream:
    stream = small.stream(3, 8, D, keep=KEEP)
    return stream._replace(**{f: getattr(stream, f).double() for f in ("residual", "inp", "out")})


def moved(method):
    small.move(method, 0.3)
    return method.double()


def part_of(method):
    return method.parts["site00"]["text"]


def router(part, x):
    logits = part.router.weight["text"] @ x + part.router.bias
    return logits.softmax(0)


def bottleneck(part, x):
    return part.up.weight @ (part.down.weight @ x + part.down.bias).clamp(min=0) + part.up.bias


@pytest.mark.parametrize("k", [None, 2])
def test_molora_is_its_formula(k):
    method, stream = moved(MoLoRA([SITE], rank=R, alpha=6.0, experts=E, k=k)), text()
    delta, routing = (result["text"] for result in method(SITE, {"text": stream}))
    part = part_of(method)
    A, B = part.A.view(E, R, D), part.B.view(D, E, R)
    for row, n in ((0, 0), (1, 4), (2, 7)):
        x = stream.inp[row, n]
        p = router(part, x)
        if k:
            p = torch.where(p >= p.sort().values[-k], p, 0.0)
        expected = 2.0 * sum(p[e] * B[:, e] @ A[e] @ x for e in range(E))
        torch.testing.assert_close(delta[row, n], expected, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(routing.weights[row, n, 0], p, rtol=1e-6, atol=1e-6)
    assert (routing.selected.sum((-2, -1)) == (k or E)).all() and routing.groups == ("single",)


def test_mov_is_its_formula():
    method, stream = moved(MoV([SITE], experts=E)), text()
    delta = method(SITE, {"text": stream}).deltas["text"]
    part, out = part_of(method), stream.out[1, 2]
    expected = out * (1 + sum(p * v for p, v in zip(router(part, out), part.v, strict=True))) - out
    torch.testing.assert_close(delta[1, 2], expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_moa_is_its_formula(threshold):
    method, stream = moved(MoA([SITE], rank=R, alpha=6.0, threshold=threshold)), text()
    delta, routing = (result["text"] for result in method(SITE, {"text": stream}))
    part, dropped = part_of(method), 0
    for row in range(3):
        for n in range(8):
            x, out = stream.inp[row, n], stream.out[row, n]
            g = torch.sigmoid(part.gates.linear.weight @ x + part.gates.linear.bias)
            a = part.adapters
            parts = (2.0 * a["lora"].B @ a["lora"].A @ x, bottleneck(a["parallel"], x), bottleneck(a["series"], out))
            expected = sum((w * y for w, y in zip(g, parts, strict=True) if w >= threshold), torch.zeros(D).double())
            dropped += int((g < threshold).sum())
            torch.testing.assert_close(delta[row, n], expected, rtol=1e-8, atol=1e-8)
            torch.testing.assert_close(routing.weights[row, n, :, 0], g * (g >= threshold))
    assert (dropped > 5) == (threshold > 0) and (routing.selected.sum() == 72 - dropped)


def test_soft_moa_is_its_formula():
    method, stream = moved(SoftMoA([SITE], rank=R, experts=2, slots=2)), text()
    delta, routing = (result["text"] for result in method(SITE, {"text": stream}))
    part = part_of(method)
    keys = part.slots.scale * part.slots.keys / part.slots.keys.norm(dim=1, keepdim=True)
    for row in range(3):
        x = stream.inp[row]
        logits = torch.einsum("nd,pd->np", x / x.norm(dim=1, keepdim=True), keys)
        words = x[KEEP[row]]
        slots = torch.einsum("np,nd->pd", logits[KEEP[row]].softmax(0), words)
        outs = []
        for p, slot in enumerate(slots):
            e = p // 2
            hidden = (slot @ part.down[e] + part.down_bias[e, 0]).clamp(min=0)
            outs.append(hidden @ part.up[e] + part.up_bias[e, 0])
        combine = logits.softmax(1)
        torch.testing.assert_close(delta[row], combine @ torch.stack(outs), rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(routing.weights[row, :, 0, 0], combine[:, :2].sum(1))


def test_counts_are_the_closed_formulas():
    def count(method) -> int:
        return sum(p.numel() for p in method.parameters())

    assert count(MoLoRA([SITE], rank=R, experts=E)) == 2 * E * R * D + E * (D + 1)
    assert count(MoV([SITE], experts=E)) == E * D + E * (D + 1)
    adapter = 2 * D * R + R + D
    assert count(MoA([SITE], rank=R)) == 2 * R * D + 2 * adapter + 3 * (D + 1)
    assert count(MoA([SITE], rank=R, kinds=["series"])) == adapter + D + 1
    assert count(SoftMoA([SITE], rank=R, experts=E, slots=2)) == E * adapter + E * 2 * D + 1


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (MoLoRA, {"rank": 0}, r"peft\.rank=0: must be at least 1"),
        (MoLoRA, {"k": 5}, r"peft\.k must lie in 1\.\.4"),
        (MoV, {"experts": 0}, r"peft\.experts=0"),
        (MoA, {"kinds": ["prompt"]}, r"peft\.kinds must name some of lora, parallel, series"),
        (MoA, {"threshold": 1.0}, r"peft\.threshold=1\.0: expected 0 <= threshold < 1"),
        (SoftMoA, {"slots": 0}, r"peft\.slots=0"),
        (SoftMoA, {"act": "tanh"}, r"peft\.act must be one of relu"),
    ],
)
def test_settings_that_cannot_work(method, options, message):
    with pytest.raises(ConfigError, match=message):
        method([SITE], **options)
