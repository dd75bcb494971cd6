"""Decisions taken again: a hundred thousand of the policies that run differ in none, and a changed policy is found out."""

import importlib.util
import sys
from pathlib import Path

import msgspec
import pytest
import replay as simulation
from typer.testing import CliRunner

import datahall.policy
from datahall.app.cli.verbs import verify
from datahall.app.decisions import DecisionLog
from datahall.app.replay import Replayer, replay_hall
from datahall.app.wiring import open_hall
from datahall.backends.db.telemetry import Telemetry
from datahall.core.hall import HallPaths
from datahall.core.records import Decided
from datahall.policy import rollout
from datahall.serve.decisions import DecisionFiles, decision_files, policy_code

MUTANTS = {
    "admit": ("16 * view.peers_in_flight < view.app_limit", "16 * view.peers_in_flight <= view.app_limit"),
    "cache": ("candidate.frequency > frequency and enough", "candidate.frequency >= frequency and enough"),
    "concurrency": ("math.sqrt(used)", "math.sqrt(used + 1)"),
    "health": ("state.num_failures >= NUM_FAILURES", "state.num_failures > NUM_FAILURES"),
    "rate": ("if cost_ns > view.span_ns:", "if cost_ns >= view.span_ns:"),
    "retry": ("view.num_attempts >= MAX_ATTEMPTS", "view.num_attempts > MAX_ATTEMPTS"),
    "route": ("(one.wait_ns, one.id) < (other.wait_ns, other.id)", "(one.wait_ns, one.id) > (other.wait_ns, other.id)"),
    "share": ("min(a.concurrency, b.concurrency)", "max(a.concurrency, b.concurrency)"),
    "shed": ("event.num_in_a_row > view.max_in_a_row", "event.num_in_a_row >= view.max_in_a_row"),
    "rollout": ("view.acknowledged < view.revision", "view.acknowledged <= view.revision"),
}
"""For each policy one small change; a new policy needs one too."""


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("decisions")
    simulation.simulate(folder, simulation.NUM_DECISIONS, seed=7)
    return folder


def test_a_hundred_thousand_decisions_of_all_policies_differ_in_none(logged):
    done = simulation.replay(logged, Replayer())
    assert (done.num_decisions, done.num_same) == (simulation.NUM_DECISIONS, simulation.NUM_DECISIONS)
    assert (done.faults, done.num_lost_bytes) == ([], 0)
    assert done.num_by_policy.keys() == simulation.SOURCES.keys() == MUTANTS.keys()


def test_every_policy_that_is_logged_is_simulated():
    """The gate and the selection are proven by the ledger; `words` decides nothing."""
    modules = {path.stem for path in Path(datahall.policy.__path__[0]).glob("[a-z]*.py")}
    assert modules - {"gate", "select", "words"} == simulation.SOURCES.keys()


