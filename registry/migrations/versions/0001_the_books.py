"""the books

A migration must not break the code that runs before it: add, backfill, and only a release later take away.
Revision 0001, after nothing.
"""

import sqlalchemy as sa
from alembic import op

revision = '0001'
down_revision = None
branch_labels = None
depends_on = None

IMMUTABLE = (
    "log_entry", "tag_version", "review", "lost_approval", "contributor", "run_manifest", "proposed_file", "policy_rule",
    "policy_revision", "policy_publication", "name_rules",
)
LOGGED = (  # what an event's log entry is made of: it stays when the personal part is erased
    "id", "at", "kind", "outcome", "business_unit", "task_type", "version", "rule", "policy_revision", "run_id",
    "ticket_id", "proposal_id", "digest", "groups_digest", "personal_hash",
)


def _refuse(name: str, table: str, verb: str, message: str, when: str) -> None:
    """A trigger that refuses a change where `when` holds: a defence against accidents. The proof is the log."""
    if op.get_bind().dialect.name == "sqlite":
        op.execute(
            f"create trigger {name} before {verb} on \"{table}\" when {when} "
            f"begin select raise(abort, '{message}'); end"
        )
        return
    returned = "old" if verb == "delete" else "new"
    op.execute(
        f"create function {name}() returns trigger language plpgsql as $$ begin "
        f"if {when} then raise exception '{message}'; end if; return {returned}; end $$"
    )
    op.execute(f'create trigger {name} before {verb} on "{table}" for each row execute function {name}()')


def _add_triggers() -> None:
    for table in IMMUTABLE:
        for verb in ("update", "delete"):
            _refuse(f"{table}_no_{verb}", table, verb, f"rows of {table} are never changed", "true")
    _refuse("event_no_delete", "event", "delete", "rows of event are never changed", "true")
    same = " and ".join(f"new.{column} is not distinct from old.{column}" for column in LOGGED)
    erased = "new.salt is null and new.actor = 'erased' and new.reason is null"
    emptied = "cast(new.groups as text) = '[]' and cast(new.detail as text) = '{}'"
    _refuse(
        "event_only_erased", "event", "update", "rows of event are never changed, only erased",
        f"not ({erased} and {emptied} and {same})",
    )
    _refuse("log_tile_full", "log_tile", "update", "a full tile of the log is never changed", "old.width = 256")
    _refuse("log_tile_no_delete", "log_tile", "delete", "rows of log_tile are never deleted", "true")
    _refuse(
        "proposal_decided", "proposal", "update", "a decided proposal is never changed",
        "old.state not in ('draft', 'open', 'approved')",
    )
    _refuse("proposal_no_delete", "proposal", "delete", "proposals are never deleted", "true")
    _refuse(
        "review_not_by_author", "review", "insert", "nobody reviews their own proposal",
        "(select author from proposal where id = new.proposal_id) in (new.reviewer, coalesce(new.on_behalf_of, ''))",
    )
    _refuse(
        "delegation_only_ends", "delegation", "update", "a delegation only ends, and once",
        "old.ended_at is not null or new.ended_at is null or "
        + " or ".join(
            f"cast(new.{column} as text) is distinct from cast(old.{column} as text)"
            for column in ("delegator", "delegate", "actions", "groups", "tag", "unit", "made_at", "not_after")
        ),
    )
    _refuse("delegation_no_delete", "delegation", "delete", "delegations are never deleted", "true")
    _refuse(
        "review_of_what_is_open", "review", "insert", "only what is open is reviewed",
        "(select state from proposal where id = new.proposal_id) not in ('open', 'approved')",
    )
    _hold_the_life_of_tags()


def _hold_the_life_of_tags() -> None:
    """active -> deprecated -> sunset -> archived, and deprecated -> active. What ended is replaced by what is active,
    so there are no chains and no cycles. What is archived points to what replaced it then."""
    _refuse("tag_no_delete", "tag", "delete", "task types are never deleted", "true")
    _refuse("tag_begins", "tag", "insert", "a task type begins as active", "new.state <> 'active'")
    _refuse("tag_archived", "tag", "update", "an archived task type is never changed", "old.state = 'archived'")
    _refuse(
        "tag_life", "tag", "update", "the life of a task type does not go that way",
        "new.state <> old.state and (old.state, new.state) not in (values ('active', 'deprecated'), "
        "('deprecated', 'active'), ('deprecated', 'sunset'), ('sunset', 'archived'))",
    )
    _refuse(
        "tag_replacement", "tag", "update", "what replaces a task type is active",
        "new.replaced_by is distinct from old.replaced_by and new.replaced_by is not null "
        "and not exists (select 1 from tag t where t.name = new.replaced_by and t.state = 'active')",
    )
    _refuse(
        "tag_replaces", "tag", "update", "what replaces others does not end before they point elsewhere",
        "old.state = 'active' and new.state <> 'active' "
        "and exists (select 1 from tag t where t.replaced_by = old.name and t.state in ('deprecated', 'sunset'))",
    )
    _refuse("known_name_no_update", "known_name", "update", "what a name means is never changed", "true")
    _refuse(
        "known_name_no_delete", "known_name", "delete", "names and aliases are never given up",
        "old.kind <> 'reserved'",
    )


