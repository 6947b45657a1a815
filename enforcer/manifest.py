"""The run manifest: a signed statement of what a run read, on what it stood, and what it left.

An in-toto Statement v1 with SLSA provenance v1, signed by the run's own key, the one that the ticket names in
`cnf.jkt`: it needs no PKI, and whoever holds the ticket can check it. The registry answers with a statement of its own
(in-toto SVR v0.2): what it checked, when, and how it judged.

Digests are those of in-toto's DigestSet: `sha256` of a file, `gitCommit`, and `dirHash` (Go's Hash1, in hex), which is
`sha256sum` over the `sha256sum` lines of a folder.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from enforcer import canonical, dsse
from enforcer.dsse import EnvelopeInvalid
from enforcer.gates import Score
from enforcer.keys import KeySet, KeyUnusable, Signer, SigningKey, public_key
from enforcer.problems import ManifestInvalid
from enforcer.runspec import Digest, RunSpec, digest, hex_of
from enforcer.tickets import VerifiedTicket

STATEMENT: Final = "https://in-toto.io/Statement/v1"
PROVENANCE: Final = "https://slsa.dev/provenance/v1"
VERIFICATION: Final = "https://in-toto.io/attestation/svr/v0.2"
BUILD_TYPE: Final = "https://github.com/tagwarden/tagwarden/training-run/v1"
MAX_OUTPUTS = 300
MAX_BYTES = dsse.MAX_BYTES

Text = Annotated[str, StringConstraints(min_length=1, max_length=500)]
Hex = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$|^[0-9a-f]{64}$")]
Algorithm = Literal["sha256", "dirHash", "gitCommit"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, populate_by_name=True)


class Subject(_Part):
    """One output: a file, or a folder as a whole where a run left more files than a manifest has room for."""

    name: Text
    digest: dict[Algorithm, Hex] = Field(min_length=1, max_length=1)


class Resource(_Part):
    """in-toto's ResourceDescriptor, as far as we use it."""

    name: Text
    uri: Text | None = None
    digest: dict[Algorithm, Hex] = Field(min_length=1, max_length=1)
    annotations: dict[Text, str | int | bool] | None = None


class ExternalParameters(_Part):
    """What was permitted, by the ticket's names for it."""

    run_spec_digest: Digest
    task_type: Text
    version: int
    ticket_jti: Text


class Hardware(_Part):
    """`threads` is what OMP_NUM_THREADS says; `accelerators` are named only when the run was given some."""

    cpu: str
    cpus: int
    memory_bytes: int
    threads: str | None = None
    accelerators: list[str]


class Environment(_Part):
    """What a run stands on. `packages` are those that decide what is trained, `packages_digest` covers all of them."""

    packages: dict[Text, Text]
    packages_digest: Digest
    python: Text
    platform: Text
    hardware: Hardware


class RunKey(_Part):
    """The public key behind `cnf.jkt`: the ticket has room for its thumbprint only."""

    kty: Literal["OKP"]
    crv: Literal["Ed25519"]
    x: Text


class InternalParameters(Environment):
    pool: Text
    gpus: int
    seeds: dict[Text, str]
    run_key: RunKey


class BuildDefinition(_Part):
    build_type: Literal["https://github.com/tagwarden/tagwarden/training-run/v1"] = Field(alias="buildType")
    external_parameters: ExternalParameters = Field(alias="externalParameters")
    internal_parameters: InternalParameters = Field(alias="internalParameters")
    resolved_dependencies: list[Resource] = Field(alias="resolvedDependencies")


class Builder(_Part):
    """Who says all this: the machine that trained. It attests itself (SLSA Build L1 to L2)."""

    id: Text
    version: dict[Text, Text]


class Metadata(_Part):
    invocation_id: Text = Field(alias="invocationId")
    started_on: AwareDatetime = Field(alias="startedOn")
    finished_on: AwareDatetime = Field(alias="finishedOn")


