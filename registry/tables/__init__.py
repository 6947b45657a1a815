"""Rows. A table is a row and nothing else: rules live with their noun, bodies in `enforcer.wire`.

SQLModel tables do not validate on construction, so nothing untrusted is ever passed to one unchecked.
"""

from registry.tables.audit import (
    Event as Event,
    LegalHold as LegalHold,
    LogCheckpoint as LogCheckpoint,
    LogEntry as LogEntry,
    LogTile as LogTile,
    PendingEntry as PendingEntry,
)
from registry.tables.columns import UtcDateTime as UtcDateTime
from registry.tables.delegations import Delegation as Delegation
from registry.tables.idempotency import StoredAnswer as StoredAnswer
from registry.tables.identity import (
    ApiToken as ApiToken,
    Principal as Principal,
    TradedToken as TradedToken,
    UsedProof as UsedProof,
)
from registry.tables.names import KnownName as KnownName, NameRules as NameRules
from registry.tables.policy import (
    KnownException as KnownException,
    PolicyHead as PolicyHead,
    PolicyPublication as PolicyPublication,
    PolicyRevision as PolicyRevision,
    PolicyRule as PolicyRule,
    PolicyShadowCount as PolicyShadowCount,
)
from registry.tables.proposals import (
    Contributor as Contributor,
    LostApproval as LostApproval,
    Proposal as Proposal,
    ProposedFile as ProposedFile,
    Review as Review,
)
from registry.tables.quotas import QuotaHold as QuotaHold, QuotaUse as QuotaUse
from registry.tables.runs import IS_ALIVE as IS_ALIVE, OPEN_RUNS as OPEN_RUNS, Run as Run, RunManifest as RunManifest
from registry.tables.tickets import IdempotentAnswer as IdempotentAnswer, Ticket as Ticket
from registry.tables.vocabulary import Stamp as Stamp, Tag as Tag, TagVersion as TagVersion
from registry.tables.webhooks import Webhook as Webhook, WebhookDelivery as WebhookDelivery
