"""The proof chain of a real run: it holds offline, and whatever is changed in it is named."""

import base64
import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from conftest import LiveRegistry, free_port
from hypothesis import given, strategies as st
from submitting import Desk

from enforcer import chain, dsse, manifest, tickets, tlog
from enforcer.chain import ISSUED, MANIFEST, Trust
from enforcer.keys import KeySet, SigningKey
from enforcer.notes import NoteKey, attach, cosign
from enforcer.problems import ManifestInvalid, NotConfigured
from enforcer.runspec import digest
from registry.settings import Settings
from trainer.job import Outcome
from trainer.layout import RunFolder
from trainer.run import evidence, reporting

NODE = Path(__file__).parents[1] / "node"


@dataclass
class World:
    """A registry that is gone, two runs that it permitted, and what was trusted while it was there."""

    registry: LiveRegistry
    desk: Desk
    first: Path
    second: Path
    trust_file: Path

    @property
    def trust(self) -> Trust:
        return Trust.read(self.trust_file.read_bytes())


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, encoder: Path) -> World:
    root = tmp_path_factory.mktemp("world")
    live = LiveRegistry(Settings(state_dir=root / "state", port=free_port()))
    live.start()
    desk = Desk(root, encoder, live.url, live.token("li", "retail-ds"))
    for _ in range(2):
        done = desk.cli("run", desk.config())
        assert done.returncode == 0, done.stderr
    saved = desk.cli("trust", "save", "trust.json")
    assert saved.returncode == 0, saved.stderr
    live.stop()
    first, second = desk.run_dirs
    return World(live, desk, first, second, root / "trust.json")


@pytest.fixture
def run(world: World, tmp_path: Path) -> RunFolder:
    """A copy of the first run's folder, for tampering with."""
    return RunFolder(Path(shutil.copytree(world.first, tmp_path / "run")))


def verified(folder: RunFolder, trust: Trust, **how: Any) -> chain.VerifiedRun:
    return chain.verify(evidence.bundle(folder), trust, **how)


def test_a_run_is_proven_after_its_registry_is_gone(world: World) -> None:
    """Every step is told, the last word is the registry's, and no token or server is needed."""
    done = world.desk.cli("verify", str(world.first), "--trust", "trust.json", SWIFT_SUBMIT_TOKEN="")
    told = json.loads(world.desk.cli("--json", "verify", str(world.first), "--trust", "trust.json").stdout)

    assert done.returncode == 0, done.stderr
    assert [line.split()[:2] for line in done.stdout.splitlines()[:8]] == [["✓", str(n)] for n in range(1, 9)]
    assert "permitted to user:li for retail, by rule `trainers-train-classifiers`" in done.stdout
    assert "TAGWARDEN_GATES_PASS" in done.stdout
    assert [step["held"] for step in told["steps"]] == [True] * 8
    assert (told["run_id"], told["absent"]) == (world.first.name, [])


def test_the_manifest_says_what_was_read_stood_on_and_left(world: World) -> None:
    found = verified(RunFolder(world.first), world.trust)

    definition, details = found.manifest.predicate.build_definition, found.manifest.details
    roles = [(item.annotations or {})["role"] for item in definition.resolved_dependencies]
    assert [role for role in roles if role != "code"] == ["model", "train", "ticket", "specification"]
    assert definition.resolved_dependencies[0].digest == {"dirHash": found.spec.inputs.model.digest[7:]}
    assert {"model/model.safetensors", "model/config.json"} <= set(found.manifest.outputs)
    assert {item.name for item in details.byproducts} == {"metrics.json", "README.md", "tensorboard"}
    assert details.metrics["macro_f1"].n == 180
    assert found.manifest.environment.packages.keys() >= {"torch", "transformers", "tagwarden"}
    assert found.manifest.environment.seeds == {"seed": "42"}
    assert details.metadata.started_on <= details.metadata.finished_on
    assert (details.builder.id, found.logged_at is not None) == (found.claims.aud, True)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), "utf-8")


def swap(*names: str) -> Callable[[Path, Path], None]:
    """Files of another, equally genuine run."""

    def act(folder: Path, other: Path) -> None:
        for name in names:
            shutil.copy(other / name, folder / name)

    return act


