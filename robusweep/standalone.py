"""An exported system: loaded and asked. Exports carry this file; torch and transformers will do.

from robusweep_model import load
labels, probabilities, weights = load("the folder")(["a text", "another one"])
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from robusweep.adapters.hosting import hosted
from robusweep.mixture import Blend, Factors, Member, Mixture, mixed_probabilities
from robusweep.units import TICKET, rebuilt

SYSTEM = "system.json"  # what the folder holds, beside ``base`` and ``members``
TEXTS_PER_BATCH = 32


class Loaded:
    """A system that answers texts. ``member_names`` are those of its adapters, the clean one first; none where the
    weights of the base are the system's."""

    def __init__(self, folder: Path, *, device: str = "cpu") -> None:
        self.device, self.about = device, json.loads((folder / SYSTEM).read_text(encoding="utf-8"))
        self.label_names: list[str] = self.about["label_names"]
        self.member_names: list[str] = self.about["names"]
        self.temperature: float = self.about["temperature"] or 1.0
        self.tokenizer = AutoTokenizer.from_pretrained(folder / "base")
        network = _network(folder / "base", device, ticket=self.about.get("ticket", False))
        if self.about["hosted"] is not None:
            network = hosted(network, self.about["hosted"])
        members = [read_member(folder / "members" / f"{name}.safetensors") for name in self.member_names]
        self.network = network.eval()
        self.blend = Blend(network, members, factored=self.about["factored"]) if members else None
        self.large = _network(folder / "large", device) if (folder / "large").is_dir() else None

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> tuple[list[str], Tensor, Tensor | None]:
        """(labels, probabilities [texts, classes], mixing weights [texts, members] where they depend on the text)."""
        logits, weights = self.logits(texts)
        found = (logits / self.temperature).softmax(-1)
        return [self.label_names[i] for i in found.argmax(1).tolist()], found, weights

    def logits(self, texts: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        """(logits [texts, classes] before the temperature, weights), on the CPU, in the order of the texts."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # little padding
        logits = torch.empty(len(texts), len(self.label_names))
        weights = torch.empty(len(texts), len(self.member_names)) if self.about["kind"] == "per_text" else None
        for begin in range(0, len(texts), TEXTS_PER_BATCH):
            places = order[begin : begin + TEXTS_PER_BATCH]
            batch = self.tokenizer([texts[i] for i in places], truncation=True, padding=True, return_tensors="pt")
            inputs = {name: batch[name].to(self.device) for name in ("input_ids", "attention_mask")}
            answer, shares = self._answer(inputs)
            logits[places] = answer.float().cpu()
            if weights is not None and shares is not None:
                weights[places] = shares.float().cpu()
        return logits, weights

    def _answer(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        about, blend = self.about, self.blend
        if blend is None:
            return self.network(**inputs).logits, None
        if about["kind"] == "per_text":
            return Mixture(blend, about["rule"], about["keys"])(**inputs)
        n = len(inputs["input_ids"])
        each = torch.stack([blend(blend.alone(i, n), **inputs) for i in range(blend.n_members)])
        if about["kind"] == "of_logits":
            return mixed_probabilities(each, about["weights"], bend=about["bent"]), None
        if about["kind"] == "emulated":
            assert self.large is not None
            large: Tensor = self.large(**inputs).logits
            return large + about["beta"] * (each[1] - each[0]), None
        return each[0], None


def load(folder: str | Path, *, device: str = "cpu") -> Loaded:
    """The system in an exported folder."""
    return Loaded(Path(folder), device=device)


def _network(folder: Path, device: str, *, ticket: bool = False) -> nn.Module:
    """``ticket``: the folder has to hold masks; otherwise it may."""
    if ticket or (folder / TICKET).is_file():
        network = rebuilt(folder)
    else:
        network = AutoModelForSequenceClassification.from_pretrained(folder, use_safetensors=True)
    made: nn.Module = network.to(device).float().eval().requires_grad_(False)
    return made


def read_member(path: Path) -> Member:
    """An adapter as ``member_tensors`` laid it out."""
    tensors = load_file(path)
    below = {
        kind: {name.removeprefix(f"{kind}/"): value for name, value in tensors.items() if name.startswith(f"{kind}/")}
        for kind in ("parameters", "down", "up")
    }
    return Member(below["parameters"], {name: Factors(down, below["up"][name]) for name, down in below["down"].items()})


def member_tensors(member: Member) -> dict[str, Tensor]:
    """An adapter as named tensors."""
    found = {f"parameters/{name}": value for name, value in member.parameters.items()}
    found |= {f"down/{name}": factors.down for name, factors in member.factors.items()}
    return found | {f"up/{name}": factors.up for name, factors in member.factors.items()}