class RunDetails(_Part):
    builder: Builder
    metadata: Metadata
    byproducts: list[Resource]
    state: Literal["finished", "interrupted"] = Field(alias="tagwarden_state")
    metrics: dict[Text, Score] = Field(alias="tagwarden_metrics")


class Predicate(_Part):
    build_definition: BuildDefinition = Field(alias="buildDefinition")
    run_details: RunDetails = Field(alias="runDetails")


class _Statement(_Part):
    type: Literal["https://in-toto.io/Statement/v1"] = Field(default=STATEMENT, alias="_type")
    subject: list[Subject] = Field(min_length=1, max_length=MAX_OUTPUTS)

    def content(self) -> bytes:
        return canonical.dumps(self.model_dump(mode="json", by_alias=True, exclude_none=True))

    @classmethod
    def read(cls, payload: bytes) -> Self:
        """Raises `ValueError` for anything that is not this statement, in its canonical form."""
        found = cls.model_validate_json(payload)
        if found.content() != payload:
            raise ValueError("it is not written in its canonical form")
        return found


class Manifest(_Statement):
    """What the run says of itself."""

    predicate_type: Literal["https://slsa.dev/provenance/v1"] = Field(default=PROVENANCE, alias="predicateType")
    predicate: Predicate

    @property
    def outputs(self) -> dict[str, str]:
        """Path -> `sha256:<hex>`, as in `wire.Report.outputs`."""
        return {subject.name: f"sha256:{of}" for subject in self.subject for of in subject.digest.values()}

    @property
    def details(self) -> RunDetails:
        return self.predicate.run_details

    @property
    def environment(self) -> InternalParameters:
        return self.predicate.build_definition.internal_parameters

    def check_agreement(self, spec: RunSpec, *, jti: str, run_spec_digest: str, token_digest: str) -> None:
        """Step 6: this manifest is of that ticket and that specification, and of all that they bind.

        Raises:
            ManifestInvalid: naming the first difference.
        """
        definition = self.predicate.build_definition
        said, inside = definition.external_parameters, definition.internal_parameters
        pairs = (
            ("ticket", jti, said.ticket_jti),
            ("specification", run_spec_digest, said.run_spec_digest),
            ("run", spec.run_id, self.details.metadata.invocation_id),
            ("task type", spec.task_type, said.task_type),
            ("version", spec.version, said.version),
            ("pool", spec.profile.pool, inside.pool),
            ("GPUs", spec.gpus, inside.gpus),
            ("seeds", seeds(spec), inside.seeds),
        )
        for what, permitted, manifest in pairs:
            if permitted != manifest:
                raise ManifestInvalid(
                    f"the manifest is of another run: its {what} is `{manifest}`, the ticket's is `{permitted}`", step=6
                )
        bound = dependencies(spec, jti=jti, run_spec_digest=run_spec_digest, token_digest=token_digest)
        if bound != definition.resolved_dependencies:
            odd = next((a for a in definition.resolved_dependencies if a not in bound), None)
            what = f"`{odd.name}`, which the ticket does not bind" if odd else "not all that the ticket binds"
            raise ManifestInvalid(f"the manifest says that the run read {what}", step=6)


class Verifier(_Part):
    id: Text
    policies: list[Resource]


class Verification(_Part):
    verifier: Verifier
    time_created: AwareDatetime = Field(alias="timeCreated")
    properties: list[Text] = Field(min_length=1)
    event_id: Text = Field(alias="tagwarden_event")


class Receipt(_Statement):
    """What the registry says of a manifest: the properties it found, and its judgement of the gates."""

    predicate_type: Literal["https://in-toto.io/attestation/svr/v0.2"] = Field(
        default=VERIFICATION, alias="predicateType"
    )
    predicate: Verification


