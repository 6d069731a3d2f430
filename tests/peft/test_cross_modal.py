"""LAVISH, DG-SCT, AVMoE, MokA: an independent transcription of each formula, sample by sample, and closed counts."""

import pytest
import torch
from torch import Tensor

from hmmoe.errors import ConfigError
from hmmoe.peft.avmoe import AVMoE
from hmmoe.peft.dg_sct import DGSCT
from hmmoe.peft.lavish import Lavish
from hmmoe.peft.moka import MokA
from hmmoe.types import Site
from tests import small

WIDTHS = {"vision": 10, "audio": 6, "text": 10}
SITE = Site(0, "site00", WIDTHS)
R, K = 3, 2


def count(module) -> int:
    return sum(p.numel() for p in module.parameters())


def streams():
    """Four rows: two samples of two segments; one sentence without a word."""
    keep = torch.arange(8) < torch.tensor([8, 5, 3, 0])[:, None]
    made = {
        m: small.stream(4, n, WIDTHS[m], keep=keep if m == "text" else None)
        for m, n in (("vision", 5), ("audio", 7), ("text", 8))
    }
    return {
        m: s._replace(rows=2, **{f: getattr(s, f).double() for f in ("residual", "inp", "out")})
        for m, s in made.items()
    }


def kept(stream, row: int, field: str = "residual") -> Tensor:
    """The tokens of a row that count."""
    tokens = getattr(stream, field)[row]
    return tokens if stream.keep is None else tokens[stream.keep[row]]


def moved(method):
    small.move(method, 0.3)
    return method.double()


def bottleneck(part, u: Tensor) -> Tensor:
    hidden = torch.einsum("nd,rd->nr", u, part.down.weight) + part.down.bias
    return torch.einsum("nr,dr->nd", hidden.clamp(min=0), part.up.weight) + part.up.bias


def latent_adapter(part, x: Tensor, y: Tensor) -> Tensor:
    if hasattr(part.align, "weight"):
        y = torch.einsum("md,ed->me", y, part.align.weight)
    s = part.latents
    if len(y):
        s = s + part.gather * torch.einsum("km,md->kd", torch.einsum("kd,md->km", part.latents, y).softmax(-1), y)
    u = x + part.spread * torch.einsum("nk,kd->nd", torch.einsum("nd,kd->nk", x, s).softmax(-1), s)
    return bottleneck(part.adapter, u)


def test_lavish_is_its_formula():
    method, given = moved(Lavish([SITE], rank=R, latents=K)), streams()
    deltas, routing = method(SITE, given)
    assert not routing
    for m, stream in given.items():
        for row in range(4):
            expected = sum(
                latent_adapter(part, stream.residual[row], kept(given[n], row))
                for n, part in method.parts["site00"][m].sources.items()
            )
            torch.testing.assert_close(deltas[m][row], expected, rtol=1e-10, atol=1e-10)


def latent_count(d: int, other: int) -> int:
    return K * d + 2 + 2 * d * R + R + d + (0 if d == other else d * other)


