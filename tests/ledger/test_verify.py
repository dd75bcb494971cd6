"""The stand-alone verifier sees every change below a held checkpoint, and imports nothing of ours."""

from __future__ import annotations

import ast
import json
import random
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from datahall.backends.db.sqlite import SqliteCatalogue
from datahall.core.canonical import canonical_json, digest_bytes
from datahall.ledger import verify
from datahall.ledger.checkpoint import sign_checkpoint
from datahall.ledger.sequencer import Sequencer
from datahall.ledger.verify import VerifyError, read_key, verify_connection, verify_hall
from datahall.testing.catalogue import app, declare

SCRIPT = Path(verify.__file__)


@pytest.fixture
def database(store, history):
    """The hall's database, loaded into memory: 7 entries in the tree, 2 beyond."""
    with closing(sqlite3.connect(store.path)) as disk, closing(sqlite3.connect(":memory:")) as memory:
        memory.isolation_level = None
        disk.backup(memory)
        yield memory


@pytest.fixture
def held(history):
    """The notes that somebody outside kept: the newest checkpoint."""
    return [history[1].note]


@pytest.fixture
def pem(tmp_path, signer):
    path = tmp_path / "public.pem"
    key = Ed25519PublicKey.from_public_bytes(signer.public_key)
    path.write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return path


def places(report):
    return {problem.where for problem in report.problems}


def test_an_untouched_hall_holds(store, signer, history, held):
    report = verify_hall(store.path, signer.public_key, held)
    assert report.problems == []
    assert report.ok
    assert (report.num_entries, report.size, report.witnessed_size, report.num_records) == (9, 7, 7, 5)
    assert report.unwitnessed == (7, 9)


def test_without_a_held_checkpoint_nothing_is_witnessed(store, signer, history):
    assert verify_hall(store.path, signer.public_key).unwitnessed == (0, 9)


def test_an_older_held_checkpoint_witnesses_less(store, signer, history):
    report = verify_hall(store.path, signer.public_key, [history[0].note])
    assert report.ok
    assert report.unwitnessed == (4, 9)


def test_an_empty_hall_holds(store, signer):
    report = verify_hall(store.path, signer.public_key)
    assert report.ok
    assert (report.num_entries, report.size, report.unwitnessed) == (0, 0, (0, 0))


# One seeded change each; all below the held checkpoint of 7 entries. They return False where nothing changed.


def edit_entry(db, rng):
    seq = rng.randrange(7)
    (body,) = db.execute("SELECT body FROM entries WHERE seq = ?", (seq,)).fetchone()
    position = rng.randrange(len(body))
    changed = body[:position] + bytes([body[position] ^ (1 << rng.randrange(8))]) + body[position + 1 :]
    db.execute("UPDATE entries SET body = ? WHERE seq = ?", (changed, seq))


def edit_entry_sensibly(db, rng):
    """A forger who keeps the entry valid, and rewrites the record, the index columns and the leaf to match."""
    seq = rng.randrange(7)
    (body,) = db.execute("SELECT body FROM entries WHERE seq = ?", (seq,)).fetchone()
    entry = json.loads(body)
    entry["actor"] = f"forger {rng.random()}"
    db.execute("UPDATE entries SET body = ? WHERE seq = ?", (canonical_json(entry), seq))


def delete_entry(db, rng):
    db.execute("DELETE FROM entries WHERE seq = ?", (rng.randrange(7),))


def delete_entry_and_close_the_gap(db, rng):
    seq = rng.randrange(7)
    db.execute("DELETE FROM entries WHERE seq = ?", (seq,))
    for later in range(seq + 1, 9):
        (body,) = db.execute("SELECT body FROM entries WHERE seq = ?", (later,)).fetchone()
        entry = json.loads(body) | {"seq": later - 1}
        db.execute("UPDATE entries SET seq = ?, body = ? WHERE seq = ?", (later - 1, canonical_json(entry), later))


def swap_entries(db, rng):
    one, two = rng.sample(range(7), 2)
    for seq, other in ((one, 1000), (two, one), (1000, two)):
        db.execute("UPDATE entries SET seq = ? WHERE seq = ?", (other, seq))


