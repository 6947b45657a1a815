"""Examples of bodies, as they stand in the OpenAPI document: one for each operation that takes one, and the main
answers. A test holds each to its schema, and sends what can be sent to a real registry."""

from typing import Any

DIGEST = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
_WHY = {"reason": "left the company"}
_NEW_TAG = {
    "kind": "new-tag",
    "tag": "review-sentiment",
    "tag_kind": "business",
    "parent": "sequence-classification",
    "description": "Whether a review speaks well of what it reviews.",
    "aliases": [],
    "overrides": {},
}
_FILES = {
    "rules/nlp.yaml": "owner: nlp\nrules:\n- id: nlp-trains-dpo\n  effect: allow\n  who: [group:nlp]\n  may: [submit]\n"
    "  tag: [dpo]\n  reason: They answer for it.\n"
}

REQUESTS: dict[str, Any] = {
    "checkTagName": {"name": "dpo-v2-final"},
    "openProposal": {"change": _NEW_TAG, "reason": "we train this every week"},
    "editProposal": {"reason": "we train this every day by now"},
    "reviewProposal": {"verdict": "approve", "digest": DIGEST, "reason": "two teams need it, and no tag says it yet"},
    "overrideRule": {
        "rule": "retrieval-freeze",
        "who": ["user:wang"],
        "may": ["submit"],
        "tag": "embedding",
        "unit": "retail",
        "target": "local",
        "reference": "INC-4711",
        "reason": "the index of the shop is broken, and the sale is on",
        "until": "2026-12-24T06:00:00Z",
    },
    "revokeException": {"reason": "the pilot is over"},
    "evaluate": {
        "resource": {"type": "task-type", "id": "dpo"},
        "action": {"name": "submit"},
        "context": {"business_unit": "retail", "target": "local", "gpus": 0},
    },
    "evaluateMany": {
        "action": {"name": "submit"},
        "evaluations": [
            {"resource": {"type": "task-type", "id": "dpo"}},
            {"resource": {"type": "task-type", "id": "embedding"}},
        ],
    },
    "validatePolicy": {"files": _FILES},
    "replayPolicy": {"revision": DIGEST, "days": 7},
    "issueTicket": {
        "task_type": "sequence-classification",
        "arguments": {"label_names": ["bad", "good"]},
        "inputs": {
            "model": {"name": "minilm", "digest": DIGEST},
            "datasets": [{"role": "train", "name": "reviews.csv", "digest": DIGEST, "rows": 100}],
            "code": {"commit": None, "dirty": None},
            "eval_fraction": 0.1,
            "columns": {},
        },
        "audience": "urn:swift:exec:local:workstation",
        "jkt": "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs",
        "client_id": "swift-submit/1.0",
    },
    "redeemTicket": {"redemption_id": "0191d5a4-3c7e-7d2c-9d41-6f5a1f0f2b11"},
    "revokeTicket": {"reason": "wrong data"},
    "refuseTicket": {"step": 9, "reason": "the ticket is for another machine"},
    "uploadOfflineRun": {"record": "eyJ0eXAiOiJyZWRlbXB0aW9uLXJlY29yZCtqd3QifQ.e30.c2ln"},
    "sendHeartbeat": {"step": 120, "total_steps": 1000, "logs": {"loss": 0.42}},
    "reportRun": {"state": "failed", "steps": 120, "train_seconds": 31.5, "error": "out of memory"},
    "erasePerson": {"actor": "user:li", "business_unit": "retail", "reason": "asked for under GDPR article 17"},
    "createToken": {"scopes": ["submit"], "life_s": 3600},
    "disablePrincipal": _WHY,
    "enablePrincipal": {"reason": "back from leave"},
}

