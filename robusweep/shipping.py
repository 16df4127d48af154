"""A system as a folder, and back: base, adapters, rule, and a loader that needs no robusweep."""

from __future__ import annotations

import copy
import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from robusweep import model as model_stage
from robusweep.adapters import Adapter
from robusweep.errors import MissingError
from robusweep.mixing import Emulated, Fixed, OfLogits, PerText, System, TrainedSet
from robusweep.model import TextModel
from robusweep.record import write_json, write_text
from robusweep.tickets import Masks

if TYPE_CHECKING:
    from torch.nn import Module

    from robusweep.mixture import Member

PACKAGE = "robusweep_model"  # the folder's own code
SOURCES = {
    "standalone.py": "__init__.py",
    "mixture.py": "mixture.py",
    "units.py": "units.py",
    "adapters/hosting.py": "hosting.py",
}
ANEW = "export the point again: robusweep export makes the folder"


def is_system(folder: str) -> bool:
    """Whether this is a folder that ``write_system`` made."""
    return (Path(folder) / "system.json").is_file()


def form_of(folder: Path) -> Literal["plain", "merged", "system"]:
    """What kind of export this folder is, as ``Shipped`` has it."""
    if not is_system(str(folder)):
        return "plain"
    return "system" if (folder / "members").is_dir() else "merged"


def write_system(
    folder: Path,
    system: System,
    plain: TextModel,
    adapter: Adapter,
    *,
    temperature: float | None,
    masks: Masks | None = None,
) -> Module:
    """Lay the system out in a new folder; returns the network of its base, on the CPU.

    ``plain``: the base without the adapter's modules. ``masks``: what is left of it, where it stands on a ticket. One
    set of weights that fold goes into the base, and no adapter beside it.
    """
    from safetensors.torch import save_file

    from robusweep.standalone import SYSTEM, member_tensors

    members = _members(system, adapter)
    if isinstance(system, Fixed) and not members:
        plain = replace(plain, network=model_stage.filled(plain, system.parameters))
    about = _about(system) | {
        "names": list(members),
        "hosted": None if adapter.folds else adapter.model_dump(mode="json"),
        "ticket": masks is not None,
        "label_names": list(plain.label_names),
        "temperature": temperature,
        "max_tokens": plain.max_tokens,
    }
    write_json(folder / SYSTEM, about)
    network = write_model(folder / "base", plain, masks)
    if isinstance(system, Emulated):
        large = model_stage.load_classifier(system.large, device="cpu")
        write_model(folder / "large", large, _masks_in(Path(system.large)))
    for name, member in members.items():
        tensors = {n: v.detach().float().cpu().contiguous().clone() for n, v in member_tensors(member).items()}
        (folder / "members").mkdir(exist_ok=True)
        save_file(tensors, folder / "members" / f"{name}.safetensors")
    for source, target in SOURCES.items():
        text = (Path(__file__).parent / source).read_text(encoding="utf-8")
        inside = text.replace("from robusweep.adapters.", "from .").replace("from robusweep.", "from .")
        write_text(folder / PACKAGE / target, inside)
    return network


def _members(system: System, adapter: Adapter) -> dict[str, Member]:
    """The adapters beside the base, by name."""
    from robusweep.mixture import Member

    if not isinstance(system, Fixed):
        return dict(zip(system.adapters.names, system.adapters.members, strict=True))
    return {} if adapter.folds else {"mixed": Member(system.parameters)}


def _about(system: System) -> dict[str, Any]:
    """How the adapters make one answer."""
    if isinstance(system, PerText):
        return {"kind": "per_text", "rule": system.rule, "keys": system.keys, "factored": system.factored}
    if isinstance(system, OfLogits):
        return {"kind": "of_logits", "weights": system.weights, "bent": system.bent, "factored": False}
    if isinstance(system, Emulated):
        return {"kind": "emulated", "beta": system.beta, "factored": False}
    return {"kind": "fixed", "factored": False}


