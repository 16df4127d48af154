"""Write the parts of the documentation that follow from the code.

python docs/generate.py           writes docs/recipe.md, docs/commands.md and the marked blocks of README.md and
                                  docs/resources.md
python docs/generate.py --check   writes nothing; exits 1 when one of them is stale
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from inspect import cleandoc
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from typer.main import get_command

from robusweep.attacks import PROTOCOLS, attack_kinds
from robusweep.attacks.neighbours import NeighbourFile
from robusweep.attacks.originals import LanguageModel, Never, OriginalRecipe
from robusweep.attacks.protocol import FOLDER, ChangedProtocol, Protocol
from robusweep.catalogue import FAMILIES, kinds
from robusweep.cli import app
from robusweep.front import Constraint
from robusweep.halving import PRESETS, Halving
from robusweep.hypervolume import Saturation
from robusweep.pruning import Pruning
from robusweep.race import Race
from robusweep.recipe import Recipe
from robusweep.record import FLAGS
from robusweep.space import Dimension

ROOT = Path(__file__).resolve().parents[1]
NOTE = "<!-- Written by docs/generate.py from the code. Do not edit. -->\n"
LENGTHS = ("min_length", "max_length")
BLOCK = re.compile(r"(<!-- generated: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)

# What a key means, by the class that defines it, or a base of that class when several kinds share a key.
# `Field(description=...)` in the class itself comes first.
MEANINGS = {
    "Recipe.version": "Version of the format.",
    "Recipe.name": "Name of the run: its folder is `runs/<name>`, its MLflow experiment `robusweep/<name>`.",
    "Recipe.seed": "Every random draw comes from this number and the name of what is drawn.",
    "Recipe.data": "The labelled texts.",
    "Recipe.model": "The pre-trained encoder.",
    "Recipe.adapter": "What is trained on the encoder. The classification head belongs to it.",
    "Recipe.ticket": "Which heads and neurons are kept before anything is trained; null keeps all.",
    "Ticket.head_density": "Fraction of the attention heads that is kept.",
    "Ticket.neuron_density": "Fraction of the feed-forward neurons that is kept.",
    "Ticket.scope": "`global`: the fractions are of all layers together; `layer`: of each one.",
    "Ticket.min_neurons": "Neurons that every layer keeps at least; one head is kept in any case.",
    "Ticket.round_to": "Each layer's number of neurons is raised to a multiple of this.",
    "Searched.adversary": "How embeddings are perturbed in the search.",
    "Searched.n_steps": "Steps of the perturbation.",
    "Searched.step_size": "Length of a step, L2 over a text's tokens.",
    "Searched.init_magnitude": "Size of the random start.",
    "Searched.max_norm": "L2 ball around a text's embeddings; null is unbounded.",
    "Searched.weight_decay": "Of the weights, while they learn; coefficients have none.",
    "Searched.warmup": "Share of `n_epochs` until the peak of a learning rate; linear decay to 0 follows.",
    "Searched.max_grad_norm": "Gradients are clipped to this L2 length, those of all that learns together.",
    "Searched.batch_size": "Texts in a step.",
    "Searched.batches": "`grouped`: of texts of similar length. `shuffled`: of any.",
    "Searched.n_epochs": "Length of the learning rate's schedule.",
    "Searched.gaps_per_epoch": "How often masks are compared.",
    "EarlyBird.l1_heads": "Weight of the sum of the heads' absolute coefficients in the loss.",
    "EarlyBird.l1_neurons": "The same of the neurons'.",
    "EarlyBird.learning_rate": "Peak learning rate of the search.",
    "EarlyBird.coefficient_rate": "A learning rate for the coefficients; null takes the weights'.",
    "EarlyBird.max_epochs": "After so many epochs the search ends in any case.",
    "EarlyBird.threshold": "Masks that differ in a smaller fraction count as settled; null draws after `draw_epoch`.",
    "EarlyBird.window": "Gaps over which they have to be settled.",
    "EarlyBird.take": "Whether the ticket is drawn at the first or the last gap of that window.",
    "EarlyBird.draw_epoch": "Where the ticket is drawn with `threshold: null`.",
    "RobustTicket.tuning_epochs": "Epochs of plain training of all weights before the search; 0 learns gates on the "
    "network as it is, whose head is untrained.",
    "RobustTicket.tuning_rate": "Its peak learning rate.",
    "RobustTicket.gate_rate": "Peak learning rate of the gates' locations.",
    "RobustTicket.init_gate": "Every gate without noise, at first.",
    "RobustTicket.l0": "What the expected share of open gates counts in the loss.",
    "RobustTicket.l0_start": "Share of the search until it counts.",
    "RobustTicket.l0_ramp": "Share of the search over which it then grows to `l0`.",
    "RobustTicket.draw_epoch": "Epochs of the search after which the ticket is drawn; null: at its end.",
    "Recipe.train": "How the clean adapter is trained.",
    "Recipe.adversarial": "One more adapter for each entry. Needs `mix`.",
    "Recipe.mix": "How the adapters become one model. Needs `adversarial`. Null scores the clean adapter.",
    "Recipe.prune": "What is removed from the mixed network before it is scored; null removes nothing. Needs a mix "
    "with one set of weights, and an adapter that folds into them.",
    "Pruning.sparsity": "Share of the weights, or of the heads and of the neurons of each layer, that is removed.",
    "Pruning.units": "`weights`: single ones, which makes nothing smaller. `structured`: whole heads and neurons.",
    "Pruning.n_texts": "Training texts that calibrate it, the first ones. At most `data.n_train`.",
    "Akr.damping": "What holds maps back where texts say little, as a share of the mean square of an input.",
    "Akr.resolve": "Whether a map is first solved for what it reads behind pruned ones.",
    "Recipe.attacks": "The attacks, and the examples that they run on.",
    "Recipe.search": "The sweep. A recipe without it runs with `robusweep trial`.",
    "Recipe.resources": "Where trials run. Only `precision` and the kind of device can change a number.",
    "DataSource.n_train": "Examples to train on. Drawn last: a larger value moves no example out of another split.",
    "DataSource.n_validation": "Examples for clean accuracy; the first `attacks.n_examples` of them are attacked.",
    "DataSource.n_calibration": "Examples that the temperature is fitted on.",
    "DataSource.n_test": "Examples kept apart. No command reads them yet.",
    "DataSource.max_words": "Keep the first so many words of each text; null keeps all (at most 5,000).",
    "AgNews.path": "Folder with `test.csv` and `train.csv` or `train_5k.csv`, relative to the recipe.",
    "AgNews.stand_in": "Corpus to read, with a notice, when AG News can't be had: a kind, or a block with sizes of "
    "its own. Null refuses.",
    "StandInBlock.kind": "The corpus.",
    "StandInBlock.n_train": "As for AG News; null takes the size asked of AG News.",
    "StandInBlock.n_validation": "The same.",
    "StandInBlock.n_calibration": "The same.",
    "StandInBlock.n_test": "The same.",
    "StandInBlock.max_words": "The same.",
    "LabelledFile.path": "The file, relative to the recipe.",
    "LabelledFile.text": "Name of the column (or JSON key) of the texts.",
    "LabelledFile.label": "Name of the column of the labels: text or integers, at most 100 different ones.",
    "LabelledFile.test_path": "A file of official test rows in the same format; null draws the test split from `path`.",
    "BaseEncoder.base": "A hub name, a folder (begin it with `./`, `../`, `~/` or `/`) or `minilm_l6`.",
    "BaseEncoder.stand_in": "What is used, with a notice, when `base` is a hub name and the hub can't be reached. "
    "Null refuses.",
    "BaseEncoder.max_tokens": "Longer texts are cut.",
    "BaseEncoder.attention": "Which implementation computes attention; `auto` takes PyTorch's scaled dot product where "
    "the model has it.",
    "BaseEncoder.dropout": "Every dropout rate of the encoder; null keeps the model's own.",
    "Lora.variant": "`rslora` scales by `alpha / sqrt(rank)`; `dora` trains the lengths of rows, too.",
    "Lora.rank": "Rank of the update.",
    "Lora.alpha": "The update is scaled by `alpha / rank`.",
    "Lora.dropout": "Dropout on the adapter's input.",
    "Lora.targets": "The linear maps that get an update: three of attention, its `output`, and the feed-forward "
    "network's `up` and `down`.",
    "Lora.layers": "Only in the top so many layers; null: in all.",
    "Oft.block_size": "Inputs that are rotated together; has to divide the width of the maps.",
    "Oft.targets": "The linear maps whose inputs are rotated, as for `lora`.",
    "Oft.layers": "Only in the top so many layers; null: in all.",
    "Ia3.layers": "Only in the top so many layers; null: in all.",
    "Houlsby.reduction": "The hidden size is divided by it for the width of a bottleneck, which is 1 at least.",
    "Houlsby.activation": "What stands between the two maps.",
    "Houlsby.layers": "Only in the top so many layers; null: in all.",
    "Pfeiffer.reduction": "As for `houlsby`.",
    "Pfeiffer.activation": "As for `houlsby`.",
    "Pfeiffer.layers": "Only in the top so many layers; null: in all.",
    "Prefix.length": "Rows before the keys, and as many before the values, of each layer.",
    "Prefix.layers": "Only in the top so many layers; null: in all.",
    "Prompt.length": "Rows that go through the layers with the text.",
    "Rift.weight": "What the term counts beside the loss of the training method.",
    "Rift.temperature": "Cosines are divided by it: the smaller, the more the nearest other text counts.",
    "Rift.projection_hidden": "Width of the hidden layer of the projections.",
    "Rift.projection_size": "Width of what they give.",
    "SelfRegularisation.weight": "What the term counts beside the loss of the training method.",
    "Dps.frozen": "Share of each matrix that rests in a second stage; 0 is plain training bit for bit.",
    "Dps.update_ratio": "Length of a stage as a share of all steps; at least one step.",
    "Last.rate": "How far a step goes towards where the proxy arrives.",
    "Last.proxy_rate": "Length of the proxy's gradient step, without schedule; null lets AdamW take the step.",
    "Last.distillation": "Share of the loss that is the KL of the proxy's perturbed answer against its clean one.",
    "Last.temperature": "Logits in that KL are divided by it.",
    "TrainingMethod.n_epochs": "Passes over the training split.",
    "TrainingMethod.learning_rate": "Peak learning rate of AdamW.",
    "TrainingMethod.batch_size": "Examples in a step.",
    "TrainingMethod.weight_decay": "Decoupled weight decay.",
    "TrainingMethod.warmup": "Share of all steps until the peak is reached; linear decay to 0 follows.",
    "TrainingMethod.max_grad_norm": "Gradients are clipped to this L2 length.",
    "TrainingMethod.accumulate": "Parts that a batch is computed in: memory changes, the gradient does not.",
    "TrainingMethod.patience": "Epochs without a better validation accuracy before training ends and the best epoch's "
    "weights are kept; null trains all epochs and keeps the last.",
    "TrainingMethod.regularisers": "Terms added to the loss of every pass that learns (below).",
    "TrainingMethod.update": "Which weights a step moves, or how: `dps`, `last` (below); null: AdamW moves all.",
    "LabelSmoothing.smoothing": "Mass of a target that goes evenly to all classes; 0 is `standard`.",
    "HighTemperature.temperature": "Logits are divided by it in training, and not in use; 1 is `standard`.",
    "Perturbed.radius": "The ball that holds the perturbation: a number, or a block (below).",
    "Perturbed.radius_warmup": "Share of all steps over which the radius grows linearly from 0 to its value.",
    "Ascending.n_steps": "Ascent steps for each batch; for `freelb`, `freelb_pp` and `tavat` passes that learn.",
    "Ascending.step_size": "Length of one step; null takes 1.5 × radius / n_steps (`smart`: 0.001).",
    "Ascending.init_size": "Size of the random start; 0 starts at the clean embeddings. `smart`: standard deviation of "
    "each coordinate.",
    "Pgd.clean_weight": "What the clean texts' loss counts beside the perturbed ones' 1.",
    "Smart.normalise": "`paper_ball` keeps the radius; `mtdnn_unit` is the authors' code, which has none.",
    "Smart.weight": "Weight of the symmetric KL in the loss.",
    "Smart.proximal_weight": "Weight of the symmetric KL to a running mean of the weights; 0 leaves it out.",
    "Smart.proximal_momentum": "How slowly that mean follows.",
    "Smart.dropout": "Whether the perturbed pass that learns has dropout masks of its own.",
    "Vat.weight": "Weight of the KL in the loss.",
    "Vat.n_steps": "Power iterations.",
    "Vat.probe_size": "Length at which the KL's gradient is taken; null takes a tenth of the radius.",
    "R3f.weight": "Weight of the symmetric KL in the loss.",
    "R3f.noise": "How the noise is drawn; `normal` is not bounded.",
    "R3f.dropout": "Whether the noisy pass has dropout masks of its own, which adds R-Drop's term.",
    "RDrop.weight": "Weight of the mean of both KLs in the loss.",
    "Asa.tau": "Its square is what a kept pair of tokens costs the model: the larger, the fewer pairs are hidden.",
    "Asa.weight": "Weight of half the symmetric KL in the loss.",
    "Asa.penalty": "Which kept pairs count: all, those of real tokens, or the share of those.",
    "Asa.warmup_share": "Share of the run that is clean, before the adversary sets in.",
    "Asa.dropout": "Whether the masked pass has dropout masks of its own.",
    "Augmented.source": "Who changes texts: `synonyms` (WordNet), `eda` (one of four random edits) or `attack`. "
    "`none`, where it is allowed, changes none.",
    "Augmented.share": "Changed texts for each clean one; at most 1 with `source: attack`. Fewer come out where a text "
    "has no synonym, or an attack fails.",
    "Augmented.words_changed": "Share of a text's words that a change touches, one at least. Not for `attack`.",
    "Augmented.loss_weight": "What a changed text's loss counts beside a clean one's 1.",
    "Augmented.attack": "The attack's kind, or a list of them, with `source: attack` only. It runs as `attacks.known` "
    "lists it, else with its defaults, under `attacks.protocol`; it may not be held out.",
    "Augmented.n_queries": "Budget of queries for each training text, in place of the protocol's.",
    "TextAttackTraining.attack": "As for `augment`.",
    "TextAttackTraining.clean_epochs": "Epochs before the first attack; fewer than `n_epochs`.",
    "TextAttackTraining.every": "Epochs from one attack to the next; the texts found are kept in between.",
    "TextAttackTraining.share": "Attacked texts that turned, at most, as a share of the clean ones; 0 is `standard` "
    "bit for bit.",
    "TextAttackTraining.loss_weight": "What an attacked text's loss counts beside a clean one's 1.",
    "TextAttackTraining.n_queries": "Budget of queries for each training text, in place of the protocol's.",
    "Ascc.n_steps": "Steps of Adam on the weights of synonyms, for each batch.",
    "Ascc.search_rate": "Their learning rate.",
    "Ascc.sparsity": "What the mean entropy of a word's weights costs the search: a large one leads to one synonym.",
    "Ascc.kl_weight": "Weight of KL(clean || moved) in the loss.",
    "Ascc.n_synonyms": "Synonyms of a word that take part, at most.",
    "MixAda.alpha": "Of the Beta(alpha, alpha) that shares come from: the smaller, the nearer to an unmixed text.",
    "MixAda.mix_at": "`features`: what the classifier reads. `layer:k`: behind the k-th layer, from 1.",
    "Radius.value": "Radius in embedding units; 0 is clean training bit for bit, null is unbounded.",
    "Radius.norm": "Norm of the ball.",
    "Radius.scope": "What one ball holds: the whole text, each token, or each coordinate.",
    "Radius.length_scale": "`sqrt_tokens` multiplies the radius by the square root of the number of tokens.",
    "Radius.space": "`word`: word embeddings before position and LayerNorm. `post_ln`: the embedding module's output. "
    "`layer:k`: the output of the k-th layer, from 1.",
    "Radius.project_init": "Whether the random start is moved into the ball.",
    "Radius.special_tokens": "Whether the first and last token are perturbed too.",
    "AdpMixup.weighting": "`fixed` and `grid_validation`: one weight for every text. The others: by the entropy of the "
    "adapters' predictions for each text.",
    "AdpMixup.weight": "Of `fixed`: share of the adversarial adapters. 0 is the clean one, 1 the (mean) adversarial "
    "one.",
    "AdpMixup.space": "What is mixed: changes of weights, their two factors (LoRA), or the adapter's own weights; null "
    "takes what is exact for the adapter.",
    "AdpMixup.leave_out": "The adversarial adapter, from 0, that takes no part: leave-one-attack-out.",
    "AdpMixup.clean_share": "Of `grid_validation`: what clean accuracy counts beside accuracy under attack.",
    "AdpMixup.sharpness": "Of `entropy_softmax`: the larger, the more the most certain adapter counts.",
    "AdpMixup.n_steps": "Of `emea`: gradient steps for each text.",
    "AdpMixup.step_size": "Of `emea`: what the gradient is multiplied by.",
    "Uniform.leave_out": "The adversarial adapter, from 0, that takes no part.",
    "Ties.density": "Share of each parameter's changes that is kept, the largest ones.",
    "Ties.scale": "Multiplies the merged change.",
    "Dare.weight": "As for `adpmixup`.",
    "Dare.density": "Chance of a change to be kept.",
    "Dare.seed": "Of the draw.",
    "Logits.weight": "Share of the adversarial adapters in the mean of probabilities.",
    "Logits.leave_out": "The adversarial adapter, from 0, that takes no part.",
    "Logits.bend": "Whether the adversarial adapters' logits are changed first.",
    "Logits.scale": "Of `bend`: multiplies the result.",
    "Logits.exponent": "Of `bend`: the power.",
    "Logits.shift": "Of `bend`: added to the standardised logits, before they are cut at 0.",
    "EmulatedFineTuning.large": "A trained classifier with the same labels and tokenizer: a folder (begin it with "
    "`./`, `../`, `~/` or `/`) or a hub name.",
    "EmulatedFineTuning.beta": "How much of the change is added; 0 is the large model.",
    "Augment.only_changed": "Leave the clean texts out.",
    "DeepWordBug.max_edit_distance": "Levenshtein distance in characters, over the whole text.",
    "TextFoolerNeighbours.neighbours": "A JSON file of word -> its neighbours, nearest first (relative paths from the "
    "recipe's folder); null takes `lexicon/counterfitted_neighbors.json` below `$ROBUSWEEP_DATA`.",
    "TextFoolerNeighbours.lazy": "As for `textfooler_wordnet`.",
    "TextFoolerWordNet.lazy": "Ask the model about all candidates of a word first, and measure similarity from the "
    "most damaging one down: fewer sentence vectors, more queries, and the same texts unless a budget ends the search. "
    "Has no effect under `library_default_v1`.",
    "Pruthi.max_words": "Words that may change; the protocol's share holds too.",
    "HotFlipWordNet.beam": "Texts that are kept after each flip.",
    "HotFlipWordNet.flips": "Flips of each kept text that the model is asked about, the most promising ones.",
    "HotFlipWordNet.max_words": "Words that may change; the protocol's share holds too.",
    "HardLabelWordNet.restarts": "Random walks from the unchanged text before the search gives up.",
    "Attack.population": "Texts that are held at once: a generation, or a swarm.",
    "Attack.max_iterations": "Generations, or steps of the swarm.",
    "Attack.language_model": "The model that proposes or accepts words: a folder saved by `save_pretrained` (relative "
    "to the recipe when it begins with `./` or `../`), or a name that the hub's cache holds. Nothing is downloaded.",
    "OriginalRecipe.stand_in": "What runs in its place, with a notice, where its resources are missing. Null refuses.",
    "Suite.protocol": "What attacks may change and ask: a name, or a block that changes rules; see "
    "[Protocols](#protocols).",
    "Suite.known": "Attacks that score and select. An entry is a kind (`pwws`) or a block (`{kind: pwws}`).",
    "Suite.held_out": "Attacks that are reported apart and select nothing.",
    "Suite.n_examples": "Validation examples that are attacked, the same for every point. At most `data.n_validation`.",
    "Suite.calibrate": "Divide logits by a temperature fitted on the calibration split before attacking.",
    "Suite.replay": "Texts that an attack found against one point of a trial are tried on its other points, too. Part "
    "of the protocol hash: rates with and without it are not compared.",
    "Suite.adaptive": "Where mixing weights depend on the text: also try on the whole what breaks a single adapter or "
    "their even mean. Without it such points carry a flag.",
    "Suite.static": "Also give every point the texts with which the attacks broke the clean adapter, and report the "
    "accuracy on them apart.",
    "Suite.race": "Stop attacking points that others dominate: a block (below), or `{}` for its defaults. The sweep "
    "may have the objectives `clean_accuracy` and `robust_accuracy` only, both to be maximised.",
    "Race.error": "Bound on the chance that the race of one trial stops any point in favour of one that is not more "
    "robust.",
    "Race.first": "Examples before the first comparison.",
    "Race.growth": "The number of examples grows by this factor from one comparison to the next.",
    "ChangedProtocol.base": "The shipped protocol whose rules hold where no other is given.",
    "ChangedProtocol.max_words_changed": "Share of a text's words that may change, rounded down; one word may always "
    "change.",
    "ChangedProtocol.long_text_words": "From so many words on a text is long, and `max_words_changed_long` holds for "
    "it. Both or neither.",
    "ChangedProtocol.max_words_changed_long": "The share for long texts.",
    "ChangedProtocol.max_candidates": "Replacements that are tried for one word.",
    "ChangedProtocol.min_similarity": "Least cosine of MiniLM sentence vectors of original and changed text, block by "
    "block: the lowest block counts. Not for attacks that edit characters only.",
    "ChangedProtocol.similarity_block": "A text is cut into equal blocks of about so many words; each block with a "
    "change is compared by itself. Null compares whole texts.",
    "ChangedProtocol.same_part_of_speech": "A replacement has the part of speech of the word it replaces. Not for "
    "attacks that edit characters only.",
    "ChangedProtocol.query_budget": "Texts that an attack may ask about for one example, counted as TextAttack does: a "
    "number, or `candidates_x_words` (`max_candidates` times the words of the text). Null: no limit.",
    "ChangedProtocol.no_stop_words": "Function words (the, of, not) stay as they are, in upper case and in lower case.",
    "ChangedProtocol.no_repeat": "A word that was changed is not changed again.",
    "Protocol.library_constraints": "Each attack keeps the constraints of its own TextAttack recipe; no other rule of "
    "the protocol holds. Can't be changed by a block.",
    "Search.space": "YAML file of the search space, relative to the recipe.",
    "Search.sampler": "Who proposes the next trial.",
    "Search.objectives": "What is optimised: one to four. `metric` is `clean_accuracy`, `robust_accuracy`, "
    "`accuracy_under_attack.<known attack>`, `train_seconds`, `inference_flops` or `n_parameters`.",
    "Search.constraints": "Bounds that points must meet to be on the front; see below. Others make another sweep.",
    "Search.order": "`pareto`: `--pick best` is the knee. `lexicographic`: objectives count in the order in which they "
    "are listed, each up to its `tolerance`. Front, ranks and knee stay what they are, and the sampler sees all "
    "objectives. Changes no number: `robusweep run` on a finished sweep takes another one.",
    "Search.stop": "End the sweep when its hypervolume grows no more: a block (below), or `{}` for its defaults; null "
    "goes on until the budget is spent. May be changed between two starts of a run.",
    "Constraint.metric": "As of an objective.",
    "Constraint.at_least": "Lower bound; a point at the bound meets it.",
    "Constraint.at_most": "Upper bound; likewise.",
    "Saturation.min_gain": "Fraction by which the hypervolume has to grow for the sweep to go on.",
    "Saturation.trials": "Completed trials that have to bring it.",
    "Search.budget": "When the sweep ends.",
    "Search.early_stopping": "Stop points that fall behind those of all trials: `off`, `mild`, `strong`, or a block "
    "(below), which may stop their training, too; null is `off`. May be changed between two starts of a run; what was "
    "stopped stays so. Not together with `attacks.replay`.",
    "Halving.kind": "The rule.",
    "Halving.rungs": "Where points are compared: numbers of attacked examples, or fractions of `attacks.n_examples`; "
    "increasing. Empty: points are stopped at `epochs` alone.",
    "Halving.epochs": "Where points are compared before they are trained to the end: numbers of epochs, or fractions "
    "of each method's `n_epochs`; increasing. Empty: only whole ones are compared.",
    "Halving.epoch_examples": "Examples that are attacked at each of `epochs`, the first ones; at most "
    "`attacks.n_examples`.",
    "Halving.eta": "The best 1/eta of the points that have been at a rung go on, and their front.",
    "Halving.min_points": "Points that have to reach a rung before any is stopped there.",
    "Search.reference": "Searched keys with listed values. Reports compare every other point with the one that has "
    "them: with several, with the first that agrees in all else that is searched, else with the first. Changes no "
    "number: `robusweep run` on a finished sweep takes another one.",
    "Objective.metric": "Name of the number.",
    "Objective.goal": "Direction. Costs are `min` where it is left out.",
    "Objective.tolerance": "With `search.order: lexicographic`: how far from the best a point may be in this objective "
    "for the next one to count, in its own unit.",
    "Objective.reference_point": "The value that is worth nothing, from which the hypervolume is measured. Null: 0 for "
    "a rate, 1 for one that is minimised; with a cost that has none there is no hypervolume.",
    "Budget.n_trials": "Trials, failed ones included. Each trial gives one point for every after-training value. "
    "A larger value continues the same run.",
    "Tpe.n_startup_trials": "Points drawn at random before the estimator is used.",
    "Nsga2.population_size": "Points in a generation.",
    "Nsga3.population_size": "Points in a generation.",
    "Gp.n_startup_trials": "Points drawn at random before the process is fitted.",
    "Resources.executor": "`ray`: Ray Tune, on this machine or a cluster. `local`: processes on this machine.",
    "Resources.cpus": "CPUs of one trial; fractions are allowed. A trial uses one thread for each whole CPU.",
    "Resources.gpus": "GPUs of one trial; fractions below one are allowed. Counted by Ray only.",
    "Resources.train": "What a trial takes while its ticket and adapters are trained; null takes the trial's own. Ray "
    "only, and not with rungs of epochs.",
    "Resources.score": "The same while its points are attacked and scored.",
    "Share.cpus": "CPUs of the stage, and its threads; null takes the trial's own.",
    "Share.gpus": "GPUs of the stage, and its share of a GPU's memory; null takes the trial's own. Both stages take "
    "some, or none, so that a trial's numbers come from one kind of device.",
    "Resources.max_concurrent": "Trials at once; null takes what the machine or cluster holds.",
    "Resources.device": "`auto`: CUDA where there is one, else the CPU.",
    "Resources.storage": "A URL at which cache and records are also kept: `s3://`, `gs://`, `file:///` and whatever "
    "fsspec knows, once its package is installed. Null keeps them below `--root` alone.",
    "Resources.precision": "`auto`: bfloat16 where the hardware has it natively, else float32. Successes of an attack "
    "and clean accuracy are always decided in float32.",
    "Dimension.choice": "One of the values, chosen by the sampler: a list, or a block of named blocks.",
    "Dimension.grid": "Every value in turn: a list, or a block of named blocks.",
    "Dimension.uniform": "A number in [low, high].",
    "Dimension.log_uniform": "The same on a logarithmic scale; low is above 0.",
    "Dimension.integer": "A whole number in [low, high].",
    "Dimension.when": "The dimension exists only where other searched keys have these values.",
    "Dimension.after": "`training`: the value needs no retraining, so one trained set is scored at all of them. "
    "Only for `mix` and `prune` and keys below them, and needed there.",
}

NAMED_BLOCKS = """\
train:
  grid:
    vanilla: {kind: standard}
    pgd: {kind: pgd, radius: 0.3}
    freelb: {kind: freelb, radius: 0.3}