def insert_entry(db, rng):
    seq = rng.randrange(7)
    for later in reversed(range(seq, 9)):
        db.execute("UPDATE entries SET seq = ? WHERE seq = ?", (later + 1, later))
    body = canonical_json({"seq": seq, "kind": "hall.created", "app": None, "touched": [], "actor": "forger"})
    db.execute("INSERT INTO entries VALUES (?, 'hall.created', NULL, ?)", (seq, body))


def edit_record(db, rng):
    (name,) = rng.choice(db.execute("SELECT id FROM record_app").fetchall())
    db.execute("UPDATE record_app SET body = json_set(body, '$.team', ?) WHERE id = ?", (f"t{rng.random()}", name))


def move_record(db, rng):
    (name,) = rng.choice(db.execute("SELECT id FROM record_app").fetchall())
    db.execute("UPDATE record_app SET seq = seq + ? WHERE id = ?", (rng.choice((-1, 1, 100)), name))


def roll_record_back(db, rng):
    was = app(rng.choice("ac"))
    db.execute("UPDATE record_app SET body = ?, seq = 0 WHERE id = ?", (canonical_json(was).decode(), was.id))


def delete_record(db, rng):
    (name,) = rng.choice(db.execute("SELECT id FROM record_app").fetchall())
    db.execute("DELETE FROM record_app WHERE id = ?", (name,))


def add_record(db, rng):
    extra = app(rng.choice(["b", "extra"]))
    db.execute(
        "INSERT INTO record_app (id, seq, body) VALUES (?, ?, ?)",
        (extra.id, rng.randrange(9), canonical_json(extra).decode()),
    )


def edit_node(db, rng):
    level, idx = rng.choice(db.execute("SELECT level, idx FROM nodes").fetchall())
    db.execute("UPDATE nodes SET hash = randomblob(32) WHERE level = ? AND idx = ?", (level, idx))


def delete_node(db, rng):
    level, idx = rng.choice(db.execute("SELECT level, idx FROM nodes").fetchall())
    db.execute("DELETE FROM nodes WHERE level = ? AND idx = ?", (level, idx))


def add_node(db, rng):
    db.execute("INSERT INTO nodes VALUES (?, ?, zeroblob(32))", (rng.randrange(5), rng.randrange(8, 90)))


def edit_history(db, rng):
    if rng.random() < 0.5:
        db.execute("DELETE FROM touched WHERE seq = ?", (rng.randrange(7),))
    else:
        db.execute("INSERT INTO touched VALUES ('app', 'a', ?)", (rng.randrange(1, 4),))


def edit_checkpoint(db, rng):
    column, value = rng.choice([("root", "zeroblob(32)"), ("origin", "'elsewhere'"), ("size", "size + 1")])
    db.execute(f"UPDATE checkpoints SET {column} = {value} WHERE size = ?", (rng.choice((4, 7)),))  # noqa: S608


CHANGES = (
    edit_entry,
    edit_entry_sensibly,
    delete_entry,
    delete_entry_and_close_the_gap,
    swap_entries,
    insert_entry,
    edit_record,
    move_record,
    roll_record_back,
    delete_record,
    add_record,
    edit_node,
    delete_node,
    add_node,
    edit_history,
    edit_checkpoint,
)
ON_ENTRIES = CHANGES[:6]


def num_detected(db, key, notes, changes, *, num):
    detected = 0
    for seed in range(num):
        rng = random.Random(seed)  # noqa: S311
        db.execute("BEGIN")
        changes[seed % len(changes)](db, rng)
        detected += not verify_connection(db, key, notes).ok
        db.execute("ROLLBACK")
    return detected


def test_a_thousand_of_a_thousand_changes_are_detected(database, signer, held):
    assert verify_connection(database, signer.public_key, held).ok
    assert num_detected(database, signer.public_key, held, CHANGES, num=1000) == 1000
    assert verify_connection(database, signer.public_key, held).ok


def test_the_count_is_of_changes_that_a_blind_verifier_misses(database, signer, held, monkeypatch):
    """The control: with the comparison of roots and nodes taken out, forged entries pass."""
    monkeypatch.setattr(verify, "_check_root", lambda *_: None)
    monkeypatch.setattr(verify, "_check_node", lambda *_: None)
    found = num_detected(database, signer.public_key, held, ON_ENTRIES, num=120)
    assert found < 120