def resigned(folder: Path, _other: Path) -> None:
    """The same statement, by a key of one's own, which it then names."""
    key = SigningKey.generate()
    document = json.loads(dsse.read((folder / "manifest.json").read_bytes()).payload)
    document["predicate"]["buildDefinition"]["internalParameters"]["run_key"]["x"] = key.public_jwk()["x"]
    said = manifest.Manifest.model_validate_json(json.dumps(document))
    (folder / "manifest.json").write_bytes(manifest.sign(said, key))


TAMPERING: dict[str, tuple[Callable[[Path, Path], Any], int, int | None, str]] = {
    # what was done: (how, the step that names it with the log, and without, in words)
    "an output was edited": (
        lambda run, _: edit(run / "model/config.json", "single_label", "other_label"), 7, 7,
        "`model/config.json` is not what the run left"),
    "an output was removed": (lambda run, _: (run / "model/config.json").unlink(), 7, 7, "`model/config.json` is gone"),
    "an output was added": (
        lambda run, _: (run / "model/x.safetensors").write_bytes(b"x"), 7, 7, "`model/x.safetensors` is no output"),
    "the scores were edited": (
        lambda run, _: edit(run / "metrics.json", '"value": ', '"value": 1'), 7, 7, "`metrics.json` is not what"),
    "the card was edited": (lambda run, _: edit(run / "README.md", "tagwarden", "x"), 7, 7, "`README.md` is not what"),
    "a curve was edited": (
        lambda run, _: next((run / "tensorboard").iterdir()).write_bytes(b"x"), 7, 7, "`tensorboard` is not what"),
    "the specification was edited": (
        lambda run, _: edit(run / "run-spec.json", '"max_steps":120', '"max_steps":12'), 4, 4, "not the specification"),
    "the ticket is of another run": (swap("ticket.jwt"), 2, 4, "ticket in the run folder is not the one|specification"),
    "ticket and specification are of another run": (
        swap("ticket.jwt", "run-spec.json"), 2, 5, "is not the one that was logged|another key"),
    "the manifest is of another run": (swap("manifest.json"), 2, 5, "is not the one that was logged|another key"),
    "manifest and its proof are of another run": (
        swap("manifest.json", "proofs/manifest.tlog-proof"), 2, 5, "of another ticket or run|another key"),
    "the manifest's proof stands for the ticket's": (
        lambda run, _: shutil.copy(run / "proofs/manifest.tlog-proof", run / "proofs/issued.tlog-proof"), 2, None,
        "the proof is of `run.manifest`"),
    "the manifest is by another key": (resigned, 2, 5, "is not the one that was logged|another key"),
    "the receipt is of another run": (swap("receipt.json"), 8, 8, "on another manifest"),
    "there is no receipt": (lambda run, _: (run / "receipt.json").unlink(), 8, 8, "no countersignature"),
    "there is no manifest": (lambda run, _: (run / "manifest.json").unlink(), 0, 0, "no `manifest.json`"),
    "there is no ticket": (lambda run, _: (run / "ticket.jwt").unlink(), 0, 0, "no `ticket.jwt`"),
    "the ticket is no ticket": (lambda run, _: (run / "ticket.jwt").write_text("x"), 2, 3, "not the one|run ticket"),
}  # fmt: skip


@pytest.mark.parametrize("what", TAMPERING)
def test_whatever_was_changed_is_named_with_its_step(world: World, run: RunFolder, what: str) -> None:
    act, step, step_without_log, why = TAMPERING[what]
    act(run.root, world.second)

    for how, expected in (({}, step), ({"without_log": True}, step_without_log)):
        if expected is None:
            assert verified(run, world.trust, **how), "the log was left out"
            continue
        with pytest.raises(ManifestInvalid, match=why) as refused:
            verified(run, world.trust, **how)
        assert refused.value.facts.get("step", 0) == expected, refused.value


def test_the_command_names_the_first_thing_that_does_not_fit(world: World, run: RunFolder) -> None:
    (run.root / "model/config.json").unlink()
    (run.root / "receipt.json").unlink()

    refused = world.desk.cli("verify", str(run.root), "--trust", "trust.json")

    assert (refused.returncode, refused.stdout) == (8, "")
    assert "the output `model/config.json` is gone" in refused.stderr
    assert "step 7" in refused.stderr


