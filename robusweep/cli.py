"""The command line: it parses and prints, and decides nothing."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from robusweep import __version__
from robusweep.display import AttackDisplay, Display, PredictDisplay
from robusweep.errors import EmptyFrontError, RobusweepError, UsageError, nearest

app = typer.Typer(
    name="robusweep",
    help="Sweep clean accuracy against accuracy under attack of text classifiers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
cache_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.add_typer(cache_app, name="cache", help="See what lies in the cache, and remove what is of no use.")

RecipeFile = Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe file, such as recipes/agnews_mixup.yaml.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Overrides of recipe keys.")]
Root = Annotated[Path, typer.Option(help="Folder that holds runs/, cache/, mlflow.db and mlruns/.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON value on stdout; everything else goes to stderr.")]
RunName = Annotated[str, typer.Argument(metavar="NAME", help="A run's name, or its folder.")]
HERE = Path()
DEFAULT_ATTACKS = ["deepwordbug", "textfooler", "pwws"]
INTERRUPTED = 130  # typer's exit code for Ctrl-C


@app.command()
def run(
    recipe: RecipeFile,
    overrides: Overrides = None,
    name: Annotated[str | None, typer.Option(help="Name of the run; the recipe's own when left out.")] = None,
    fork: Annotated[
        str | None,
        typer.Option(metavar="NEWNAME", help="The recipe was changed: run it under this name, beside the run so far."),
    ] = None,
    address: Annotated[str | None, typer.Option(help="Join a Ray cluster: auto, or host:port.")] = None,
    runtime_env: Annotated[
        Path | None, typer.Option(metavar="FILE", help="YAML or JSON: Ray's runtime environment of the workers.")
    ] = None,
    root: Root = HERE,
    as_json: AsJson = False,
) -> None:
    """Run a sweep to its budget. The same command starts it, and continues it after a kill.

    Ctrl-C lets the trials that run end first; a second Ctrl-C abandons them, and they start again with the next run.
    """
    from robusweep.recipe import load_recipe

    plan = load_recipe(recipe, overrides)
    if plan.recipe.search is None:
        raise UsageError(f"{recipe}: no 'search' block, so there is no sweep", hint=f"robusweep trial {recipe}")
    from robusweep.front import nearest_to_feasible
    from robusweep.sweep.cluster import cluster_at
    from robusweep.sweep.run import run_sweep

    cluster = cluster_at(address, runtime_env, plan.recipe.resources.executor)
    display = Display()
    begun = name or plan.recipe.name
    with display.following(root / "runs" / (fork or begun)):
        done = run_sweep(
            plan, root=root, say=display.say, name=fork or begun, fork_of=begun if fork else None, cluster=cluster
        )
    front = [point for point in done.points if point.pareto]
    knee = next((point for point in done.points if point.knee), None)
    best = next((point for point in done.points if point.best), None)
    if as_json:
        _print_json(
            {
                "name": done.name,
                "run_dir": str(done.run_dir),
                "n_trials": len(done.records),
                "n_points": len(done.points),
                "n_failed": done.n_failed,
                "front": [point.model_dump(mode="json") for point in front],
                "knee": knee.model_dump(mode="json") if knee else None,
                "best": best.id if best else None,
                "ended": done.ended,
            },
            one_line=True,
        )
    elif front:
        _print_front(front)
        print(f"\nreport   {done.run_dir / 'report.html'}\nmlflow   robusweep ui{_root_option(root)}")
    if not done.points:
        raise EmptyFrontError(
            f"no trial completed ({done.n_failed} failed)", hint=f"see {done.run_dir}/trials/*/record.json"
        )
    if missed := nearest_to_feasible(done.points):
        display.say(missed)
    if done.n_failed:
        display.say(f"{done.n_failed} of {len(done.records)} trials failed; see {done.run_dir}/trials/*/record.json")
        raise typer.Exit(4)


@app.command()
def trial(
    recipe: RecipeFile,
    overrides: Overrides = None,
    name: Annotated[str | None, typer.Option(help="Name of the run; RECIPE-trial when left out.")] = None,
    root: Root = HERE,
    as_json: AsJson = False,
) -> None:
    """Run one trial, without a sweep: the recipe exactly as it stands."""
    from robusweep.recipe import load_recipe

    plan = load_recipe(recipe, overrides)
    from robusweep.assignment import resolved, single_assignment
    from robusweep.trial import run_trial

    used, stand_ins = resolved(plan.recipe)
    display = Display()
    for stand_in in stand_ins:
        display.say(f"NOTICE {stand_in.notice()}")
    assignment = single_assignment(used, name=name or f"{used.name}-trial", root=root, stand_ins=stand_ins)
    with display.following(assignment.trial_dir.parent.parent):
        record = run_trial(assignment)
    if as_json:
        _print_json(record.model_dump(mode="json"), one_line=True)
        return
    for point in record.points:
        print(f"clean accuracy   {_rate(point.clean_accuracy)}\nrobust accuracy  {_rate(point.robust_accuracy)}")
        for attack, score in {**point.attacks, **point.held_out}.items():
            print(f"  under {attack:20} {_rate(score.accuracy_under_attack)}")
            if attack in point.unaided:
                print(f"    {'by itself':24} {_rate(point.unaided[attack])}")
        for attack, rate in point.static.items():
            print(f"  texts by {attack:17} {_rate(rate)}, made against the clean adapter")
    print(f"record           {assignment.trial_dir / 'record.json'}")


@app.command()
def validate(recipe: RecipeFile, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Check a recipe, its search space, its data and its resources, without training anything."""
    from robusweep.assignment import check_data, resolved_sweep
    from robusweep.recipe import load_recipe

    plan = load_recipe(recipe, overrides)
    used, stand_ins = resolved_sweep(plan)
    dataset = check_data(used)
    n_trials = plan.recipe.search.budget.n_trials if plan.recipe.search else 1
    fewest, most = plan.space.n_points(n_trials)
    splits = {s: len(getattr(dataset, s)) for s in ("train", "validation", "calibration", "test")}
    if as_json:
        _print_json(
            {
                "recipe": recipe,
                "valid": True,
                "name": used.name,
                "data": dataset.name,
                "labels": list(dataset.label_names),
                "splits": splits,
                "stand_ins": [s.model_dump(mode="json") for s in stand_ins],
                "searched": list(plan.space.dimensions),
                "n_trials": n_trials,
                "points_per_trial": most,
                "fewest_points_per_trial": fewest,
            }
        )
        return
    for stand_in in stand_ins:
        print(f"NOTICE {stand_in.notice()}", file=sys.stderr)
    print(f"{recipe}: valid")
    print(
        f"  data    {dataset.name}: {', '.join(f'{n} {s}' for s, n in splits.items())}; "
        f"{len(dataset.label_names)} labels"
    )
    trials = f"{n_trials} trial{'s' if n_trials > 1 else ''}"
    points = f"{most} point{'s' if most > 1 else ''}"
    each = " each" if n_trials > 1 else ""
    of = f"{points}{each}" if fewest == most else f"{fewest} to {points}"
    print(f"  search  {', '.join(plan.space.dimensions) or 'nothing'}: {trials} of {of}")


