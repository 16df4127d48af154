"""Original recipes of TextAttack, run unchanged where their own resources are at hand, and what those resources are.

No registry package ships counter-fitted vectors, the Universal Sentence Encoder, HowNet or a language model. TextAttack
downloads them; here they are used where an earlier download left them, and nothing is downloaded.
"""

from __future__ import annotations

import hashlib
import os
import sys
from abc import ABC
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from robusweep.attacks.base import Attack, Need
from robusweep.attacks.protocol import Protocol
from robusweep.attacks.resources import sha256_of, textattack_cache
from robusweep.errors import MissingError
from robusweep.spec import digest_of

if TYPE_CHECKING:
    from robusweep.attacks.parts import VictimWrapper


class OriginalRecipe(Attack, ABC):
    """A recipe class of TextAttack with its own resources. Under ``library_default_v1`` it runs as shipped.

    Under another protocol it keeps its transformation, search and word-level constraints; its stop words, its
    repetition rule and its sentence encoder give way to the protocol's.
    """

    recipe: ClassVar[str]  # name of the class in textattack.attack_recipes
    encoder: ClassVar[tuple[Need, ...]] = ()  # what its sentence encoder needs, which other protocols do without
    substitutions: ClassVar[tuple[str, ...]] = ()

    def resources(self, protocol: Protocol) -> list[Need]:
        return [*super().resources(protocol), *(self.encoder if protocol.library_constraints else ())]

    def build(self, protocol: Protocol, wrapper: VictimWrapper) -> Any:
        from robusweep.attacks import parts

        os.environ.setdefault("TFHUB_CACHE_DIR", str(textattack_cache()))  # where TextAttack would have put it
        shipped = getattr(parts.textattack.attack_recipes, self.recipe).build(wrapper)
        return shipped if protocol.library_constraints else parts.under_protocol(shipped, protocol, wrapper, self.level)


@dataclass(frozen=True)
class CacheFile:
    """A file or folder of TextAttack's cache folder."""

    name: str
    path: str  # relative to the cache folder; every file of a folder counts

    def _found(self) -> Path:
        return textattack_cache() / self.path

    def missing(self) -> str | None:
        if self._found().exists():
            return None
        return (
            f"{self.name}: not in {textattack_cache()}; run TextAttack once on a connected machine and copy its "
            f"~/.cache/textattack/{self.path} there (TA_CACHE_DIR names another folder)"
        )

    def identity(self) -> dict[str, str]:
        path = self._found()
        if not path.exists():
            raise MissingError(f"{self.name} is not in {textattack_cache()}")
        return {"name": self.name, "sha256": _sha256_below(path)}


@dataclass(frozen=True)
class Module:
    """A Python package that TextAttack does not install."""

    name: str
    module: str
    install: str

    def missing(self) -> str | None:
        return None if find_spec(self.module) else f"{self.name}: {self.install}"

    def identity(self) -> dict[str, str]:
        if lacking := self.missing():
            raise MissingError(lacking)
        return {"name": self.name, "version": version(self.module)}


@dataclass(frozen=True)
class HubFolder:
    """A model of TensorFlow Hub, in the folder where its library keeps what it has downloaded."""

    name: str
    handle: str

    def _found(self) -> Path:
        cache = Path(os.environ.get("TFHUB_CACHE_DIR", textattack_cache()))
        return cache / hashlib.sha1(self.handle.encode(), usedforsecurity=False).hexdigest()

    def missing(self) -> str | None:
        found = self._found()
        if (found / "saved_model.pb").is_file():
            return None
        return f"{self.name}: run TextAttack once on a connected machine and copy its folder {found.name} to {found}"

    def identity(self) -> dict[str, str]:
        if lacking := self.missing():
            raise MissingError(lacking)
        return {"name": self.name, "sha256": _sha256_below(self._found())}


@dataclass(frozen=True)
class Never:
    """What can't be had on any machine, and why."""

    name: str
    why: str

    def missing(self) -> str | None:
        return f"{self.name}: {self.why}"

    def identity(self) -> dict[str, str]:
        raise MissingError(f"{self.name}: {self.why}")


@dataclass(frozen=True)
class PackageFile:
    """A file that a package's source holds and its wheel may lack."""

    name: str
    module: str
    path: str

    def _found(self) -> Path | None:
        spec = find_spec(self.module)
        locations = spec.submodule_search_locations if spec else None
        path = Path(locations[0]) / self.path if locations else None
        return path if path is not None and path.is_file() else None

    def missing(self) -> str | None:
        if self._found():
            return None
        return f"{self.name}: put {self.path} from the source of {self.module} beside the installed package"

    def identity(self) -> dict[str, str]:
        path = self._found()
        if path is None:
            raise MissingError(str(self.missing()))
        return {"name": self.name, "sha256": sha256_of(path)}


