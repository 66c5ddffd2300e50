"""Measuring through the whole product: figures by hash, order of the levels, matrices against llama.cpp's quantizer."""

from __future__ import annotations

import csv
import errno
import io
import json
import math
import os
import re
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
from benchmarks.job import make_source
from benchmarks.levels import compared, faults, make

from quantdeck.tui.describe import stage_words
from quantdeck.workbench import measure as measure_module
from quantdeck.workbench.comparison import (
    COLUMNS,
    WRITERS,
    as_csv,
    as_json,
    as_markdown,
    asked_for,
    bases,
    cells_of,
    compare,
    ordered,
)
from quantdeck.workbench.difference import agreement, common_length
from quantdeck.workbench.errors import BadArgument, ModelNotFound, QuantdeckError
from quantdeck.workbench.imatrices import find
from quantdeck.workbench.imatrix import ImatrixFile
from quantdeck.workbench.library import Entry, Figure, Library
from quantdeck.workbench.llama import Cancelled, LlamaFailed
from quantdeck.workbench.llama.evaluate import EvaluationSettings
from quantdeck.workbench.llama.trial import try_out
from quantdeck.workbench.llama.troubles import DiskFull
from quantdeck.workbench.measure import (
    MeasureProgress,
    MeasureSettings,
    default_settings,
    entry_of,
    estimate,
    full_disk_named,
    learn,
    measure,
    read_questions,
    settings_like,
    text_of,
    why_no_perplexity,
)
from quantdeck.workbench.model import Value, read_model
from quantdeck.workbench.paths import Paths
from quantdeck.workbench.sample import SAMPLE
from quantdeck.workbench.session import Session
from quantdeck.workbench.text import printable
from support import llama_quantize
from support.models import make_model

SAMPLE_MODEL = read_model(SAMPLE.model)
SHORT = EvaluationSettings(chunks=6, threads=1)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    home = tmp_path_factory.mktemp("home")
    return Session(Paths(home, home, home / "cache"))


@pytest.fixture(scope="module")
def settings() -> MeasureSettings:
    usual = default_settings(SAMPLE.model, SHORT, SAMPLE.model)
    return replace(usual, questions=usual.questions[:20])


@pytest.fixture(scope="module")
def imatrix(session: Session) -> Path:
    return session.calibrate(SAMPLE.model, SAMPLE.calibration_file).path


@pytest.mark.slow
def test_fewer_bits_are_worse_and_the_matrix_helps(session: Session, settings: MeasureSettings, tmp_path: Path) -> None:
    found = compared(session, SAMPLE.model, ["Q8_0", "Q4_K_M", "Q3_K_S", "Q2_K"], tmp_path, settings)
    rows = {(row.level, row.imatrix): row for row in found.rows}
    assert not faults(found.rows)
    plain = [rows[level, False] for level in ("Q8_0", "Q4_K_M", "Q3_K_S", "Q2_K")]
    assert [row.kl for row in plain] == sorted(row.kl for row in plain)
    assert all(row.questions is not None and row.tokens_per_second for row in found.rows)
    assert rows["Q2_K", True].kl < rows["Q2_K", False].kl
    assert found.reference == SAMPLE.model.name and found.basis and found.basis.chunks == 6


@pytest.mark.parametrize("level", ["Q4_K_M", "IQ2_XXS", "Q2_K_S"])
def test_with_a_matrix_the_file_is_llamas_own(session: Session, imatrix: Path, level: str, tmp_path: Path) -> None:
    made = make(session, SAMPLE.model, level, imatrix, tmp_path)
    assert made
    file, model = ImatrixFile(imatrix), read_model(SAMPLE.model)
    weights = {name: np.ravel(file.weights_for(model.by_name[name])) for name in file.names}
    theirs = tmp_path / "theirs.gguf"
    facts = file.facts()
    keys = {
        "quantize.imatrix.file": imatrix.name,
        "quantize.imatrix.dataset": Path(facts.dataset).name,
        "quantize.imatrix.entries_count": len(facts.names),
        "quantize.imatrix.chunks_count": facts.chunks,
    }
    order = llama_quantize.Order(level, overrides=tuple(keys.items()))
    llama_quantize.quantize(SAMPLE.model, theirs, order, weights)
    ours, other = read_model(made.path), read_model(theirs)
    assert {key: ours.metadata[key].python for key in keys} == keys
    with made.path.open("rb") as a, theirs.open("rb") as b:
        for mine, its in zip(ours.tensors, other.tensors, strict=True):
            a.seek(mine.offset)
            b.seek(its.offset)
            assert (mine.name, mine.type) == (its.name, its.type)
            assert a.read(mine.n_bytes) == b.read(its.n_bytes), mine.name
    entry = session.library.find(made.path)
    assert entry and entry.imatrix == str(imatrix) and len(entry.imatrix_sha256) == 64


