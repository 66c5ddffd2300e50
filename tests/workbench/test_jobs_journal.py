"""Events, the journal as a file, and the fold."""

from __future__ import annotations

import random
import resource
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest

from quantdeck.workbench.jobs import journal
from quantdeck.workbench.jobs.journal import (
    Cancelled,
    Created,
    Done,
    Failed,
    Interrupted,
    JobEvent,
    JournalReader,
    JournalWriter,
    Note,
    Paused,
    RangeDone,
    Rechecked,
    Running,
    SettingsChanged,
    Started,
    Verified,
    Verifying,
    Waiting,
    WorkerDied,
    Working,
    decode,
)
from quantdeck.workbench.jobs.plan import Plan, PlannedFile, PlannedTensor
from quantdeck.workbench.jobs.snapshot import HISTORY_POINTS, ErrorSums, Fold, fold
from quantdeck.workbench.jobs.spec import JobSpec

EVERY = (
    Created(),
    Started(pid=1, workers=2, nice=3),
    Rechecked(kept=4, lost=((0, 8), (1, 0))),
    Waiting(ahead=("a", "b")),
    Running(),
    Working(worker=0, tensor=1),
    RangeDone(worker=0, tensor=1, first=2, count=3, digest="ab", seconds=0.5, errors=(1.0, 2.0, 3.0, 4.0, 5.0)),
    WorkerDied(worker=1, reason="killed"),
    SettingsChanged(workers=3, nice=19),
    Paused(reason="full"),
    Note(text="ein Satz: \u00fc \x1b[31m"),
    Verifying(step="hash"),
    Verified(sha256="00", facts={"tokens": 3}),
    Interrupted(reason="stop"),
    Failed(reason="no", resumable=True, exit_code=6),
    Cancelled(),
    Done(sha256="00", n_bytes=5, seconds=1.5),
)


def _plan() -> Plan:
    tensors = (
        PlannedTensor("a", (4, 8), "F16", 64, "Q8_0", 32, 40, "Q8_0"),
        PlannedTensor("b", (4, 4), "F16", 32, "F16", 96, 32, "Q8_0", "because"),
    )
    return Plan((PlannedFile(b"H" * 32, 128),), tensors, (), range_weights=8)


SPEC = JobSpec(source="/s", output="/o/x.gguf", level="Q8_0", workers=2)


def _done(tensor: int, first: int, clock: float, errors: tuple[float, ...] = ()) -> RangeDone:
    return RangeDone(
        worker=0, tensor=tensor, first=first, count=2, digest="d", seconds=0.1, errors=errors, clock=clock, at=clock
    )


@pytest.mark.parametrize("event", EVERY, ids=lambda e: e.kind)
def test_every_event_survives_the_journal(event: JobEvent):
    line = event.line()
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    back = decode(line)
    assert back == replace(event, at=round(event.at, 3), clock=round(event.clock, 3))


def test_every_kind_is_tried():
    kinds = {kind for kind in journal._KINDS.values() if kind.__module__ == journal.__name__}
    assert {type(event) for event in EVERY} == kinds


def test_garbled_lines_are_none_never_an_error():
    rng = random.Random(5)
    for event in EVERY:
        line = event.line()
        for _ in range(300):
            cut = bytearray(line)
            for _ in range(rng.randint(1, 4)):
                place = rng.randrange(len(cut))
                what = rng.random()
                if what < 0.4:
                    cut[place] = rng.randrange(256)
                elif what < 0.7:
                    del cut[place:]
                    cut += b"\0"
                else:
                    cut[place:place] = bytes(rng.randrange(256) for _ in range(3))
            back = decode(bytes(cut))
            assert back is None or isinstance(back, JobEvent)
    for text in (b"", b"null", b"[]", b"{}", b'{"event":"done"}', b"[" * 100000, b'{"event":["a"]}', b'{"event":{}}'):
        assert decode(text) is None
    assert decode(b'{"event":"running","at":NaN,"clock":1}') is None
    assert decode(b'{"event":"running","at":1,"clock":Infinity}') is None
    assert decode(b'{"event":"note","at":1,"clock":1,"text":5}') is None