@given(st.data())
def test_no_byte_of_a_manifest_can_be_changed(world: World, data: st.DataObject) -> None:
    genuine = evidence.bundle(RunFolder(world.first))
    at = data.draw(st.integers(0, len(genuine.manifest) - 1))
    bit = 1 << data.draw(st.integers(0, 7))
    changed = bytearray(genuine.manifest)
    changed[at] ^= bit
    jkt = tickets.unverified_claims(genuine.ticket)["cnf"]["jkt"]

    with pytest.raises(ManifestInvalid) as refused:
        manifest.open_manifest(bytes(changed), jkt)
    assert refused.value.facts["step"] == 5


@given(st.data())
def test_no_byte_of_a_receipt_or_proof_can_be_changed(world: World, data: st.DataObject) -> None:
    genuine = evidence.bundle(RunFolder(world.first))
    kind = data.draw(st.sampled_from([ISSUED, MANIFEST, "receipt"]))
    content = bytearray(genuine.receipt or b"" if kind == "receipt" else genuine.proofs[kind].encode())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= 1 << data.draw(st.integers(0, 6))
    text = bytes(content)
    if kind == "receipt":
        changed = replace(genuine, receipt=text)
    else:
        changed = replace(genuine, proofs={**genuine.proofs, kind: text.decode("utf-8", "replace")})

    with pytest.raises(ManifestInvalid) as refused:
        chain.verify(changed, world.trust)
    assert refused.value.facts["step"] in ((8,) if kind == "receipt" else (1, 2))


# --- the log ----------------------------------------------------------------------------------------------------------


def test_without_the_log_s_proofs_a_run_is_proven_only_when_that_is_said(world: World, run: RunFolder) -> None:
    shutil.rmtree(run.root / "proofs")

    refused = world.desk.cli("verify", str(run.root), "--trust", "trust.json")
    allowed = world.desk.cli("verify", str(run.root), "--trust", "trust.json", "--without-log")

    assert (refused.returncode, "step 2" in refused.stderr) == (8, True)
    assert "`swift-submit verify --fetch`" in refused.stderr
    assert allowed.returncode == 0, allowed.stderr
    assert "the log was left out" in allowed.stderr
    assert "NOT CHECKED against the log" in allowed.stdout
    assert [line.split()[0] for line in allowed.stdout.splitlines()[:3]] == ["-", "-", "✓"]


def test_proofs_and_receipt_can_be_fetched_later(world: World, run: RunFolder) -> None:
    shutil.rmtree(run.root / "proofs")
    run.receipt.unlink()
    fetch = ["verify", str(run.root), "--trust", "trust.json", "--fetch"]

    away = world.desk.cli(*fetch)
    world.registry.start()
    try:
        there = world.desk.cli(*fetch)
    finally:
        world.registry.stop()

    assert away.returncode == 9
    assert there.returncode == 0, there.stderr
    assert run.receipt.read_bytes() == (world.first / "receipt.json").read_bytes()


def test_a_checkpoint_by_another_log_is_step_1(world: World, run: RunFolder) -> None:
    mine = SigningKey.generate()
    proof = tlog.Proof.parse(run.issued_proof.read_text("utf-8"))
    origin = tlog.origin_of(world.trust.issuer)
    head = tlog.open_checkpoint(proof.checkpoint, KeySet.from_jwks({"keys": [k.jwk for k in world.trust.log_keys]}))
    forged = replace(proof, checkpoint=tlog.sign_checkpoint(origin, head.size, head.root, mine))
    run.issued_proof.write_text(forged.write(), "utf-8")

    with pytest.raises(ManifestInvalid, match="signed by no key") as refused:
        verified(run, world.trust)
    assert refused.value.facts["step"] == 1


def test_a_quorum_of_witnesses_is_asked_for_when_the_trust_file_says_so(world: World, run: RunFolder) -> None:
    witness = SigningKey.generate()
    key = NoteKey.of(witness, "witness.example", kind=4)
    strict = world.trust.model_copy(update={"witnesses": [key.vkey], "quorum": 1})

    with pytest.raises(ManifestInvalid, match="0 of the trusted witnesses cosigned") as refused:
        verified(run, strict)
    for path in (run.issued_proof, run.manifest_proof):
        proof = tlog.Proof.parse(path.read_text("utf-8"))
        text = proof.checkpoint.rpartition("\n\n")[0] + "\n"
        cosigned = attach(proof.checkpoint, [cosign(text, "witness.example", witness, 1_790_000_000)])
        path.write_text(replace(proof, checkpoint=cosigned).write(), "utf-8")

    assert refused.value.facts["step"] == 1
    assert verified(run, strict).logged_at is not None


