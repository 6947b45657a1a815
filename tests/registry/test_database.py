"""The schema: what the migrations make is what the tables say; and the same service on PostgreSQL."""

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from conftest import Registry, ask, free_port, redeem, ticket_request
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlmodel import SQLModel

from enforcer import tlog
from enforcer.keys import KeySet, SigningKey
from registry import db
from registry.settings import Settings

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)


def drift(registry: Registry) -> list[object]:
    with registry.books.engine.connect() as connection:
        return list(compare_metadata(MigrationContext.configure(connection), SQLModel.metadata))


def test_the_migrations_make_what_the_tables_say(registry: Registry) -> None:
    assert drift(registry) == []


def test_migrating_twice_is_harmless(registry: Registry) -> None:
    db.migrate(registry.books.engine)

    assert db.is_migrated(registry.books.engine)


def test_sqlite_survives_a_power_cut(registry: Registry) -> None:
    with registry.books.engine.connect() as connection:
        settings = [connection.execute(text(f"pragma {name}")).scalar() for name in ("journal_mode", "synchronous")]

    assert settings == ["wal", 2]


@pytest.fixture(scope="module")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real server in a folder of its own, gone afterwards."""
    if not BINARIES:
        pytest.skip("no PostgreSQL server programs in /usr/lib/postgresql; install the package `postgresql`")
    folder = tmp_path_factory.mktemp("postgresql")
    port = free_port()
    as_user: dict[str, object] = {}
    if os.getuid() == 0:  # the server refuses to run as root
        try:
            account = pwd.getpwnam("postgres")
        except KeyError:
            pytest.skip("running as root without an account `postgres` to run the server as")
        for place in (folder, *folder.parents):
            if place == Path("/tmp") or place.stat().st_uid != 0 or place == Path("/"):
                break
            place.chmod(0o755)
        shutil.chown(folder, account.pw_uid, account.pw_gid)
        as_user = {"user": account.pw_uid, "group": account.pw_gid}
    binaries = BINARIES[0]

    def pg(program: str, *arguments: str) -> None:
        command = [str(binaries / program), *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder, **as_user)  # type: ignore[call-overload]

    pg("initdb", "-D", f"{folder}/data", "-U", "tagwarden", "-A", "trust", "--no-sync")
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1"
    pg("pg_ctl", "-D", f"{folder}/data", "-o", options, "-l", f"{folder}/log", "-w", "start")
    yield f"postgresql://tagwarden@127.0.0.1:{port}/postgres"
    pg("pg_ctl", "-D", f"{folder}/data", "-m", "immediate", "stop")


@pytest.mark.postgresql
def test_the_whole_service_runs_on_postgresql(postgresql: str, tmp_path: Path) -> None:
    registry = Registry(Settings(state_dir=tmp_path / "state", database_url=postgresql))
    assert drift(registry) == []

    registry.approve_tag()
    key = SigningKey.generate()
    grant = ask(registry.as_("wang", "trainers"), ticket_request("review-sentiment", jkt=key.thumbprint)).json()
    statuses = [redeem(registry, grant, key).status_code for _ in range(2)]
    refused = ask(registry.as_("chen", "search-ml"), ticket_request("dpo", arguments={}))

    assert statuses == [200, 409]
    assert refused.status_code == 403
    auditor = registry.as_("boss", "group-auditors", unit="all")
    lines = auditor.get("/v1/audit:export", params={"format": "ndjson"}).text.splitlines()
    keys = KeySet.from_jwks(registry.anonymous().get("/tlog/jwks.json").json())
    assert tlog.verify_export(lines, keys).whole
    for statement in ("update event set actor = 'x'", "delete from tag_version"):
        with pytest.raises(DBAPIError, match="never changed"), registry.books.engine.begin() as connection:
            connection.execute(text(statement))