def dependencies(spec: RunSpec, *, jti: str, run_spec_digest: str, token_digest: str) -> list[Resource]:
    """Everything a run depends on, which its specification and ticket decide: nothing here is the run's to choose."""
    found = [
        Resource(
            name=spec.inputs.model.name,
            digest={"dirHash": hex_of(spec.inputs.model.digest)},
            annotations={"role": "model"},
        ),
        *_optional(spec),
        *(
            Resource(
                name=dataset.name,
                digest={"sha256": hex_of(dataset.digest)},
                annotations={"role": dataset.role, "rows": dataset.rows},
            )
            for dataset in spec.inputs.datasets
        ),
    ]
    code = spec.inputs.code
    if code.commit is not None:
        dirty = {} if code.dirty is None else {"dirty": code.dirty}
        found.append(Resource(name="code", digest={"gitCommit": code.commit}, annotations={"role": "code", **dirty}))
    ticket = Resource(
        name="ticket.jwt",
        uri=f"urn:uuid:{jti}",
        digest={"sha256": hex_of(token_digest)},
        annotations={"role": "ticket"},
    )
    specification = Resource(
        name="run-spec.json", digest={"sha256": hex_of(run_spec_digest)}, annotations={"role": "specification"}
    )
    return [*found, ticket, specification]


def _optional(spec: RunSpec) -> Iterator[Resource]:
    """The teacher, and the checkpoint of the run that is continued, where there are any."""
    teacher, continued = spec.inputs.teacher, spec.inputs.continues
    if teacher is not None:
        yield Resource(name=teacher.name, digest={"dirHash": hex_of(teacher.digest)}, annotations={"role": "teacher"})
    if continued is not None:
        yield Resource(
            name=f"checkpoint-{continued.step}",
            digest={"dirHash": hex_of(continued.digest)},
            annotations={"role": "checkpoint", "run": continued.run_id, "step": continued.step},
        )


def seeds(spec: RunSpec) -> dict[str, str]:
    """As text: JSON numbers end at 2^53."""
    return {name: str(value) for name, value in spec.arguments.items() if "seed" in name.split("_")}


