"""A hall that answers is backed up while others use it, lost, and restored on another machine."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import threading

import httpx

from datahall.core.records import Step


class Busy:
    """Asks for answers and issues keys until the block ends; `keys` are those that the hall has acknowledged."""

    def __init__(self, place, row):
        self.keys, self.answers, self.failures = [], [], []
        self._row = row
        self._client = place.client()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._go_on, daemon=True)

    def _go_on(self):
        while not self._ending.wait(0.02):
            try:
                made = self._client.post("/api/v1/keys", json={"name": "ci", "scopes": ["predict"]})
                said = self._client.post("/predict/flowers", json=self._row)
            except httpx.HTTPError as error:
                self.failures.append(repr(error))
                return
            if (made.status_code, said.status_code) != (201, 200):
                self.failures.append(made.text + said.text)
                return
            self.keys.append(made.json()["status"]["id"])
            self.answers.append(said.json()["id"])

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._ending.set()
        self._thread.join(60)
        self._client.close()


def test_a_hall_lost_with_its_machine_answers_again_and_old_answers_stay_proven(rested, place, kit):
    rested.up()
    file, safe = rested.root / "monday.dhb", place.root / "safe"
    shutil.copytree(rested.hall / "keys", safe)
    with rested.client() as client:
        old = client.post("/predict/flowers", json=kit.ROW).json()["id"]
        text = client.post("/api/v1/keys", json={"name": "app", "scopes": ["predict"], "team": "main"}).json()["key"]
    with Busy(rested, kit.ROW) as busy:
        kit.eventually(lambda: len(busy.keys) > 3 or busy.failures)
        before = set(busy.keys)
        said = rested.ask("backup", file)
        num_during = len(busy.keys) - len(before)
        kit.eventually(lambda: len(busy.keys) > len(before) + num_during + 3 or busy.failures)
    assert busy.failures == [], "nobody noticed"
    assert said["num_entries"] >= said["num_signed"] > len(before)
    rested.do("stop")
    shutil.rmtree(rested.hall)

    words = place.do("restore", file, "--keys", safe)
    assert f"point of recovery: {said['at']}, {said['num_entries']:,} entries" in words
    assert "whether anything was lost is not known" in " ".join(words.split()), (
        "no witness of that hall is on this machine"
    )
    assert place.ask("verify")["num_entries"] >= said["num_entries"]
    place.up()
    keys = {key["id"] for key in place.ask("key", "list")}
    assert before <= keys, "all that was acknowledged before the backup began is there"
    assert not set(busy.keys) <= keys, "the control: what came after is not"
    with place.client(text) as client:
        assert client.post("/predict/flowers", json=kit.ROW).json()["version"] == "flowers@1.0.0"
    assert place.ask("provenance", old)["verified"] is True
    place.do("stop")
    assert place.ask("verify")["ok"] is True


def test_what_is_lost_is_named_and_the_command_that_accepts_it_works(rested):
    file, safe = rested.root / "b.dhb", rested.root / "safe"
    rested.do("backup", file)
    rested.do("key", "issue", "later", "--scope", "read")
    shutil.copytree(rested.hall / "keys", safe)
    refused = rested.tell("restore", file, "--keys", safe)
    assert (refused.returncode, "nothing is restored" in refused.stderr) == (2, True)
    said = rested.ask("restore", file, "--keys", safe, "--force")
    first, stop = said["restored"]["lost"]
    assert (first, stop > first) == (said["restored"]["num_entries"], True)
    assert "rolled back" in rested.tell("verify").stdout, "until it is accepted"
    assert "rolled back" in rested.tell("key", "list").stderr
    subprocess.run(shlex.split(said["accept"]), check=True)
    rested.do("key", "list")
    assert rested.ask("verify")["ok"] is True


def test_a_step_that_ran_on_the_old_machine_is_marked_interrupted(rested, place):
    with rested.catalogue() as catalogue:
        (step, *_) = catalogue.find(Step, app="flowers")
    rested.write(seed=3)
    talk = rested.start("run", "-y", "--json", "--no-serve", "app/app.yaml")
    talk.event("step_began", "train/plain")
    rested.do("backup", rested.root / "b.dhb")  # asks the command that runs, which holds the hall
    talk.abandon()
    place.do("restore", rested.root / "b.dhb", "--keys", rested.hall / "keys")
    place.do("key", "list")
    with place.catalogue() as catalogue:
        states = [found.state for found in catalogue.find(Step, app="flowers")]
    assert step.state == "done"
    assert (states.count("interrupted"), states.count("running")) == (1, 0)
    assert place.ask("verify")["ok"] is True