@pytest.fixture(params=MUTANTS)
def mutant(request, tmp_path, monkeypatch):
    """Return a policy's name and its module with one thing changed."""
    source = (Path(datahall.policy.__path__[0]) / f"{request.param}.py").read_text()
    old, new = MUTANTS[request.param]
    assert source.count(old) == 1
    path = tmp_path / f"{request.param}.py"
    path.write_text(source.replace(old, new))
    spec = importlib.util.spec_from_file_location(f"mutant_{request.param}", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return request.param, module


def test_a_policy_with_one_small_change_is_found_out(tmp_path, mutant):
    name, module = mutant
    simulation.simulate(tmp_path, 4_000, seed=7)
    done = simulation.replay(tmp_path, Replayer({name: module}))
    assert done.differences
    assert {one.policy for one in done.differences} == {name}
    assert "decided otherwise" in done.faults[0]


def test_the_simulation_gives_the_same_decisions_for_the_same_seed(tmp_path):
    for run in ("first", "second"):
        (tmp_path / run).mkdir()
        simulation.simulate(tmp_path / run, 500, seed=3)
    assert (tmp_path / "first" / "g1.a").read_bytes() == (tmp_path / "second" / "g1.a").read_bytes()


@pytest.fixture
def hall(tmp_path, monkeypatch):
    """A hall with decisions of a gateway and of its reconciler."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    paths = HallPaths(tmp_path / "hall")
    with open_hall(paths):
        pass
    simulation.simulate(paths.decisions, 40, seed=1)
    telemetry = Telemetry(paths.telemetry)
    DecisionLog(telemetry).append(rolled_out())
    telemetry.close()
    return paths


def rolled_out(**changes):
    live = rollout.DeploymentView(id="dep_1", app="a", state="live", num_replicas=2)
    view = rollout.RolloutView(deployments=(live,), replicas=(), routed=(), revision=0, acknowledged=0)
    before = {"dep_1": rollout.Retry(num_failures=1, not_before_ns=4)}
    state, decision, reason = rollout.decide(before, view, rollout.Tick(), 5, 0.0)
    decided = Decided(
        policy="rollout",
        state=before,
        view=view,
        event=rollout.Tick(),
        now=5,
        draw=0.0,
        new_state=state,
        decision=decision,
        reason=reason,
        code=policy_code(),
    )
    return msgspec.structs.replace(decided, **changes)


def add(paths, **changes):
    telemetry = Telemetry(paths.telemetry)
    DecisionLog(telemetry).append(rolled_out(**changes))
    telemetry.close()


def run_verify(paths, *words):
    return CliRunner().invoke(verify.command, ["--decisions", *words], obj=paths)


def test_verify_says_how_many_were_replayed(hall):
    result = run_verify(hall)
    assert "replayed 41 decisions, 0 differ" in result.output
    assert result.exit_code == 0
    said = msgspec.json.decode(run_verify(hall, "--json").stdout)
    assert said["ok"] is True
    assert said["decisions"]["num_by_policy"] == {**dict.fromkeys(simulation.SOURCES, 4), "rollout": 5}


def test_verify_names_the_first_that_differs_and_exits_with_1(hall):
    add(hall, decision=rollout.Rollout())
    add(hall, reason="because")
    result = run_verify(hall)
    assert "replayed 43 decisions, 2 differ" in result.output
    assert "telemetry.db#1: policy rollout decided otherwise: decision was Rollout(start=()" in " ".join(
        result.output.split()
    )
    assert result.exit_code == 1
    assert msgspec.json.decode(run_verify(hall, "--json").stdout)["decisions"]["first"]["policy"] == "rollout"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"policy": "none"}, "there is no such policy"),
        ({"policy": "../rollout"}, "there is no such policy"),
        ({"policy": "words"}, "there is no such policy"),
        ({"view": {}}, "its view is not this policy's"),
        ({"draw": 1.0}, "it raises AssertionError"),
    ],
)
def test_a_decision_that_no_policy_can_have_taken_differs(hall, changes, words):
    add(hall, **changes)
    [one] = replay_hall(hall).differences
    assert words in one.what


def test_decisions_of_other_policies_than_those_installed_are_counted_and_are_no_fault(hall):
    add(hall, code="other", reason="as it was worded then")
    add(hall, code="other")
    done = replay_hall(hall)
    assert (done.num_other_code, done.num_other_code_differing, done.faults) == (2, 1, [])
    assert "2 of them were taken by other policies" in run_verify(hall).output


def test_a_torn_tail_is_passed_over_and_told(hall):
    [path] = decision_files(hall.decisions)
    path.write_bytes(path.read_bytes()[:-1])
    done = replay_hall(hall)
    assert done.faults == []
    assert done.num_decisions < 41
    assert f"{done.num_lost_bytes:,} bytes are no whole decisions" in run_verify(hall).output


def test_a_damaged_telemetry_is_a_problem(hall):
    hall.telemetry.write_bytes(b"no database" * 1_000)
    assert "telemetry.db cannot be read" in replay_hall(hall).faults[0]


def test_not_a_number_is_equal_to_itself(tmp_path):
    """Policies may compute with it; a replay that says otherwise would be wrong."""
    module = type(sys)("odd")
    exec(  # noqa: S102  a policy of this test's own
        "def decide(state: float, view: float, event: None, now: int, draw: float) -> tuple[float, float, str]:\n"
        "    return state, view * float('nan'), 'odd'\n",
        module.__dict__,
    )
    files = DecisionFiles(tmp_path, "g1")
    call = (1.0, 0.25, None, 1, 0.5)
    files.of("odd").keep(call, module.decide(*call))
    files.close()
    assert simulation.replay(tmp_path, Replayer({"odd": module})).num_same == 1
