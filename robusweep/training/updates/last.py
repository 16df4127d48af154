"""LAST, learn from the past (arXiv:2310.12713), as far as it can be told without the authors' code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from robusweep.training.updates.base import Rule, Update

if TYPE_CHECKING:
    from torch.nn import Parameter


class Last(Update):
    """Experimental, not validated on text: the weights of the step before learn, and pull the present ones along.

    The authors' repository holds no code, and the update is written from memory of the paper, whose numbers are for
    images. With theta_i the weights, omega = theta_{i-1} the proxy (theta_0 at first): passes that search for a
    perturbation ask theta_i; passes that learn ask omega, and their gradient g is taken there. Then omega' is one step
    from omega, and theta_{i+1} = theta_i - ``rate`` (theta_i - omega'). ``proxy_rate``: omega' = omega - proxy_rate g,
    without schedule and weight decay; null lets AdamW take that step at the method's own rate (ours: a plain gradient
    step of that length moves next to nothing). Gradients are clipped before.
    ``distillation`` mu: the loss is (1 - mu) times the method's plus mu KL(p || q), both at ``temperature``, where p is
    the proxy's answer in the pass that learns, and q its answer to the clean texts, a constant; regularisers come on
    top. The paper's mu is 0.95 and its temperature 6 as far as remembered; 0 leaves the term and its pass out. For a
    method that learns from clean texts alone, p is q, and mu only shrinks the loss.
    Two histories alternate, so a run moves about rate / (1 + rate) times as far as plain training does. Methods that
    search and learn in the same passes (freelb, tavat) search with the proxy.
    """

    kind: Literal["last"] = "last"
    rate: float = Field(0.8, gt=0, le=1)
    proxy_rate: float | None = Field(None, gt=0)
    distillation: float = Field(0.0, ge=0, lt=1)
    temperature: float = Field(6.0, gt=0)

    def begin(self, weights: Mapping[str, Parameter], *, n_steps: int, seed: int) -> Rule:  # noqa: ARG002
        from robusweep.training.updates.last_rule import LastRule

        return LastRule(
            weights,
            rate=self.rate,
            proxy_rate=self.proxy_rate,
            distillation=self.distillation,
            temperature=self.temperature,
        )
