"""Keys carry exactly what their scopes say, for exactly as long as they live."""

from __future__ import annotations

import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datahall.core.errors import DeniedError, UnauthenticatedError, UserError
from datahall.security.access import (
    EVERY_TEAM,
    MAX_SCOPES,
    PERMISSIONS,
    SCOPES,
    allows,
    authenticate,
    authorize,
    check_scopes,
    hash_key,
    issue_key,
    issue_owner_key,
    key_grant,
    key_grants,
    key_text,
    new_key_text,
    reaches,
)
from datahall.testing.clock import AutoClock

NOW = 1_700_000_000_000_000_000


def issue(**fields: object):
    defaults = {"name": "ci", "principal": "ada", "team": "ward", "scopes": ("predict",), "clock": AutoClock(NOW)}
    return issue_key(**(defaults | fields))


TABLE = {
    "public": set(),
    "predict": {"predict", "admin"},
    "read": {"read", "admin"},
    "admin": {"admin"},
}


@pytest.mark.parametrize("permission", sorted(PERMISSIONS))
@pytest.mark.parametrize("scope", sorted(SCOPES))
def test_the_whole_table(permission: str, scope: str):
    assert allows((scope,), permission, "tumours") == (permission == "public" or scope in TABLE[permission])


def test_a_scope_of_one_application_opens_that_one():
    scopes = ("predict:tumours",)
    assert allows(scopes, "predict", "tumours")
    for app in ("tumour", "tumours2", "tumours:x", "", None, "*"):
        assert not allows(scopes, "predict", app)
    for permission in PERMISSIONS - {"predict", "public"}:
        assert not allows(scopes, permission, "tumours")


@given(st.lists(st.text(max_size=20), max_size=5), st.sampled_from(sorted(PERMISSIONS - {"public"})), st.text())
def test_what_is_not_granted_is_denied(scopes: list[str], permission: str, app: str):
    unknown = [scope for scope in scopes if scope not in SCOPES and not scope.startswith("predict:")]
    assert not allows(unknown, permission, app)


@given(st.text())
def test_a_permission_that_does_not_exist_is_denied_even_to_admin(permission: str):
    assert allows(("admin",), permission) == (permission in PERMISSIONS)


def test_no_scope_at_all_opens_only_what_is_public():
    assert [permission for permission in sorted(PERMISSIONS) if allows((), permission, "tumours")] == ["public"]


@pytest.mark.parametrize(
    "scopes", [(), ("predit",), ("predict:",), ("predict:a/b",), ("read:app",), ("admin", "*"), ("run",)]
)
def test_scopes_that_mean_nothing_are_refused(scopes: tuple[str, ...]):
    with pytest.raises(UserError, match=r"predict:APP"):
        check_scopes(scopes)


def test_an_issued_key_keeps_its_hash_only():
    text, key = issue(scopes=("read", "predict:tumours", "read"))
    assert re.fullmatch(r"dh_[0-9a-f]{64}", text)
    assert key.sha256 == hash_key(text)
    assert text[3:] not in msgspec.json.encode(key).decode()
    assert key.scopes == ("predict:tumours", "read")
    assert key.expires_at_ns is None


def test_texts_never_repeat():
    assert len({new_key_text() for _ in range(100)}) == 100


@pytest.mark.parametrize(
    "fields",
    [
        {"name": ""},
        {"name": "  "},
        {"name": "a\nb"},
        {"name": "x" * 101},
        {"lifetime_s": 0},
        {"lifetime_s": -1},
        {"lifetime_s": float("nan")},
        {"lifetime_s": float("inf")},
        {"text": "dh_short"},
        *({"team": team} for team in ("", EVERY_TEAM, "a\0b", "../x", "Ward", "ward\n", "1", "x" * 64, "x" * 500_000)),
    ],
)
def test_impossible_keys_are_refused(fields: dict[str, object]):
    with pytest.raises(UserError) as said:
        issue(**fields)
    assert len(str(said.value)) < 500


def test_a_key_with_very_many_scopes_is_refused():
    scopes = [f"predict:app{number}" for number in range(MAX_SCOPES + 1)]
    assert len(check_scopes(scopes[1:])) == MAX_SCOPES
    with pytest.raises(UserError, match="at most"):
        check_scopes(scopes)


def test_the_owner_s_key_alone_reaches_every_team():
    text = new_key_text()
    owner = issue_owner_key(text, AutoClock(NOW))
    assert (owner.team, owner.principal, owner.scopes, owner.sha256) == (
        EVERY_TEAM,
        "owner",
        ("admin",),
        hash_key(text),
    )
    assert reaches(owner.team, "ward")
    assert reaches("ward", "ward")
    assert not reaches("ward", "lab")
    assert not reaches("ward", EVERY_TEAM)


@pytest.mark.parametrize(
    ("authorization", "x_api_key", "text"),
    [
        ("Bearer dh_a", None, "dh_a"),
        ("bearer  dh_a ", "dh_b", "dh_a"),
        ("Bearer ", "dh_b", ""),
        ("Basic dh_a", "dh_b", "dh_b"),
        ("dh_a", " dh_b ", "dh_b"),
        (None, "dh_b", "dh_b"),
        ("Basic dh_a", None, ""),
        (None, None, ""),
    ],
)
def test_a_bearer_goes_before_the_other_header(authorization: str | None, x_api_key: str | None, text: str):
    assert key_text(authorization, x_api_key) == text


def test_a_key_holds_until_its_last_nanosecond():
    text, key = issue(lifetime_s=60)
    end = NOW + 60 * 10**9
    grants = {key.sha256: key_grant(key)}
    assert authenticate(text, grants, end - 1).principal == "ada"
    with pytest.raises(UnauthenticatedError, match="expired"):
        authenticate(text, grants, end)


def test_unknown_and_missing_keys_are_refused():
    text, key = issue()
    grants = {key.sha256: key_grant(key)}
    for shown in (None, "", "dh_", text[:-1], text + "0", text.upper(), key.sha256, "\udcff"):
        with pytest.raises(UnauthenticatedError):
            authenticate(shown, grants, NOW)
    assert authenticate(text, grants, NOW).scopes == ("predict",)


def test_revoked_and_expired_keys_do_not_reach_the_route_table():
    (_, good), (_, revoked), (_, old) = issue(), issue(), issue(lifetime_s=1)
    revoked = msgspec.structs.replace(revoked, revoked_at_ns=NOW)
    assert set(key_grants([good, revoked, old], NOW + 10**9)) == {good.sha256}


def test_denial_says_which_permission_is_missing():
    _, key = issue(scopes=("predict:tumours",))
    authorize(key_grant(key), "predict", "tumours")
    with pytest.raises(DeniedError, match="'predict' for 'lending'"):
        authorize(key_grant(key), "predict", "lending")
