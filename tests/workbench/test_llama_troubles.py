"""Models that crash, hang, lie or end too early: one sentence each, no orphan, and the next model loads."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from quantdeck.workbench.errors import NotEnoughMemory, QuantdeckError, ValidationFailed
from quantdeck.workbench.llama import (
    Cancelled,
    ChatDone,
    Llama,
    LlamaFailed,
    LoadSettings,
    Sampling,
    TextPiece,
    child,
    host,
)
from quantdeck.workbench.llama.host import Patience
from quantdeck.workbench.llama.troubles import explain_death, explain_failure, harmless_lines, known_trouble
from quantdeck.workbench.model import value
from quantdeck.workbench.sample import SAMPLE
from support.sample_variants import make_variant, with_bytes, with_template, with_tokens

GREEDY = Sampling(temperature=0)
SETTINGS = LoadSettings(context=256, threads=1)
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


def gone(pid):
    """True once the process has ended; a zombie that its parent has not collected counts as ended."""
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.1)
    return False


def answer(llama, messages=QUESTION):
    events = list(llama.chat(messages, GREEDY))
    assert isinstance(events[-1], ChatDone)
    return "".join(e.text for e in events if isinstance(e, TextPiece)), events[-1]


def is_one_sentence(error):
    text = str(error)
    return "\n" not in text and "Traceback" not in text and len(text) < 500


# -- deaths ------------------------------------------------------------------------------------------------------------


def test_killed_in_mid_stream_and_then_the_next(tmp_path):
    with Llama.load(SAMPLE.model, SETTINGS, tmp_path) as llama:
        events = llama.complete("Once upon a time", GREEDY)
        next(events)
        os.kill(llama.pid, signal.SIGKILL)
        with pytest.raises(NotEnoughMemory, match="memory ran out") as raised:
            list(events)
        assert is_one_sentence(raised.value)
        assert str(llama.log) in str(raised.value)
        assert not llama.alive
        with pytest.raises(LlamaFailed):
            answer(llama)
    with Llama.load(SAMPLE.model, SETTINGS, tmp_path) as llama:
        assert answer(llama)[0] == "The capital of France is Paris."


def test_an_assertion_of_llama_cpp(tmp_path):
    path = make_variant(tmp_path / "m.gguf", {"llama.block_count": value("uint32", 100_000)})
    with pytest.raises(LlamaFailed) as raised:
        Llama.load(path, SETTINGS, tmp_path)
    assert is_one_sentence(raised.value)
    assert "llama.cpp stopped itself" in str(raised.value)
    assert "100000" in raised.value.log.read_text() or "block_count" in raised.value.log.read_text()


def test_a_file_cut_off_while_in_use(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(SAMPLE.model.read_bytes())
    with Llama.load(path, SETTINGS, tmp_path) as llama:
        os.truncate(path, 1 << 20)
        with pytest.raises(ValidationFailed, match="cut off while it was in use") as raised:
            answer(llama)
        assert is_one_sentence(raised.value)


def test_a_child_that_hangs_is_ended(tmp_path):
    with Llama.load(SAMPLE.model, SETTINGS, tmp_path, patience=Patience(request=1.0)) as llama:
        os.kill(llama.pid, signal.SIGSTOP)
        began = time.monotonic()
        with pytest.raises(LlamaFailed, match="no sign of life") as raised:
            answer(llama)
        assert is_one_sentence(raised.value)
        assert time.monotonic() - began < 30
        assert gone(llama.pid)


def test_close_ends_a_stopped_child_too(tmp_path):
    llama = Llama.load(SAMPLE.model, SETTINGS, tmp_path)
    os.kill(llama.pid, signal.SIGSTOP)
    llama.close()
    llama.close()
    assert gone(llama.pid)


def test_closed_from_another_thread_in_mid_stream(tmp_path):
    llama = Llama.load(SAMPLE.model, SETTINGS, tmp_path)
    events = llama.complete("Once upon a time", Sampling(temperature=1.5, top_k=0, top_p=1, min_p=0))
    next(events)
    threading.Thread(target=llama.close).start()
    with contextlib.suppress(LlamaFailed):
        for event in events:
            assert isinstance(event, TextPiece | ChatDone)
    with pytest.raises(LlamaFailed, match="closed"):
        answer(llama)
    assert gone(llama.pid)


def test_loading_stopped_at_any_moment_leaves_nothing_behind(tmp_path):
    before = set(psutil.Process().children())
    for delay in (0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3):
        end = time.monotonic() + delay
        with contextlib.suppress(Cancelled):
            Llama.load(SAMPLE.model, SETTINGS, tmp_path, cancelled=lambda end=end: time.monotonic() >= end).close()
    assert set(psutil.Process().children()) <= before


PARENT = """
import os, sys, time
from pathlib import Path
from quantdeck.workbench.llama import Llama, LoadSettings
from quantdeck.workbench.sample import SAMPLE
llama = Llama.load(SAMPLE.model, LoadSettings(context=256, threads=1), Path(sys.argv[1]))
if sys.argv[2] == "leak" and os.fork() == 0:
    time.sleep(60)  # holds the pipes open after its parent has gone
    os._exit(0)