train.radius: {log_uniform: [0.1, 1.0], when: {train: [pgd, freelb]}}
"""


def owner(cls: type[BaseModel], key: str) -> type[BaseModel]:
    """The class that introduces a key."""
    return next(c for c in reversed(cls.__mro__) if key in c.__dict__.get("__annotations__", {}))


def meaning(cls: type[BaseModel], key: str, field: FieldInfo) -> str:
    if field.description:
        return field.description
    names = [f"{base.__name__}.{key}" for base in (owner(cls, key), *cls.__mro__)]
    found = next((name for name in names if name in MEANINGS), None)
    if found is None:
        sys.exit(f"{names[0]} has no meaning yet: give it Field(description=...), or a line in MEANINGS of {__file__}")
    return MEANINGS[found]


def is_block(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def type_text(annotation: Any) -> str:
    """A type in the words of YAML."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if hasattr(annotation, "__metadata__"):
        return type_text(inner[0])
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin is list:
        item = "value" if float in get_args(inner[0]) else type_text(inner[0])
        return f"list of {item}" if item.endswith("`") else f"list of {item}s"
    if origin is dict:
        return "block of keys"
    if inner:
        shown = ["block" if is_block(part) else type_text(part) for part in inner if part is not NoneType]
        return " or ".join(dict.fromkeys([*shown, *(["null"] if NoneType in inner else [])]))
    names = {int: "integer", float: "number", str: "text", bool: "true, false", NoneType: "null"}
    return "block" if is_block(annotation) else names[annotation]