ANSWERS: dict[str, Any] = {
    "listTags": {
        "items": [
            {
                "name": "dpo",
                "kind": "objective",
                "parent": None,
                "aliases": ["direct-preference-optimization"],
                "description": "A language model learns to prefer the chosen answer over the rejected one.",
                "state": "active",
                "version": 1,
                "profile_digest": "sha256:ad80a44e8a591c1eb54d98c06b0611dfc0508a9299386eacd6fa11874645d5b1",
            }
        ],
        "next_page_token": None,
    },
    "checkTagName": {
        "name": "dpo-v2-final",
        "ruling": "block",
        "matches": [{"rule": "noise", "evidence": "without its version and noise words it is `dpo`", "tag": "dpo"}],
        "suggestion": "dpo",
    },
    "openProposal": {
        "id": "prp-01a20f44-ba1d-79e7-a076-913ec7f5d561",
        "state": "open",
        "subject": "tag:review-sentiment",
        "change": {
            "kind": "new-tag",
            "tag": "review-sentiment",
            "tag_kind": "business",
            "parent": "sequence-classification",
            "description": "Whether a review speaks well of what it reviews.",
            "aliases": [],
            "profile": None,
            "overrides": {"parameters": {}, "metrics": [], "gates": [], "pool": None, "limits": None},
        },
        "checks": None,
        "base": None,
        "digest": "sha256:e809a1091967146eff9dacfd21a07b4425350bb0c3872a16eb233a10f438ab55",
        "reason": "we train this every week",
        "author": "user:wang",
        "contributors": [],
        "round": 1,
        "opened_at": "2026-11-24T20:34:52.071819Z",
        "not_before": None,
        "expires_at": "2026-12-08T20:34:52.085584Z",
        "decided_at": None,
        "terms": {
            "rule": "everything-else",
            "policy_revision": "sha256:8e10dfced1e28ab0ff83e393f8fe2ae6823b260a59c3b069054d2d3e8752ee27",
            "change_class": "compatible",
            "approvals": 2,
            "needed": [{"name": "stewards", "group": "tag-stewards", "unit": None, "approve": 2}],
            "distinct_units": 1,
            "exclude": ["author", "contributors", "beneficiaries"],
            "remind_after": "P2D",
            "escalate_after": None,
            "escalate_to": None,
            "expires_after": "P14D",
        },
        "terms_digest": "sha256:d2b3a5ae7db0eb1fc6e34e4ef9f11a2e641827ed6cdc2a78738a062a9a03dc3b",
        "approvals_needed": 2,
        "missing": [
            {"name": "stewards", "group": "tag-stewards", "unit": None, "have": 0, "need": 2},
            {"name": "people in all", "group": None, "unit": None, "have": 0, "need": 2},
            {"name": "different business units", "group": None, "unit": None, "have": 0, "need": 1},
        ],
        "reviews": [],
        "version": None,
        "policy_revision": None,
    },
    "getTicket": {
        "jti": "01a20f44-ba80-7120-baac-f3eab26b363d",
        "run_id": "run-01a20f44-ba80-7d31-bac3-dd58d1ba326a",
        "state": "issued",
        "issued_at": "2026-11-24T20:34:52.160549Z",
        "expires_at": "2026-11-24T20:49:52.160549Z",
        "redeemed_at": None,
        "revoked_at": None,
        "redeem": "online",
    },
    "getRun": {
        "id": "run-01a20f44-ba80-7d31-bac3-dd58d1ba326a",
        "task_type": "sequence-classification",
        "version": 1,
        "business_unit": "retail",
        "actor": "user:wang",
        "state": "permitted",
        "target": "local",
        "pool": "t4",
        "policy_rule": "trainers-train-classifiers",
        "run_spec_digest": "sha256:42d294c41fb2e64826640ecfd1ad1547ec2d3cff29d10e44db0ad78e4ea5090c",
        "created_at": "2026-11-24T20:34:52.160549Z",
        "started_at": None,
        "ended_at": None,
        "step": 0,
        "total_steps": 0,
        "logs": {},
        "scores": {},
        "gates": [],
        "verdict": None,
    },
    "evaluate": {
        "decision": False,
        "context": {
            "reason": "no-matching-rule",
            "rule": None,
            "matched": [],
            "warnings": [],
            "policy_revision": "sha256:8e10dfced1e28ab0ff83e393f8fe2ae6823b260a59c3b069054d2d3e8752ee27",
            "nearest": [
                {
                    "rule": "nlp-trains-preference-alignment",
                    "who": ["group:nlp"],
                    "owner": "nlp",
                    "failed": ["who: only group:nlp"],
                }
            ],
            "ask": ["nlp"],
            "decision_id": None,
        },
    },
    "whoAmI": {
        "id": "user:wang",
        "groups": ["trainers"],
        "groups_digest": "sha256:1402ce8790ec9b581732df4406750151f55d6ca2f16947459c04d8348ee5a311",
        "business_unit": "retail",
        "scopes": ["*"],
        "expires_at": "2026-11-25T20:34:49.406556Z",
    },
    "getPrincipal": {
        "id": "user:li",
        "enabled": False,
        "disabled_at": "2026-11-24T20:34:52.405869Z",
        "disabled_by": "user:root",
        "reason": "left the company",
    },
}