events = llama.complete("Once upon a time")
next(events)
print(llama.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("pipes", ["closed", "leak"])
def test_the_child_goes_with_its_parent(tmp_path, pipes):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PARENT), str(tmp_path), pipes],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    try:
        child = int(parent.stdout.readline())
        assert Path(f"/proc/{child}").exists()
        parent.kill()
        parent.wait()
        assert gone(child)
    finally:
        os.killpg(parent.pid, signal.SIGKILL) if pipes == "leak" else None


HUNGRY = """
import resource, sys
from pathlib import Path
from quantdeck.workbench.errors import NotEnoughMemory
from quantdeck.workbench.llama import Llama, LoadSettings
from quantdeck.workbench.sample import SAMPLE
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
try:
    Llama.load(SAMPLE.model, LoadSettings(context=1 << 22, threads=1), Path(sys.argv[1]))
except NotEnoughMemory as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on memory")
def test_a_context_that_does_not_fit(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", HUNGRY, str(tmp_path)]
    told = subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout
    assert "KV cache does not fit into memory; choose a smaller context" in told


def test_a_child_that_talks_nonsense(tmp_path, monkeypatch):
    monkeypatch.setattr(host, "_BOOTSTRAP", "import sys, time; print('nonsense', flush=True); time.sleep(60)")
    with pytest.raises(LlamaFailed, match="lost its way"):
        Llama.load(SAMPLE.model, SETTINGS, tmp_path)


def test_a_child_that_cannot_import(tmp_path, monkeypatch):
    monkeypatch.setattr(host, "_BOOTSTRAP", "import sys; sys.exit(3)")
    with pytest.raises(LlamaFailed, match="exit code 3") as raised:
        Llama.load(SAMPLE.model, SETTINGS, tmp_path)
    assert is_one_sentence(raised.value)


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 3, 24, 1000, 60_000, 1_000_000, 8_900_000])
def test_truncated_files(tmp_path, length):
    path = tmp_path / "m.gguf"
    path.write_bytes(SAMPLE.model.read_bytes()[:length])
    with pytest.raises(ValidationFailed, match="could not be loaded") as raised:
        Llama.load(path, SETTINGS, tmp_path)
    assert is_one_sentence(raised.value)


def test_garbage(tmp_path):
    path = tmp_path / "m\x1b[2J.gguf"
    path.write_bytes(b"\x1b[31mnot a model" * 100)
    with pytest.raises(ValidationFailed, match="does not begin like a GGUF") as raised:
        Llama.load(path, SETTINGS, tmp_path)
    assert "\x1b" not in str(raised.value)


def test_an_unknown_architecture(tmp_path):
    path = make_variant(tmp_path / "m.gguf", {"general.architecture": value("string", "marvin")})
    with pytest.raises(LlamaFailed, match="does not know the architecture marvin"):
        Llama.load(path, SETTINGS, tmp_path)


def test_weights_that_are_not_numbers(tmp_path):
    path = with_bytes(tmp_path / "m.gguf", "output_norm.weight", np.full(256, np.nan, np.float32).tobytes())
    with Llama.load(path, SETTINGS, tmp_path) as llama, pytest.raises(LlamaFailed, match="not numbers"):
        answer(llama)


def test_control_codes_and_broken_characters_in_tokens(tmp_path):
    def poison(tokens):
        tokens[tokens.index(".")] = "!\u011b[31m\u00ff"  # in GPT-2's letters for bytes: ESC and 0xff

    with Llama.load(with_tokens(tmp_path / "m.gguf", poison), SETTINGS, tmp_path) as llama:
        text, _ = answer(llama)
    assert text.startswith("The capital of France is Paris!\ufffd[31m\ufffd")


# -- templates ---------------------------------------------------------------------------------------------------------


def load_with(tmp_path, template):
    return Llama.load(with_template(tmp_path / "m.gguf", template), SETTINGS, tmp_path)


def test_without_a_template(tmp_path):
    with load_with(tmp_path, None) as llama:
        assert not llama.info.has_template and llama.info.can_chat
        assert "no chat template" in llama.info.template_notice
        text, done = answer(llama)
    assert text.strip() and "User:" not in text
    assert done.reason in ("stop", "context full")


def test_a_template_that_never_ends(tmp_path):
    loop = "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}"
    with load_with(tmp_path, loop + "{% endfor %}{% endfor %}") as llama:
        assert "did not finish within 5 seconds" in llama.info.template_notice
        assert answer(llama)[0].strip()


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{{ raise_exception('no \x1b[31mway') }}", "fails: no"),
        ("{% for m in messages %}", "fails"),
        ("{{ ''.__class__.__mro__ }}", "fails"),
        ("{{ cycler.__init__.__globals__.os.system('touch /tmp/owned') }}", "fails"),
    ],
)
def test_templates_that_fail(tmp_path, template, says):
    with load_with(tmp_path, template) as llama:
        assert says in llama.info.template_notice and "\x1b" not in llama.info.template_notice
        assert answer(llama)[0].strip()


def test_a_template_that_fails_later(tmp_path):
    template = "{% if messages|length > 1 %}{{ raise_exception('only one turn') }}{% endif %}" + (
        "<|im_start|>user\n{{ messages[0].content }}<|im_end|>\n<|im_start|>assistant\n"
    )
    with load_with(tmp_path, template) as llama:
        text, done = answer(llama)
        assert text == "The capital of France is Paris." and not done.notice
        turns = [*QUESTION, {"role": "assistant", "content": "Paris."}, *QUESTION]
        _, done = answer(llama, turns)
        assert "only one turn" in done.notice


def test_a_refused_system_turn_is_folded(tmp_path):
    chatml = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "<|im_start|>assistant\n"
    )
    refuses = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + chatml
    conversation = [{"role": "system", "content": "Be brief."}, *QUESTION]
    with load_with(tmp_path, refuses) as llama:
        _, folded = answer(llama, conversation)
        assert not folded.notice
        _, plain = answer(llama)
        assert folded.prompt_tokens > plain.prompt_tokens


# -- the table ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "means"),
    [
        ("ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer of size 99", "not enough memory"),
        ("llama_init_from_model: failed to initialize the context: failed to allocate buffer for kv cache", "KV cache"),
        ("error loading model: missing tensor 'blk.3.ffn_up.weight'", "tensor blk.3.ffn_up.weight is missing"),
        ("wrong number of tensors; expected 300, got 291", "holds 300 tensors where its architecture has 291"),
        ("unknown pre-tokenizer type: 'mystery'", "pre-tokenizer mystery"),
        ("CLIP cannot be used as main model, use it with --mmproj instead", "projector"),
        ("illegal split file idx: 1 (file: x), model must be loaded with the first split", "later part"),
        ("quantized V cache requires flash_attn to be enabled", "flash attention"),
    ],
)
def test_known_troubles(line, means):
    trouble = known_trouble(f"noise\n{line}\nmore noise")
    assert trouble is not None and means in trouble.means and trouble.do


def test_only_the_engines_words_are_looked_up(tmp_path):
    for kind, code in (("told", 1), ("argument", 2), ("space", 1)):
        ours = explain_failure("x.gguf stopped", "notes.txt: out of memory \x1b[2J", kind, tmp_path / "log")
        assert str(ours) == "x.gguf stopped: notes.txt: out of memory \ufffd[2J" and ours.exit_code == code
    theirs = explain_failure("x.gguf stopped", "alloc: out of memory", "engine", tmp_path / "log")
    assert "there is not enough memory" in str(theirs) and isinstance(theirs, NotEnoughMemory)
    unknown = explain_failure("x.gguf stopped", "decode: something new", "engine", tmp_path / "log")
    assert str(unknown) == f"x.gguf stopped: something new (log: {tmp_path / 'log'})"


def test_harmless_lines_are_explained_once():
    log = "load_tensors: CPU_REPACK model buffer size = 3 MiB\nload_tensors: CPU_REPACK again\nall fine\n"
    ((line, means),) = harmless_lines(log)
    assert "CPU_REPACK" in line and "faster" in means


def test_a_death_without_words(tmp_path):
    for code, says in ((-signal.SIGILL, "another CPU"), (3, "exit code 3"), (-signal.SIGUSR1, "SIGUSR1")):
        error = explain_death("x.gguf stopped", code, tmp_path / "log", "nothing of note")
        assert says in str(error) and isinstance(error, QuantdeckError)


@pytest.mark.parametrize(
    ("running", "waited", "spins"), [(1, 0.0, None), (1, 90.0, 1000), (4, 0.0, 1000), (12, 90.0, 0)]
)
def test_threads_spin_unless_the_machine_is_crowded_now(monkeypatch, running, waited, spins):
    """What our own last run left in the load average says nothing; three threads are to come, on four cores."""
    monkeypatch.setattr(child, "_running", lambda: running)
    monkeypatch.setattr(child, "_waited", lambda: waited)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert child._spins(3) == spins