def bounds_text(field: FieldInfo) -> str:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    found = [f"{sign} {getattr(m, name):g}" for m in field.metadata for name, sign in signs.items() if hasattr(m, name)]
    if "list" in str(field.annotation):
        least, most = (next((getattr(m, n) for m in field.metadata if hasattr(m, n)), None) for n in LENGTHS)
        if least is not None:
            found.append(f"{least} entries" if least == most else f"{least} to {most}" if most else f"at least {least}")
    return f" ({', '.join(found)})" if found else ""


def default_text(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    assert value is not PydanticUndefined
    return f"`{flow(value)}`" if not is_block(type(value)) or flow(value) != "{}" else "its defaults"


def flow(value: Any) -> str:
    """YAML on one line; a block shows its kind and what differs from its defaults."""
    if isinstance(value, BaseModel):
        kept = {k: v for k, v in value.model_dump(mode="json").items() if k == "kind" or k in value.model_fields_set}
        return flow(kept)
    if isinstance(value, list):
        return f"[{', '.join(map(flow, value))}]"
    text: str = yaml.safe_dump(value, default_flow_style=True, width=1000, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")


def key_table(cls: type[BaseModel], keys: list[str]) -> str:
    rows = ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    for key in keys:
        field = cls.model_fields[key]
        kind = type_text(field.annotation) + bounds_text(field)
        rows.append(f"| `{key}` | {kind} | {default_text(field)} | {meaning(cls, key, field)} |")
    return "\n".join(rows) + "\n"


def prose(cls: type[BaseModel]) -> str:
    """A docstring as Markdown paragraphs."""
    paragraphs = cleandoc(cls.__doc__ or "").replace("``", "`").split("\n\n")
    return "\n\n".join(" ".join(p.split()) for p in paragraphs) + "\n"


def block_section(path: str, cls: type[BaseModel]) -> str:
    return f"## `{path}`\n\n{prose(cls)}\n{key_table(cls, list(cls.model_fields))}"


def family_section(path: str, members: Mapping[str, type[BaseModel]]) -> str:
    """The kinds of a family: first the keys that all of them share, then each kind with its own."""
    parts = [f"## `{path}`\n\nOne block with a `kind`: {', '.join(f'`{kind}`' for kind in members)}.\n"]
    bases = {owner(cls, key) for cls in members.values() for key in cls.model_fields if key != "kind"}
    shared = [b for b in bases if b not in members.values() and all(issubclass(c, b) for c in members.values())]
    for base in shared:
        parts.append(f"Every kind has these keys:\n\n{key_table(base, [k for k in base.model_fields if k != 'kind'])}")
    told: list[type[BaseModel]] = []
    for kind, cls in members.items():
        parts.append(f"### `kind: {kind}`\n\n{prose(cls)}")
        own = [key for key in cls.model_fields if key != "kind" and owner(cls, key) not in shared]
        if own:
            parts.append(key_table(cls, own))
        for inner in inner_blocks(cls, own):
            if inner in told:
                continue
            told.append(inner)
            parts.append(f"#### A block of `{kind}`: {inner.__name__}\n\n{prose(inner)}")
            parts.append(key_table(inner, list(inner.model_fields)))
    return "\n".join(parts)


def inner_blocks(cls: type[BaseModel], keys: list[str]) -> list[type[BaseModel]]:
    """Blocks inside a kind's own keys, such as a radius."""

    def within(annotation: Any) -> list[Any]:
        return [annotation] if is_block(annotation) else [b for part in get_args(annotation) for b in within(part)]

    return [block for key in keys for block in within(cls.model_fields[key].annotation)]


def attack_section() -> str:
    """The attacks; those that are TextAttack's recipes share their one key, and come together at the end."""
    members = kinds(FAMILIES["attacks"])
    originals = {kind: cls for kind, cls in members.items() if issubclass(cls, OriginalRecipe)}
    own = {kind: cls for kind, cls in members.items() if kind not in originals}
    first = next(iter(originals.values()))
    return "\n".join(
        [
            family_section("attacks.known", own).replace("## `attacks.known`", "## An entry of `attacks`", 1),
            f"### TextAttack's recipes with their own resources\n\n{prose(OriginalRecipe)}",
            f"Each has one key, `stand_in`. {meaning(first, 'stand_in', first.model_fields['stand_in'])} "
            "The default is that of this table. [resources.md](resources.md) says how to get the resources.\n",
            original_rows(),
        ]
    )


def protocol_section() -> str:
    """The rules with their values in each shipped protocol, then the files that these come from."""
    names = ["rule", "type", "meaning", *(f"`{name}`" for name in PROTOCOLS)]
    rows = [f"| {' | '.join(names)} |", "| --- " * len(names) + "|"]
    dumped = [protocol.model_dump(mode="json") for protocol in PROTOCOLS.values()]
    for rule, field in Protocol.model_fields.items():
        if rule != "name":
            said = meaning(ChangedProtocol if rule in ChangedProtocol.model_fields else Protocol, rule, field)
            kind = type_text(field.annotation) + bounds_text(field)
            rows.append(f"| `{rule}` | {kind} | {said} | {' | '.join(flow(d[rule]) for d in dumped)} |")
    return "\n".join(
        [
            "## Protocols\n",
            prose(Protocol),
            "`attacks.protocol` is a name, or a block: `base` names a shipped protocol, and each other key replaces "
            "that one rule. A key that is left out keeps the rule of `base`. The name of the result says what was "
            "changed, as in `standard_v1+max_candidates=20`, and its hash is another. A new `max_words_changed` holds "
            "for texts of every length, unless the rule for long ones is given too. The same on the command line of "
            "`robusweep attack`: `--protocol standard_v1 --set max_candidates=20`.\n",
            "\n".join(rows) + "\n",
            "The files, with the reasons for their numbers:\n",
            *(f"```yaml\n{path.read_text(encoding='utf-8')}```\n" for path in sorted(FOLDER.glob("*.yaml"))),
        ]
    )


def attack_rows() -> str:
    """What differs from the paper, for each attack that is not TextAttack's recipe with its own resources."""
    rows = ["| attack | edits | needs of yours | what differs |", "| --- | --- | --- | --- |"]
    for kind, cls in attack_kinds().items():
        if not issubclass(cls, OriginalRecipe):
            needs = cls.model_validate({"kind": kind}).needs()
            model = next((need.name for need in needs if isinstance(need, LanguageModel | NeighbourFile)), "")
            rows.append(f"| `{kind}` | {EDITS[cls.level]} | {model} | {'; '.join(cls.substitutions)} |")
    return "\n".join(rows) + "\n"


EDITS = {"word": "words", "char": "characters", "mixed": "words and characters"}


def original_rows() -> str:
    """What each of TextAttack's recipes needs, and what stands in for it."""
    rows = ["| attack | stand-in | needs |", "| --- | --- | --- |"]
    for kind, cls in attack_kinds().items():
        if issubclass(cls, OriginalRecipe):
            needs = "; ".join(map(need_text, cls.own_resources))
            rows.append(f"| `{kind}` | `{cls.model_fields['stand_in'].default}` | {needs} |")
    return "\n".join(rows) + "\n"


def need_text(need: Any) -> str:
    if isinstance(need, Never):
        return f"can't run anywhere: {need.why}"
    return f"{need.name} `{need.source}`" if isinstance(need, LanguageModel) else str(need.name)


def preset_rows() -> str:
    rows = [
        f"| `{name}` | {', '.join(f'{rung:g}' for rung in block.rungs)} | {block.eta:g} | {block.min_points} |"
        for name, block in PRESETS.items()
        if block is not None
    ]
    return "\n" + "\n".join(["| name | `rungs` | `eta` | `min_points` |", "| --- | --- | --- | --- |", *rows]) + "\n"


def flag_rows() -> str:
    rows = [f"| `{name}` | {what} |" for name, what in FLAGS.items()]
    return "\n".join(["| flag | what it says |", "| --- | --- |", *rows]) + "\n"


def recipe_page() -> str:
    fields = Recipe.model_fields
    search, suite = inner_blocks(Recipe, ["search"])[0], inner_blocks(Recipe, ["attacks"])[0]
    resources = inner_blocks(Recipe, ["resources"])[0]
    parts = [
        f"{NOTE}\n# Recipe and search space: every key\n\n"
        "Unknown, repeated and misspelt keys are errors that name file, line and key. Anchors and tags are not read. "
        "Relative paths are relative to the recipe's folder. `robusweep show RECIPE --resolved` prints a recipe with "
        "every default filled in; `robusweep schema` writes this page as JSON schema for an editor.\n",
        f"## The recipe\n\n{prose(Recipe)}\n{key_table(Recipe, list(fields))}",
        family_section("data", kinds(FAMILIES["data"])),
        block_section("model", inner_blocks(Recipe, ["model"])[0]),
        family_section("ticket", kinds(FAMILIES["tickets"])),
        family_section("adapter", kinds(FAMILIES["adapters"])),
        family_section("train", kinds(FAMILIES["methods"])).replace(
            "## `train`", "## `train` and each entry of `adversarial`", 1
        ),
        family_section("train.regularisers", kinds(FAMILIES["regularisers"])).replace("One block", "Each a block", 1),
        family_section("train.update", kinds(FAMILIES["updates"])),
        family_section("mix", kinds(FAMILIES["mixers"])),
        f"## `prune`\n\n{prose(Pruning)}\n" + family_section("prune", kinds(FAMILIES["prunings"])).partition("\n\n")[2],
        block_section("attacks", suite),
        block_section("attacks.race", Race),
        attack_section(),
        protocol_section(),
        block_section("search", search),
        block_section("search.objectives", inner_blocks(search, ["objectives"])[0]),
        block_section("search.constraints", Constraint),
        block_section("search.budget", inner_blocks(search, ["budget"])[0]),
        block_section("search.stop", Saturation),
        block_section("search.early_stopping", Halving) + preset_rows(),
        family_section("search.sampler", kinds(FAMILIES["samplers"])),
        block_section("resources", resources),
        block_section("resources.train`, `resources.score", inner_blocks(resources, ["train"])[0]),
        "## The search space\n\nA file of its own: dotted recipe keys, each with one dimension. Every key must exist "
        "in the recipe, and every corner of the space must be a valid recipe. `name`, `version`, `seed`, `data`, "
        "`attacks`, `search`, `resources`, the encoder (`model.base`, `model.stand_in`) and keys below them can't be "
        "searched.\n\n"
        f"{prose(Dimension)}\n{key_table(Dimension, list(Dimension.model_fields))}",
        "### Named blocks\n\nWhole blocks are searched under names of letters, digits, `_`, `.` and `-`, at most 80. "
        "Params, MLflow and reports show the name; the trial's record holds the block. A key inside the block may be "
        "searched beside it: it is put in after the block, and `when` says for which names it exists.\n\n"
        f"```yaml\n{NAMED_BLOCKS}```\n",
    ]
    return "\n".join(parts)


def commands() -> dict[str, Any]:
    """Every command by its name, those of a group with the group's before it."""
    found: dict[str, Any] = {}
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        found |= {f"{name} {inner}": c for inner, c in getattr(command, "commands", {}).items()} or {name: command}
    return found


def one_line(command: Any) -> str:
    return " ".join((command.help or "").split())


def commands_page() -> str:
    parts = [
        f"{NOTE}\n# Commands\n\n`robusweep --help` lists them, `robusweep COMMAND --help` shows one, "
        "`robusweep --version` prints the version.\n"
    ]
    for name, command in commands().items():
        arguments = [p for p in command.params if p.param_type_name == "argument"]
        options = [p for p in command.params if p.param_type_name == "option"]
        usage = " ".join(["robusweep", name, *map(argument_text, arguments), *(["[OPTIONS]"] if options else [])])
        rows = [f"| `{argument_text(p)}` | {p.help or ''} | {given(p)} |" for p in arguments]
        rows += [f"| {', '.join(f'`{name}`' for name in names_of(p))} | {p.help or ''} | {given(p)} |" for p in options]
        table = "\n".join(["| argument, option | meaning | default |", "| --- | --- | --- |", *rows])
        parts.append(f"## `{name}`\n\n{one_line(command)}\n\n    {usage}\n\n{table}\n")
    return "\n".join(parts)


def argument_text(parameter: Any) -> str:
    shown = str(parameter.metavar or parameter.name).upper()
    return shown if parameter.required or shown.startswith("[") else f"[{shown}]"


def names_of(option: Any) -> list[str]:
    """The names of an option; one that is on by default is of use as its opposite only."""
    return [*option.opts, *(option.secondary_opts if option.default is True else [])]


def given(parameter: Any) -> str:
    if parameter.required:
        return "required"
    if parameter.default is True:
        return "on"
    return "" if parameter.default is None or parameter.default is False else f"`{parameter.default}`"


def command_rows() -> str:
    rows = [f"| `robusweep {name}` | {one_line(command)} |" for name, command in commands().items()]
    return "\n".join(["| command | what it does |", "| --- | --- |", *rows]) + "\n"


TABLES = {"commands": command_rows, "attacks": attack_rows, "originals": original_rows, "flags": flag_rows}


def filled(page: Path) -> str:
    """A page with its marked blocks as they should be: tables that follow from the code, and files as they are."""

    def block(found: re.Match[str]) -> str:
        opening, what, closing = found.groups()
        if what in TABLES:
            return f"{opening}{TABLES[what]()}{closing}"
        return f"{opening}```yaml\n{(ROOT / what).read_text(encoding='utf-8')}```\n{closing}"

    return BLOCK.sub(block, page.read_text(encoding="utf-8"))


def pages() -> dict[Path, str]:
    return {
        ROOT / "docs/recipe.md": recipe_page(),
        ROOT / "docs/commands.md": commands_page(),
        **{page: filled(page) for page in (ROOT / "README.md", ROOT / "docs/resources.md")},
    }


def stale() -> list[Path]:
    """The pages that are not what the code says."""
    return [p for p, text in pages().items() if not p.is_file() or p.read_text(encoding="utf-8") != text]


def main() -> None:
    if sys.argv[1:] not in ([], ["--check"]):
        sys.exit(f"{cleandoc(__doc__ or '')}")
    old = stale()
    if sys.argv[1:] == ["--check"]:
        if old:
            names = ", ".join(str(path.relative_to(ROOT)) for path in old)
            sys.exit(f"stale: {names}; write them with: python docs/generate.py")
        return
    texts = pages()
    for path in old:
        path.write_text(texts[path], encoding="utf-8")
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
