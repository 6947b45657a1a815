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
    "log_entry", "tag_version", "review", "run_manifest", "proposed_file", "policy_rule", "policy_revision",
    "policy_publication",
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
        "proposal_decided", "proposal", "update", "a decided proposal is never changed", "old.state <> 'open'"
    )
    _refuse("proposal_no_delete", "proposal", "delete", "proposals are never deleted", "true")
    _refuse(
        "review_not_by_author", "review", "insert", "nobody reviews their own proposal",
        "new.reviewer = (select author from proposal where id = new.proposal_id)",
    )


# What a ticket rests on. A token or an alias that is new changes nothing for what was known before, and a token that is
# used changes nothing of what it opens.
STAMPED = {
    "tag": ("insert", "update", "delete"),
    "alias": ("update", "delete"),
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
    sa.Column('digest', sa.String(), nullable=False),
    sa.Column('reason', sa.String(), nullable=False),
    sa.Column('author', sa.String(), nullable=False),
    sa.Column('state', sa.String(), nullable=False),
    sa.Column('approvals_needed', sa.Integer(), nullable=False),
    sa.Column('version', sa.Integer(), nullable=True),
    sa.Column('policy_revision', sa.String(), nullable=True),
    sa.Column('opened_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('decided_at', sa.DateTime(timezone=True), nullable=True),
    sa.CheckConstraint("state in ('open', 'applied', 'rejected', 'withdrawn')", name='state'),
    sa.PrimaryKeyConstraint('id')
    )
    op.create_index('ix_proposal_state', 'proposal', ['state'], unique=False)
    op.create_index('ix_proposal_subject', 'proposal', ['subject'], unique=False)
    open_ = sa.text("state = 'open'")
    op.create_index(
        'one_open_proposal', 'proposal', ['subject'], unique=True, sqlite_where=open_, postgresql_where=open_
    )
    op.create_table('proposed_file',
    sa.Column('proposal_id', sa.String(), nullable=False),
    sa.Column('name', sa.String(), nullable=False),
    sa.Column('content', sa.String(), nullable=False),
    sa.ForeignKeyConstraint(['proposal_id'], ['proposal.id'], ),
    sa.PrimaryKeyConstraint('proposal_id', 'name')
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
    sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
    sa.ForeignKeyConstraint(['parent'], ['tag.name'], ),
    sa.PrimaryKeyConstraint('name')
    )
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
    op.create_table('alias',
    sa.Column('alias', sa.String(), nullable=False),
    sa.Column('tag', sa.String(), nullable=False),
    sa.ForeignKeyConstraint(['tag'], ['tag.name'], ),
    sa.PrimaryKeyConstraint('alias')
    )
    op.create_index('ix_alias_tag', 'alias', ['tag'], unique=False)
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
    op.create_table('review',
    sa.Column('proposal_id', sa.String(), nullable=False),
    sa.Column('reviewer', sa.String(), nullable=False),
    sa.Column('verdict', sa.String(), nullable=False),
    sa.Column('digest', sa.String(), nullable=False),
    sa.Column('reason', sa.String(), nullable=False),
    sa.Column('at', sa.DateTime(timezone=True), nullable=False),
    sa.CheckConstraint("verdict in ('approve', 'reject')", name='verdict'),
    sa.ForeignKeyConstraint(['proposal_id'], ['proposal.id'], ),
    sa.PrimaryKeyConstraint('proposal_id', 'reviewer')
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
    sa.PrimaryKeyConstraint('id')
    )
    op.create_table('webhook',
    sa.Column('id', sa.String(), nullable=False),
    sa.Column('url', sa.String(), nullable=False),
    sa.Column('kinds', sa.JSON(), nullable=False),
    sa.Column('business_unit', sa.String(), nullable=False),
    sa.Column('task_type', sa.String(), nullable=True),
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
    op.execute("insert into stamp (id, value) values (1, 1)")
    _add_triggers()
    _move_the_stamp()


def downgrade() -> None:
    raise NotImplementedError("the first revision holds the record; there is nothing to go back to")