def test_counts_are_the_closed_formulas():
    pairs = [(d, o) for m, d in WIDTHS.items() for n, o in WIDTHS.items() if m != n]
    assert count(Lavish([SITE], rank=R, latents=K)) == sum(latent_count(*pair) for pair in pairs)
    total, hidden = sum(WIDTHS.values()), 8
    router = (total + 1) * hidden + (hidden + 1) * (hidden // 4) + (hidden // 4 + 1) * 3
    uni = sum(2 * d * R + R + d for d in WIDTHS.values())
    expected = 3 * router + uni + sum(latent_count(*pair) for pair in pairs)
    assert count(AVMoE([SITE], rank=R, latents=K, hidden=hidden)) == expected
    guides = sum(
        R * (d + o)
        + R * R
        + R
        + R * d
        + d
        + R * (d + o)
        + R
        + 1
        + R * o
        + 6 * R * R
        + 6 * R
        + R
        + 1
        + 2 * d * R
        + R
        + d
        for d, o in pairs
    )
    assert count(DGSCT([SITE], rank=R)) == guides
    assert count(MokA([SITE], rank=R)) == R * total + R * (10 + 6), "an A per modality, a B per width"


def test_avmoe_is_its_formula():
    method, given = moved(AVMoE([SITE], rank=R, latents=K, hidden=8, uni=2)), streams()
    deltas, routing = method(SITE, given)
    for m, stream in given.items():
        part = method.parts["site00"][m]
        assert routing[m].groups == ("single", *(f"cross:{n}" for n in WIDTHS if n != m)) and routing[m].sizes == (
            2,
            1,
            1,
        )
        for row in range(4):
            means = []
            for n in WIDTHS:
                tokens = kept(given[n], row)
                means.append(tokens.mean(0) if len(tokens) else torch.zeros(WIDTHS[n], dtype=torch.double))
            hidden = torch.cat(means)
            for layer in part.router.layers[::2]:
                hidden = (
                    layer.weight @ hidden.clamp(min=-torch.inf if layer is part.router.layers[0] else 0) + layer.bias
                )
            p = hidden.softmax(0)
            outs = [bottleneck(e, stream.residual[row]) for e in part.uni]
            outs += [latent_adapter(part.cross[n][0], stream.residual[row], kept(given[n], row)) for n in part.others]
            expected = torch.einsum("e,end->nd", p, torch.stack(outs))
            torch.testing.assert_close(deltas[m][row], expected, rtol=1e-9, atol=1e-9)
            weights = routing[m].weights[row, 0]
            flat = torch.cat((weights[0], weights[1, :1], weights[2, :1]))
            torch.testing.assert_close(flat, p)


def gru(cell, steps: Tensor) -> Tensor:
    """The recurrence, written out."""
    h, states = torch.zeros(cell.hidden_size, dtype=steps.dtype), []
    for x in steps:
        ri, zi, ni = (cell.weight_ih_l0 @ x + cell.bias_ih_l0).chunk(3)
        rh, zh, nh = (cell.weight_hh_l0 @ h + cell.bias_hh_l0).chunk(3)
        r, z = torch.sigmoid(ri + rh), torch.sigmoid(zi + zh)
        h = (1 - z) * torch.tanh(ni + r * nh) + z * h
        states.append(h)
    return torch.stack(states)


def mean(tokens: Tensor) -> Tensor:
    return tokens.mean(0) if len(tokens) else tokens.new_zeros(tokens.shape[-1])


def test_dg_sct_is_its_formula():
    method, given = moved(DGSCT([SITE], rank=R, gamma=0.2)), streams()
    deltas, _ = method(SITE, given)
    for m, stream in given.items():
        for row in range(4):
            sample, segment = divmod(row, 2)
            expected = 0
            for n, g in method.parts["site00"][m].sources.items():
                x, means = stream.residual[row], [mean(kept(given[n], 2 * sample + t)) for t in range(2)]
                p, p2, t = g.guide.weight.chunk(3)
                q, q2 = g.own.weight.chunk(2)
                ybar = means[segment]
                mix = (p @ ybar).clamp(min=0) * torch.einsum("rd,nd->nr", q, x).clamp(min=0)
                mix = mean(mix if stream.keep is None else mix[stream.keep[row]])
                c = torch.sigmoid(
                    g.excite.weight @ (g.squeeze.weight @ mix + g.squeeze.bias).clamp(min=0) + g.excite.bias
                )
                s = torch.einsum("r,nr->n", g.place.weight[0], (p2 @ ybar).clamp(min=0) * (x @ q2.T).clamp(min=0))
                s = torch.sigmoid(s + g.place.bias)
                course = gru(g.time, torch.stack([t @ y for y in means]))
                gate = torch.sigmoid(course[segment] @ g.moment.weight[0] + g.moment.bias)
                scaled = (0.2 * gate + 1) * (0.3 * c + 0.05 * s[:, None] + 0.7) * x
                expected = expected + bottleneck(g.adapter, scaled)
            torch.testing.assert_close(deltas[m][row], expected, rtol=1e-9, atol=1e-9)


def test_dg_sct_moments_follow_the_segments_of_either_layout():
    """Segments as rows, and the same segments as parts of one row, give the same gates."""
    site = Site(0, "site00", {"vision": 10, "audio": 6})
    method = moved(DGSCT([site], rank=R)).parts["site00"]["vision"].sources["audio"]
    rows = {m: small.stream(6, 4, d) for m, d in site.widths.items()}
    rows = {m: s._replace(residual=s.residual.double(), rows=3) for m, s in rows.items()}
    parts = {m: s._replace(residual=s.residual.reshape(2, 12, -1), rows=1, parts=3) for m, s in rows.items()}
    by_row = method._moments(rows["vision"], rows["audio"])
    by_part = method._moments(parts["vision"], parts["audio"])
    torch.testing.assert_close(by_part.reshape(6, 4, 1), by_row)
    assert not torch.allclose(by_row[0], by_row[1])
    single = parts["audio"]._replace(parts=1)
    assert method._moments(parts["vision"], single).unique(dim=1).shape[1] == 1, "one moment for all"


@pytest.mark.parametrize("source", [None, "text"])
def test_moka_is_its_formula(source):
    method, given = moved(MokA([SITE], rank=R, alpha=6.0, cross=0.5, source=source)), streams()
    deltas, routing = method(SITE, given)
    here = method.shared["site00"]
    assert not routing
    for m in WIDTHS:
        for row in range(4):
            z = torch.einsum("rd,nd->nr", here.A[m], given[m].inp[row])
            h = z
            for n in WIDTHS:
                tokens = kept(given[n], row, "inp")
                if n == m or (source and n != source) or m == source or not len(tokens):
                    continue
                other = torch.einsum("rd,nd->nr", here.A[n], tokens)
                h = h + 0.5 * torch.einsum(
                    "nm,mr->nr", (torch.einsum("nr,mr->nm", z, other) / R**0.5).softmax(-1), other
                )
            expected = 2.0 * torch.einsum("nr,dr->nd", h, here.B[str(WIDTHS[m])])
            torch.testing.assert_close(deltas[m][row], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (Lavish, {"rank": 0}, r"peft\.rank=0: must be at least 1"),
        (Lavish, {"act": "tanh"}, r"peft\.act must be one of relu"),
        (AVMoE, {"uni": 0}, r"peft\.uni=0: must be at least 1"),
        (AVMoE, {"act": "tanh"}, r"peft\.act must be one of relu"),
        (DGSCT, {"rank": 0}, r"peft\.rank=0"),
        (MokA, {"source": "smell"}, r"peft\.source=smell: the backbone has audio, text, vision"),
    ],
)
def test_settings_that_cannot_work(method, options, message):
    with pytest.raises(ConfigError, match=message):
        method([SITE], **options)


@pytest.mark.parametrize("method", [Lavish, AVMoE, DGSCT])
def test_one_modality_is_refused(method):
    with pytest.raises(ConfigError, match="none meet at the chosen sites"):
        method([Site(0, "site00", {"vision": 8})])