@pytest.mark.parametrize("check", ["_check_records", "_check_index"])
def test_each_further_comparison_is_needed(database, signer, held, monkeypatch, check):
    changes = CHANGES[6:11] if check == "_check_records" else (edit_history,)
    monkeypatch.setattr(verify, check, lambda *_: None)
    assert num_detected(database, signer.public_key, held, changes, num=20) == 0


def rewind(db, size):
    """Make the hall what it honestly was at `size` entries: nothing inside it can tell."""
    db.execute("DELETE FROM entries WHERE seq >= ?", (size,))
    db.execute("DELETE FROM touched WHERE seq >= ?", (size,))
    db.execute("DELETE FROM checkpoints WHERE size > ?", (size,))
    (tree_size,) = db.execute("SELECT coalesce(max(size), 0) FROM checkpoints").fetchone()
    db.execute("DELETE FROM nodes WHERE (idx + 1) << level > ?", (tree_size,))
    db.execute("DELETE FROM record_app")
    newest = {}
    for (body,) in db.execute("SELECT body FROM entries ORDER BY seq").fetchall():
        entry = json.loads(body)
        for mark in entry["touched"]:
            newest[mark["id"]] = (entry["seq"], mark["digest"])
    known = {digest_bytes(canonical_json(one)): one for one in (*map(app, "abcdef"), app("a", digest="1"))}
    for name, (seq, digest) in newest.items():
        if digest is not None:
            row = (name, seq, canonical_json(known[digest]).decode())
            db.execute("INSERT INTO record_app (id, seq, body) VALUES (?, ?, ?)", row)


@pytest.mark.parametrize("size", range(7))
def test_every_truncation_below_the_witnessed_head_is_detected(database, signer, held, size):
    rewind(database, size)
    report = verify_connection(database, signer.public_key, held)
    assert "held checkpoint 7" in places(report)


@pytest.mark.parametrize("size", [4, 5, 6])
def test_without_the_witnessed_head_a_truncation_goes_unseen(database, signer, size):
    """The control: the same truncated hall is one that everything else says is whole."""
    rewind(database, size)
    assert verify_connection(database, signer.public_key).problems == []


def test_what_nobody_witnessed_can_be_cut_off_and_the_report_says_so(database, signer, held):
    assert verify_connection(database, signer.public_key, held).unwitnessed == (7, 9)
    rewind(database, 7)
    report = verify_connection(database, signer.public_key, held)
    assert report.problems == []
    assert report.unwitnessed == (7, 7)


def test_a_ledger_rewritten_and_signed_again_contradicts_the_held_head(tmp_path, signer, clock, held, sequencer):
    other = SqliteCatalogue(tmp_path / "other.db", clock)
    for name in "abcdefghi":
        declare(other, app(name, team="forged"))
    Sequencer(other, signer, "datahall.test/hall", clock).flush()
    report = verify_hall(other.path, signer.public_key, held)
    other.close()
    assert places(report) == {"held checkpoint 7"}


def test_foreign_heads_are_told_from_the_hall_s(database, signer, other_signer, held, history):
    root = history[1].root
    for note, word in (
        (sign_checkpoint("datahall.test/hall", 7, root, other_signer).note, "not signed"),
        (sign_checkpoint("elsewhere", 7, root, signer).note, "it is of 'elsewhere'"),
        ("no note", "not signed"),
        (sign_checkpoint("datahall.test/hall", 7, bytes(32), signer).note, "its root is not"),
    ):
        (problem,) = verify_connection(database, signer.public_key, [note]).problems
        assert word in problem.what
    report = verify_connection(database, other_signer.public_key)
    assert [problem.what for problem in report.problems] == ["it is not signed by the hall's key"]
    assert report.size == 0


def test_bytes_that_are_no_json_or_no_text_are_findings_not_crashes(database, signer, held):
    for value in (b"", b"[]", b"{}", b'{"seq":', b"[" * 100_000, b"\xff\xfe", b"null"):
        database.execute("BEGIN")
        database.execute("UPDATE entries SET body = ? WHERE seq = 3", (value,))
        assert "entry 3" in places(verify_connection(database, signer.public_key, held))
        database.execute("ROLLBACK")


def test_a_row_that_is_no_text_is_a_finding(store, signer, held):
    with closing(sqlite3.connect(store.path)) as connection, connection:
        connection.execute("UPDATE record_app SET body = CAST(x'22ff22' AS TEXT) WHERE id = 'a'")
    assert places(verify_hall(store.path, signer.public_key, held)) == {"app a"}


