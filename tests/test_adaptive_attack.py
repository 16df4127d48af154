"""``robusweep attack`` on an export whose weights depend on the text: what breaks its parts is tried on the whole."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from test_attack_command import KILLED

from robusweep import cli, evaluate
from robusweep import model as model_stage
from robusweep.adapters.full import Full
from robusweep.assignment import PointPlan
from robusweep.cache import Cache
from robusweep.evaluate import N_CALIBRATION, attack_model, label_index, question_of, rows_of
from robusweep.examples import Dataset, Example
from robusweep.ground import Ground
from robusweep.mixing import PerText, TrainedSet
from robusweep.mixing.adpmixup import AdpMixup
from robusweep.mixture import Member
from robusweep.progress import Progress
from robusweep.recipe import Recipe
from robusweep.scoring import score
from robusweep.shipping import write_system

Run = Callable[..., tuple[object, str, str]]
N = 30
RULES: dict[str, Any] = {"query_budget": 9, "min_similarity": None}  # few queries, and no sentence encoder to load
CHANGES = [f"{key}={json.dumps(value)}" for key, value in RULES.items()]
ATTACKS = ("deepwordbug", "textbugger_wordnet")
SEED, NOISE = 7, 1.2  # adapters whose mean an attack with few queries can't break everywhere, though it breaks them


@dataclass(frozen=True)
class Mixed:
    """An exported system of three adapters, and what it was made of."""

    folder: Path
    base: model_stage.TextModel
    adapters: TrainedSet
    data: Path


@pytest.fixture(scope="module")
def mixed(tiny: Path, classifier: Path, tmp_path_factory: pytest.TempPathFactory) -> Mixed:
    """The fine-tuned tiny BERT three times, each time with noise on all weights."""
    base = model_stage.load_classifier(str(classifier), device="cpu", max_tokens=512)
    own = {name: parameter.detach() for name, parameter in base.network.named_parameters()}
    members = []
    for i in range(3):
        drawn = torch.Generator().manual_seed(3 * SEED + i)
        noisy = {n: v + NOISE * v.std(correction=0) * torch.randn(v.shape, generator=drawn) for n, v in own.items()}
        members.append(Member(noisy))
    names = ["clean", "adversarial.0", "adversarial.1"]
    adapters = TrainedSet(names, own, [member.parameters for member in members], members, [(0.0, 1.0)] * 3)
    folder = tmp_path_factory.mktemp("exported") / "mixed"
    write_system(folder, PerText(adapters, "entropy_ratio"), base, Full(), temperature=None)
    return Mixed(folder, base, adapters, tiny / "data.csv")


@pytest.fixture(scope="module")
def root(mixed: Mixed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root whose cache holds the whole attack: to ask the same again costs no query."""
    root = tmp_path_factory.mktemp("root")
    attack_model(asked(mixed, root))
    return root


def asked(mixed: Mixed, root: Path, **more: Any) -> evaluate.Question:
    named = {"n": N, "root": root, "device": "cpu", "precision": "fp32"} | more
    return question_of(str(mixed.folder), mixed.data, ATTACKS, "standard_v1", CHANGES, **named)


def arguments(mixed: Mixed, root: Path, *more: object) -> list[str]:
    listed = [*(("--attack", attack) for attack in ATTACKS), *(("--set", change) for change in CHANGES)]
    given = [mixed.folder, "--data", mixed.data, *(word for pair in listed for word in pair), "--n", N]
    return ["attack", *map(str, [*given, "--precision", "fp32", "--root", root, *more])]