# --- keys -------------------------------------------------------------------------------------------------------------


def ended(trust: Trust, purpose: str, **times: datetime) -> Trust:
    keys = [key.model_copy(update=times) for key in getattr(trust, purpose)]
    return trust.model_copy(update={purpose: keys})


LATER, EARLIER = datetime.now(UTC) + timedelta(days=30), datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("word", ["retired_at", "compromised_at"])
def test_a_ticket_key_counts_for_what_was_logged_before_its_end(world: World, run: RunFolder, word: str) -> None:
    assert verified(run, ended(world.trust, "ticket_keys", **{word: LATER}))

    with pytest.raises(ManifestInvalid, match="and it was used later") as refused:
        verified(run, ended(world.trust, "ticket_keys", **{word: EARLIER}))
    assert refused.value.facts["step"] == 3


def test_without_the_log_a_retired_ticket_key_counts_and_a_compromised_one_never(world: World, run: RunFolder) -> None:
    assert verified(run, ended(world.trust, "ticket_keys", retired_at=LATER), without_log=True)

    with pytest.raises(ManifestInvalid, match="only the log could tell"):
        verified(run, ended(world.trust, "ticket_keys", compromised_at=LATER), without_log=True)


@pytest.mark.parametrize(("purpose", "step"), [("log_keys", 1), ("attestation_keys", 8)])
def test_a_compromised_key_of_the_log_or_of_countersignatures_counts_for_nothing(
    world: World, run: RunFolder, purpose: str, step: int
) -> None:
    assert verified(run, ended(world.trust, purpose, retired_at=EARLIER)), "a retired one does"

    with pytest.raises(ManifestInvalid) as refused:
        verified(run, ended(world.trust, purpose, compromised_at=LATER))
    assert refused.value.facts["step"] == step


def test_a_ticket_by_an_untrusted_key_or_issuer_is_step_3(world: World, run: RunFolder) -> None:
    stranger = chain.TrustedKey.model_validate(SigningKey.generate(dev=True).public_jwk())

    for trust, why in (
        (world.trust.model_copy(update={"ticket_keys": [stranger]}), "a key that this verifier does not know"),
        (world.trust.model_copy(update={"issuer": "http://localhost:1"}), "was issued by"),
        (world.trust.model_copy(update={"issuer": "https://registry.example.org"}), "development key"),
    ):
        with pytest.raises(ManifestInvalid, match=why) as refused:
            verified(run, trust, without_log=True)
        assert refused.value.facts["step"] == 3


def test_an_expired_ticket_is_judged_as_of_when_it_was_logged(world: World, run: RunFolder) -> None:
    """A thief of the ticket key who logs nothing cannot use the old entry: its digest is of the genuine ticket."""
    found = verified(run, world.trust)

    assert found.logged_at is not None
    assert abs(found.logged_at.timestamp() - found.claims.iat) < 60


# --- trust files ------------------------------------------------------------------------------------------------------


def test_a_trust_file_is_never_overwritten(world: World) -> None:
    before = world.trust_file.read_bytes()
    world.registry.start()
    try:
        again = world.desk.cli("trust", "save", "trust.json")
    finally:
        world.registry.stop()

    assert (again.returncode, "never overwritten" in again.stderr) == (6, True)
    assert world.trust_file.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"v": 2}, "`v`"),
        ({"ticket_keys": []}, "`ticket_keys`"),
        ({"more": 1}, "`more`"),
        ({"quorum": 1}, "takes as many witnesses"),
        ({"witnesses": ["x"]}, "verifier key"),
        (
            {"log_keys": [{"kid": "abcd", "kty": "OKP", "crv": "Ed25519", "alg": "Ed25519", "use": "sig", "x": "AA"}]},
            "",
        ),
    ],
)
def test_what_is_no_trust_file_is_refused_in_words(world: World, change: dict[str, Any], why: str) -> None:
    document = {**json.loads(world.trust_file.read_bytes()), **change}

    with pytest.raises(NotConfigured, match=f"not a trust file.*{why}"):
        Trust.read(json.dumps(document).encode())


