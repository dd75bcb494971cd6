"""Settings are honoured or refused in words that name file and key; secrets are never where others can read them."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datahall.app.settings import (
    MAX_BYTES,
    Settings,
    Team,
    database_password,
    describe,
    object_secret,
    read_settings,
    without_password,
)
from datahall.app.stores import open_blobs, open_catalogue, open_witness, snapshot_of, witness_files
from datahall.app.wiring import open_hall
from datahall.backends.blobs.local import LocalBlobStore
from datahall.backends.witness.file import FileWitness, default_folder
from datahall.core.clock import SystemClock
from datahall.core.errors import IntegrityError, UserError
from datahall.core.hall import HallPaths
from datahall.core.records import Quota, TeamRule
from datahall.ledger import tree
from datahall.ledger.checkpoint import sign_checkpoint
from datahall.security.keys import KeyRing
from datahall.security.signing import Ed25519Signer


@pytest.fixture
def paths(tmp_path):
    made = HallPaths(tmp_path / "hall")
    made.create()
    return made


def write(paths, text, mode=0o600):
    paths.settings.write_text(text)
    paths.settings.chmod(mode)
    return paths


def refused(paths, match):
    with pytest.raises(UserError, match=match) as caught:
        read_settings(paths)
    assert "hall.toml" in caught.value.where
    return caught.value


def test_a_hall_without_the_file_has_the_defaults(paths):
    assert read_settings(paths) == Settings()
    assert read_settings(write(paths, "")) == Settings()


def test_everything_that_can_be_said_is_read(paths):
    text = (
        'database = "postgresql://hall@db/hall"\ndatabase_password_env = "DB_PASSWORD"\nblobs = "s3://bucket/prefix"\n'
        'cache_bytes = 5\nwitness = ["file:/mnt/w", "https://example.org/w"]\ngateways = 3\nauth_stale_hours = 1.5\n'
        "response_cache_mb = 7\n"
        '[objects]\nendpoint = "http://127.0.0.1:1"\nregion = "r"\naccess_key_id = "me"\nsecret_access_key_env = "S3"\n'
        "[teams.red]\nrate_per_s = 100\nburst = 20\nconcurrency = 4\nweight = 2.5\n[teams.blue]\n"
    )
    settings = read_settings(write(paths, text, 0o644))
    plain = tomllib.loads(text)
    assert settings.witness == tuple(plain.pop("witness"))
    teams = plain.pop("teams")
    assert settings.teams == {"red": Team(**teams["red"]), "blue": Team()}
    assert settings.teams["red"].rule == TeamRule(quota=Quota(rate_per_s=100.0, burst=20, concurrency=4), weight=2.5)
    objects = plain.pop("objects")
    assert {name: getattr(settings.objects, name) for name in objects} == objects
    assert {name: getattr(settings, name) for name in plain} == plain
    said = {*plain, "witness", *(f"objects.{name}" for name in objects)}
    said |= {f"teams.<name>.{name}" for name in teams["red"]}
    assert {setting.key for setting in describe()} - said == {"objects.secret_access_key"}


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("database = ", "not TOML: Invalid value"),
        ("blob = 's3://b'", "blob: there is no such setting"),
        ("[objects]\nregio = 'x'", r"objects\.regio: there is no such setting"),
        ("cache_bytes = -1", "cache_bytes: expected `int` >= 0"),
        ("cache_bytes = true", "cache_bytes: expected `int"),
        ("witness = 'file:/x'", "witness: expected `array`"),
        ("witness = [1]", "witness.*expected `str`"),
        ("database_password_env = 'a b'", "database_password_env: expected `str` matching"),
        ("database = 'postgresql://[x'", "database: this is not a URL"),
        ("blobs = 's3://[x'", "blobs: this is not a URL"),
        ("witness = ['https://[x']", "witness: this is not a URL"),
        ("[objects]\n\nx y", "not TOML.*line 3"),
        ("gateways = 0", "gateways: expected `int` >= 1"),
        ("gateways = 65", "gateways: expected `int` <= 64"),
        ("gateways = 1.5", "gateways: expected `int`"),
        ("response_cache_mb = -1", "response_cache_mb: expected `int` >= 0"),
        ("auth_stale_hours = 0", "auth_stale_hours: expected `float` > 0"),
        ("auth_stale_hours = nan", "auth_stale_hours: "),
        ("teams = 3", "teams: expected `object`"),
        ("[teams]\nred = 3", r"teams\.red: expected `object`"),
        ("[teams.red]\nrate_per_s = 0", r"teams\.red\.rate_per_s: expected `float` > 0"),
        ("[teams.red]\nrate_per_s = inf", r"teams\.red"),
        ("[teams.red]\nweight = nan", r"teams\.red"),
        ("[teams.red]\nweight = -1", r"teams\.red\.weight: expected `float` > 0"),
        ("[teams.red]\nconcurrency = 'x'", r"teams\.red\.concurrency: expected"),
        ("[teams.red]\nburst = 3", r"teams\.red\.burst: there is no rate"),
        ("[teams.'a b']\nweight = 2", r"teams\.a b: a team needs a name"),
        ("[teams.red]\nrat_per_s = 1", r"teams\.red\.rat_per_s: there is no such setting"),
        ("\0", "not TOML"),
    ],
)
def test_what_is_wrong_is_named_by_file_and_key(paths, text, match):
    refused(write(paths, text), match)


def test_a_misspelt_key_gets_the_right_one_as_a_hint(paths):
    assert "'objects.region'" in refused(write(paths, "[objects]\nregio = 'x'"), "regio").hint


def test_a_misspelt_key_of_a_team_gets_the_right_one_of_that_team(paths):
    said = refused(write(paths, "[teams.red]\nrat_per_s = 1"), "rat_per_s")
    assert said.hint == "did you mean 'teams.red.rate_per_s'?"


def test_a_key_without_its_unit_is_that_key(paths):
    assert refused(write(paths, "[teams.red]\nrate = 1"), "rate").hint == "did you mean 'teams.red.rate_per_s'?"


def test_what_is_no_settings_file_is_refused(paths):
    paths.settings.write_bytes(b"\xff")
    paths.settings.chmod(0o600)
    refused(paths, "UTF-8")
    refused(write(paths, "#" * (MAX_BYTES + 1)), "larger")
    paths.settings.unlink()
    paths.settings.mkdir()
    refused(paths, "not a file")


SECRETS = {
    "database": 'database = "postgresql://hall:pa55@db/hall"\n',
    "database ": 'database = "postgresql://db/hall?user=me&password=pa55"\n',
    "objects.secret_access_key": '[objects]\nsecret_access_key = "pa55"\n',
}


IN_URLS = {
    "blobs": 'blobs = "s3://key:pa55@bucket/x"\n',
    "witness": 'witness = ["file:/tmp/w", "https://me:pa55@host/x"]\n',
    "witness ": 'witness = ["https://pa55@host/x"]\n',
    "witness  ": 'witness = ["git:ssh://me:pa55@host/x"]\n',
}


@pytest.mark.parametrize("key", SECRETS)
def test_a_secret_in_a_file_that_others_can_read_is_refused_and_not_repeated(paths, key):
    for mode in (0o644, 0o640, 0o604):
        said = refused(write(paths, SECRETS[key], mode), f"{key.strip()}: it holds a secret")
        assert "pa55" not in str(said)
        assert "chmod 600" in said.hint
    settings = read_settings(write(paths, SECRETS[key], 0o600))
    assert "pa55" in {database_password(settings, {}), object_secret(settings, {})}


@pytest.mark.parametrize("key", IN_URLS)
def test_a_secret_in_any_url_is_refused_where_others_can_read_it(paths, key):
    for mode in (0o644, 0o640, 0o604):
        said = refused(write(paths, IN_URLS[key], mode), f"{key.strip()}: it holds a secret")
        assert "pa55" not in str(said)
        assert "chmod 600" in said.hint
    read_settings(write(paths, IN_URLS[key], 0o600))


def test_urls_without_a_secret_can_be_read_by_everybody(paths):
    """The control: what only looks like one is none."""
    text = "blobs = 's3://bucket/a@b'\nwitness = ['https://host/x@y', 'file:/tmp/a@b', 'git:/tmp/g']\n"
    assert read_settings(write(paths, text, 0o644)).blobs == "s3://bucket/a@b"


def test_a_secret_is_said_once(paths):
    refused(write(paths, "database_password_env = 'X'\n" + SECRETS["database"]), "and database_password_env too")
    refused(write(paths, SECRETS["objects.secret_access_key"] + "secret_access_key_env = 'X'\n"), "too")


def test_a_file_that_others_can_change_is_refused(paths):
    for mode in (0o666, 0o620, 0o602):
        refused(write(paths, "", mode), "others can change")


def test_secrets_come_from_the_variables_that_are_named(paths):
    text = "database_password_env = 'DB'\n[objects]\nsecret_access_key_env = 'S3'\n"
    settings = read_settings(write(paths, text, 0o644))
    assert database_password(settings, {"DB": "a", "S3": "b"}) == "a"
    assert object_secret(settings, {"DB": "a", "S3": "b"}) == "b"
    for read in (database_password, object_secret):
        with pytest.raises(UserError, match=r"the environment variable (DB|S3) is not set"):
            read(settings, {"DB": ""})
    assert (database_password(Settings(), {}), object_secret(Settings(), {})) == (None, None)


@given(user=st.text("abc", max_size=3), password=st.text("xyz:!", min_size=1, max_size=8))
def test_no_url_is_shown_with_its_password(user, password):
    shown = without_password(f"postgresql://{user}:{password}@db:5432/hall")
    assert shown == f"postgresql://{user}:***@db:5432/hall"
    assert without_password(f"postgresql://db/h?password={password}&x=1") == "postgresql://db/h?password=***&x=1"


def test_the_defaults_open_what_lies_in_the_folder(paths):
    keys, settings = KeyRing.open(paths.keys, create=True), Settings()
    catalogue = open_catalogue(settings, paths, SystemClock(), keys)
    catalogue.close()
    assert catalogue.path == paths.db
    assert open_blobs(settings, paths).folder == paths.blobs
    assert isinstance(open_blobs(settings, paths), LocalBlobStore)
    assert open_witness(settings, paths, lambda _old, _new: [], SystemClock()).folder == default_folder()
    snapshot_of(catalogue)(paths.work / "copy.db", lambda _done, _total: None)
    assert (paths.work / "copy.db").stat().st_size > 0


@pytest.mark.parametrize(
    "text",
    [
        "database = 'mysql://hall:pa55@db/hall'",
        "blobs = 'ftp://me:pa55@x/y'",
        "blobs = 's3://me:pa55@x/y'",
        "cache_bytes = 5",
        "database_password_env = 'X'",
        "[objects]\nregion = 'x'",
        "witness = ['file:relative']",
        "witness = ['gopher:x']",
        "witness = ['htps://me:pa55@host/x']",
        "witness = ['git:https://me:p@pa55@host/x']",
        "witness = ['http://me:pa55@host/x']",
        "witness = ['htps://pa55@host/x']",
        "witness = ['https://me:pa55@host:x/x']",
        "witness = ['file:/tmp/w', 'x']",
    ],
)
def test_what_this_datahall_cannot_use_is_refused_before_the_hall_opens(paths, text):
    write(paths, text)
    with pytest.raises(UserError, match=r"cannot use|means nothing|witness:") as caught, open_hall(paths):
        pytest.fail("it opened")
    assert "pa55" not in str(caught.value)
    assert not paths.db.exists() or text.startswith("witness")


def noted(signer, size):
    leaves = [tree.leaf_hash(bytes([number])) for number in range(size)]
    return sign_checkpoint("hall", size, tree.append(0, leaves, lambda _: [])[1], signer).note


def test_several_witnesses_are_all_told_and_the_one_that_saw_most_is_believed(tmp_path, paths):
    folders = [tmp_path / "a", tmp_path / "b"]
    settings = read_settings(write(paths, f"witness = ['file:{folders[0]}', 'file:{folders[1]}']"))
    signer = Ed25519Signer.generate()
    small, large = noted(signer, 1), noted(signer, 2)
    both = open_witness(settings, paths, lambda old, new: [tree.leaf_hash(b"\1")] * (new - old), SystemClock())
    assert both.newest("hall") is None
    both.publish("hall", small)
    alone = [FileWitness(folder, lambda old, new: [tree.leaf_hash(b"\1")] * (new - old)) for folder in folders]
    assert [each.newest("hall") for each in alone] == [small, small]
    alone[1].publish("hall", large)
    assert both.newest("hall") == large
    with pytest.raises(IntegrityError, match="cut off or rolled back"):
        both.publish("hall", small)
    assert [path.parent for path in witness_files(settings, "hall")] == folders
    assert all(path.exists() for path in witness_files(settings, "hall"))


@pytest.mark.parametrize(
    ("blobs", "said", "match"),
    [
        ("gs://b/x", "region = 'eu'", r"objects\.region: a bucket at gs:// does not take it"),
        ("gs://b/x", "endpoint = 'https://x'", r"objects\.endpoint: a bucket at gs://"),
        ("az://c/x", "access_key_id = 'x'", r"objects\.access_key_id: a bucket at az://"),
        ("az://c/x", "", "cannot be used: .*Account must be specified"),
        ("s3://b/x", "endpoint = 'nonsense'", r"objects\.endpoint: this is no address"),
    ],
)
def test_a_bucket_s_setting_that_its_store_does_not_take_is_named(paths, blobs, said, match, monkeypatch):
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    settings = read_settings(write(paths, f"blobs = '{blobs}'\n[objects]\n{said}\n"))
    with pytest.raises(UserError, match=match):
        open_blobs(settings, paths)


def test_a_bucket_that_takes_them_all_is_opened(paths):
    text = "blobs = 's3://b/x'\n[objects]\nendpoint = 'https://x'\nregion = 'r'\naccess_key_id = 'k'\nsecret_access_key = 's'\n"
    assert open_blobs(read_settings(write(paths, text)), paths).stats().hits == 0
