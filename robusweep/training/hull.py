"""Words that move inside the convex hull of their synonyms' embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from robusweep.training.base import Setting
from robusweep.training.divergence import kl
from robusweep.training.places import classifier_of
from robusweep.training.step import Step

Weights = Float[Tensor, "batch tokens candidates"]
Places = Bool[Tensor, "batch tokens"]


class Candidates(nn.Module):
    """For each token of the vocabulary the tokens that may stand for it, itself first; ``valid`` is False on filling.

    Nothing is learnt or saved: the table follows from the vocabulary and the lexicon.
    """

    ids: Int[Tensor, "vocabulary candidates"]
    valid: Bool[Tensor, "vocabulary candidates"]
    goes_on: Bool[Tensor, " vocabulary"]

    def __init__(self, n_tokens: int, synonyms: Mapping[int, Sequence[int]], continues: set[int], *, most: int) -> None:
        super().__init__()
        ids = torch.arange(n_tokens)[:, None].repeat(1, 1 + most)
        valid = torch.zeros_like(ids, dtype=torch.bool)
        valid[:, 0] = True
        for token, others in synonyms.items():
            ids[token, 1 : 1 + len(others)] = torch.tensor(others)
            valid[token, 1 : 1 + len(others)] = True
        goes_on = torch.zeros(n_tokens, dtype=torch.bool)
        goes_on[sorted(continues)] = True
        for name, value in (("ids", ids), ("valid", valid), ("goes_on", goes_on)):
            self.register_buffer(name, value, persistent=False)

    def places(self, ids: Int[Tensor, "batch tokens"], mask: Places) -> Places:
        """The tokens that are words with synonyms. A token that the next one goes on with is only part of a word."""
        cut = torch.zeros_like(mask)
        cut[:, :-1] = self.goes_on[ids[:, 1:]] & mask[:, 1:]
        return self.valid[ids, 1] & mask & ~cut


def candidates_of(setting: Setting, *, most: int) -> Candidates:
    """The table for this network's vocabulary: synonyms that are single tokens, the likeliest first."""
    _, lent = setting.lexicon("ascc")
    words = lent.whole_words()
    token_of: dict[str, int] = {}
    for token, word in sorted(words.items()):
        token_of.setdefault(word, token)
    found: dict[int, list[int]] = {}
    for token, word in words.items():
        names = [name for name in lent.synonyms(word) if name in token_of and token_of[name] != token]
        if names:
            found[token] = [token_of[name] for name in names[:most]]
    n_tokens = classifier_of(setting.network).get_input_embeddings().weight.shape[0]
    return Candidates(n_tokens, found, lent.continues(), most=most)


def climb(
    step: Step, places: Places, clean: Float[Tensor, "batch classes"], *, n_steps: int, rate: float, sparsity: float
) -> Weights:
    """Weights over each word's candidates after ``n_steps`` steps of Adam; even before the first.

    They sum to 1 and are 0 where there is no candidate.
    """
    table = _table(step)
    valid = table.valid[step.ids]
    raw = torch.zeros(valid.shape, device=valid.device, requires_grad=True)
    adam = torch.optim.Adam([raw], lr=rate, maximize=True)
    with step.searching():
        for _ in range(n_steps):
            weights = _softmax(raw, valid)
            rises = step.mean(kl(clean, step.logits(moved(step, places, weights))))
            rises = rises - sparsity * _entropy(weights, valid)[places].mean()
            raw.grad = step.gradient(rises, raw)
            adam.step()
    return _softmax(raw.detach(), valid)


def moved(step: Step, places: Places, weights: Weights) -> Float[Tensor, "batch tokens hidden"]:
    """What moves each word's embedding to the weighted mean of its candidates'; exactly 0 at all other tokens."""
    embedded = classifier_of(step.network).get_input_embeddings().weight
    own = step.ids[places]
    hull = embedded[_table(step).ids[own]].float()  # [words, candidates, hidden]
    means = (weights[places][..., None] * hull).sum(dim=1)
    delta = torch.zeros((*step.ids.shape, hull.shape[2]), device=hull.device)
    return delta.index_put((places,), means - embedded[own].float())


def _softmax(raw: Weights, valid: Bool[Tensor, "batch tokens candidates"]) -> Weights:
    return raw.masked_fill(~valid, -torch.inf).softmax(dim=2)


def _entropy(weights: Weights, valid: Bool[Tensor, "batch tokens candidates"]) -> Float[Tensor, "batch tokens"]:
    """In nats."""
    logs = weights.clamp_min(torch.finfo(weights.dtype).tiny).log().masked_fill(~valid, 0.0)
    return -(weights * logs).sum(dim=2)


def _table(step: Step) -> Candidates:
    assert isinstance(step.companion, Candidates)
    return step.companion