@dataclass(frozen=True)
class NltkData:
    """A data package of nltk."""

    name: str
    path: str  # below one of nltk's data folders

    def _folders(self) -> list[Path]:
        named = [Path(part) for part in os.environ.get("NLTK_DATA", "").split(os.pathsep) if part]
        return [*named, Path.home() / "nltk_data", Path(sys.prefix) / "nltk_data", Path("/usr/share/nltk_data")]

    def _found(self) -> Path | None:
        places = [place for folder in self._folders() for place in (folder / self.path, folder / f"{self.path}.zip")]
        return next((place for place in places if place.exists()), None)

    def missing(self) -> str | None:
        return None if self._found() else f"{self.name}: python -m nltk.downloader {Path(self.path).name}"

    def identity(self) -> dict[str, str]:
        path = self._found()
        if path is None:
            raise MissingError(str(self.missing()))
        return {"name": self.name, "sha256": _sha256_below(path)}


@dataclass(frozen=True)
class FlairModel:
    """A tagger of flair."""

    name: str
    folder: str  # below flair's folder of models

    def _found(self) -> Path:
        return Path(os.environ.get("FLAIR_CACHE_ROOT", Path.home() / ".flair")) / "models" / self.folder

    def missing(self) -> str | None:
        found = self._found()
        if any(found.glob("*")):
            return None
        return f"{self.name}: load flair/{self.folder} once on a connected machine and copy its folder to {found}"

    def identity(self) -> dict[str, str]:
        if lacking := self.missing():
            raise MissingError(lacking)
        return {"name": self.name, "sha256": _sha256_below(self._found())}


@dataclass(frozen=True)
class LanguageModel:
    """A language model: a folder with config.json and safetensors, or a name that the hub's cache holds."""

    name: str
    source: str  # folder or hub name

    def folder(self) -> Path | None:
        """Where it lies here, or None."""
        path = Path(self.source).expanduser()
        if path.is_dir():
            return path if (path / "config.json").is_file() else None
        home = Path(os.environ.get("HF_HOME", Path.home() / ".cache/huggingface"))
        cache = Path(os.environ.get("HF_HUB_CACHE", home / "hub")) / f"models--{self.source.replace('/', '--')}"
        return next(iter(sorted(p.parent for p in cache.glob("snapshots/*/config.json"))), None)

    def missing(self) -> str | None:
        if self.folder():
            return None
        return (
            f"{self.name} {self.source!r}: no such folder, and not in the hub's cache; name a folder saved by "
            "save_pretrained, or download it on a connected machine"
        )

    def identity(self) -> dict[str, str]:
        folder = self.folder()
        if folder is None:
            raise MissingError(str(self.missing()))
        weights = sorted(p for p in folder.iterdir() if p.suffix in {".safetensors", ".bin", ".json", ".txt"})
        return {"name": self.name, "sha256": digest_of({p.name: sha256_of(p) for p in weights})}


def _sha256_below(path: Path) -> str:
    """One digest of a file, or of every file of a folder and where it lies in it."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return digest_of({str(file.relative_to(path.parent)): sha256_of(file) for file in files if file.is_file()})


VECTORS = CacheFile("counter-fitted word vectors", "word_embeddings/paragramcf")
HOWNET = CacheFile("HowNet candidates", "transformations/hownet/word_candidates_sense.pkl")
GOOGLE_LM = CacheFile(
    "Google's language model on a billion words", "constraints/semantics/language-models/alzantot-goog-lm"
)
LEARNING_TO_WRITE = CacheFile(
    "language model of Learning to Write", "constraints/grammaticality/language-models/learning-to-write"
)
NLTK_STOP_WORDS = NltkData("nltk's stop words", "corpora/stopwords")
NLTK_TAGGER = NltkData("nltk's part-of-speech tagger", "taggers/averaged_perceptron_tagger_eng")
NLTK_TAGS = NltkData("nltk's map of tags", "taggers/universal_tagset")
TENSORFLOW_HUB = Module("tensorflow_hub", "tensorflow_hub", "pip install tensorflow tensorflow_hub")
TENSORFLOW = Module("tensorflow", "tensorflow", "pip install tensorflow")
SENTENCE_TRANSFORMERS = Module("sentence_transformers", "sentence_transformers", "pip install sentence-transformers")
DISTILBERT = LanguageModel("sentence encoder", "sentence-transformers/stsb-distilbert-base")
POS_TAGGING: Sequence[Need] = (NLTK_TAGGER, NLTK_TAGS)
_USE = "https://tfhub.dev/google/universal-sentence-encoder/3"  # the version that TextAttack 0.3.11 loads
UNIVERSAL_ENCODER = (TENSORFLOW_HUB, HubFolder("Universal Sentence Encoder", _USE))
FLAIR_TAGS = FlairModel("flair's part-of-speech tagger", "upos-english-fast")
FLAIR_NAMES = FlairModel("flair's named-entity tagger", "ner-english")
HOMOGLYPHS = PackageFile(
    "TextAttack's list of homoglyphs, which its wheel lacks", "textattack", "shared/intentional_homoglyphs.txt"
)
