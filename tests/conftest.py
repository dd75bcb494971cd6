"""What holds for every test: no connection leaves this machine, and no law fails because the machine is slow."""

import ipaddress
import os
import sqlite3
import sys

from hypothesis import HealthCheck, settings

from tests import postgres as postgres_server

postgres, postgres_url = postgres_server.postgres, postgres_server.postgres_url

settings.register_profile(
    "house",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize="CI" in os.environ,  # a change is judged on the same examples twice
)
settings.load_profile("house")


def pytest_addoption(parser):
    """A test of faults that fails says with which seed; this runs that one alone."""
    parser.addoption("--seed", type=int, help="the one seed to use in tests that try many (tests/faults)")


def _refuse_the_world(event, arguments):
    """Refuse what would reach beyond loopback; an audit hook sees every socket, whichever library opens it."""
    if event == "socket.connect":
        address = arguments[1]
        if isinstance(address, tuple) and not _is_local(str(address[0])):
            raise PermissionError(f"a test may connect to this machine only, not to {address[0]}")
    elif event == "socket.getaddrinfo" and arguments[0] and not _is_local(str(arguments[0])):
        raise PermissionError(f"a test may look up this machine only, not {arguments[0]}")


def _is_local(host):
    try:
        return ipaddress.ip_address(host).is_loopback or host in {"0.0.0.0", "::"}  # noqa: S104  (compared, not bound)
    except ValueError:
        return host == "localhost"


sys.addaudithook(_refuse_the_world)


def pytest_report_header():
    return f"stores: SQLite {sqlite3.sqlite_version}, {postgres_server.version()}"


def pytest_terminal_summary(terminalreporter):
    """Say which stores were tested, also where only the last lines are shown."""
    passed = terminalreporter.stats.get("passed", [])
    stores = {value for report in passed for name, value in report.user_properties if name == "store"}
    if stores:
        terminalreporter.write_line(f"stores tested: {', '.join(sorted(stores))}")
