"""The whole story on one machine: `make demo`.

Six people meet a registry of task types. Everything is real: the service, its policy, the database, the commands, the
texts, the model and the training. Each step says in plain words what happens and fails loudly when it does not.

The model (all-MiniLM-L6-v2) and the texts (Rotten Tomatoes reviews, film plots) come out of PyPI packages, read as
files; nothing is downloaded while it runs. Traces stay in `demo-output/`.
"""

import csv
import json
import os
import shutil
import sys
import time

from telling import OUT, Broken, check, found, say, step
from texts import model_folder, write_plots, write_reviews
from world import Thief, World, a_registry

PEOPLE = {
    "wang": ("retail", ["retail-ds", "tag-stewards"], "trains for retail, and is a steward of task types"),
    "li": ("ai", ["tag-stewards"], "admin, steward of task types"),
    "zhao": ("ai", ["tag-stewards"], "admin, steward of task types"),
    "chen": ("search", ["search-ml"], "trains search models, is not in the NLP group"),
    "qiao": ("retail", ["auditors"], "audits the business unit retail"),
}

REVIEW_RUN = {
    "task_type": "message-tone",
    "model_name_or_path": "",  # filled in below: a folder of an installed package
    "dataset": str(OUT / "data/reviews.train.jsonl"),
    "eval_dataset": str(OUT / "data/reviews.eval.jsonl"),
    "columns": {"text": "review", "label": "verdict"},
    "output_dir": str(OUT / "runs"),
    "num_labels": 2,
    "label_names": ["rotten", "fresh"],
    "use_lora": True,
    "lora_rank": 16,
    "learning_rate": 1e-3,
    "max_length": 48,
    "truncation": True,
    "per_device_train_batch_size": 32,
    "num_train_epochs": 1,
    "warmup_ratio": 0.1,
}
PROPOSAL = {
    "change": {
        "kind": "new-tag",
        "tag": "message-tone",
        "tag_kind": "business",
        "parent": "sequence-classification",
        "description": "Whether a review speaks well of what it reviews.",
        "overrides": {"gates": [{"metric": "macro_f1", "op": ">=", "value": 0.65, "min_n": 500, "confidence": 0.95}]},
    },
    "reason": "Three teams train this under three names.",
}
ARTICLE = """
import json
from trainer import SwiftTrainer, TrainingArguments

train_data = [json.loads(line) for line in open({data!r}, encoding="utf-8")]

args = TrainingArguments(task_type="embedding", model_name_or_path={model!r}, pooling_method="mean",
                         normalize_embeddings=True, output_dir={out!r}, max_length=64, truncation=True,
                         num_train_epochs=1)
trainer = SwiftTrainer(args, train_dataset=train_data)
trainer.train()
print("pack:", trainer.save_model(format="faiss"))
print("verdict:", trainer.run.verdict)
"""
ASK_THE_PACK = """
from trainer.export import FaissPack

pack = FaissPack.load({pack!r})
for hit in pack.search({query!r}, 3):
    print(f"{{hit.score:.3f}}  {{hit.text[:90]}}")
"""


def main() -> None:
    begun = time.monotonic()
    shutil.rmtree(OUT, ignore_errors=True)
    (OUT / "data").mkdir(parents=True)
    try:
        with a_registry() as world:
            the_story(world)
    except Broken as broken:
        sys.exit(f"\n✗ the demo broke: {broken}")
    print(f"\n✓ the whole story in {time.monotonic() - begun:.0f} s; its traces are in {OUT.name}/")


