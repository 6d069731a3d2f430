"""Logistic regression on frozen features."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F


def accuracy(features: Float[Tensor, "n D"], labels: Sequence[str], train: int, penalty: float = 1e-3) -> float:
    """Share of right answers in the rows after the first ``train``, to which the regression is fitted.

    Features are standardised by the training rows; full-batch L-BFGS from zero, so the result has no seed.

    Args:
        features: of the training rows, then of the test rows.
        labels: one per row; a class that no training row has is never answered.
        train: number of training rows.
        penalty: of the squared weights, half of their sum.
    """
    classes = sorted(set(labels[:train]))
    target = torch.tensor([classes.index(label) if label in classes else -1 for label in labels])
    mean, std = features[:train].mean(0), features[:train].std(0).clamp_min(1e-6)
    features = (features - mean) / std
    weight, bias = _fit(features[:train], target[:train], len(classes), penalty)
    return (features[train:] @ weight + bias).argmax(1).eq(target[train:]).double().mean().item()


def _fit(x: Float[Tensor, "n D"], y: Int64[Tensor, " n"], classes: int, penalty: float) -> tuple[Tensor, Tensor]:
    weight, bias = x.new_zeros(x.shape[1], classes).requires_grad_(), x.new_zeros(classes).requires_grad_()
    optimizer = torch.optim.LBFGS((weight, bias), max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        price = F.cross_entropy(x @ weight + bias, y) + penalty / 2 * weight.square().sum()
        price.backward()
        return price

    optimizer.step(closure)
    return weight.detach(), bias.detach()


def majority(labels: Sequence[str], train: int) -> float:
    """Accuracy of always giving the training rows' most frequent answer."""
    rows = labels[:train]
    most = max(sorted(set(rows)), key=rows.count)
    return labels[train:].count(most) / (len(labels) - train)