@app.command()
def plan(
    recipe: RecipeFile,
    overrides: Overrides = None,
    pilot: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="N",
            help="Run a few trials on N examples each: a measurement in place of assumptions.",
        ),
    ] = 0,
    pilot_trials: Annotated[
        int, typer.Option(min=1, metavar="K", help="How many trials --pilot runs at most, spread over the first ones.")
    ] = 3,
    root: Root = HERE,
    as_json: AsJson = False,
) -> None:
    """Predict trials, hours, queries and disk from a measurement on this machine, before spending them."""
    from robusweep.plan import predict
    from robusweep.recipe import load_recipe

    forecast = predict(load_recipe(recipe, overrides), root, n_pilot=pilot, n_pilot_trials=pilot_trials)
    if as_json:
        _print_json(forecast)
        return
    for key, value in forecast.items():
        print(f"{key:26} {value}")


@app.command()
def attack(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A folder saved by save_pretrained, or a hub name.")],
    data: Annotated[Path, typer.Option(help="Labelled texts: .csv, .tsv, .jsonl or .parquet.")],
    attacks: Annotated[
        list[str] | None,
        typer.Option("--attack", help="An attack, such as pwws, or a block {kind: pwws}; may be given several times."),
    ] = None,
    text_column: Annotated[str, typer.Option(help="Name of the column of the texts.")] = "text",
    label_column: Annotated[str, typer.Option(help="Name of the column of the labels.")] = "label",
    n: Annotated[int | None, typer.Option("--n", min=1, help="Attack the first N rows; all when left out.")] = None,
    protocol: Annotated[str, typer.Option(help="What attacks may change and ask (robusweep ls protocols).")] = (
        "standard_v1"
    ),
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a rule of the protocol.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Every random draw comes from this number.")] = 0,
    calibrate: Annotated[
        bool, typer.Option(help="Divide logits by a temperature fitted on rows that are not attacked.")
    ] = True,
    adaptive: Annotated[
        bool,
        typer.Option(help="Where mixing weights depend on the text: also try texts that break single adapters."),
    ] = True,
    max_tokens: Annotated[int, typer.Option(min=8, help="Longer texts are cut.")] = 512,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16; successes are confirmed in fp32.")] = "auto",
    out: Annotated[Path | None, typer.Option(help="File for one JSON line per example and attack.")] = None,
    html: Annotated[Path | None, typer.Option(help="File for a page to browse the adversarial examples.")] = None,
    fail_on_flags: Annotated[bool, typer.Option("--fail-on-flags", help="Exit with 6 when a number is doubtful.")] = (
        False
    ),
    root: Root = HERE,
    as_json: AsJson = False,
) -> None:
    """Attack a trained classifier: accuracy under attack, with intervals. A killed command goes on where it was."""
    from robusweep.evaluate import attack_model, question_of
    from robusweep.record import write_text

    asked = question_of(
        model,
        data,
        attacks or DEFAULT_ATTACKS,
        protocol,
        changes or [],
        text_column=text_column,
        label_column=label_column,
        n=n,
        seed=seed,
        calibrate=calibrate,
        adaptive=adaptive,
        max_tokens=max_tokens,
        device=device,
        precision=precision,
        root=root,
    )
    with AttackDisplay() as display:
        answer = attack_model(asked, say=display.say, on_start=display.start, on_outcome=display.outcome)
    if out is not None:
        write_text(out, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in answer.lines()))
    if html is not None:
        from robusweep.report.browser import Attacked, Heading, browser_page

        rows = [Attacked(**row) for row in answer.rows()]
        write_text(html, browser_page(Heading(**answer.heading(asked)), rows))
    if as_json:
        _print_json(answer.summary(), one_line=True)
    else:
        from robusweep.report.terminal import attack_table

        _print_wide(attack_table(answer.summary()))
        for path in (out, html):
            if path is not None:
                print(path)
    if answer.flags and fail_on_flags:
        raise typer.Exit(6)


