"""The three requests of the design, whole, both ends, nothing faked: approve a tag, submit a run, ask the log."""

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest
from click.testing import CliRunner
from conftest import LiveRegistry
from submitting import Desk
from tiny import LABELS, pair_rows

from registry.cli import main as tagwarden

PROPOSAL = {
    "change": {
        "kind": "new-tag",
        "tag": "message-tone",
        "tag_kind": "business",
        "parent": "sequence-classification",
        "description": "Whether a review speaks well of what it reviews.",
        "overrides": {"gates": [{"metric": "macro_f1", "value": 0.7, "min_n": 100, "confidence": 0.95}]},
    },
    "reason": "three teams train this under three names",
}


@pytest.fixture
def people(tmp_path: Path, encoder: Path, live_registry: LiveRegistry) -> Any:
    def desk_of(name: str, *groups: str, unit: str = "retail") -> Desk:
        root = tmp_path / name
        root.mkdir()
        return Desk(root, encoder, live_registry.url, live_registry.token(name, *groups, unit=unit))

    return desk_of


def test_from_an_unknown_name_to_an_accepted_run_and_a_log_that_proves_it(
    people: Any, live_registry: LiveRegistry, tmp_path: Path
) -> None:
    wang = people("wang", "retail-ds")
    li, zhao = people("li", "tag-stewards", unit="ai"), people("zhao", "tag-stewards", unit="ai")
    config = wang.config(task_type="message-tone")

    # A. The tag does not exist; it is proposed, and two others make it exist.
    unknown = wang.cli("run", config)
    assert unknown.returncode == 6
    assert "swift-submit tags propose" in unknown.stderr
    (wang.root / "proposal.json").write_text(json.dumps(PROPOSAL))
    proposal = wang.json("tags", "propose", "proposal.json")
    for steward in (li, zhao):
        review = ("requests", "approve", proposal["id"], "--digest", proposal["digest"], "--reason", "agreed")
        assert steward.cli(*review).returncode == 0

    # B. The same command now gets a ticket, trains, and is judged.
    trained = wang.cli("run", config)
    assert trained.returncode == 0, trained.stderr
    (run_dir,) = wang.run_dirs
    metrics = json.loads((run_dir / "metrics.json").read_text())
    verdict = json.loads((run_dir / "verdict.json").read_text())
    assert run_dir.parent.name == "task-type=message-tone"
    assert (verdict["verdict"], metrics["task_type"], metrics["version"]) == ("pass", "message-tone", 1)
    assert verdict["gates"][0]["gate"]["value"] == 0.7
    assert json.loads((run_dir / "model/config.json").read_text())["id2label"]["0"] == LABELS[0]

    # C. The auditor finds who did what under which rule, and proves it without the registry.
    auditor = {"Authorization": f"Bearer {live_registry.token('qiao', 'auditors')}"}

    def get(path: str, **query: str) -> httpx2.Response:
        return httpx2.get(f"{live_registry.url}{path}", headers=auditor, params=query)

    told = [(event["kind"], event["actor"], event["rule"]) for event in reversed(get("/v1/audit").json()["items"])]
    assert told[-5:] == [
        ("ticket.issued", "user:wang", "trainers-train-classifiers"),
        ("ticket.redeemed", "user:wang", "trainers-train-classifiers"),
        ("run.finished", "user:wang", "trainers-train-classifiers"),
        ("gate.pass", "system:registry", None),
        ("run.manifest", "user:wang", "trainers-train-classifiers"),
    ]
    assert told[0][:2] == ("submit.refused", "user:wang")
    assert get("/v1/audit", business_unit="search").status_code == 403
    export, keys = tmp_path / "audit.ndjson", tmp_path / "keys.json"
    export.write_text(get("/v1/audit:export", format="ndjson").text)
    keys.write_text(get("/tlog/jwks.json").text)
    live_registry.stop()
    verified = CliRunner().invoke(tagwarden, ["audit", "verify", str(export), "--keys", str(keys)])
    assert verified.exit_code == 0, verified.output
    assert wang.cli("ticket", "verify", str(run_dir)).returncode == 0


def test_a_refused_trainer_learns_the_rule_and_leaves_a_trace_but_no_run(
    people: Any, live_registry: LiveRegistry
) -> None:
    chen = people("chen", "search-ml", unit="search")

    refused = chen.cli("run", chen.config(task_type="dpo"))

    assert refused.returncode == 3
    assert "nlp-trains-preference-alignment" in refused.stderr
    assert "group:nlp" in refused.stderr
    assert chen.run_dirs == []
    (event,) = live_registry.events("submit.refused")
    assert (event.actor, event.task_type, event.business_unit) == ("user:chen", "dpo", "search")


def test_python_trains_an_embedding_as_the_article_writes_it(people: Any, tmp_path: Path) -> None:
    from trainer import SwiftTrainer, TrainingArguments
    from trainer.export import FaissPack
    from trainer.settings import Settings

    sun = people("sun", "search-ml", unit="search")
    settings = Settings(server=sun.server, issuer=sun.server, token=sun.token)
    train_data = [dict(row) for row in pair_rows(240, 1)]

    args = TrainingArguments(
        task_type="embedding",
        model_name_or_path=str(sun.model),
        pooling_method="mean",
        normalize_embeddings=True,
        output_dir=str(sun.root / "bge-finetuned"),
        max_length=32,
        max_steps=60,
        eval_fraction=0.3,
    )
    trainer = SwiftTrainer(args, train_dataset=train_data, settings=settings)
    trainer.train()
    pack = FaissPack.load(trainer.save_model(format="faiss"))

    assert trainer.run is not None
    assert trainer.run.state == "finished"
    assert trainer.run_dir.parent == sun.root / "bge-finetuned" / "task-type=embedding"
    answers = [(row["positive"], pack.search(row["anchor"], 10)) for row in train_data[:20]]
    found = sum(positive in {hit.text for hit in hits} for positive, hits in answers)
    assert found >= 6, "ten of 240 documents drawn by chance hold a query's own in less than one case of twenty"
    for _, hits in answers:
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