def test_a_column_that_disagrees_with_its_body_is_a_finding(database, signer, held):
    """Only a rebuilt table can hold such a row; the real one computes its columns from the body."""
    rows = database.execute("SELECT * FROM record_app").fetchall()
    database.execute("DROP TABLE record_app")
    database.execute("CREATE TABLE record_app (id, seq, body, team)")
    database.executemany("INSERT INTO record_app VALUES (?, ?, ?, 'thieves')", [row[:3] for row in rows])
    report = verify_connection(database, signer.public_key, held)
    assert {problem.what for problem in report.problems} == {"its columns differ from its body: team"}
    assert len(report.problems) == len(rows)


def told(report):
    return [f"{problem.where}: {problem.what}" for problem in report.problems]


@pytest.mark.parametrize("seq", range(7))
def test_a_changed_entry_is_named_first_and_what_follows_is_only_counted(database, signer, held, seq):
    (body,) = database.execute("SELECT body FROM entries WHERE seq = ?", (seq,)).fetchone()
    forged = canonical_json(json.loads(body) | {"actor": "forger"})
    database.execute("UPDATE entries SET body = ? WHERE seq = ?", (forged, seq))
    report = verify_connection(database, signer.public_key, held)
    assert told(report)[0] == f"entry {seq}: it was changed"
    assert report.num_following == len(report.problems) - 1 >= 2
    assert list(verify.lines(report)) == [
        f"entry {seq}: it was changed",
        f"... and {report.num_following} more that follow from the changed entries",
    ]
    assert "covers" not in report.as_dict()


def test_what_does_not_follow_from_a_changed_entry_is_still_told(database, signer, held):
    database.execute("UPDATE entries SET body = CAST(replace(body, '\"actor\"', '\"actoR\"') AS BLOB) WHERE seq = 4")
    database.execute("DELETE FROM record_app WHERE id = 'a'")
    said = list(verify.lines(verify_connection(database, signer.public_key, held)))
    assert said[0].endswith(": it was changed")
    assert said[1] == "app a: its row is gone, but no entry deleted it"


def test_a_changed_leaf_below_whole_entries_is_no_changed_entry(database, signer, held):
    """The control: the entries are whole, the stored hash of one of them is not."""
    database.execute("UPDATE nodes SET hash = zeroblob(32) WHERE level = 0 AND idx = 3")
    report = verify_connection(database, signer.public_key, held)
    assert told(report) == ["node 0/3: it is not the hash of its entries"]
    assert report.num_following == 0