def the_story(world: "World") -> None:
    with step("The people: API tokens with groups and a business unit"):
        for name, (unit, groups, role) in PEOPLE.items():
            world.make_token(name, unit, groups)
            say(f"{name}: {role}")

    with step("wang wants to train `message-tone`, which does not exist"):
        write_reviews()
        run_file, proposal_file = OUT / "message-tone.json", OUT / "proposal.json"
        run_file.write_text(json.dumps({**REVIEW_RUN, "model_name_or_path": str(model_folder())}, indent=1))
        proposal_file.write_text(json.dumps(PROPOSAL, indent=1))
        world.swift_submit("wang", "run", str(run_file), exit_code=6, expect="swift-submit tags propose")

    with step("A name that says what exists already does not get in"):
        world.swift_submit("wang", "tags", "check-name", "dpo-v2-new", exit_code=6, expect="`dpo`")

    with step("wang proposes it, and cannot approve it alone"):
        told = world.swift_submit("wang", "tags", "propose", str(proposal_file))
        proposal = found(r"prp-[0-9a-f-]{36}", told)
        digest = found(r"sha256:[0-9a-f]{64}", world.swift_submit("wang", "requests", "show", proposal, quiet=True))
        review = ("requests", "approve", proposal, "--digest", digest, "--reason", "one name for three teams")
        world.swift_submit("wang", *review, exit_code=3, expect="wrote this proposal")

    with step("Two other stewards read and approve it; version 1 is active at once"):
        world.swift_submit("li", *review)
        world.swift_submit("zhao", *review, expect="applied")
        told = world.swift_submit("wang", "tags", "show", "message-tone", quiet=True)
        say(told.splitlines()[0])
        check("message-tone@1" in told, "version 1 is active")

    with step("chen, outside the NLP group, asks for `dpo`: refused, with the rule and who may"):
        told = world.swift_submit("chen", "can-i", "submit", "dpo", "--explain", exit_code=3)
        check("group:nlp" in told and "nlp-trains-preference-alignment" in told, "the refusal names rule and group")

    with step("wang trains: pre-flight, ticket, verification, LoRA fine-tuning, scores, the gate"):
        thief = Thief(OUT / "runs/task-type=message-tone")
        with thief:
            world.swift_submit("wang", "run", str(run_file), live=True)
        folder = thief.folder
        metrics = json.loads((folder / "metrics.json").read_text())
        scores = metrics["scores"]
        for name in ("accuracy", "macro_f1"):
            score = scores[name]
            say(f"{name} {score['value']:.3f} [{score['low']:.3f}, {score['high']:.3f}] on {score['n']} reviews")
        matrix = metrics["details"]["confusion_matrix"]
        for label, row in zip(matrix["labels"], matrix["rows_are_truth"], strict=True):
            say(f"truly {label:7} " + "  ".join(f"called {n} {c}" for n, c in zip(matrix["labels"], row, strict=True)))
        verdict = json.loads((folder / "verdict.json").read_text())
        say(f"the registry's verdict: {verdict['verdict']} ({verdict['gates'][0]['reason']})")
        check(verdict["verdict"] == "pass", "the F1 gate is passed")
        for name in ("run-spec.json", "ticket.jwt", "README.md", "tensorboard", "model"):
            check((folder / name).exists(), f"the run left {name}")
        world.swift_submit("wang", "ticket", "verify", str(folder), quiet=True)

    with step("qiao proves wang's run offline, from permit to outputs; one changed byte breaks the proof"):
        trust = OUT / "trust.json"
        world.swift_submit("qiao", "trust", "save", str(trust), quiet=True)
        world.swift_submit(
            "qiao", "verify", str(folder), "--trust", str(trust), expect="permitted to user:wang for retail"
        )
        changed = OUT / "changed-run"
        shutil.copytree(folder, changed)
        (changed / "metrics.json").write_text((changed / "metrics.json").read_text() + " ")
        world.swift_submit("qiao", "verify", str(changed), "--trust", str(trust), exit_code=8, expect="metrics.json")

    with step("Somebody copied wang's permit while it lay there, key and all: a second use is refused"):
        problem = world.worker(thief.permit)
        check(problem["code"] == "ticket-used", "the ticket starts one run and no second")

    with step("Somebody changes the arguments after the ticket was issued: refused before anything loads"):
        problem = world.worker(thief.with_edited_arguments())
        check(problem["step"] == 11, "step 11 of the verification refuses the edited file")

    with step("chen trains an embedding in Python, as the article writes it, and asks the FAISS pack"):
        write_plots()
        paths = {"data": OUT / "data/plots.jsonl", "model": model_folder(), "out": OUT / "bge"}
        program = ARTICLE.format(**{name: os.path.relpath(path) for name, path in paths.items()})
        told = world.python("chen", program)
        pack = found(r"pack: (.+)", told)
        say(f"the registry's verdict: {found('verdict: (.+)', told)}")
        query = "a man who avoids responsibility pretends to be a single father to meet women"
        say(f"query: {query}")
        answer = world.python("chen", ASK_THE_PACK.format(pack=os.path.relpath(pack), query=query))
        for line in answer.strip().splitlines():
            say(line)
        check("Will Lightman" in answer.splitlines()[0], "the right film comes first")

    with step("qiao audits retail: runs, events, no look at search"):
        world.swift_submit("wang", "runs", "list", "--task-type", "message-tone", expect="pass")
        events = world.get("qiao", "/v1/audit", page_size=100).json()["items"]
        for event in reversed(events):
            detail = event["detail"]
            subject = detail.get("tag") or event["task_type"] or detail.get("asked_for", "")
            say(f"{event['at'][11:19]} {event['kind']:18} {event['actor']:16} {subject:24} {event['rule'] or ''}")
        kinds = {event["kind"] for event in events}
        check({"submit.refused", "ticket.issued", "ticket.redeemed", "redeem.refused", "gate.pass"} <= kinds,
              "permissions and refusals are on record")  # fmt: skip
        check({event["business_unit"] for event in events} == {"retail"}, "only retail is shown")
        refused = world.get("qiao", "/v1/audit", business_unit="search")
        say(f"search: {refused.status_code} {refused.json()['detail']}")
        check(refused.status_code == 403, "another unit's log is refused")

    with step("qiao exports CSV, and verifies the log offline"):
        (OUT / "audit.csv").write_text(world.get("qiao", "/v1/audit:export", format="csv").text)
        rows = list(csv.DictReader((OUT / "audit.csv").open()))
        check(len(rows) >= len(events), "the CSV holds every event")
        export, keys = OUT / "audit.ndjson", OUT / "log-keys.json"
        export.write_text(world.get("qiao", "/v1/audit:export", format="ndjson").text)
        keys.write_text(world.get("qiao", "/tlog/jwks.json").text)
        world.stop()
        say("the registry is stopped; what follows needs nothing but the two files")
        world.tagwarden("audit", "verify", str(export), "--keys", str(keys), expect="ok:")
        export.write_text(export.read_text().replace("user:wang", "user:chen", 1))
        world.tagwarden("audit", "verify", str(export), "--keys", str(keys), exit_code=1, expect="does not hold")


if __name__ == "__main__":
    main()