def write_model(folder: Path, model: TextModel, masks: Masks | None = None) -> Module:
    """A plain folder of ``transformers``, or with ``masks`` beside it one for ``units.rebuilt``.

    Returns its network, on the CPU.
    """
    from robusweep.units import TICKET

    network: Any = copy.deepcopy(model.network).cpu().float().eval()
    network.config.problem_type = "single_label_classification"
    tokenizer = copy.deepcopy(model.tokenizer)
    tokenizer.model_max_length = model.max_tokens  # so that truncation=True cuts as in training
    network.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    if masks is not None:
        masks.write(folder / TICKET)
    saved: Module = network
    return saved


def _masks_in(folder: Path) -> Masks | None:
    from robusweep.units import TICKET

    return Masks.read(folder / TICKET) if (folder / TICKET).is_file() else None


def code_in(folder: Path) -> ModuleType:
    """The folder's own package, imported afresh."""
    spec = importlib.util.spec_from_file_location(
        f"{PACKAGE}_{id(folder):x}",
        folder / PACKAGE / "__init__.py",
        submodule_search_locations=[str(folder / PACKAGE)],
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == spec.name]:
            del sys.modules[name]
    return module


def opened(name: str, *, device: str, max_tokens: int = 512) -> tuple[TextModel, System, str]:
    """(model, system on it, the model's identity) of a trained classifier: a folder, a hub name, or an exported system.

    Raises ``MissingError`` when it can't be read.
    """
    if is_system(name):
        model, system = read_system(Path(name), device=device, max_tokens=max_tokens)
        return model, system, model_stage.identity(model_stage.BaseEncoder(base=str(Path(name) / "base")))
    model = model_stage.load_classifier(name, device=device, max_tokens=max_tokens)
    return model, Fixed({}), model_stage.identity(model_stage.BaseEncoder(base=name))


def read_system(folder: Path, *, device: str, max_tokens: int = 512) -> tuple[TextModel, System]:
    """(the base that adapters are put on, the system), as ``write_system`` left them.

    Raises ``MissingError`` when a file is not there or not ours.
    """
    from pydantic import TypeAdapter

    from robusweep.adapters import AnyAdapter
    from robusweep.adapters.hosting import hosted
    from robusweep.mixture import folded
    from robusweep.standalone import SYSTEM, read_member
    from robusweep.units import TICKET

    base = folder / "base"
    try:
        about = json.loads((folder / SYSTEM).read_text(encoding="utf-8"))
        if about.get("ticket") and not (base / TICKET).is_file():
            raise MissingError(f"{base / TICKET} is gone: it says which units the network has lost", hint=ANEW)
        model = model_stage.load_classifier(str(base), device=device, max_tokens=max_tokens)
        if about["hosted"] is not None:
            TypeAdapter(AnyAdapter).validate_python(about["hosted"])
            model = replace(model, network=hosted(model.network, about["hosted"]).to(device).eval())
        members = [read_member(folder / "members" / f"{name}.safetensors") for name in about["names"]]
    except MissingError as e:
        raise MissingError(e.message, hint=e.hint or ANEW) from None
    except (OSError, ValueError, KeyError) as e:
        raise MissingError(
            f"{folder} can't be read as an exported system: {type(e).__name__}: {e}", hint=ANEW
        ) from None
    own = {name: p.detach() for name, p in model.network.named_parameters()}
    adapters = TrainedSet(
        names=about["names"],
        base=own,
        folded=[folded(member, own) for member in members],
        members=members,
        ranges=[(0.0, 0.0)] * len(members),
    )
    if about["kind"] == "per_text":
        return model, PerText(adapters, about["rule"], about["keys"], about["factored"])
    if about["kind"] == "of_logits":
        return model, OfLogits(adapters, tuple(about["weights"]), about["bent"])
    if about["kind"] == "emulated":
        return model, Emulated(adapters, str(folder / "large"), about["beta"])
    return model, Fixed(adapters.folded[0] if members else {})