def test_the_module_imports_only_the_standard_library_and_cryptography():
    allowed = {*sys.stdlib_module_names, "cryptography"}
    for node in ast.walk(ast.parse(SCRIPT.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            assert {name.name.partition(".")[0] for name in node.names} <= allowed
        if isinstance(node, ast.ImportFrom):
            assert node.module.partition(".")[0] in allowed


def test_it_runs_alone_from_another_folder(tmp_path, store, signer, history, pem):
    alone = tmp_path / "an auditor's folder"
    alone.mkdir()
    shutil.copy(SCRIPT, alone)
    (alone / "kept.note").write_text(history[1].note, "utf-8")
    command = [sys.executable, "-I", "verify.py", str(store.path), "--key", str(pem), "--checkpoint", "kept.note"]
    good = subprocess.run(command, cwd=alone, capture_output=True, text=True, check=False)
    assert (good.returncode, good.stderr) == (0, "")
    assert "nobody has witnessed entries 7 to 8 yet" in good.stdout
    assert good.stdout.endswith("everything holds\n")


def test_the_command_line_reports_what_was_changed(store, signer, history, pem, capsys):
    with closing(sqlite3.connect(store.path)) as connection, connection:
        connection.execute("DELETE FROM record_app WHERE id = 'a'")
    assert verify.main([str(store.path), "--key", str(pem)]) == 1
    assert "CHANGED  app a: its row is gone, but no entry deleted it" in capsys.readouterr().out
    assert verify.main([str(store.path), "--key", str(pem), "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert said["ok"] is False
    assert said["unwitnessed"] == [0, 9]
    assert said["problems"] == [{"what": "its row is gone, but no entry deleted it", "where": "app a"}]


def test_a_fully_witnessed_hall_says_so(store, history, sequencer, pem, capsys):
    note = pem.parent / "kept.note"
    note.write_text(sequencer.flush().note, "utf-8")
    assert verify.main([str(store.path), "--key", str(pem), "--checkpoint", str(note)]) == 0
    assert "every entry lies under a checkpoint that you hold" in capsys.readouterr().out


def test_a_long_list_of_problems_is_cut(store, pem, history, capsys, monkeypatch):
    monkeypatch.setattr(verify, "_NUM_PROBLEMS_SHOWN", 2)
    with closing(sqlite3.connect(store.path)) as connection, connection:
        connection.execute("DELETE FROM record_app")
    assert verify.main([str(store.path), "--key", str(pem)]) == 1
    out = capsys.readouterr().out
    assert out.count("CHANGED") == 2
    assert "... and 3 more" in out


def test_what_cannot_be_checked_ends_with_status_2_and_a_reason(tmp_path, store, pem, history, capsys):
    text = tmp_path / "text.db"
    text.write_text("no database" * 100)
    empty = tmp_path / "empty.db"
    empty.touch()
    wrong_key = tmp_path / "wrong.pem"
    public = generate_private_key(SECP256R1()).public_key()
    wrong_key.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    for arguments, reason in (
        ([tmp_path / "none.db", "--key", pem], "no such file"),
        ([tmp_path, "--key", pem], "no such file"),
        ([text, "--key", pem], "file is not a database"),
        ([empty, "--key", pem], "no such table"),
        ([store.path, "--key", tmp_path / "none.pem"], "No such file"),
        ([store.path, "--key", text], "no PEM public key"),
        ([store.path, "--key", wrong_key], "not an Ed25519 key"),
    ):
        assert verify.main([str(argument) for argument in arguments]) == 2
        assert reason in capsys.readouterr().err


def test_a_copy_on_a_read_only_medium_is_checked(tmp_path, store, signer, history, monkeypatch):
    store.close()  # folds the log into the file
    real = verify._connect

    class Unwritable(sqlite3.Connection):
        def execute(self, *arguments):
            raise sqlite3.OperationalError("unable to open database file")

    def connect(path, mode):
        return real(path, mode) if mode == "immutable=1" else sqlite3.connect(":memory:", factory=Unwritable)

    monkeypatch.setattr(verify, "_connect", connect)
    assert verify_hall(store.path, signer.public_key).ok
    store.path.with_name("hall.db-wal").touch()
    with pytest.raises(VerifyError, match="unable to open"):
        verify_hall(store.path, signer.public_key)


def test_the_check_writes_nothing(store, signer, history):
    before = store.path.read_bytes()
    verify_hall(store.path, signer.public_key)
    assert store.path.read_bytes() == before


def test_a_key_reads_back_from_pem(pem, signer):
    assert read_key(pem.read_bytes()) == signer.public_key


@pytest.mark.parametrize(
    ("statement", "where"),
    [
        ("CREATE TRIGGER t AFTER INSERT ON entries BEGIN DELETE FROM record_app; END", "trigger t"),
        ("CREATE VIEW v AS SELECT * FROM entries", "view v"),
        ('CREATE TABLE "record_x"" WHERE 0 --" (id, seq, body)', None),
    ],
)
def test_a_schema_with_something_added_is_seen_through(database, signer, held, statement, where):
    database.execute(statement)
    if where is None:
        database.execute('INSERT INTO "record_x"" WHERE 0 --" VALUES (1, 2, 3)')
        where = 'x" WHERE 0 -- 1'
    assert places(verify_connection(database, signer.public_key, held)) == {where}


def test_a_hall_at_work_is_checked_in_one_view(store, signer, history, monkeypatch):
    real = verify._check_schema

    def meanwhile(*arguments):
        declare(store, app("g"))
        real(*arguments)

    monkeypatch.setattr(verify, "_check_schema", meanwhile)
    report = verify_hall(store.path, signer.public_key)
    assert report.problems == []
    assert report.num_entries == 9
    assert len(store.entries()) == 10


def test_without_a_key_there_is_nothing_to_check_against(store, capsys):
    with pytest.raises(SystemExit) as caught:
        verify.main([str(store.path)])
    assert caught.value.code == 2
    assert "--key" in capsys.readouterr().err