# What a ticket rests on. A token or an alias that is new changes nothing for what was known before (and an alias is never
# changed), and a token that is used changes nothing of what it opens.
STAMPED = {
    "tag": ("insert", "update", "delete"),
    "api_token": ("update of secret_sha256, actor, groups, scopes, business_unit, expires_at", "delete"),
    "principal": ("insert", "update", "delete"),
    "policy_head": ("insert", "update", "delete"),
}


def _move_the_stamp() -> None:
    move = "update stamp set value = value + 1;"
    sqlite = op.get_bind().dialect.name == "sqlite"
    if not sqlite:
        op.execute(
            f"create function move_the_stamp() returns trigger language plpgsql as $$ begin {move} return null; end $$"
        )
    for table, verbs in STAMPED.items():
        for verb in verbs:
            name = f"{table}_{verb.split()[0]}_moves_the_stamp"
            if sqlite:
                op.execute(f'create trigger {name} after {verb} on "{table}" begin {move} end')
            else:
                op.execute(
                    f'create trigger {name} after {verb} on "{table}" for each statement '
                    "execute function move_the_stamp()"
                )


def _keep_names() -> None:
    """A tag takes its name in the index of names, or there is no tag; and whatever changes there, changes the stamp."""
    take = "insert into known_name (spelling, kind, tag) values (new.name, 'tag', new.name);"
    if op.get_bind().dialect.name == "sqlite":
        op.execute(f"create trigger tag_takes_its_name after insert on tag begin {take} end")
        for table in ("known_name", "name_rules"):
            for verb in ("insert", "delete"):
                stamp = "update stamp set names = lower(hex(randomblob(16)));"
                op.execute(f"create trigger {table}_{verb}_is_noticed after {verb} on {table} begin {stamp} end")
        return
    for name, body, returned in (
        ("tag_takes_its_name", take, "new"),
        ("names_are_noticed", "update stamp set names = gen_random_uuid()::text;", "null"),
    ):
        op.execute(
            f"create function {name}() returns trigger language plpgsql as $$ begin {body} return {returned}; end $$"
        )
    op.execute("create trigger tag_takes_its_name after insert on tag for each row execute function tag_takes_its_name()")
    for table in ("known_name", "name_rules"):
        op.execute(
            f"create trigger {table}_is_noticed after insert or delete on {table} "
            "for each statement execute function names_are_noticed()"
        )


def _add_partial_index(name: str, table: str, columns: list[str], where: str) -> None:
    op.create_index(name, table, columns, unique=False, sqlite_where=sa.text(where), postgresql_where=sa.text(where))


