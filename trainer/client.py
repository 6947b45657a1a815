"""The registry's HTTP API with types: one method for each request, bodies and answers from `enforcer.wire`.

Every method raises what the registry raised (`enforcer.problems`), or `RegistryUnreachable`.
"""

import uuid
from collections.abc import Iterator
from typing import Any, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, ValidationError

from enforcer import proofs, wire
from enforcer.keys import SigningKey
from enforcer.problems import RegistryUnreachable
from trainer.http import Link

Answer = TypeVar("Answer", bound=BaseModel)
PAGE = 100  # items asked for at once; lists go on for as long as somebody reads


class Registry(Link):
    """A registry, seen by a trainer."""

    # --- tags -----------------------------------------------------------------------------------------------------

    def tags(self, **filters: str | None) -> Iterator[wire.Tag]:
        return self._each("/v1/tags", wire.TagPage, **filters)

    def tag(self, name: str) -> wire.TagDetail:
        return self._get(f"/v1/tags/{_part(name)}", wire.TagDetail)

    def tag_version(self, name: str, version: int) -> wire.TagVersion:
        return self._get(f"/v1/tags/{_part(name)}/versions/{version}", wire.TagVersion)

    def tag_usage(self, name: str, business_unit: str | None = None) -> wire.TagUsage:
        return self._get(f"/v1/tags/{_part(name)}/usage", wire.TagUsage, business_unit=business_unit)

    def readiness(self, name: str) -> wire.DeprecationReadiness:
        return self._get(f"/v1/tags/{_part(name)}/deprecation-readiness", wire.DeprecationReadiness)

    def version_diff(self, name: str, version: int, before: int | None = None) -> wire.VersionDiff:
        path = f"/v1/tags/{_part(name)}/versions/{version}/diff"
        return self._get(path, wire.VersionDiff, **({} if before is None else {"from": before}))

    def check_name(self, asked: wire.NameCheckRequest) -> wire.NameCheck:
        return self._post("/v1/tags:check-name", asked, wire.NameCheck, again=True)

    # --- proposals ------------------------------------------------------------------------------------------------

    def propose(self, request: wire.ProposalRequest) -> wire.Proposal:
        return self._post("/v1/proposals", request, wire.Proposal, again=True)

    def proposals(
        self, state: str | None = None, *, awaiting_me: bool = False, filter: str | None = None
    ) -> Iterator[wire.Proposal]:
        """Newest first."""
        mine = "true" if awaiting_me else None
        return self._each("/v1/proposals", wire.ProposalPage, state=state, awaiting_me=mine, filter=filter)

    def edit_proposal(self, id: str, edit: wire.ProposalEdit, *, seen: str | None) -> wire.Proposal:
        """`seen` is the `etag` that the proposal was read with; as it is for submitting and withdrawing."""
        said = edit.model_dump(mode="json", exclude_unset=True)
        return self._change("PATCH", f"/v1/proposals/{_part(id)}", seen, wire.Proposal, said)

    def submit_proposal(self, id: str, *, seen: str | None) -> wire.Proposal:
        return self._change("POST", f"/v1/proposals/{_part(id)}:submit", seen, wire.Proposal)

    def withdraw_proposal(self, id: str, *, seen: str | None) -> wire.Proposal:
        return self._change("POST", f"/v1/proposals/{_part(id)}:withdraw", seen, wire.Proposal)

    def proposal(self, id: str) -> wire.Proposal:
        return self._get(f"/v1/proposals/{_part(id)}", wire.Proposal)

    def ratify(self, id: str, asked: wire.Ratification) -> wire.Proposal:
        return self._post(f"/v1/proposals/{_part(id)}:ratify", asked, wire.Proposal, again=True)

    def delegate(self, asked: wire.DelegationRequest) -> wire.Delegation:
        return self._post("/v1/delegations", asked, wire.Delegation, again=True)

    def delegations(self, **query: str | None) -> Iterator[wire.Delegation]:
        """All of them, newest first."""
        return self._each("/v1/delegations", wire.DelegationPage, **query)

    def revoke_delegation(self, id: str, asked: wire.DelegationEnd) -> wire.Delegation:
        return self._post(f"/v1/delegations/{_part(id)}:revoke", asked, wire.Delegation, again=True)

    def impact(self, id: str) -> wire.Impact:
        return self._get(f"/v1/proposals/{_part(id)}/impact", wire.Impact)

    def review(self, id: str, review: wire.Review) -> wire.Proposal:
        return self._post(f"/v1/proposals/{_part(id)}/reviews", review, wire.Proposal, again=True)

    # --- decisions -------------------------------------------------------------------------------------------------

    def evaluate(self, tag: str, action: str, context: wire.EvaluationContext) -> wire.Evaluation:
        asked = wire.EvaluationRequest(
            resource=wire.EvaluationResource(type="task-type", id=tag),
            action=wire.EvaluationAction(name=action),
            context=context,
        )
        return self._post("/access/v1/evaluation", asked, wire.Evaluation, again=True)

    # --- tickets --------------------------------------------------------------------------------------------------

    def plan(self, request: wire.TicketRequest) -> wire.TicketPlan:
        return self._post("/v1/tickets", request, wire.TicketPlan, again=True, query={"validate_only": "true"})

    def request_ticket(self, request: wire.TicketRequest) -> wire.TicketGrant:
        """A lost answer is asked for again under the same Idempotency-Key: one submission, one ticket."""
        return self._post("/v1/tickets", request, wire.TicketGrant, again=True)

    def redeem(self, ticket: str, jti: str, key: SigningKey, redemption_id: str) -> wire.Lease:
        """Redeem by proof of possession. Asking again with the same `redemption_id` returns the same lease."""
        path = f"/v1/tickets/{_part(jti)}:redeem"
        # The URL as the registry knows itself, which behind a proxy is not the one that is dialled.
        proof = proofs.prove(key, method="POST", url=self.settings.issuer + path, ticket=ticket)
        body = wire.Redemption(redemption_id=redemption_id)
        return self._post(path, body, wire.Lease, again=True, headers={"DPoP": proof}, authorization=f"DPoP {ticket}")

    def revoke(self, jti: str, reason: str) -> wire.TicketStatus:
        body = wire.Revocation(reason=reason)
        return self._post(f"/v1/tickets/{_part(jti)}:revoke", body, wire.TicketStatus, again=True)

    def refuse(self, ticket: str, jti: str, key: SigningKey, step: int, reason: str) -> wire.RefusalNoted:
        """Put on record that this worker did not start what the ticket permits."""
        path = f"/v1/tickets/{_part(jti)}:refuse"
        proof = proofs.prove(key, method="POST", url=self.settings.issuer + path, ticket=ticket)
        body = wire.TicketRefusal(step=step, reason=reason[:300])
        # Not again: a proof of possession is good for one request, and the registry remembers it.
        return self._post(path, body, wire.RefusalNoted, headers={"DPoP": proof}, authorization=f"DPoP {ticket}")

    def upload(self, ticket: str, jti: str, told: wire.Upload) -> wire.ReportedRun:
        """Hand in what an offline run left. The same again changes nothing."""
        path = f"/v1/tickets/{_part(jti)}:upload"
        return self._post(path, told, wire.ReportedRun, again=True, authorization=f"Ticket {ticket}")

    def keys(self) -> bytes:
        """The registry's JWKS, byte for byte."""
        return self.ask("GET", "/.well-known/jwks.json", public=True, again=True)

    # --- the log ---------------------------------------------------------------------------------------------------

    def log_keys(self) -> bytes:
        """The JWKS of the registry's log, byte for byte."""
        return self.ask("GET", "/tlog/jwks.json", public=True, again=True)

    def retired_keys(self) -> bytes:
        """Keys that sign no more, in JWK form with their purpose, byte for byte."""
        return self.ask("GET", "/.well-known/retired-keys", public=True, again=True)

    def consistency(self, old: int, size: int) -> wire.ConsistencyProof:
        path = "/tlog/consistency"
        query = {"from": old, "to": size}
        return self._read(self.ask("GET", path, query=query, public=True, again=True), wire.ConsistencyProof, path)

    def proof(self, event_id: str, wait_s: int = 5, lease_token: str | None = None) -> str:
        """The `.tlog-proof` of an event, which the registry sequences first when it still waits for its place. For
        whoever is signed in, or for the run that the event is about."""
        path = f"/v1/audit/{_part(event_id)}/proof"
        lease = f"Bearer {lease_token}" if lease_token else None
        answer = self.ask("GET", path, headers={"Prefer": f"wait={wait_s}"}, authorization=lease, again=True)
        return answer.decode("utf-8", "replace")

    # --- countersignatures ----------------------------------------------------------------------------------------

    def attestation_keys(self) -> bytes:
        """The JWKS of the registry's countersignatures on manifests, byte for byte."""
        return self.ask("GET", "/.well-known/attestation-jwks.json", public=True, again=True)

    # --- runs -----------------------------------------------------------------------------------------------------

    def heartbeat(self, run_id: str, lease_token: str, beat: wire.Heartbeat) -> wire.HeartbeatAnswer:
        path = f"/v1/runs/{_part(run_id)}/heartbeats"
        return self._post(path, beat, wire.HeartbeatAnswer, authorization=f"Bearer {lease_token}")

    def report(self, run_id: str, lease_token: str, report: wire.Report) -> wire.ReportedRun:
        path = f"/v1/runs/{_part(run_id)}/report"
        return self._post(path, report, wire.ReportedRun, again=True, authorization=f"Bearer {lease_token}")

    def force(self, run_id: str, use: wire.ForcedUse) -> wire.Run:
        """Put on record that the model of a run that was not accepted is used."""
        return self._post(f"/v1/runs/{_part(run_id)}:force", use, wire.Run, again=True)

    def manifest(self, run_id: str) -> wire.RunManifest:
        return self._get(f"/v1/runs/{_part(run_id)}/manifest", wire.RunManifest)

    def runs(self, **filters: str | None) -> Iterator[wire.Run]:
        """Newest first."""
        return self._each("/v1/runs", wire.RunPage, **filters)

    def run(self, id: str) -> wire.Run:
        return self._get(f"/v1/runs/{_part(id)}", wire.Run)

    def _get(self, path: str, answer: type[Answer], **query: Any) -> Answer:
        return self._read(self.ask("GET", path, query=query, again=True), answer, path)

    def _each(self, path: str, page: type[Answer], **query: Any) -> Iterator[Any]:
        """The items of a list, page after page."""
        token: str | None = ""
        while token is not None:
            answer: Any = self._get(path, page, page_size=PAGE, page_token=token or None, **query)
            yield from answer.items
            token = answer.next_page_token

    def _post(self, path: str, body: BaseModel, answer: type[Answer], *, headers: dict[str, str] | None = None,
              **how: Any) -> Answer:  # fmt: skip
        # One key for each call, so that `again` repeats the same request and never makes a second one.
        headers = {"Idempotency-Key": str(uuid.uuid4()), **(headers or {})}
        return self._read(self.ask("POST", path, body.model_dump(mode="json"), headers=headers, **how), answer, path)

    def _change(
        self, method: str, path: str, seen: str | None, answer: type[Answer], body: dict[str, Any] | None = None
    ) -> Answer:
        """A change made to what was seen, once, and to nothing else."""
        headers = {"Idempotency-Key": str(uuid.uuid4()), **({"If-Match": seen} if seen else {})}
        return self._read(self.ask(method, path, body, headers=headers, again=True), answer, path)

    def _read(self, content: bytes, answer: type[Answer], path: str) -> Answer:
        try:
            return answer.model_validate_json(content)
        except ValidationError as error:
            raise RegistryUnreachable(
                f"`{self.settings.server}` answered `{path}` in a form that this client does not know "
                f"({error.error_count()} differences); is it a registry of this release? Check `SWIFT_SUBMIT_SERVER`",
                server=self.settings.server,
            ) from error


def _part(value: str) -> str:
    """One path segment: a name with a slash in it stays one name."""
    return quote(value, safe="")