def test_reader_sees_only_whole_lines_and_each_once(tmp_path: Path):
    path = tmp_path / "journal.jsonl"
    reader = JournalReader(path)
    assert reader.read() == []
    line = Created(at=1, clock=1).line()
    path.write_bytes(line + line[:10])
    assert len(reader.read()) == 1
    assert reader.read() == []
    with path.open("ab") as file:
        file.write(line[10:] + b"garbage\n\n" + line)
    assert len(reader.read()) == 2
    assert reader.garbled == 1
    path.write_bytes(line)
    assert len(reader.read()) == 1


def test_writer_closes_off_a_torn_line(tmp_path: Path):
    path = tmp_path / "journal.jsonl"
    path.write_bytes(Created().line() + b'{"event":"ran')
    writer = JournalWriter(path)
    writer.append(Running())
    writer.append(Cancelled())
    writer.sync()
    writer.close()
    reader = JournalReader(path)
    assert [event.kind for event in reader.read()] == ["created", "running", "cancelled"]
    assert reader.garbled == 1


WRITE_UNTIL_FULL = """
import resource, signal, sys
from pathlib import Path
from quantdeck.workbench.jobs.journal import JournalWriter, Note
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
writer = JournalWriter(Path(sys.argv[1]))
failed = 0
for i in range(40):
    try:
        writer.append(Note(text=f"number {i}"))
    except OSError:
        failed += 1
        if failed == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            writer.append(Note(text="again"))
print(failed)
"""