def test_figures_belong_to_the_file(session: Session, settings: MeasureSettings, tmp_path: Path) -> None:
    path = tmp_path / "q5.gguf"
    llama_quantize.quantize(SAMPLE.model, path, "Q5_0")
    heard: list[str] = []
    done = measure(session, path, settings, lambda p: heard.append(p.stage))
    assert {"quality", "questions", "measuring speed and memory"} <= set(heard)
    kinds = {figure.kind: figure for figure in done.entry.figures}
    assert {"perplexity", "kl_divergence", "same_top", "rms_p", "question_score", "tokens_per_second"} <= set(kinds)
    assert kinds["kl_divergence"].value == done.evaluation.divergence.kl.value > 0
    assert kinds["perplexity"].details["text"] == "eval.txt" and kinds["perplexity"].details["chunks"] == 6
    assert session.library.get(done.entry.sha256) == done.entry
    moved = path.rename(tmp_path / "moved.gguf")
    assert entry_of(session.library, moved, read_model(moved)).sha256 == done.entry.sha256
    assert done.speed.estimated.memory == pytest.approx(done.speed.trial.peak_memory, rel=0.25)
    document = done.to_dict()
    assert document["questions"]["total"] == 20 and json.dumps(document)


def test_another_file_under_the_name_is_another_model(session: Session, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    llama_quantize.quantize(SAMPLE.model, path, "Q4_0")
    first = entry_of(session.library, path, read_model(path))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, (path.stat().st_atime + 3600, path.stat().st_mtime + 3600))
    assert entry_of(session.library, path, read_model(path)).sha256 != first.sha256


def test_a_stopped_measurement_goes_on(session: Session, settings: MeasureSettings, tmp_path: Path) -> None:
    path = tmp_path / "q4.gguf"
    llama_quantize.quantize(SAMPLE.model, path, "Q4_1")
    asked: list[float] = []

    def heard(progress: object) -> None:
        if progress.stage == "questions":  # type: ignore[attr-defined]
            asked.append(progress.fraction)  # type: ignore[attr-defined]

    with pytest.raises(Cancelled):
        measure(session, path, settings, heard, lambda: len(asked) >= 5)
    asked.clear()
    done = measure(session, path, settings, heard)
    assert done.questions and done.questions.total == 20
    assert asked[0] > 5 / 20  # the first five were not asked again


def test_matrices_are_found_where_they_fit(session: Session, imatrix: Path, tmp_path: Path) -> None:
    (tmp_path / "other.dat").write_bytes(b"nonsense")
    model = read_model(SAMPLE.model)
    found = find(model, session.paths.imatrices)
    assert [each.path for each in found] == [imatrix] and found[0].covered == 35
    assert "calibration.txt" in found[0].words
    assert find(model, tmp_path) == () and find(model, tmp_path / "missing") == ()