def describe(
    ticket: VerifiedTicket,
    *,
    key: SigningKey,
    environment: Environment,
    builder_version: str,
    state: Literal["finished", "interrupted"],
    outputs: Mapping[str, str],
    folders: Sequence[str],
    byproducts: Sequence[Resource],
    metrics: Mapping[str, Score],
    started: datetime,
    finished: datetime,
) -> Manifest:
    """The statement of one run. `outputs` are as in `wire.Report.outputs`; those in `folders` are whole folders.

    Raises:
        ManifestInvalid: there is something in it that a manifest cannot say (no outputs, a name that is too long).
    """
    spec, claims = ticket.spec, ticket.claims
    public = key.public_jwk()
    try:
        return Manifest(
            subject=[
                Subject(name=name, digest={"dirHash" if name in folders else "sha256": hex_of(of)})
                for name, of in outputs.items()
            ],
            predicate=Predicate(
                build_definition=BuildDefinition(
                    build_type=BUILD_TYPE,
                    external_parameters=ExternalParameters(
                        run_spec_digest=claims.run_spec_digest,
                        task_type=spec.task_type,
                        version=spec.version,
                        ticket_jti=claims.jti,
                    ),
                    internal_parameters=InternalParameters(
                        **environment.model_dump(exclude={"hardware"}),
                        hardware=environment.hardware,
                        pool=spec.profile.pool,
                        gpus=spec.gpus,
                        seeds=seeds(spec),
                        run_key=RunKey(kty="OKP", crv="Ed25519", x=public["x"]),
                    ),
                    resolved_dependencies=dependencies(
                        spec,
                        jti=claims.jti,
                        run_spec_digest=claims.run_spec_digest,
                        token_digest=digest(ticket.token.encode()),
                    ),
                ),
                run_details=RunDetails(
                    builder=Builder(id=claims.aud, version={"tagwarden": builder_version}),
                    metadata=Metadata(invocation_id=spec.run_id, started_on=started, finished_on=finished),
                    byproducts=list(byproducts),
                    state=state,
                    metrics=dict(metrics),
                ),
            ),
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise ManifestInvalid(f"no manifest: `{'.'.join(map(str, first['loc']))}`: {first['msg'].lower()}") from None


def sign(manifest: Manifest, key: SigningKey) -> bytes:
    """The envelope; its `keyid` is the thumbprint that the ticket names."""
    return dsse.sign(manifest.content(), key, key.thumbprint)


def open_manifest(envelope: bytes, jkt: str) -> Manifest:
    """Step 5: an envelope by the key whose thumbprint is `jkt` (the ticket's `cnf.jkt`).

    The key itself comes with the manifest; it is nobody's until its thumbprint has been compared.

    Raises:
        ManifestInvalid: step 5, with the reason.
    """
    try:
        unverified = dsse.read(envelope)
        key = public_key(_run_key(unverified.payload))
        if key.thumbprint != jkt or unverified.keyid != jkt:
            raise EnvelopeInvalid("it is signed by another key than the ticket names (`cnf.jkt`)")
        return Manifest.read(unverified.check(key))
    except (ValueError, KeyUnusable, RecursionError) as error:
        raise ManifestInvalid(f"the manifest is refused: {_first(error)}", step=5) from error


def countersign(
    envelope: bytes,
    manifest: Manifest,
    *,
    issuer: str,
    policy_digest: str,
    verdict: str | None,
    event_id: str,
    at: datetime,
    key: Signer,
) -> bytes:
    """The registry's statement on a manifest that it has checked."""
    properties = [
        "TAGWARDEN_MANIFEST_BY_RUN_KEY",
        "TAGWARDEN_TICKET_REDEEMED_ONCE",
        f"TAGWARDEN_RUN_{manifest.details.state.upper()}",
    ]
    if verdict is not None:
        properties.append(f"TAGWARDEN_GATES_{verdict.upper()}")
    receipt = Receipt(
        subject=[Subject(name="manifest.json", digest={"sha256": hex_of(digest(envelope))})],
        predicate=Verification(
            verifier=Verifier(id=issuer, policies=[Resource(name="policy", digest={"sha256": hex_of(policy_digest)})]),
            time_created=at,
            properties=properties,
            event_id=event_id,
        ),
    )
    return dsse.sign(receipt.content(), key, key.kid)


def open_receipt(receipt: bytes, envelope: bytes, keys: KeySet, *, issuer: str) -> Receipt:
    """Step 8: the registry's statement on exactly this manifest.

    Raises:
        ManifestInvalid: step 8, with the reason.
    """
    try:
        unverified = dsse.read(receipt)
        key = keys.get(unverified.keyid)
        if key is None:
            raise EnvelopeInvalid(f"it is signed with `{unverified.keyid}`, which is no trusted attestation key")
        found = Receipt.read(unverified.check(key))
        if found.predicate.verifier.id != issuer:
            raise EnvelopeInvalid(f"it is by `{found.predicate.verifier.id}`, not by `{issuer}`")
        if [subject.digest for subject in found.subject] != [{"sha256": hex_of(digest(envelope))}]:
            raise EnvelopeInvalid("it is on another manifest")
    except (ValueError, RecursionError) as error:
        raise ManifestInvalid(f"the countersignature is refused: {_first(error)}", step=8) from error
    return found


def unverified_event(receipt: bytes) -> str | None:
    """The id of the event that logged a manifest, as its receipt says; for fetching a proof, which proves it."""
    try:
        return Receipt.read(dsse.read(receipt).payload).predicate.event_id
    except ValueError:
        return None


def _run_key(payload: bytes) -> dict[str, Any]:
    document = json.loads(payload)
    try:
        key = document["predicate"]["buildDefinition"]["internalParameters"]["run_key"]
    except (KeyError, TypeError, IndexError):
        key = None
    if not isinstance(key, dict):
        raise EnvelopeInvalid("it does not bring the key that signed it (`run_key`)")
    return key


def _first(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"`{'.'.join(map(str, first['loc']))}`: {first['msg'].lower()}"
    return str(error)
