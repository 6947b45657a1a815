"""Witnesses on a second host, over real HTTP: they cosign what continues, and nothing else."""

import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from click.testing import CliRunner
from conftest import Registry
from hypothesis import given, strategies as st
from trees import Log

from enforcer import notes, tlog
from enforcer.keys import SigningKey
from enforcer.notes import Note, NoteKey
from enforcer.problems import LogInconsistent
from registry import audit, log, publishing, witness
from registry.cli import main
from registry.identity import Actor
from registry.settings import Settings
from registry.witness import Witness

NAME = "witness.example/w1"
KEY = SigningKey.generate()


def seen_by(folder: Path, key: NoteKey) -> Witness:
    return Witness(NAME, KEY, {key.name: key}, folder / "state.json")


@pytest.fixture
def url(tmp_path: Path, registry: Registry) -> Iterator[str]:
    """A witness of the registry's log behind a socket."""
    key = NoteKey.of(registry.books.log_key, registry.settings.log_origin)
    server = witness.server(seen_by(tmp_path, key), "127.0.0.1", 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def publisher(registry: Registry, url: str) -> publishing.Publisher:
    vkey = NoteKey.of(KEY, NAME, notes.COSIGNATURE).vkey
    registry.books.settings = registry.settings.model_copy(
        update={"witnesses": Settings(witnesses=[{"url": url, "vkey": vkey}]).witnesses}
    )
    return publishing.Publisher(registry.books)


def happen(registry: Registry, count: int) -> None:
    with registry.books.writing() as session:
        for _ in range(count):
            audit.record(session, "test.happened", Actor("user:eve", (), "retail"))
    log.integrate(registry.books)


def cosigned(registry: Registry) -> list[int]:
    """Sizes of the heads in the database that the witness stands behind."""
    key = NoteKey.of(KEY, NAME, notes.COSIGNATURE)
    with registry.books.reading() as session:
        found = session.exec(log.select(log.LogCheckpoint)).all()
        return sorted(row.size for row in found if Note.parse(row.note).signed_at(key) is not None)


def test_heads_are_cosigned_as_the_log_grows_and_kept_for_good(registry: Registry, url: str, tmp_path: Path) -> None:
    pushed = publisher(registry, url)
    sizes = []
    for count in (1, 300, 2):
        happen(registry, count)
        pushed.publish()
        sizes.append(cosigned(registry)[-1])
    pushed.publish()  # nothing new, nothing asked
    started_again = publisher(registry, url)
    happen(registry, 1)
    started_again.publish()  # begins with `old 0`, learns the size from the 409

    files = sorted(registry.settings.checkpoint_dir.glob("*/*.checkpoint"))
    assert cosigned(registry) == [sizes[-1] + 1]
    assert [tlog.open_checkpoint(file.read_text(), registry.books.log_keys).size for file in files] == [
        *sizes, sizes[-1] + 1
    ]  # fmt: skip
    assert stat.S_IMODE(os.stat(tmp_path / "state.json").st_mode) == 0o600


def test_a_log_that_went_backwards_is_found_out_by_its_witness(registry: Registry, url: str) -> None:
    publisher(registry, url).publish()
    happen(registry, 3)
    with registry.books.reading() as session:
        row = log.newest(session)
        assert row is not None
        size = row.size
    ahead = tlog.sign_checkpoint(registry.settings.log_origin, size + 9, b"x" * 32, registry.books.log_key)
    assert httpx2.post(f"{url}/add-checkpoint", content=f"old 0\n\n{ahead}".encode()).status_code == 200

    with pytest.raises(LogInconsistent, match=f"cosigned another log of {size + 9} entries"):
        publisher(registry, url).publish()
    assert registry.anonymous().get("/tlog/checkpoint").status_code == 503


def test_two_logs_of_one_name_are_not_witnessed_as_one(registry: Registry, tmp_path: Path) -> None:
    logs = [NoteKey.of(SigningKey.generate(), registry.settings.log_origin).vkey for _ in range(2)]
    given = [word for vkey in logs for word in ("--log", vkey)]

    refused = CliRunner().invoke(
        main,
        ["witness", "serve", "--name", "w/1", *given, "--key", f"{tmp_path}/key.pem", "--state", f"{tmp_path}/seen"],
    )

    assert refused.exit_code == 1
    assert "two of the logs have one name" in refused.output


def test_a_witness_that_is_away_stops_nothing(registry: Registry) -> None:
    happen(registry, 1)

    publisher(registry, "http://127.0.0.1:9").publish()

    assert cosigned(registry) == []


def test_a_witness_that_answers_with_another_key_is_not_believed(registry: Registry, url: str) -> None:
    happen(registry, 1)
    pushed = publisher(registry, url)
    other = NoteKey.of(SigningKey.generate(), NAME, notes.COSIGNATURE).vkey
    registry.books.settings = registry.settings.model_copy(
        update={"witnesses": Settings(witnesses=[{"url": url, "vkey": other}]).witnesses}
    )

    pushed.publish()

    assert cosigned(registry) == []


class TestTheRule:
    """The statuses of C2SP tlog-witness, one by one."""

    @pytest.fixture
    def theirs(self) -> Log:
        return Log()

    @pytest.fixture
    def ours(self, tmp_path: Path, theirs: Log) -> Witness:
        return seen_by(tmp_path, theirs.key)

    def test_growth_is_cosigned(self, theirs: Log, ours: Witness) -> None:
        for old, size in ((0, 5), (5, 5), (5, 300), (300, 301)):
            status, _, line = ours.add_checkpoint(theirs.request(old, size))
            assert status == 200
            assert Note.parse(theirs.note(size) + line).signed_at(ours.key) is not None

    def test_another_old_size_is_a_conflict_that_names_the_right_one(self, theirs: Log, ours: Witness) -> None:
        ours.add_checkpoint(theirs.request(0, 5))

        assert ours.add_checkpoint(theirs.request(3, 9)) == (409, "text/x.tlog.size", "5\n")
        assert ours.add_checkpoint(theirs.request(0, 4)) == (409, "text/x.tlog.size", "5\n")

    def test_a_fork_is_refused(self, theirs: Log, ours: Witness) -> None:
        ours.add_checkpoint(theirs.request(0, 5))
        fork = Log(signing=theirs.signing, salt=b"other")

        assert ours.add_checkpoint(fork.request(5, 5))[0] == 409
        assert ours.add_checkpoint(fork.request(5, 9))[0] == 422
        assert ours.add_checkpoint(theirs.request(5, 9))[0] == 200

    def test_a_rollback_is_refused(self, theirs: Log, ours: Witness) -> None:
        ours.add_checkpoint(theirs.request(0, 9))

        assert ours.add_checkpoint(theirs.request(9, 5))[0] == 400

    def test_unknown_logs_and_keys_are_refused(self, theirs: Log, ours: Witness) -> None:
        assert ours.add_checkpoint(Log().request(0, 5))[0] == 403
        assert ours.add_checkpoint(Log(origin="else.example/tlog").request(0, 5))[0] == 404

    def test_a_restart_forgets_nothing(self, theirs: Log, ours: Witness, tmp_path: Path) -> None:
        ours.add_checkpoint(theirs.request(0, 5))

        assert seen_by(tmp_path, theirs.key).add_checkpoint(theirs.request(0, 9))[0] == 409

    @given(noise=st.text(), cut=st.integers(0, 400))
    def test_whatever_is_sent_gets_a_status(self, noise: str, cut: int) -> None:
        theirs = Log()
        whole = theirs.request(0, 5)
        ours = Witness(NAME, KEY, {}, Path("/nonexistent/state.json"))

        for body in (noise, whole[:cut] + noise + whole[cut:]):
            assert ours.add_checkpoint(body)[0] in (400, 403, 404)