@pytest.fixture
def run(mixed: Mixed, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run ``robusweep attack`` on the system: (exit code, stdout, stderr)."""

    def call(*more: object) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["robusweep", *arguments(mixed, root, *more)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return ended.value.code, said.out, said.err

    return call


def test_the_command_finds_what_a_trial_finds(mixed: Mixed, root: Path, tmp_path: Path) -> None:
    question = asked(mixed, root)
    answer, summary = attack_model(question), attack_model(question).summary()
    rows = rows_of(question)[0]
    index = label_index(question, rows, mixed.base.label_names)
    taken, rest = ([Example(r.text, index[r.label]) for r in part] for part in (rows[:N], rows[N : N + N_CALIBRATION]))
    block = {
        "version": 1,
        "name": "trial",
        "data": {"kind": "csv", "path": "data.csv"},
        "adapter": {"kind": "full"},
        "train": {"kind": "standard"},
        "attacks": {
            "protocol": {"base": "standard_v1"} | RULES,
            "known": list(ATTACKS),
            "n_examples": N,
        },
    }
    recipe = Recipe.model_validate_json(json.dumps(block))
    dataset = Dataset("data", mixed.base.label_names, (), tuple(taken), tuple(rest), ())
    progress = Progress(tmp_path)
    ground = Ground(recipe, dataset, mixed.base, "base", False, Cache(tmp_path / "cache"), progress, tmp_path)
    plan = PointPlan(id="t000.00", params={}, mix=AdpMixup(weighting="entropy_ratio"))
    (point,) = score([plan], mixed.adapters, "hash", ground)
    assert answer.temperature == pytest.approx(point.temperature)
    assert answer.clean_accuracy == point.clean_accuracy
    assert answer.unaided == point.unaided
    for kind, recorded in point.attacks.items():
        assert summary["attacks"][kind]["accuracy_under_attack"] == recorded.accuracy_under_attack.model_dump()
    assert answer.robust_accuracy == point.robust_accuracy
    lowered = [kind for kind, rate in point.unaided.items() if point.attacks[kind].accuracy_under_attack != rate]
    assert lowered == ["textbugger_wordnet"], "of the two attacks, one finds more against the parts"


def test_the_reported_rate_is_the_lower_one_and_every_output_says_what_took_more(run: Run, tmp_path: Path) -> None:
    out, page = tmp_path / "outcomes.jsonl", tmp_path / "page.html"
    code, stdout, stderr = run("--json", "--out", out, "--html", page)
    assert code == 0, stderr
    assert "single adapters or their even mean are tried, too" in stderr
    answer = json.loads(stdout)
    assert answer["unaided"].keys() == answer["attacks"].keys() == set(ATTACKS)
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    html = page.read_text(encoding="utf-8")
    for name, found in answer["attacks"].items():
        mine = [line for line in lines if line["attack"] == name]
        replayed = [line for line in mine if line["replayed"]]
        assert all(line["result"] == "success" and line["adversarial_text"] for line in replayed)
        assert {line["n_queries"] for line in replayed} <= {1, 2, 3, 4}, "texts that were tried: at most one a part"
        assert found["accuracy_under_attack"]["value"] == sum(line["result"] == "failed" for line in mine) / N
        alone = answer["unaided"][name]
        assert round(N * (alone["value"] - found["accuracy_under_attack"]["value"])) == len(replayed)
        assert f"accuracy under {name} by itself" in html
    n_replayed = sum(line["replayed"] for line in lines)
    assert n_replayed > 0
    assert html.count("found against single adapters") == n_replayed
    stood = [all(row["result"] == "failed" for row in rows) for rows in zip(lines[:N], lines[N:], strict=True)]
    assert answer["robust_accuracy"]["value"] == sum(stood) / N
    assert "no_adaptive_attack" not in {flag["name"] for flag in answer["flags"]}


def test_the_table_has_the_rate_of_each_attack_by_itself_below(run: Run) -> None:
    answer = json.loads(run("--json")[1])
    code, stdout, _ = run()
    assert code == 0
    lines = stdout.splitlines()
    for name, found in answer["attacks"].items():
        place = next(i for i, line in enumerate(lines) if line.startswith(f"under {name}"))
        for line, rate in ((lines[place], found["accuracy_under_attack"]), (lines[place + 1], answer["unaided"][name])):
            assert f"{100 * rate['value']:.1f} [{100 * rate['low']:.1f}, {100 * rate['high']:.1f}]" in line
        assert lines[place + 1].startswith("  by itself")
    assert "by itself: without the texts that break single adapters" in stdout


def test_without_it_the_whole_alone_is_attacked_under_another_hash_and_a_flag(run: Run) -> None:
    adaptive = json.loads(run("--json")[1])
    code, stdout, stderr = run("--no-adaptive", "--fail-on-flags", "--json")
    assert code == 6
    assert "NOTICE mixing weights depend on the text" in stderr
    answer = json.loads(stdout)
    assert answer["unaided"] == {}
    found = {name: score["accuracy_under_attack"] for name, score in answer["attacks"].items()}
    assert found == adaptive["unaided"]
    assert answer["protocol"]["hash"] != adaptive["protocol"]["hash"]
    flags = {flag["name"]: flag["detail"] for flag in answer["flags"]}
    assert flags["no_adaptive_attack"] == "--no-adaptive"
    assert {flag["name"] for flag in adaptive["flags"]} == flags.keys() - {"no_adaptive_attack"}
    table = run("--no-adaptive")[1]
    assert "no_adaptive_attack" in table
    assert "by itself" not in table


def test_only_what_still_stands_is_attacked_on_the_parts(mixed: Mixed, root: Path) -> None:
    begun: list[tuple[str, int]] = []
    answer = attack_model(asked(mixed, root), on_start=lambda _evaluation, n, part: begun.append((part, n)))
    names = [*(f"{name} alone" for name in mixed.adapters.names), "even mean"]
    standing = [round(N * rate.value) for rate in answer.unaided.values()]
    assert begun == [("", N), *((name, n) for name in names for n in standing)]


def test_a_kill_while_a_part_is_attacked_repeats_no_query(mixed: Mixed, root: Path, tmp_path: Path) -> None:
    n_before = 2 * N + 16  # the whole under both attacks, and 16 texts again for a flag
    code = KILLED.format(arguments=arguments(mixed, tmp_path), at=n_before + 5)
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert "alone, " in killed.stderr, "the parts had begun"

    def size(where: Path) -> int:
        return sum(path.stat().st_size for path in (where / "cache/queries").glob("*.bin"))

    assert 0 < size(tmp_path) < size(root)
    resumed, whole = attack_model(asked(mixed, tmp_path)), attack_model(asked(mixed, root))
    assert resumed.n_computed > 0 == whole.n_computed
    assert resumed.summary() == whole.summary()
    assert resumed.lines() == whole.lines()
    assert size(tmp_path) == size(root), "the same answers, each once"