def upgrade() -> None:
    op.create_table('api_token',
    sa.Column('id', sa.String(), nullable=False),
    sa.Column('secret_sha256', sa.LargeBinary(), nullable=False),
    sa.Column('actor', sa.String(), nullable=False),
    sa.Column('groups', sa.JSON(), nullable=False),
    sa.Column('business_unit', sa.String(), nullable=False),
    sa.Column('scopes', sa.JSON(), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('expires_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('last_used_at', sa.DateTime(timezone=True), nullable=True),
    sa.PrimaryKeyConstraint('id')
    )
    op.create_index('ix_api_token_actor', 'api_token', ['actor'], unique=False)
    op.create_table('principal',
    sa.Column('id', sa.String(), nullable=False),
    sa.Column('disabled_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('disabled_by', sa.String(), nullable=False),
    sa.Column('reason', sa.String(), nullable=False),
    sa.PrimaryKeyConstraint('id')
    )
    op.create_table('traded_token',
    sa.Column('id', sa.String(), nullable=False),
    sa.Column('expires_at', sa.DateTime(timezone=True), nullable=False),
    sa.PrimaryKeyConstraint('id')
    )
    op.create_index('ix_traded_token_expires_at', 'traded_token', ['expires_at'], unique=False)
    op.create_table('event',
    sa.Column('id', sa.String(), nullable=False),
    sa.Column('at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('kind', sa.String(), nullable=False),
    sa.Column('outcome', sa.String(), nullable=False),
    sa.Column('actor', sa.String(), nullable=False),
    sa.Column('groups', sa.JSON(), nullable=False),
    sa.Column('business_unit', sa.String(), nullable=False),
    sa.Column('task_type', sa.String(), nullable=True),
    sa.Column('version', sa.Integer(), nullable=True),
    sa.Column('rule', sa.String(), nullable=True),
    sa.Column('policy_revision', sa.String(), nullable=True),
    sa.Column('run_id', sa.String(), nullable=True),
    sa.Column('ticket_id', sa.String(), nullable=True),
    sa.Column('proposal_id', sa.String(), nullable=True),
    sa.Column('digest', sa.String(), nullable=True),
    sa.Column('groups_digest', sa.String(), nullable=False),
    sa.Column('reason', sa.String(), nullable=True),
    sa.Column('detail', sa.JSON(), nullable=False),
    sa.Column('personal_hash', sa.String(), nullable=False),
    sa.Column('salt', sa.String(), nullable=True),
    sa.PrimaryKeyConstraint('id')
    )
    op.create_index('event_by_actor', 'event', ['actor', 'id'], unique=False)
    op.create_index('event_by_kind', 'event', ['kind', 'id'], unique=False)
    op.create_index('event_by_tag', 'event', ['task_type', 'id'], unique=False)
    op.create_index('event_by_unit', 'event', ['business_unit', 'id'], unique=False)
    op.create_index('ix_event_run_id', 'event', ['run_id'], unique=False)
    op.create_index('event_by_unit_kind', 'event', ['business_unit', 'kind', 'id', 'outcome'], unique=False)
    op.create_index('event_by_unit_tag', 'event', ['business_unit', 'task_type', 'id', 'kind'], unique=False)
    op.create_index(
        'event_by_unit_actor', 'event', ['business_unit', 'actor', 'id', 'task_type', 'kind', 'outcome'], unique=False
    )
    refused, has_ticket = sa.text("outcome = 'refused'"), sa.text("ticket_id is not null")
    op.create_index(
        'event_refused', 'event', ['business_unit', 'id', 'kind', 'task_type', 'actor'], unique=False,
        sqlite_where=refused, postgresql_where=refused,
    )
    op.create_index(
        'event_by_ticket', 'event', ['ticket_id', 'id'], unique=False,
        sqlite_where=has_ticket, postgresql_where=has_ticket,
    )
    op.create_table('legal_hold',
    sa.Column('id', sa.String(), nullable=False),
    sa.Column('reason', sa.String(), nullable=False),
    sa.Column('placed_by', sa.String(), nullable=False),
    sa.Column('placed_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('released_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('business_unit', sa.String(), nullable=True),
    sa.Column('actor', sa.String(), nullable=True),
    sa.Column('run_id', sa.String(), nullable=True),
    sa.PrimaryKeyConstraint('id')
    )
    op.create_table('idempotent_answer',
    sa.Column('actor', sa.String(), nullable=False),
    sa.Column('key', sa.String(), nullable=False),
    sa.Column('request_digest', sa.String(), nullable=False),
    sa.Column('jti', sa.String(), nullable=False),
    sa.Column('ticket', sa.String(), nullable=False),
    sa.Column('checkpoint', sa.String(), nullable=False),
    sa.Column('warnings', sa.JSON(), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
    sa.PrimaryKeyConstraint('actor', 'key')
    )
    op.create_index('ix_idempotent_answer_created_at', 'idempotent_answer', ['created_at'], unique=False)
    op.create_table('stored_answer',
    sa.Column('actor', sa.String(), nullable=False),
    sa.Column('key', sa.String(), nullable=False),
    sa.Column('request_digest', sa.String(), nullable=False),
    sa.Column('status', sa.Integer(), nullable=False),
    sa.Column('headers', sa.JSON(), nullable=False),
    sa.Column('body', sa.LargeBinary(), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
    sa.PrimaryKeyConstraint('actor', 'key')
    )
    op.create_index('ix_stored_answer_created_at', 'stored_answer', ['created_at'], unique=False)
    op.create_table('used_proof',
    sa.Column('id', sa.String(), nullable=False),
    sa.Column('used_at', sa.DateTime(timezone=True), nullable=False),
    sa.PrimaryKeyConstraint('id')
    )
    op.create_index('ix_used_proof_used_at', 'used_proof', ['used_at'], unique=False)
    op.create_table('proposal',
    sa.Column('id', sa.String(), nullable=False),
    sa.Column('kind', sa.String(), nullable=False),
    sa.Column('subject', sa.String(), nullable=False),
    sa.Column('change', sa.JSON(), nullable=False),
    sa.Column('result', sa.JSON(), nullable=False),
    sa.Column('base', sa.JSON(), nullable=True),
    sa.Column('digest', sa.String(), nullable=False),
    sa.Column('reason', sa.String(), nullable=False),
    sa.Column('author', sa.String(), nullable=False),
    sa.Column('state', sa.String(), nullable=False),
    sa.Column('round', sa.Integer(), nullable=False),
    sa.Column('terms', sa.JSON(), nullable=True),
    sa.Column('terms_digest', sa.String(), nullable=True),
    sa.Column('approvals_needed', sa.Integer(), nullable=False),
    sa.Column('version', sa.Integer(), nullable=True),
    sa.Column('policy_revision', sa.String(), nullable=True),
    sa.Column('incident', sa.String(), nullable=True),
    sa.Column('incident_reason', sa.String(), nullable=True),
    sa.Column('provisional', sa.String(), nullable=True),
    sa.Column('provisional_until', sa.DateTime(timezone=True), nullable=True),
    sa.Column('opened_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('not_before', sa.DateTime(timezone=True), nullable=True),
    sa.Column('remind_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('escalate_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('expires_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('decided_at', sa.DateTime(timezone=True), nullable=True),
    sa.CheckConstraint(
        "state in ('draft', 'open', 'approved', 'applied', 'rejected', 'withdrawn', 'expired', 'superseded')",
        name='state',
    ),
    sa.CheckConstraint("provisional in ('in-effect', 'ratified', 'reverted', 'not-reverted')", name='provisional'),
    sa.CheckConstraint(
        "(provisional is null) = (incident is null) and (provisional is null) = (provisional_until is null)",
        name='provisional_for_an_incident',
    ),
    sa.CheckConstraint("provisional <> 'in-effect' or state in ('open', 'approved')", name='no_end_in_effect'),
    sa.PrimaryKeyConstraint('id')
    )
    _add_partial_index('provisional', 'proposal', ['provisional', 'provisional_until'], "provisional is not null")
    op.create_index('ix_proposal_state', 'proposal', ['state'], unique=False)
    op.create_index('ix_proposal_subject', 'proposal', ['subject'], unique=False)
    op.create_table('contributor',
    sa.Column('proposal_id', sa.String(), nullable=False),
    sa.Column('who', sa.String(), nullable=False),
    sa.ForeignKeyConstraint(['proposal_id'], ['proposal.id'], ),
    sa.PrimaryKeyConstraint('proposal_id', 'who')
    )
    op.create_table('lost_approval',
    sa.Column('proposal_id', sa.String(), nullable=False),
    sa.Column('round', sa.Integer(), autoincrement=False, nullable=False),
    sa.Column('reviewer', sa.String(), nullable=False),
    sa.Column('reason', sa.String(), nullable=False),
    sa.Column('at', sa.DateTime(timezone=True), nullable=False),
    sa.ForeignKeyConstraint(['proposal_id'], ['proposal.id'], ),
    sa.PrimaryKeyConstraint('proposal_id', 'round', 'reviewer')
    )
    op.create_table('proposed_file',
    sa.Column('proposal_id', sa.String(), nullable=False),
    sa.Column('round', sa.Integer(), autoincrement=False, nullable=False),
    sa.Column('name', sa.String(), nullable=False),
    sa.Column('content', sa.String(), nullable=False),
    sa.ForeignKeyConstraint(['proposal_id'], ['proposal.id'], ),
    sa.PrimaryKeyConstraint('proposal_id', 'round', 'name')
    )
    op.create_table('known_exception',
    sa.Column('name', sa.String(), nullable=False),
    sa.Column('terms', sa.JSON(), nullable=False),
    sa.Column('proposal_id', sa.String(), nullable=True),
    sa.Column('state', sa.String(), nullable=False),
    sa.Column('until', sa.DateTime(timezone=True), nullable=False),
    sa.CheckConstraint("state in ('live', 'expiring', 'ended', 'revoked')", name='state'),
    sa.ForeignKeyConstraint(['proposal_id'], ['proposal.id'], ),
    sa.PrimaryKeyConstraint('name')
    )
    op.create_index('ix_known_exception_state', 'known_exception', ['state'], unique=False)
    op.create_table('run',
    sa.Column('id', sa.String(), nullable=False),
    sa.Column('jti', sa.String(), nullable=False),
    sa.Column('task_type', sa.String(), nullable=False),
    sa.Column('version', sa.Integer(), nullable=False),
    sa.Column('business_unit', sa.String(), nullable=False),
    sa.Column('actor', sa.String(), nullable=False),
    sa.Column('state', sa.String(), nullable=False),
    sa.Column('target', sa.String(), nullable=False),
    sa.Column('pool', sa.String(), nullable=False),
    sa.Column('policy_rule', sa.String(), nullable=False),
    sa.Column('run_spec_digest', sa.String(), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('started_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('ended_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('heartbeat_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('lease_sha256', sa.LargeBinary(), nullable=True),
    sa.Column('lease_expires_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('stop', sa.String(), nullable=True),
    sa.Column('step', sa.BigInteger(), nullable=False),
    sa.Column('total_steps', sa.BigInteger(), nullable=False),
    sa.Column('logs', sa.JSON(), nullable=False),
    sa.Column('scores', sa.JSON(), nullable=False),
    sa.Column('gates', sa.JSON(), nullable=False),
    sa.Column('verdict', sa.String(), nullable=True),
    sa.Column('report_digest', sa.String(), nullable=True),
    sa.CheckConstraint("state in ('permitted', 'running', 'lost', 'finished', 'failed', 'interrupted')", name='state'),
    sa.PrimaryKeyConstraint('id'),
    sa.UniqueConstraint('jti')
    )
    _add_partial_index('silent_runs', 'run', ['lease_expires_at'], "state = 'running'")
    _add_partial_index('runs_alive', 'run', ['actor', 'id'], "state in ('permitted', 'running', 'lost')")
    op.create_index('run_by_tag', 'run', ['task_type', 'id'], unique=False)
    op.create_index('run_by_unit', 'run', ['business_unit', 'id'], unique=False)
    op.create_table('tag',
    sa.Column('name', sa.String(), nullable=False),
    sa.Column('kind', sa.String(), nullable=False),
    sa.Column('parent', sa.String(), nullable=True),
    sa.Column('description', sa.String(), nullable=False),
    sa.Column('state', sa.String(), nullable=False),
    sa.Column('version', sa.Integer(), nullable=False),
    sa.Column('compatibility', sa.String(), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('deprecated_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('sunset_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('replaced_by', sa.String(), nullable=True),
    sa.Column('deprecation_reason', sa.String(), nullable=True),
    sa.CheckConstraint("state in ('active', 'deprecated', 'sunset', 'archived')", name='state'),
    sa.CheckConstraint(
        "(state = 'active') = (deprecated_at is null) and (state = 'active') = (sunset_at is null) "
        "and (state = 'active') = (deprecation_reason is null)", name='terms_of_the_end'
    ),
    sa.CheckConstraint("replaced_by is null or (state <> 'active' and replaced_by <> name)", name='replacement'),
    sa.CheckConstraint(
        "compatibility in ('NONE', 'BACKWARD', 'BACKWARD_TRANSITIVE', 'FORWARD', 'FORWARD_TRANSITIVE', 'FULL', "
        "'FULL_TRANSITIVE')",
        name='compatibility',
    ),
    sa.CheckConstraint('parent <> name', name='not_its_own_parent'),
    sa.ForeignKeyConstraint(['parent'], ['tag.name'], ),
    sa.ForeignKeyConstraint(['replaced_by'], ['tag.name'], ),
    sa.PrimaryKeyConstraint('name')
    )
    op.create_index('ix_tag_parent', 'tag', ['parent'], unique=False)
    op.create_index('ix_tag_replaced_by', 'tag', ['replaced_by'], unique=False)
    _add_partial_index('sunsets', 'tag', ['sunset_at'], "state = 'deprecated'")
    op.create_table('ticket',
    sa.Column('jti', sa.String(), nullable=False),
    sa.Column('run_id', sa.String(), nullable=False),
    sa.Column('jkt', sa.String(), nullable=False),
    sa.Column('state', sa.String(), nullable=False),
    sa.Column('run_spec', sa.LargeBinary(), nullable=False),
    sa.Column('issued_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('expires_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('redeemed_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('redemption_id', sa.String(), nullable=True),
    sa.Column('redeem', sa.String(), nullable=False),
    sa.Column('revoked_at', sa.DateTime(timezone=True), nullable=True),
    sa.CheckConstraint("state in ('issued', 'redeemed', 'revoked')", name='state'),
    sa.CheckConstraint("redeem in ('online', 'offline')", name='redeem'),
    sa.PrimaryKeyConstraint('jti'),
    sa.UniqueConstraint('run_id')
    )
    _add_partial_index('revoked_tickets', 'ticket', ['expires_at'], "state = 'revoked'")
    op.create_table('known_name',
    sa.Column('spelling', sa.String(), nullable=False),
    sa.Column('kind', sa.String(), nullable=False),
    sa.Column('tag', sa.String(), nullable=True),
    sa.Column('reason', sa.String(), nullable=True),
    sa.Column('until', sa.DateTime(timezone=True), nullable=True),
    sa.CheckConstraint("kind in ('tag', 'alias', 'reserved')", name='kind'),
    sa.CheckConstraint("(kind = 'reserved') = (tag is null)", name='reserved_for_none'),
    sa.CheckConstraint("(kind = 'tag') = (tag is not null and spelling = tag)", name='its_own_name'),
    sa.CheckConstraint("until is null or kind = 'reserved'", name='only_reserved_ends'),
    sa.ForeignKeyConstraint(['tag'], ['tag.name'], ),
    sa.PrimaryKeyConstraint('spelling')
    )
    op.create_index('ix_known_name_tag', 'known_name', ['tag'], unique=False)
    op.create_table('name_rules',
    sa.Column('number', sa.Integer(), autoincrement=False, nullable=False),
    sa.Column('digest', sa.String(), nullable=False),
    sa.Column('rules', sa.JSON(), nullable=False),
    sa.Column('published_at', sa.DateTime(timezone=True), nullable=False),
    sa.PrimaryKeyConstraint('number')
    )
    op.create_table('log_entry',
    sa.Column('index', sa.Integer(), autoincrement=False, nullable=False),
    sa.Column('event_id', sa.String(), nullable=False),
    sa.Column('leaf_hash', sa.LargeBinary(), nullable=False),
    sa.ForeignKeyConstraint(['event_id'], ['event.id'], ),
    sa.PrimaryKeyConstraint('index'),
    sa.UniqueConstraint('event_id')
    )
    op.create_table('log_tile',
    sa.Column('level', sa.Integer(), autoincrement=False, nullable=False),
    sa.Column('index', sa.Integer(), autoincrement=False, nullable=False),
    sa.Column('width', sa.Integer(), nullable=False),
    sa.Column('hashes', sa.LargeBinary(), nullable=False),
    sa.PrimaryKeyConstraint('level', 'index')
    )
    op.create_table('log_checkpoint',
    sa.Column('size', sa.Integer(), autoincrement=False, nullable=False),
    sa.Column('note', sa.String(), nullable=False),
    sa.Column('witnessed', sa.Boolean(), nullable=False),
    sa.PrimaryKeyConstraint('size')
    )
    op.create_table('pending_entry',
    sa.Column('event_id', sa.String(), nullable=False),
    sa.Column('leaf_hash', sa.LargeBinary(), nullable=False),
    sa.ForeignKeyConstraint(['event_id'], ['event.id'], ),
    sa.PrimaryKeyConstraint('event_id')
    )
    op.create_table('delegation',
    sa.Column('id', sa.String(), nullable=False),
    sa.Column('delegator', sa.String(), nullable=False),
    sa.Column('delegate', sa.String(), nullable=False),
    sa.Column('actions', sa.JSON(), nullable=False),
    sa.Column('groups', sa.JSON(), nullable=False),
    sa.Column('tag', sa.String(), nullable=True),
    sa.Column('unit', sa.String(), nullable=True),
    sa.Column('reason', sa.String(), nullable=False),
    sa.Column('made_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('not_after', sa.DateTime(timezone=True), nullable=False),
    sa.Column('ended_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('ended_because', sa.String(), nullable=True),
    sa.CheckConstraint("delegator <> delegate", name='to_somebody_else'),
    sa.CheckConstraint("ended_because in ('expired', 'revoked', 'right-lost')", name='ended_because'),
    sa.CheckConstraint("(ended_at is null) = (ended_because is null)", name='ended'),
    sa.PrimaryKeyConstraint('id')
    )
    op.create_index('ix_delegation_delegator', 'delegation', ['delegator'], unique=False)
    op.create_index('ix_delegation_delegate', 'delegation', ['delegate'], unique=False)
    op.create_table('review',
    sa.Column('proposal_id', sa.String(), nullable=False),
    sa.Column('round', sa.Integer(), autoincrement=False, nullable=False),
    sa.Column('reviewer', sa.String(), nullable=False),
    sa.Column('on_behalf_of', sa.String(), nullable=True),
    sa.Column('delegation_id', sa.String(), nullable=True),
    sa.Column('business_unit', sa.String(), nullable=False),
    sa.Column('verdict', sa.String(), nullable=False),
    sa.Column('digest', sa.String(), nullable=False),
    sa.Column('reason', sa.String(), nullable=False),
    sa.Column('at', sa.DateTime(timezone=True), nullable=False),
    sa.CheckConstraint("verdict in ('approve', 'reject')", name='verdict'),
    sa.CheckConstraint("(on_behalf_of is null) = (delegation_id is null)", name='delegated'),
    sa.UniqueConstraint('proposal_id', 'round', 'on_behalf_of', name='one_voice'),
    sa.ForeignKeyConstraint(['delegation_id'], ['delegation.id'], ),
    sa.ForeignKeyConstraint(['proposal_id'], ['proposal.id'], ),
    sa.PrimaryKeyConstraint('proposal_id', 'round', 'reviewer')
    )
    op.create_table('run_manifest',
    sa.Column('run_id', sa.String(), nullable=False),
    sa.Column('digest', sa.String(), nullable=False),
    sa.Column('manifest', sa.String(), nullable=False),
    sa.Column('receipt', sa.String(), nullable=False),
    sa.Column('event_id', sa.String(), nullable=False),
    sa.ForeignKeyConstraint(['event_id'], ['event.id'], ),
    sa.ForeignKeyConstraint(['run_id'], ['run.id'], ),
    sa.PrimaryKeyConstraint('run_id')
    )
    op.create_table('quota_use',
    sa.Column('quota', sa.String(), nullable=False),
    sa.Column('period', sa.String(), nullable=False),
    sa.Column('runs', sa.Integer(), nullable=False),
    sa.Column('gpus', sa.Integer(), nullable=False),
    sa.Column('gpu_s', sa.BigInteger(), nullable=False),
    sa.PrimaryKeyConstraint('quota', 'period')
    )
    op.create_table('quota_hold',
    sa.Column('run_id', sa.String(), nullable=False),
    sa.Column('quota', sa.String(), nullable=False),
    sa.Column('period', sa.String(), nullable=True),
    sa.Column('holds', sa.Boolean(), nullable=False),
    sa.Column('gpus', sa.Integer(), nullable=False),
    sa.Column('most_gpu_s', sa.BigInteger(), nullable=False),
    sa.Column('gpu_s', sa.BigInteger(), nullable=False),
    sa.Column('lapses_at', sa.DateTime(timezone=True), nullable=False),
    sa.ForeignKeyConstraint(['run_id'], ['run.id'], ),
    sa.PrimaryKeyConstraint('run_id', 'quota')
    )
    _add_partial_index('lapsing_holds', 'quota_hold', ['lapses_at'], "holds")
    op.create_table('tag_version',
    sa.Column('tag', sa.String(), nullable=False),
    sa.Column('version', sa.Integer(), nullable=False),
    sa.Column('profile', sa.JSON(), nullable=False),
    sa.Column('profile_digest', sa.String(), nullable=False),
    sa.Column('proposal_id', sa.String(), nullable=True),
    sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
    sa.ForeignKeyConstraint(['proposal_id'], ['proposal.id'], ),
    sa.ForeignKeyConstraint(['tag'], ['tag.name'], ),
    sa.PrimaryKeyConstraint('tag', 'version')
    )
    op.create_table('policy_rule',
    sa.Column('rule_set', sa.String(), nullable=False),
    sa.Column('ordinal', sa.Integer(), autoincrement=False, nullable=False),
    sa.Column('rule_id', sa.String(), nullable=False),
    sa.Column('owner', sa.String(), nullable=False),
    sa.Column('effect', sa.String(), nullable=False),
    sa.Column('who', sa.JSON(), nullable=False),
    sa.Column('may', sa.JSON(), nullable=False),
    sa.Column('tag', sa.JSON(), nullable=False),
    sa.Column('unit', sa.JSON(), nullable=False),
    sa.Column('target', sa.JSON(), nullable=False),
    sa.Column('conditions', sa.JSON(), nullable=False),
    sa.Column('level', sa.JSON(), nullable=False),
    sa.Column('overridable', sa.Boolean(), nullable=False),
    sa.Column('reason', sa.String(), nullable=False),
    sa.CheckConstraint("effect in ('allow', 'deny')", name='effect'),
    sa.PrimaryKeyConstraint('rule_set', 'ordinal')
    )
    op.create_table('policy_revision',
    sa.Column('revision', sa.String(), nullable=False),
    sa.Column('model', sa.String(), nullable=False),
    sa.Column('directory', sa.JSON(), nullable=False),
    sa.Column('rule_set', sa.String(), nullable=False),
    sa.Column('exceptions', sa.JSON(), nullable=False),
    sa.Column('quotas', sa.JSON(), nullable=False),
    sa.Column('approvals', sa.JSON(), nullable=False),
    sa.Column('kept_at', sa.DateTime(timezone=True), nullable=False),
    sa.PrimaryKeyConstraint('revision')
    )
    op.create_table('policy_publication',
    sa.Column('version', sa.Integer(), autoincrement=False, nullable=False),
    sa.Column('revision', sa.String(), nullable=False),
    sa.Column('parent', sa.String(), nullable=True),
    sa.Column('source', sa.String(), nullable=False),
    sa.Column('folder', sa.String(), nullable=True),
    sa.Column('author', sa.String(), nullable=False),
    sa.Column('approver', sa.String(), nullable=True),
    sa.Column('proposal_id', sa.String(), nullable=True),
    sa.Column('at', sa.DateTime(timezone=True), nullable=False),
    sa.CheckConstraint("source in ('folder', 'proposal', 'override', 'revocation')", name='source'),
    sa.CheckConstraint("approver is null or approver <> author", name='nobody_approves_their_own'),
    sa.CheckConstraint(
        "source <> 'proposal' or (approver is not null and proposal_id is not null)", name='proposal_is_approved'
    ),
    sa.CheckConstraint("(source = 'folder') = (folder is not null)", name='folder_says'),
    sa.ForeignKeyConstraint(['revision'], ['policy_revision.revision'], ),
    sa.ForeignKeyConstraint(['parent'], ['policy_revision.revision'], ),
    sa.ForeignKeyConstraint(['folder'], ['policy_revision.revision'], ),
    sa.PrimaryKeyConstraint('version')
    )
    op.create_index('ix_policy_publication_revision', 'policy_publication', ['revision'], unique=False)
    op.create_index('ix_policy_publication_folder', 'policy_publication', ['folder'], unique=False)
    op.create_table('policy_head',
    sa.Column('role', sa.String(), nullable=False),
    sa.Column('revision', sa.String(), nullable=False),
    sa.Column('version', sa.Integer(), nullable=False),
    sa.CheckConstraint("role in ('live', 'shadow')", name='role'),
    sa.ForeignKeyConstraint(['revision'], ['policy_revision.revision'], ),
    sa.PrimaryKeyConstraint('role')
    )
    op.create_table('policy_shadow_count',
    sa.Column('candidate', sa.String(), nullable=False),
    sa.Column('business_unit', sa.String(), nullable=False),
    sa.Column('task_type', sa.String(), nullable=False),
    sa.Column('outcome', sa.String(), nullable=False),
    sa.Column('count', sa.BigInteger(), nullable=False),
    sa.ForeignKeyConstraint(['candidate'], ['policy_revision.revision'], ),
    sa.PrimaryKeyConstraint('candidate', 'business_unit', 'task_type', 'outcome')
    )
    op.create_table('stamp',
    sa.Column('id', sa.Integer(), autoincrement=False, nullable=False),
    sa.Column('value', sa.BigInteger(), nullable=False),
    sa.Column('names', sa.String(), nullable=False),
    sa.PrimaryKeyConstraint('id')
    )
    op.create_table('webhook',
    sa.Column('id', sa.String(), nullable=False),
    sa.Column('url', sa.String(), nullable=False),
    sa.Column('kinds', sa.JSON(), nullable=False),
    sa.Column('business_unit', sa.String(), nullable=False),
    sa.Column('task_type', sa.String(), nullable=True),
    sa.Column('holder', sa.String(), nullable=False),
    sa.Column('state', sa.String(), nullable=False),
    sa.Column('reason', sa.String(), nullable=True),
    sa.Column('generation', sa.Integer(), nullable=False),
    sa.Column('old_secret_until', sa.DateTime(timezone=True), nullable=True),
    sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('cursor', sa.Integer(), nullable=False),
    sa.Column('attempts', sa.Integer(), nullable=False),
    sa.Column('next_attempt_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('failing_since', sa.DateTime(timezone=True), nullable=True),
    sa.Column('lease', sa.String(), nullable=True),
    sa.Column('leased_until', sa.DateTime(timezone=True), nullable=True),
    sa.CheckConstraint("state in ('active', 'paused', 'ended')", name='webhook_state'),
    sa.PrimaryKeyConstraint('id')
    )
    op.create_table('webhook_delivery',
    sa.Column('webhook_id', sa.String(), nullable=False),
    sa.Column('id', sa.String(), nullable=False),
    sa.Column('state', sa.String(), nullable=False),
    sa.Column('attempts', sa.Integer(), nullable=False),
    sa.Column('at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('answer', sa.String(), nullable=False),
    sa.CheckConstraint("state in ('delivered', 'parked')", name='webhook_delivery_state'),
    sa.ForeignKeyConstraint(['id'], ['event.id'], ),
    sa.ForeignKeyConstraint(['webhook_id'], ['webhook.id'], ),
    sa.PrimaryKeyConstraint('webhook_id', 'id')
    )
    op.create_index('ix_webhook_delivery_at', 'webhook_delivery', ['at'], unique=False)
    _add_partial_index('webhook_deliveries_parked', 'webhook_delivery', ['webhook_id'], "state = 'parked'")
    op.execute("insert into stamp (id, value, names) values (1, 1, '')")
    _add_triggers()
    _move_the_stamp()
    _keep_names()


def downgrade() -> None:
    raise NotImplementedError("the first revision holds the record; there is nothing to go back to")