def test_a_missing_trust_file_says_how_to_get_one(world: World) -> None:
    refused = world.desk.cli("verify", str(world.first), "--trust", "nowhere.json")

    assert (refused.returncode, "swift-submit trust save" in refused.stderr) == (6, True)


# --- how much there is to sign for ------------------------------------------------------------------------------------


def test_many_outputs_are_signed_for_as_one_folder_and_still_checked(world: World, tmp_path: Path) -> None:
    """250 files with such names fit into a report only as one line."""
    world.registry.start()
    try:
        given_permit = world.desk.permitted(output_dir=str(tmp_path))
    finally:
        world.registry.stop()
    folder, ticket = given_permit.folder, given_permit.verify()
    folder.model.mkdir()
    for number in range(250):
        (folder.model / f"part-{number:03}-{'x' * 60}.safetensors").write_bytes(bytes([number]))
    outcome = Outcome(scores={}, steps=1, train_seconds=1.0, peak_memory_bytes=1)

    report = evidence.sign(given_permit, ticket, reporting.describe(outcome, folder), datetime.now(UTC))

    assert list(report.outputs) == ["model"]
    assert len(report.model_dump_json()) < evidence.MAX_REPORT_BYTES
    bundle = evidence.bundle(folder)
    said = manifest.open_manifest(bundle.manifest, given_permit.key.thumbprint)
    assert said.subject[0].digest.keys() == {"dirHash"}
    assert chain._check_files(said, bundle.files()) == []
    for act in (
        lambda: next(folder.model.iterdir()).unlink(),
        lambda: (folder.model / "added.safetensors").write_bytes(b"x"),
    ):
        act()
        with pytest.raises(ManifestInvalid, match="the files in `model` are not those"):
            chain._check_files(said, bundle.files())


def test_a_run_that_speaks_for_another_machine_than_its_ticket_s_is_step_6(world: World) -> None:
    """The run's own key cannot say that the work was done elsewhere."""
    key, genuine = SigningKey.generate(), evidence.bundle(RunFolder(world.first))
    mine = SigningKey.generate(dev=True)
    claims = verified(RunFolder(world.first), world.trust).claims
    ours = claims.model_copy(update={"cnf": tickets.Confirmation(jkt=key.thumbprint), "aud": "urn:swift:exec:local:a"})
    trust = world.trust.model_copy(update={"ticket_keys": [chain.TrustedKey.model_validate(mine.public_jwk())]})
    token = tickets.sign(ours, mine)

    def said(change: Callable[[Any], None]) -> chain.Bundle:
        document = json.loads(dsse.read(genuine.manifest).payload)
        inside = document["predicate"]["buildDefinition"]
        inside["internalParameters"]["run_key"]["x"] = key.public_jwk()["x"]
        at = next(item for item in inside["resolvedDependencies"] if item["name"] == "ticket.jwt")
        at["digest"]["sha256"] = digest(token.encode())[7:]
        document["predicate"]["runDetails"]["builder"]["id"] = "urn:swift:exec:local:a"
        change(document["predicate"])
        statement = manifest.Manifest.model_validate_json(json.dumps(document))
        return replace(genuine, ticket=token, manifest=manifest.sign(statement, key))

    def refusal(change: Callable[[Any], None]) -> tuple[int, str]:
        with pytest.raises(ManifestInvalid) as refused:
            chain.verify(said(change), trust, without_log=True)
        return refused.value.facts["step"], refused.value.detail

    def data(predicate: Any) -> None:
        predicate["buildDefinition"]["resolvedDependencies"][1]["digest"]["sha256"] = "0" * 64

    def left_out(predicate: Any) -> None:
        predicate["buildDefinition"]["resolvedDependencies"].pop(1)

    assert refusal(lambda said: None)[0] == 8, "all but the receipt, which is of the genuine manifest"
    step, why = refusal(lambda said: said["runDetails"]["builder"].update(id="urn:swift:exec:local:b"))
    assert (step, "is by `urn:swift:exec:local:b`" in why) == (6, True)
    assert refusal(data) == (6, refusal(data)[1])
    assert "which the ticket does not bind" in refusal(data)[1]
    assert "not all that the ticket binds" in refusal(left_out)[1]
    assert refusal(lambda said: said["buildDefinition"]["internalParameters"].update(gpus=8))[0] == 6


# --- other people's tools ---------------------------------------------------------------------------------------------