@pytest.mark.parametrize(
    ("content", "says"),
    [("", "no questions"), ("nonsense", "line 1"), ('{"question": "a"}', "line 1"), ('\n{"a": 1}', "line 2")],
)
def test_questions_that_are_none(content: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text(content)
    with pytest.raises(BadArgument, match=says):
        read_questions(tmp_path / "q.jsonl")
    with pytest.raises(ModelNotFound):
        read_questions(tmp_path / "none.jsonl")


# -- tables ------------------------------------------------------------------------------------------------------------


def _entry(number: int, n_bytes: int, kl: float | None, at: str = "2026-01-01", **text: object) -> Entry:
    details = {"text": "t", "text_sha256": "0", "context": 512, "chunks": 4, "parse_special": False} | text
    figures = ()
    if kl is not None:
        figures = (
            Figure("perplexity", 5 + kl, at, {**details, "error": 0.1}),
            Figure("kl_divergence", kl, at, {**details, "error": 0.001, "reference": "r.gguf"}),
        )
    return Entry(
        f"{number:064x}",
        f"/m/{number}.gguf",
        "/m/r.gguf",
        "",
        "llama",
        f"L{number}",
        n_bytes,
        2,
        4,
        1,
        at,
        figures=figures,
    )


def test_efficient_ones_are_on_the_front() -> None:
    table = compare([_entry(1, 100, 0.1), _entry(2, 200, 0.05), _entry(3, 150, 0.2), _entry(4, 50, None)])
    assert {row.level: row.efficient for row in table.rows} == {"L1": True, "L2": True, "L3": False, "L4": False}
    by_kl = next(column for column in COLUMNS if column.field == "kl")
    assert [row.level for row in ordered(table.rows, by_kl)] == ["L2", "L1", "L3", "L4"]
    assert table.reference == "r.gguf"


def test_a_few_bytes_of_metadata_make_nothing_efficient() -> None:
    table = compare([_entry(1, 1_000_000, 0.2), _entry(2, 1_000_192, 0.1), _entry(3, 1_000_200, 0.1)])
    assert {row.level: row.efficient for row in table.rows} == {"L1": False, "L2": True, "L3": False}


def test_figures_on_another_text_are_not_compared() -> None:
    table = compare([_entry(1, 100, 0.1, "2026-01-01"), _entry(2, 200, 0.05, "2026-02-01", text="other")])
    assert table.basis and table.basis.text == "other"
    assert [row.kl for row in table.rows] == [None, 0.05]


@pytest.mark.parametrize("other", [{"reference": "other.gguf"}, {"reference_path": "/elsewhere/r.gguf"}])
def test_divergences_from_another_model_are_not_compared(other: dict[str, str]) -> None:
    stranger = _entry(3, 50, 0.001, "2025-12-01")
    stranger = replace(stranger, figures=tuple(replace(f, details={**f.details, **other}) for f in stranger.figures))
    table = compare([_entry(1, 100, 0.1), _entry(2, 200, 0.05), stranger])
    assert table.reference == "r.gguf"
    assert [row.kl for row in table.rows] == [0.1, 0.05, None]
    assert [row.efficient for row in table.rows] == [True, True, False]


HOSTILE = [
    "a|b.gguf",
    'a,"b".gguf',
    "=cmd()",
    "+1",
    "@SUM(A1)",
    "a\nb.gguf",
    "\x1b[31mred",
    "<b>*x*<i>",
    "\udcff.gguf",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_exports_survive_hostile_names(name: str) -> None:
    entry = replace(_entry(1, 100, 0.125, reference=name), path=f"/m/{name}", level="L|1")
    table = compare([entry, _entry(2, 200, math.inf)])
    table = replace(table, reference=name)
    harmless = printable(name)
    markdown = as_markdown(table)
    markdown.encode()
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    columns = [len(re.findall(r"(?<!\\)\|", row)) for row in rows]
    assert len(rows) == 4 and len(set(columns)) == 1 and "\x1b" not in markdown and "<b>" not in markdown
    cell = re.split(r"(?<!\\)\|", rows[2])[1].strip()
    assert re.sub(r"\\(.)", r"\1", cell) == harmless.replace("\n", " ")
    text = as_csv(table)
    text.encode()
    row = next(csv.DictReader(io.StringIO(text)))
    assert row["name"].removeprefix("'") == harmless and row["name"][0] not in "=+-@\n"
    assert row["kl"] == "0.125"
    document = json.loads(as_json(table), parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert document["models"][0]["name"] == name and document["models"][1]["kl"] is None


def test_absurd_figures_keep_their_columns() -> None:
    cells = cells_of(compare([replace(_entry(1, 100, 1e300), n_bytes=100)]).rows[0])
    assert max(map(len, cells)) < 10 and "1.0e+300" in cells


def test_a_further_model_gets_the_basis_of_the_table(session: Session, tmp_path: Path) -> None:
    text = tmp_path / "short.txt"
    text.write_text(SAMPLE.eval_text[:9000])
    first, second = tmp_path / "a.gguf", tmp_path / "b.gguf"
    llama_quantize.quantize(SAMPLE.model, first, "Q4_0")
    llama_quantize.quantize(SAMPLE.model, second, "Q5_1")
    link = tmp_path / "link.gguf"  # as in the cache of the Hub, where files have other names
    link.symlink_to(SAMPLE.model)
    chosen = MeasureSettings(text, EvaluationSettings(context=64, chunks=3, threads=1), link)
    entries = [measure(session, first, chosen).entry]
    table = compare(entries)
    asked = asked_for(entries, table)
    assert asked and text_of(table, asked, None) == text and text_of(table, asked, SAMPLE.eval_file) is None
    logits = set((session.paths.cache / "evaluations").glob("*.logits"))
    further = settings_like(table, asked, text, second, None)
    assert further.reference == link
    entries.append(measure(session, second, replace(further, questions=())).entry)
    found = compare(entries)
    assert found.basis == table.basis and found.basis.context == 64 and all(row.kl for row in found.rows)
    assert set((session.paths.cache / "evaluations").glob("*.logits")) == logits  # they were used again
    itself = settings_like(table, asked, text, SAMPLE.model, None)
    assert itself.reference is None and itself.evaluation == EvaluationSettings(64, 3, found.basis.parse_special)
    stranger = make_model(tmp_path / "other.gguf", "llama", n_layer=1)
    assert settings_like(table, asked, text, stranger, None).reference is None
    text.write_text("another text")
    assert text_of(table, asked, None) is None


def test_tables_of_every_basis_are_at_hand() -> None:
    old, new = _entry(1, 100, 0.1, "2026-01-01"), _entry(2, 200, 0.05, "2026-02-01", context=256)
    found = bases([old, new])
    assert [basis.context for basis in found] == [256, 512]
    assert [row.kl for row in compare([old, new], found[1]).rows] == [0.1, None]


@pytest.mark.parametrize(
    ("architecture", "causal", "says"),
    [
        ("bert", None, "writes none"),
        ("gemma3", False, "writes none"),
        ("t5", None, "rewrites"),
        ("llada", False, "diffusion"),
        ("llama", None, ""),
    ],
)
def test_what_has_no_perplexity(architecture: str, causal: bool | None, says: str) -> None:
    metadata = {"tokenizer.ggml.tokens": SAMPLE_MODEL.metadata["tokenizer.ggml.tokens"]}
    if causal is not None:
        metadata[f"{architecture}.attention.causal"] = Value(int(gguf.GGUFValueType.BOOL), bytes([causal]))
    why = why_no_perplexity(replace(SAMPLE_MODEL, architecture=architecture, metadata=metadata))
    assert says in why and bool(why) == bool(says)


def test_progress_tells_where_it_goes_on() -> None:
    begun = MeasureProgress("quality", 0.3, None, 0, 12, 40, 12)
    assert stage_words(begun) == "quality: goes on at chunk 13 of 40"
    later = replace(begun, done=20, rate=256.4, seconds_left=61)
    assert stage_words(later) == "quality: chunk 21 of 40 (12 from before) · 256 tokens/s · 1 min 01 s left"


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    for full in (DiskFull("x.gguf could not be evaluated: kein Platz"), OSError(errno.EDQUOT, "over quota")):
        full_disk = pytest.raises(QuantdeckError, match=f"The disk with {tmp_path} is full")
        with full_disk as caught, full_disk_named(tmp_path):
            raise full
        assert not isinstance(caught.value, LlamaFailed)
    for other in (LlamaFailed("x.gguf could not be evaluated: No space left on device"), OSError(errno.EIO, "broken")):
        with pytest.raises(type(other)) as caught, full_disk_named(tmp_path):
            raise other
        assert caught.value is other


def test_a_register_that_others_wrote_is_no_fault(tmp_path: Path) -> None:
    library, model = Library(tmp_path / "library"), tmp_path / "m.gguf"
    model.write_bytes(SAMPLE.model.read_bytes())
    entry = entry_of(library, model, read_model(model))
    odd = {"context": "wide", "chunks": math.nan, "error": True, "text": "t"}
    library.add_figures(entry.sha256, Figure("perplexity", 5.0, "2026-01-01", {**odd, "chunks": 10**400}))
    file = library.folder / f"{entry.sha256}.json"
    file.write_text(file.read_text().replace(entry.created_at, "some day"))
    again = entry_of(library, model, read_model(model))
    assert again.sha256 == entry.sha256 and again.figures
    table = compare([again])
    assert table.basis and table.basis.context == 0 and asked_for([again], table)
    strange = replace(again, figures=(Figure("perplexity", 5.0, "2026-01-01", odd),))
    assert compare([strange]).rows[0].perplexity == 5.0


def test_questions_on_a_full_disk_are_named_too(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/x")

    monkeypatch.setattr(measure_module, "write_atomically", full)
    chosen = default_settings(SAMPLE.model, EvaluationSettings(context=96, chunks=1, threads=1))
    with pytest.raises(QuantdeckError, match="is full; make room there"):
        measure(session, SAMPLE.model, replace(chosen, questions=SAMPLE.questions[:1]))


def test_a_stopped_reference_goes_on(session: Session, tmp_path: Path) -> None:
    path = tmp_path / "q.gguf"
    llama_quantize.quantize(SAMPLE.model, path, "Q5_0")
    chosen = MeasureSettings(SAMPLE.eval_file, EvaluationSettings(context=96, chunks=60, threads=1), SAMPLE.model)
    heard: list[MeasureProgress] = []

    def logits() -> list[MeasureProgress]:
        return [each for each in heard if each.stage == "logits of the reference"]

    with pytest.raises(Cancelled):
        measure(session, path, chosen, heard.append, lambda: any(each.done > 20 for each in logits()))
    heard.clear()
    measure(session, path, chosen, heard.append)
    first, *_, last = logits()
    assert first.done == first.resumed >= 20 and first.seconds_left is None and "goes on at" in stage_words(first)
    assert last.resumed == first.resumed and last.rate > 0 and last.done == last.chunks == 60


def test_exports_hold_the_same_figures() -> None:
    table = compare([_entry(1, 100, 0.125), _entry(2, 200, 0.05)])
    assert "| 0.1250 |" in as_markdown(table) and as_markdown(table).count("\n| ") == 3
    header, first, _ = as_csv(table).splitlines()
    assert dict(zip(header.split(","), first.split(","), strict=True))["kl"] == "0.125"
    document = json.loads(as_json(table))
    assert document["models"][0]["kl"] == 0.125 and document["basis"]["chunks"] == 4
    assert set(WRITERS) == {".md", ".csv", ".json"}


def test_where_answers_part() -> None:
    assert agreement([1, 2, 3], [1, 2, 3]).first_difference is None and agreement([], []).share == 1
    found = agreement([1, 2, 3, 4], [1, 9, 3])
    assert (found.same, found.positions, found.first_difference) == (2, 4, 1)
    assert agreement([1, 2], [1, 2, 3]).first_difference == 2
    assert common_length("abc", "abd", False) == 2
    assert common_length("ab", "abcd", False) == 4 and common_length("ab", "abcd", True) == 2


@pytest.mark.slow
@pytest.mark.parametrize("level", ["Q8_0", "Q4_K_M"])
def test_memory_is_what_was_expected(level: str, tmp_path: Path) -> None:
    session = Session(Paths(tmp_path, tmp_path, tmp_path))
    source = make_source(tmp_path / "source.gguf", 4e8)
    path = tmp_path / f"{level}.gguf"
    llama_quantize.quantize(source, path, level)
    source.unlink()
    session.look_at_machine(tmp_path)
    model = read_model(path)
    for context in (512, 2048):
        expected = estimate(session, model, context, threads=1)
        trial = try_out(path, replace(session.load_settings(path), context=context, threads=1), tmp_path)
        assert expected.memory == pytest.approx(trial.peak_memory, rel=0.05), context
    learn(session, model, trial, expected)
    before = abs(math.log(expected.tokens_per_second / trial.tokens_per_second))
    after = estimate(session, model, 2048, threads=1)
    assert session.corrections.cpu
    assert abs(math.log(after.tokens_per_second / trial.tokens_per_second)) <= before + 1e-3
    again = Session(session.paths)
    assert again.corrections == session.corrections and again.program_bytes == session.program_bytes