def test_writer_goes_on_after_a_full_disk(tmp_path: Path):
    """The journal's file may grow to 1000 bytes: the line that does not fit is torn, and later lines are whole."""
    path = tmp_path / "journal.jsonl"
    done = subprocess.run(
        [sys.executable, "-c", WRITE_UNTIL_FULL, str(path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "3"
    reader = JournalReader(path)
    texts = [event.text for event in reader.read() if isinstance(event, Note)]
    assert "again" in texts
    assert len(texts) == 40 - 3 + 1
    assert reader.garbled <= 1
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_fold_counts_ranges_once_and_only_real_ones():
    folded = Fold("id", SPEC, _plan())
    real = _done(0, 2, 10.0)
    folded.apply([Created(), Started(pid=1, workers=2, nice=0), Running(clock=9.0), real, real])
    for wrong in (
        replace(real, tensor=7),
        replace(real, tensor=-1),
        replace(real, first=1),
        replace(real, first=100),
        replace(real, count=5, first=0),
        replace(real, first=-2),
    ):
        folded.apply([wrong])
    snapshot = folded.snapshot()
    assert (snapshot.weights_done, snapshot.bytes_done) == (8, 10)
    assert snapshot.tensors[0].rows_done == 2
    assert snapshot.tensors[1].rows_done == 0


def test_lost_ranges_are_taken_back():
    sums = (2.0, 8.0, 0.5, 8.0, 0.5)
    snapshot = fold(
        "id",
        SPEC,
        _plan(),
        [_done(0, 0, 1, sums), _done(0, 2, 2, sums), Rechecked(kept=1, lost=((0, 0), (5, 5), (0, 1)))],
    )
    assert snapshot.tensors[0].rows_done == 2
    assert snapshot.tensors[0].errors == ErrorSums(*sums)
    assert snapshot.tensors[0].errors.rmse == 0.5
    assert snapshot.tensors[0].errors.relative == 0.25
    assert snapshot.weights_done == 8


def test_statuses_in_the_order_of_a_life():
    folded = Fold("id", SPEC, _plan())
    steps = [
        (Created(), "queued"),
        (Started(pid=1, workers=2, nice=0), "queued"),
        (Waiting(ahead=("x",)), "queued"),
        (Running(), "running"),
        (Paused(reason="full"), "paused"),
        (Running(), "running"),
        (Interrupted(), "interrupted"),
        (Started(pid=1, workers=2, nice=0), "queued"),
        (Running(), "running"),
        (Verifying(step="hash"), "verifying"),
        (Verified(sha256="f"), "verifying"),
        (Done(sha256="f", n_bytes=1, seconds=2.5), "done"),
    ]
    for event, status in steps:
        folded.apply([event])
        assert folded.snapshot().status == status, event
    snapshot = folded.snapshot()
    assert (snapshot.sha256, snapshot.seconds, snapshot.fraction) == ("f", 2.5, 1.0)


def test_lost_supervisor_shows_as_interrupted_but_never_an_ended_job():
    folded = Fold("id", SPEC, _plan())
    folded.apply([Started(pid=1, workers=1, nice=0), Running()])
    folded.lost_supervisor()
    assert folded.snapshot().status == "interrupted"
    folded.apply([Failed(reason="no")])
    folded.lost_supervisor()
    assert folded.snapshot().status == "failed"


def test_rate_and_time_left_over_the_last_seconds():
    folded = Fold("id", SPEC, _plan())
    folded.apply([Running(clock=100.0, at=1e9), _done(0, 0, 101.0), _done(0, 2, 102.0)])
    snapshot = folded.snapshot()
    assert snapshot.weights_per_second == pytest.approx(8.0)
    assert snapshot.bytes_per_second == pytest.approx(10.0)
    assert snapshot.seconds_left == pytest.approx((48 - 16) / 8.0)
    assert snapshot.seconds == pytest.approx(2.0)
    later = folded.snapshot(clock=106.5)
    assert later.weights_per_second == pytest.approx(8 / 5)
    assert folded.snapshot(clock=120.0).weights_per_second == 0.0
    assert folded.snapshot(clock=120.0).seconds_left is None


def test_clock_jumps_do_no_harm():
    """The wall clock jumps by years in both directions; a new boot begins the other clock anew."""
    folded = Fold("id", SPEC, _plan())
    folded.apply(
        [Created(at=2e9), Started(pid=1, workers=1, nice=0, at=1e8, clock=5000.0), Running(at=3e9, clock=5000.0)]
    )
    folded.apply([replace(_done(0, 0, 5001.0), at=5.0), Paused(at=4e9, clock=5002.0)])
    folded.apply([Started(pid=2, workers=1, nice=0, at=0.0, clock=3.0), Running(at=1.0, clock=4.0), _done(0, 2, 5.0)])
    snapshot = folded.snapshot()
    assert snapshot.seconds == pytest.approx(3.0)
    assert 0 <= snapshot.weights_per_second < 1e6
    assert all(seconds >= 0 for seconds, _ in snapshot.rate_history)
    cut_off = folded.snapshot(clock=1.0)
    assert cut_off.seconds >= 0


def test_seconds_do_not_count_pauses_or_waiting():
    events = [
        Started(pid=1, workers=1, nice=0, clock=0.0),
        Waiting(ahead=("x",), clock=0.0),
        Running(clock=50.0),
        Paused(clock=60.0),
        Running(clock=160.0),
        Verifying(step="x", clock=165.0),
        Interrupted(clock=166.0),
    ]
    assert fold("id", SPEC, _plan(), events).seconds == pytest.approx(16.0)


def test_history_stays_short():
    plan = replace(_plan(), tensors=(PlannedTensor("a", (4, 200000), "F16", 8, "Q8_0", 32, 400000, "Q8_0"),))
    folded = Fold("id", SPEC, plan)
    folded.apply([Running(clock=0.0)])
    folded.apply(_done(0, 2 * i, float(i)) for i in range(10000))
    history = folded.snapshot().rate_history
    assert HISTORY_POINTS / 2 <= len(history) <= HISTORY_POINTS
    assert history[5][1] == pytest.approx(8.0)


def test_working_follows_the_workers():
    folded = Fold("id", SPEC, _plan())
    folded.apply([Running(), Working(worker=0, tensor=0), Working(worker=3, tensor=1), Working(worker=4, tensor=99)])
    assert folded.snapshot().working == {0: "a", 3: "b"}
    folded.apply([Working(worker=0, tensor=-1), WorkerDied(worker=3, reason="Worker 3 died.")])
    assert folded.snapshot().working == {}
    assert folded.snapshot().notes == ("Worker 3 died.",)


def test_snapshot_gives_a_summary_with_every_field():
    snapshot = fold("id", SPEC, _plan(), [Failed(reason="no", exit_code=6, at=7.0)])
    summary = snapshot.summary
    assert (summary.id, summary.status, summary.message, summary.exit_code, summary.ended) == (
        "id",
        "failed",
        "no",
        6,
        7.0,
    )
    assert set(summary.as_dict()) == {field.name for field in fields(summary)}
