"""The settings of a hall, `hall.toml` in its folder: where its database, objects and witnesses are."""

from __future__ import annotations

import difflib
import math
import os
import re
import stat
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple, TypeVar
from urllib.parse import parse_qs, urlsplit

import msgspec

from datahall.core.errors import UserError
from datahall.core.hall import HallPaths
from datahall.core.ids import NAME_RULE, is_name
from datahall.core.records import Quota, TeamRule
from datahall.serve.cache import MAX_CACHE_BYTES

MAX_BYTES: Final = 64 << 10

_ANY_TEAM: Final = "<name>"
_ENV_NAME = r"^[A-Za-z_][A-Za-z0-9_]*$"
S = TypeVar("S", bound=msgspec.Struct)
_Variable = Annotated[str, msgspec.Meta(pattern=_ENV_NAME)]


class Objects(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to reach an object store that `blobs` names; what is left out comes from the store's own environment."""

    endpoint: Annotated[str | None, msgspec.Meta(description="Address of a server that speaks S3, other than AWS.")] = (
        None
    )
    region: Annotated[str | None, msgspec.Meta(description="The bucket's region.")] = None
    access_key_id: Annotated[str | None, msgspec.Meta(description="Name of the key with which to ask.")] = None
    secret_access_key_env: Annotated[
        _Variable | None, msgspec.Meta(description="Environment variable that holds the key's secret.")
    ] = None
    secret_access_key: Annotated[
        str | None, msgspec.Meta(description="The secret itself; then nobody else may be able to read the file.")
    ] = None


class Team(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one team is treated; what is left out is no limit."""

    rate_per_s: Annotated[
        Annotated[float, msgspec.Meta(gt=0, le=1e9)] | None,
        msgspec.Meta(description="Requests a second that all its keys together may send, over all gateways."),
    ] = None
    burst: Annotated[
        Annotated[int, msgspec.Meta(ge=1, le=10**9)] | None,
        msgspec.Meta(
            description="Requests that may come at once before the rate holds; one second's worth where left out."
        ),
    ] = None
    concurrency: Annotated[
        Annotated[int, msgspec.Meta(ge=1, le=10**6)] | None,
        msgspec.Meta(description="Requests of the team that are worked on at a time."),
    ] = None
    weight: Annotated[
        float,
        msgspec.Meta(
            gt=0, le=1e6, description="The team's share of what there is while teams compete; 1 where left out."
        ),
    ] = 1.0

    @property
    def rule(self) -> TeamRule:
        """What gateways are told."""
        quota = Quota(rate_per_s=self.rate_per_s, burst=self.burst, concurrency=self.concurrency)
        return TeamRule(quota=quota, weight=self.weight)


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `hall.toml` may say; everything has a default, so a hall on one machine needs no such file."""

    database: Annotated[
        str | None,
        msgspec.Meta(description="URL of the Postgres database that is the catalogue; without, `hall.db` in the hall."),
    ] = None
    database_password_env: Annotated[
        _Variable | None, msgspec.Meta(description="Environment variable that holds the database's password.")
    ] = None
    blobs: Annotated[
        str | None,
        msgspec.Meta(
            description="URL of the object store, such as `s3://bucket/prefix`; without, `blobs` in the hall."
        ),
    ] = None
    cache_bytes: Annotated[
        Annotated[int, msgspec.Meta(ge=0)] | None,
        msgspec.Meta(description="How much of a remote object store to keep on this machine's disk."),
    ] = None
    witness: Annotated[
        tuple[str, ...],
        msgspec.Meta(
            description="Where tree heads are remembered outside the hall: `file:/folder`, `git:URL`, `https://URL`; "
            "without, a folder of the user's own."
        ),
    ] = ()
    gateways: Annotated[
        int,
        msgspec.Meta(
            ge=1, le=64, description="How many gateways share the port; 1 where left out. A core each is enough."
        ),
    ] = 1
    response_cache_mb: Annotated[
        int,
        msgspec.Meta(
            ge=0,
            le=16_384,
            description="What the cache of answers of each gateway may take in memory, in MiB; 32 where left out, "
            "0 for none.",
        ),
    ] = MAX_CACHE_BYTES >> 20
    auth_stale_hours: Annotated[
        float,
        msgspec.Meta(
            gt=0,
            le=8760,
            description="After so long without word from control gateways take no key any more, for it may have been "
            "revoked; 24 where left out.",
        ),
    ] = 24.0
    objects: Objects = Objects()
    teams: dict[str, Team] = {}


class Setting(NamedTuple):
    """One key for people."""

    key: str
    takes: str
    description: str


def read_settings(paths: HallPaths) -> Settings:
    """Return the settings of a hall; the defaults where it has no `hall.toml`.

    Raises UserError, with file and key, for what is no TOML, an unknown key, a wrong value, and for a password in a
    file that others can read.
    """
    path = paths.settings
    found = _read(path)
    if found is None:
        return Settings()
    text, mode = found
    try:
        plain = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"this is not TOML: {error}", where=str(path)) from error
    _check_teams(plain.get("teams"), path)
    settings = _converted(plain, Settings, path)
    _check_secrets(settings, path, mode)
    return settings


def database_password(settings: Settings, environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the database's password, from the variable that the settings name or from the URL; None without one.

    Raises UserError where the variable is not set.
    """
    if settings.database_password_env is not None:
        return _from(environment, settings.database_password_env, "database_password_env")
    return _password_in(settings.database or "")


def object_secret(settings: Settings, environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the object store's secret key, None where its own environment has it. Raises as `database_password`."""
    if settings.objects.secret_access_key_env is not None:
        return _from(environment, settings.objects.secret_access_key_env, "objects.secret_access_key_env")
    return settings.objects.secret_access_key


def without_password(url: str) -> str:
    """Return a URL that can be shown."""
    # Up to the last @, for a password may hold one: rather too much is hidden than too little.
    return re.sub(r"([?&]password=)[^&]*", r"\1***", re.sub(r"(://[^/@:]*):.*@", r"\1:***@", url))


def describe() -> Iterator[Setting]:
    """Yield every key, those of a section behind it with a dot."""
    for prefix, kind in (("", Settings), ("objects.", Objects), (f"teams.{_ANY_TEAM}.", Team)):
        for field in msgspec.structs.fields(kind):
            if field.name not in {"objects", "teams"}:
                yield _setting(f"{prefix}{field.encode_name}", field.type)


def _setting(key: str, annotation: Any) -> Setting:
    schema = msgspec.json.schema(annotation)
    kinds = {"integer": "whole number", "number": "number", "string": "text", "array": "list of texts"}
    said = [schema.get("type"), *(each.get("type") for each in schema.get("anyOf", ()))]
    takes = next(kinds[each] for each in said if each in kinds)
    return Setting(key=key, takes=takes, description=schema["description"])


def _read(path: Path) -> tuple[str, int] | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"the settings cannot be read: {error.strerror}", where=str(path)) from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise UserError("this is not a file", where=str(path))
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise UserError(f"the settings are larger than {MAX_BYTES} bytes", where=str(path))
    if status.st_uid not in {os.geteuid(), 0} or status.st_mode & 0o022:
        # Whoever can write it can send the hall's records anywhere.
        raise UserError("others can change this file", where=str(path), hint=f"close it with: chmod 600 '{path}'")
    try:
        return data.decode(), status.st_mode
    except UnicodeDecodeError as error:
        raise UserError("the settings are not UTF-8", where=str(path)) from error


def _converted(plain: Any, kind: type[S], path: Path, at: str = "") -> S:
    try:
        return msgspec.convert(plain, kind)
    except msgspec.ValidationError as error:
        raise _wrong_value(path, str(error), at) from error


def _check_teams(teams: Any, path: Path) -> None:
    """Look at each team by itself: msgspec does not say in which one it found what is wrong."""
    for name, plain in teams.items() if isinstance(teams, dict) else ():
        at = f"teams.{name[:80]}"
        if not is_name(name):
            raise UserError(f"{at}: a team needs a name", where=str(path), hint=f"a name is {NAME_RULE}")
        team = _converted(plain, Team, path, at)
        if not all(math.isfinite(value) for value in (team.rate_per_s or 0.0, team.weight)):
            raise UserError(f"{at}: a rate and a weight are finite numbers", where=str(path))
        if team.burst is not None and team.rate_per_s is None:
            raise UserError(f"{at}.burst: there is no rate", where=str(path), hint=f"give {at}.rate_per_s too")


def _wrong_value(path: Path, said: str, at: str = "") -> UserError:
    """Return msgspec's words with the key by the name that it has in the file, where the section `at` begins."""
    what, _, place = said.partition(" - at `")
    section = ".".join(part for part in (at, re.sub(r"^\$\.?", "", place.rstrip("`"))) if part)
    unknown = re.search(r"unknown field `(.*)`", what)
    if unknown is None:
        return UserError(f"{section}: {what[:1].lower()}{what[1:]}", where=str(path))
    key = f"{section}.{unknown[1]}" if section else unknown[1]
    keys = [setting.key for setting in describe()]
    if at.startswith("teams."):
        keys = [each.replace(f"teams.{_ANY_TEAM}", at, 1) for each in keys]
    # Whoever leaves the unit out means that key, however near another one is.
    near = [each for each in keys if each.startswith(f"{key}_")] or difflib.get_close_matches(key, keys, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(keys)}"
    return UserError(f"{key[:80]}: there is no such setting", where=str(path), hint=hint)


def _check_secrets(settings: Settings, path: Path, mode: int) -> None:
    try:
        password = _password_in(settings.database or "")
    except ValueError as error:
        raise UserError("database: this is not a URL", where=str(path)) from error
    for in_file, by_name, key, name in (
        (password, settings.database_password_env, "database", "database_password_env"),
        (
            settings.objects.secret_access_key,
            settings.objects.secret_access_key_env,
            "objects.secret_access_key",
            "objects.secret_access_key_env",
        ),
    ):
        if in_file and by_name:
            raise UserError(f"{key}: the secret is there, and {name} too", where=str(path), hint="keep one of them")
        if in_file:
            _check_closed(key, path, mode, f"; or keep the secret in the environment, with {name}")
    for key, url in (("blobs", settings.blobs), *(("witness", one) for one in settings.witness)):
        try:
            urlsplit(url or "")
        except ValueError as error:
            raise UserError(f"{key}: this is not a URL", where=str(path)) from error
        if url and _SECRET.search(url):
            _check_closed(key, path, mode, "")


_SECRET = re.compile(r"://[^/?#]*@|[?&]password=")
"""What precedes the host of a URL is a secret or may be one: a token stands where a user does."""


def _check_closed(key: str, path: Path, mode: int, otherwise: str) -> None:
    if mode & 0o077:
        raise UserError(
            f"{key}: it holds a secret, and others can read this file (mode {stat.S_IMODE(mode):04o})",
            where=str(path),
            hint=f"close it with: chmod 600 '{path}'{otherwise}",
        )


def _password_in(url: str) -> str | None:
    """Return the password in a URL, before its host or behind its question mark. Raises ValueError for no URL."""
    parts = urlsplit(url)
    return parts.password or next(iter(parse_qs(parts.query).get("password", ())), None)


def _from(environment: Mapping[str, str], variable: str, key: str) -> str:
    value = environment.get(variable)
    if not value:
        raise UserError(f"{key}: the environment variable {variable} is not set", hint="set it where the hall starts")
    return value