@app.command(name="ls")
def list_(
    what: Annotated[
        str, typer.Argument(help="recipes, spaces, runs, attacks, data, models, adapters, methods...")
    ] = "all",
    root: Root = HERE,
    as_json: AsJson = False,
) -> None:
    """List what there is: recipes, search spaces, runs, and every kind that a recipe can name."""
    from robusweep.catalogue import catalogue

    listing = catalogue(root)
    if what != "all":
        if what not in listing:
            near = nearest(what, listing)
            raise UsageError(
                f"there is no list {what!r} (allowed: {', '.join(listing)})",
                hint=f"did you mean {near!r}?" if near else None,
            )
        listing = {what: listing[what]}
    if as_json:
        _print_json(listing)
        return
    for title, rows in listing.items():
        print(title)
        for row in rows:
            print(f"  {row['name']:24} {row['description']}")


@app.command()
def show(
    what: Annotated[
        str, typer.Argument(metavar="NAME", help="A recipe file, or a kind: pgd, lora, tickets.magnitude.")
    ],
    overrides: Overrides = None,
    resolved: Annotated[bool, typer.Option(help="Print the recipe with every default filled in.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show a recipe (with --resolved: every default), or a kind's documentation and its keys."""
    if Path(what).suffix in {".yaml", ".yml"} or Path(what).is_file():
        from robusweep.recipe import load_recipe
        from robusweep.sweep.run import as_yaml

        loaded = load_recipe(what, overrides)
        if as_json:
            _print_json(loaded.recipe.model_dump(mode="json"))
        elif resolved or overrides:
            print(as_yaml(loaded.recipe), end="")
        else:
            print(Path(what).read_text(encoding="utf-8"), end="")
        return
    from robusweep.catalogue import describe_kind

    shown = describe_kind(what)
    if as_json:
        _print_json(shown[0] if len(shown) == 1 else shown)
        return
    for i, kind in enumerate(shown):
        if i:
            print()
        print(f"{kind['name']} ({kind['family']})\n\n{kind['documentation']}\n\nkeys:")
        for key in kind["keys"]:
            print(f"  {key['name']:20} {key['type']:34} default {key['default']}")


@app.command()
def cp(
    source: Annotated[str, typer.Argument(help="A recipe or a search space.")],
    target: Annotated[Path, typer.Argument(help="Where the copy goes; its search space is copied beside it.")],
) -> None:
    """Copy a recipe to start your own from it; its search space goes with it."""
    from robusweep.catalogue import copy_recipe

    for path in copy_recipe(Path(source), target):
        print(path)


@app.command()
def status(name: RunName, root: Root = HERE, as_json: AsJson = False) -> None:
    """Show what a run is doing, from any terminal."""
    from dataclasses import asdict

    from robusweep.sweep.status import find_run, read_status

    found = read_status(find_run(root, name))
    if as_json:
        _print_json(asdict(found))
        return
    of = f" of {found.n_trials}" if found.n_trials else ""
    print(
        f"{found.name}: {'running' if found.running else 'not running'}, {len(found.trials)}{of} trials begun, ", end=""
    )
    saved = f", about {found.n_queries_saved:,} queries saved" if found.n_queries_saved else ""
    saved += f", {found.n_epochs_saved:,} epochs of training saved" if found.n_epochs_saved else ""
    stopped = f", {found.n_stopped} stopped early{saved}" if found.n_stopped else ""
    infeasible = f", {found.n_infeasible} miss a constraint" if found.n_infeasible else ""
    print(f"{found.n_points} points, {found.n_front} on the front{infeasible}{stopped}")
    for line in (found.growth, found.ended and f"ended before its budget was spent: {found.ended}"):
        if line:
            print(f"  {line}")
    width = max([12, *(len(row.standing) for row in found.trials)])
    for row in found.trials:
        print(f"  {row.id}  {row.standing:{width}} {row.last}{f' ({row.doing})' if row.doing else ''}")


@app.command()
def pareto(
    name: RunName,
    pick: Annotated[
        str | None,
        typer.Option(help="One point only: knee, best, a point's id, max_robust@clean>=X or max_clean@robust>=X."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Dominated points, too.")] = False,
    chances: Annotated[
        bool, typer.Option("--chances", help="How often a point is on the front when the examples are drawn again.")
    ] = False,
    static: Annotated[
        bool, typer.Option("--static", help="Also a table of rates on texts made against the clean adapter.")
    ] = False,
    unaided: Annotated[
        bool, typer.Option("--unaided", help="Also a table of rates without texts that break single adapters.")
    ] = False,
    root: Root = HERE,
    as_json: AsJson = False,
) -> None:
    """Show the Pareto front of a run: the points that no other beats in every objective."""
    from robusweep.front import nearest_to_feasible
    from robusweep.pick import pick as picked
    from robusweep.sweep.status import find_run, read_points

    run_dir = find_run(root, name)
    points = read_points(run_dir)
    if not pick and not everything and (missed := nearest_to_feasible(points)):
        raise EmptyFrontError(missed, hint=f"robusweep pareto {name} --all lists all points")
    chosen = [picked(points, pick)] if pick else points if everything else [p for p in points if p.pareto]
    shares = None
    if chances:
        from robusweep.membership import front_probabilities

        shares = front_probabilities(run_dir, points)
    if as_json:
        more = {} if shares is None else {p.id: {"front_probability": shares.get(p.id)} for p in chosen}
        _print_json([p.model_dump(mode="json") | more.get(p.id, {}) for p in chosen])
    else:
        from robusweep.report.terminal import apart_table

        _print_front(chosen, with_dominated=True, probabilities=shares)
        if static:
            _print_wide(apart_table(chosen, "static"), least=80)
        if unaided:
            _print_wide(apart_table(chosen, "unaided"), least=80)


@app.command()
def compare(
    first: Annotated[str, typer.Argument(metavar="RUN/POINT", help="A point, such as my-run/t003.01, or my-run/knee.")],
    second: Annotated[str, typer.Argument(metavar="RUN/POINT", help="Another, scored under the same protocol.")],
    root: Root = HERE,
    as_json: AsJson = False,
) -> None:
    """Compare two points on the same examples: the difference with its interval, and McNemar's exact test."""
    from robusweep.compare import compare as compared

    found = compared(root, first, second).as_json()
    if as_json:
        _print_json(found)
    else:
        from robusweep.report.terminal import comparison_table

        _print_wide(comparison_table(found))


@app.command()
def confirm(
    name: RunName,
    pick: Annotated[
        list[str] | None,
        typer.Option(
            help="front (when left out), knee, a point's id, or a rule as of pareto; may be given several times."
        ),
    ] = None,
    n: Annotated[int | None, typer.Option("--n", min=1, help="Test texts to attack; all when left out.")] = None,
    retrain: Annotated[int, typer.Option(min=0, help="Train each configuration again with so many seeds.")] = 0,
    root: Root = HERE,
    as_json: AsJson = False,
) -> None:
    """Attack chosen points on the test split with a fresh seed: what is left of rates that they were chosen for."""
    from robusweep.confirm import FRONT
    from robusweep.confirm import confirm as confirmed

    found = [one.shown() for one in confirmed(root, name, pick or [FRONT], n=n, n_retrained=retrain, say=_note)]
    if as_json:
        _print_json(found)
    else:
        from robusweep.report.terminal import confirmation_table

        _print_wide(confirmation_table(found))


@app.command()
def gate(
    name: RunName,
    expressions: Annotated[
        list[str],
        typer.Argument(
            metavar="CONDITION...",
            help="Such as 'robust_accuracy.low >= 0.4 and clean_accuracy >= 0.9'; all must hold.",
        ),
    ],
    pick: Annotated[
        str,
        typer.Option(
            help="knee, best, a point's id, max_robust@clean>=X, max_clean@robust>=X; any: some point will do."
        ),
    ] = "knee",
    root: Root = HERE,
    as_json: AsJson = False,
) -> None:
    """Check conditions on a point of a run, for scripts: exit code 0 when all hold, 5 when one does not."""
    from dataclasses import asdict

    from robusweep.gate import gate as checked
    from robusweep.sweep.status import find_run, read_points

    found = checked(read_points(find_run(root, name)), expressions, pick)
    if as_json:
        _print_json(asdict(found))
    else:
        for row in found.checked:
            print(f"{found.point}  {'holds' if row.holds else 'FAILS'}  {row.condition}  (it is {row.value:.4g})")
    if not found.passed:
        raise typer.Exit(5)


@app.command()
def report(name: RunName, root: Root = HERE) -> None:
    """Write report.html, report.md, report.json and the figures again from the records."""
    from robusweep.sweep.rebuild import rebuild_reports
    from robusweep.sweep.status import find_run

    for path in rebuild_reports(find_run(root, name)):
        print(path)


@app.command()
def export(
    name: RunName,
    out: Annotated[Path, typer.Option(help="Folder to make; it must not exist, or be empty.")],
    pick: Annotated[
        str,
        typer.Option(help="knee, best, a point's id, max_robust@clean>=X or max_clean@robust>=X (quote the last two)."),
    ] = "knee",
    form: Annotated[
        str, typer.Option("--format", help="hf: for transformers. mlflow: for MLflow. onnx: for ONNX Runtime.")
    ] = "hf",
    register: Annotated[
        str | None, typer.Option(help="Name in MLflow's model registry; needs --format mlflow.")
    ] = None,
    root: Root = HERE,
) -> None:
    """Write a scored point as a model folder with a model card, checked to answer as the trained point did."""
    from robusweep.export import export as exported

    command = f"robusweep {shlex.join(sys.argv[1:])}"
    exported(root, name, pick, out=out, form=form, register=register, command=command, say=_note)
    print(out)


@app.command()
def predict(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A folder saved by save_pretrained, or a hub name.")],
    texts: Annotated[list[str] | None, typer.Option("--text", help="A text; may be given several times.")] = None,
    file: Annotated[Path | None, typer.Option(help="Texts: .csv, .tsv, .jsonl, or .txt with one on each line.")] = None,
    text_column: Annotated[str, typer.Option(help="Name of the column of the texts.")] = "text",
    out: Annotated[Path | None, typer.Option(help="File for the predictions: .csv or .jsonl.")] = None,
    temperature: Annotated[
        bool, typer.Option(help="Divide logits by the temperature that was exported with the model.")
    ] = True,
    batch_tokens: Annotated[
        int | None, typer.Option(min=1, help="At most so many tokens at once, where memory is short.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=8, help="Longer texts are cut.")] = 512,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16.")] = "auto",
    as_json: AsJson = False,
) -> None:
    """Label texts with a trained classifier: the label, and the probability of each class. Files may be of any size."""
    from robusweep.predict import TextFile, check_out, load_classifier, written
    from robusweep.predict import as_json as row_of

    if (file is None) == (not texts):
        raise UsageError("give the texts: either --text, once or more, or --file")
    if out is not None:
        check_out(out, file)
    source = TextFile(file, text_column) if file is not None else None
    classifier = load_classifier(
        model,
        device=device,
        precision=precision,  # type: ignore[arg-type]  # checked there
        max_tokens=max_tokens,
        temperature=temperature,
        n_tokens=batch_tokens,
    )
    names, used = classifier.label_names, classifier.temperature
    facts = {"model": model, "temperature": used, "precision": classifier.precision, "labels": list(names)}
    with PredictDisplay() as display:
        display.say(f"{'no temperature' if used is None else f'temperature {used:.6g}'}, {classifier.precision}")
        chunks = display.following(classifier(source or texts or []), source, prints=out is None)
        if out is not None:
            with written(out, names, classifier.member_names) as write:
                for chunk in chunks:
                    write(chunk)
            if as_json:
                _print_json({**facts, "n": display.n, "counts": dict(display.counts), "out": str(out)}, one_line=True)
            else:
                print(out)
        elif as_json:  # one value, a row at a time: there may be millions
            print(json.dumps({**facts, "predictions": []}, ensure_ascii=False)[:-2])
            for i, prediction in enumerate(p for chunk in chunks for p in chunk):
                row = row_of(prediction, names, classifier.member_names)
                print(f"{',' if i else ''}{json.dumps(row, ensure_ascii=False)}")
            print("]}", flush=True)
        else:
            for prediction in (p for chunk in chunks for p in chunk):
                print(f"{prediction.label}  {max(prediction.probabilities):.4f}  {prediction.text}")


@app.command()
def serve(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A folder of robusweep export, in any format but onnx.")
    ],
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 5001,
    host: Annotated[str, typer.Option(help="Address to listen on. Nobody is asked for a password.")] = "127.0.0.1",
    max_texts: Annotated[int, typer.Option(min=1, help="A request with more texts is refused.")] = 256,
    max_characters: Annotated[int, typer.Option(min=1, help="A request with a longer text is refused.")] = 20_000,
    workers: Annotated[int, typer.Option(min=1, help="Processes that answer; each holds the model.")] = 1,
) -> None:
    """Answer requests for labels over HTTP, with MLflow's model server, on this machine only."""
    from robusweep.tracking import serve as start

    limits = {"max_texts": max_texts, "max_characters": max_characters}
    raise typer.Exit(start(model, host=host, port=port, workers=workers, say=_say, **limits))


@app.command()
def ui(
    root: Root = HERE,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 5000,
) -> None:
    """Start the MLflow pages, on this machine only, and print the links that list the front."""
    from robusweep.tracking import ui as start

    raise typer.Exit(start(root, host=host, port=port))


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check this machine: packages, device, data, models and lexical resources, and how to get what is missing."""
    from robusweep.catalogue import examine

    rows = examine()
    if as_json:
        _print_json(rows)
    else:
        for row in rows:
            print(f"{'ok     ' if row['ok'] else 'MISSING'} {row['name']:28} {row['detail']}")
    if any(not row["ok"] and row["required"] for row in rows):
        raise typer.Exit(3)


@app.command()
def schema(
    out: Annotated[Path | None, typer.Option(help="File to write; stdout when left out.")] = None,
    space: Annotated[bool, typer.Option(help="The schema of search spaces instead of recipes.")] = False,
) -> None:
    """Write the JSON schema of recipes, for completion and checks in an editor."""
    from robusweep.catalogue import json_schema
    from robusweep.record import write_text

    text = json.dumps(json_schema(space=space), indent=2) + "\n"
    if out is None:
        print(text, end="")
    else:
        write_text(out, text)
        print(out)


@cache_app.command(name="ls")
def cache_ls(root: Root = HERE, as_json: AsJson = False) -> None:
    """List what lies in this machine's cache by kind: how many, how large, and when it was last used."""
    from dataclasses import asdict

    from robusweep.upkeep import age_text, listed, n_owed, size_text, total_bytes

    groups, owed = listed(root), n_owed(root)
    if as_json:
        kinds = [asdict(group) for group in groups]
        _print_json({"cache": str(root / "cache"), "kinds": kinds, "n_bytes": total_bytes(groups), "n_owed": owed})
        return
    for group in groups:
        ages = " to ".join(dict.fromkeys(map(age_text, (group.last_use_days, group.longest_unused_days))))
        print(f"{group.kind:12} {group.n:7,}  {size_text(group.n_bytes):>9}  used {ages + ' ago':26} {group.what}")
    print(f"{'in all':12} {sum(group.n for group in groups):7,}  {size_text(total_bytes(groups)):>9}  {root / 'cache'}")
    if owed:
        print(f"{owed} of them are still to be pushed to a store")


@cache_app.command(name="prune")
def cache_prune(
    older_than: Annotated[
        float | None,
        typer.Option(min=0, metavar="DAYS", help="Also remove all that was neither read nor written for so long."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go; remove nothing.")] = False,
    root: Root = HERE,
    as_json: AsJson = False,
) -> None:
    """Remove half-trained states that nobody needs and rests of killed processes from this machine's cache.

    What goes is made again where it is asked for. What a run has used since it began stays while it runs, as does what
    any process holds, and what a store has not got yet. A store itself (resources.storage) is left as it is.
    """
    from dataclasses import asdict

    from robusweep.upkeep import prune, size_text, total_bytes

    pruned = prune(root, older_than_days=older_than, dry_run=dry_run)
    n_bytes = total_bytes(pruned.groups)
    if as_json:
        _print_json(asdict(pruned) | {"n_bytes": n_bytes})
        return
    for group in pruned.groups:
        print(f"{group.kind:12} {group.n:7,}  {size_text(group.n_bytes):>9}  {group.what}")
    print(f"{'would go' if dry_run else 'removed'}: {sum(g.n for g in pruned.groups):,}, {size_text(n_bytes)}")
    if pruned.n_kept:
        print(f"{pruned.n_kept:,} more are in use by a run or a process, or still to be pushed to a store")


@app.callback(invoke_without_command=True)
def _options(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(f"robusweep {__version__}")
        raise typer.Exit


def _print_json(value: Any, *, one_line: bool = False) -> None:
    print(json.dumps(value, indent=None if one_line else 2, ensure_ascii=False, allow_nan=False), flush=True)


def _say(text: str) -> None:
    print(text, flush=True)


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _print_front(
    points: list[Any], *, with_dominated: bool = False, probabilities: dict[str, float] | None = None
) -> None:
    from robusweep.report.terminal import front_table

    width = _width()
    table = front_table(points, with_dominated=with_dominated, probabilities=probabilities, width=width)
    _print_wide(table, least=80)


def _print_wide(table: Any, *, least: int = 100) -> None:
    """A table of rich, at least so many columns wide also where the terminal is narrower, or none."""
    from rich.console import Console

    Console(width=max(least, _width())).print(table)


def _width() -> int:
    """Columns of the terminal; 120 where there is none."""
    return shutil.get_terminal_size((120, 24)).columns


def _rate(rate: Any) -> str:
    return f"{rate.value:.1%} [{rate.low:.1%}, {rate.high:.1%}] n={rate.n}"


def _root_option(root: Path) -> str:
    return f" --root {root}" if root != HERE else ""


def main() -> None:
    """Run the command; end with the exit code of what went wrong, and one line about it on stderr."""
    try:
        app()
    except RobusweepError as e:
        print(f"error: {e}", file=sys.stderr)
        sys.exit(e.exit_code)
    except SystemExit as e:
        if e.code == INTERRUPTED:
            print("\ninterrupted; nothing finished is lost. Continue with:", file=sys.stderr)
            print(f"  robusweep {shlex.join(sys.argv[1:])}", file=sys.stderr)
        raise