def test_openssl_verifies_the_manifest(world: World, tmp_path: Path) -> None:
    """`pkeyutl -verify -rawin` over the pre-authentication encoding, with the key that the manifest brings."""
    document = json.loads((world.first / "manifest.json").read_bytes())
    payload = base64.b64decode(document["payload"])
    x = json.loads(payload)["predicate"]["buildDefinition"]["internalParameters"]["run_key"]["x"]
    raw = base64.urlsafe_b64decode(x + "=")
    (tmp_path / "key.der").write_bytes(bytes.fromhex("302a300506032b6570032100") + raw)  # RFC 8410 section 4
    (tmp_path / "signature").write_bytes(base64.b64decode(document["signatures"][0]["sig"]))
    kind = document["payloadType"].encode()
    signed = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
    command = "openssl pkeyutl -verify -pubin -keyform DER -inkey key.der -rawin -in signed -sigfile signature"

    for content, code in ((signed, 0), (signed + b" ", 1)):
        (tmp_path / "signed").write_bytes(content)
        done = subprocess.run(command.split(), cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr


NODE_VERIFIES = """
import { readFileSync } from "node:fs";
import { createHash, verify, KeyObject } from "node:crypto";
import { importJWK, calculateJwkThumbprint, decodeJwt } from "jose";
const [folder, trustFile] = process.argv.slice(-2);
const pae = (type, body) =>
  Buffer.concat([Buffer.from(`DSSEv1 ${type.length} ${type} ${body.length} `), body]);
const open = async (bytes, jwkOf) => {
  const envelope = JSON.parse(bytes);
  const payload = Buffer.from(envelope.payload, "base64");
  const statement = JSON.parse(payload);
  const { keyid, sig } = envelope.signatures[0];
  const jwk = jwkOf(statement, keyid);
  const key = KeyObject.from(await importJWK(jwk, "Ed25519"));
  if (!verify(null, pae(envelope.payloadType, payload), key, Buffer.from(sig, "base64"))) throw new Error("signature");
  return [statement, jwk];
};
const claims = decodeJwt(readFileSync(`${folder}/ticket.jwt`, "ascii"));
const manifest = readFileSync(`${folder}/manifest.json`);
const [said, jwk] = await open(manifest, (s) => s.predicate.buildDefinition.internalParameters.run_key);
if ((await calculateJwkThumbprint(jwk)) !== claims.cnf.jkt) throw new Error("jkt");
for (const { name, digest } of said.subject) {
  const found = createHash("sha256").update(readFileSync(`${folder}/${name}`)).digest("hex");
  if (found !== digest.sha256) throw new Error(name);
}
const trust = JSON.parse(readFileSync(trustFile));
const [receipt] = await open(readFileSync(`${folder}/receipt.json`), (_, kid) =>
  trust.attestation_keys.find((key) => key.kid === kid));
const hash = createHash("sha256").update(manifest).digest("hex");
if (receipt.subject[0].digest.sha256 !== hash) throw new Error("another manifest");
console.log(said.subject.length, receipt.predicate.properties.at(-1));
"""


@pytest.mark.node
@pytest.mark.skipif(
    not (NODE / "node_modules").is_dir() or shutil.which("node") is None, reason="no Node.js packages in tests/node"
)
def test_node_verifies_manifest_outputs_and_receipt(world: World, run: RunFolder) -> None:
    def node() -> subprocess.CompletedProcess[str]:
        command = ["node", "--input-type=module", "-", str(run.root), str(world.trust_file)]
        return subprocess.run(command, cwd=NODE, input=NODE_VERIFIES, capture_output=True, text=True, check=False)

    held = node()
    edit(run.root / "model/config.json", "single_label", "other_label")
    broken = node()

    assert held.returncode == 0, held.stderr
    assert held.stdout.split()[1] == "TAGWARDEN_GATES_PASS"
    assert (broken.returncode, "model/config.json" in broken.stderr) == (1, True)


def test_sha256sum_checks_the_specification_against_the_ticket(world: World) -> None:
    done = subprocess.run(["sha256sum", "run-spec.json"], cwd=world.first, capture_output=True, text=True, check=True)
    claims = tickets.unverified_claims((world.first / "ticket.jwt").read_text().strip())

    assert (
        f"sha256:{done.stdout.split()[0]}"
        == claims["run_spec_digest"]
        == digest((world.first / "run-spec.json").read_bytes())
    )
