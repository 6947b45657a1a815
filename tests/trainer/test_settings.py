"""Where the registry is and who we are: the order of places, and files that may not be trusted."""

import os
from pathlib import Path

import pytest

from enforcer.local import is_loopback_url
from enforcer.problems import NotConfigured
from trainer import settings


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in settings.ENVIRONMENT.values():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "runtime"))
    return tmp_path


def configure(home: Path, text: str) -> None:
    (home / "config" / "swift-submit").mkdir(parents=True)
    (home / "config" / "swift-submit" / "config.toml").write_text(text)


def secret(path: Path, content: str = "twp_secret", mode: int = 0o600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content + "\n")
    path.chmod(mode)
    return path


def test_a_flag_wins_over_the_environment_which_wins_over_the_file(home: Path) -> None:
    configure(home, 'server = "https://file.example"\ntimeout = 3\n')

    from_file = settings.load({}, {})
    from_environment = settings.load({}, {"SWIFT_SUBMIT_SERVER": "https://env.example/"})
    from_flag = settings.load({"server": "https://flag.example"}, {"SWIFT_SUBMIT_SERVER": "https://env.example"})

    assert (from_file.server, from_file.timeout_s) == ("https://file.example", 3.0)
    assert from_environment.server == "https://env.example"
    assert from_flag.server == "https://flag.example"


def test_without_any_setting_it_is_the_local_registry_and_its_token(home: Path) -> None:
    secret(home / "runtime" / "tagwarden" / "token")

    found = settings.load({}, {})

    assert (found.server, found.token, found.issuer) == ("http://127.0.0.1:8710", "twp_secret", "http://127.0.0.1:8710")
    assert "twp_secret" not in repr(found)


def test_the_local_token_goes_to_no_other_machine(home: Path) -> None:
    secret(home / "runtime" / "tagwarden" / "token")

    assert settings.load({"server": "https://registry.example.org"}, {}).token is None


@pytest.mark.parametrize("address", ["http://127.0.0.1.example.org", "http://10.0.0.1", "http://localhost.evil.org"])
def test_what_only_looks_like_loopback_is_none(address: str) -> None:
    assert not is_loopback_url(address)


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:8710", "http://localhost", "http://[::1]:8710", "http://127.9.9.9"]
)
def test_loopback_is_known_by_address(address: str) -> None:
    assert is_loopback_url(address)


def test_the_issuer_may_be_another_than_the_address() -> None:
    assert settings.load({}, {"SWIFT_SUBMIT_ISSUER": "https://known-as"}).issuer == "https://known-as"


def test_without_another_word_the_issuer_is_the_server() -> None:
    assert settings.Settings(server="https://registry.example.org").issuer == "https://registry.example.org"


@pytest.mark.parametrize(("said", "allowed"), [({}, False), ({"SWIFT_SUBMIT_ALLOW_HTTP": "1"}, True),
                                               ({"SWIFT_SUBMIT_ALLOW_HTTP": "0"}, False)])  # fmt: skip
def test_only_a_1_allows_plain_http(said: dict[str, str], allowed: bool) -> None:
    assert settings.load({}, said).allow_http is allowed


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_token_file_that_others_can_read_is_refused_with_the_repair(home: Path, mode: int) -> None:
    file = secret(home / "token", mode=mode)

    with pytest.raises(NotConfigured, match=f"can be read by others; run `chmod 600 {file}`"):
        settings.load({}, {"SWIFT_SUBMIT_TOKEN_FILE": str(file)})


def test_a_token_file_behind_a_link_or_of_another_user_is_refused(home: Path) -> None:
    file = secret(home / "token")
    (home / "link").symlink_to(file)
    with pytest.raises(NotConfigured, match="cannot be opened"):
        settings.load({}, {"SWIFT_SUBMIT_TOKEN_FILE": str(home / "link")})
    if os.getuid() != 0:
        pytest.skip("only root can give a file away")
    os.chown(file, 65534, 65534)

    with pytest.raises(NotConfigured, match="belongs to another user"):
        settings.load({}, {"SWIFT_SUBMIT_TOKEN_FILE": str(file)})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('sever = "http://x"', "did you mean `server`?"),
        ('token = "twp_x"', "put it into a file of its own"),
        ("server = ", "cannot be read"),
    ],
)
def test_a_slip_in_the_file_is_told(home: Path, text: str, says: str) -> None:
    configure(home, text)

    with pytest.raises(NotConfigured) as refused:
        settings.load({}, {})

    assert says in refused.value.detail


@pytest.mark.parametrize(
    "address", ["registry.example.org", "ftp://x", "http://", "http://me:pw@x", "http://x:notaport"]
)
def test_an_address_that_is_none_is_told(address: str) -> None:
    with pytest.raises(NotConfigured, match="the server's address"):
        settings.load({"server": address}, {})


def test_the_host_id_is_stable_and_does_not_show_the_machine_id() -> None:
    assert settings.host_id() == settings.host_id()
    assert settings.local_audience() == f"urn:swift:exec:local:{settings.host_id()}"
    machine = Path("/etc/machine-id")
    assert not machine.exists() or machine.read_text().strip() not in settings.host_id()
