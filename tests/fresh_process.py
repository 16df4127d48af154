"""What tests ask a process of its own that can't import robusweep."""

from __future__ import annotations

# (texts as JSON, folders...) -> as JSON, for each folder: logits, weights, labels, probabilities
ASK = """
import json, sys

sys.modules["robusweep"] = None  # can't be imported
texts, found = json.loads(sys.argv[1]), []
for folder in sys.argv[2:]:
    sys.path.insert(0, folder)
    from robusweep_model import load

    model = load(folder)
    logits, weights = model.logits(texts)
    labels, probabilities, _ = model(texts)
    found.append([logits.tolist(), None if weights is None else weights.tolist(), labels, probabilities.tolist()])
    for name in [name for name in sys.modules if name.partition(".")[0] == "robusweep_model"]:
        del sys.modules[name]
print(json.dumps(found))
"""
