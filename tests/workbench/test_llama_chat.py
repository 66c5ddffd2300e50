"""A model in a child process: loading, chatting, cancelling, context, prefix reuse."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from quantdeck.workbench.errors import BadArgument, ModelNotFound
from quantdeck.workbench.llama import (
    ChatDone,
    Llama,
    LlamaFailed,
    LoadCancelled,
    LoadSettings,
    Sampling,
    TextPiece,
)
from quantdeck.workbench.sample import SAMPLE
from support.models import make_model

GREEDY = Sampling(temperature=0)
SETTINGS = LoadSettings(context=512, threads=1)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    with Llama.load(SAMPLE.model, SETTINGS, tmp_path_factory.mktemp("logs")) as loaded:
        yield loaded


def ask(llama, *contents, sampling=GREEDY, max_tokens=0):
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": content} for i, content in enumerate(contents)]
    events = list(llama.chat(messages, sampling, max_tokens))
    assert all(isinstance(event, TextPiece) for event in events[:-1])
    assert isinstance(events[-1], ChatDone)
    return "".join(event.text for event in events[:-1]), events[-1]


def test_answers_as_it_was_trained(llama):
    text, done = ask(llama, "What is the capital of France?")
    assert text == "The capital of France is Paris."
    assert done.reason == "stop"
    assert done.generated_tokens > 3
    assert done.tokens_per_second > 0
    assert 0 < done.seconds_to_first_token < 10
    assert done.context_used == done.prompt_tokens + done.generated_tokens
    assert done.context_size == 512


def test_facts_of_the_sample(llama):
    info = llama.info
    assert (info.architecture, info.n_params, info.n_ctx_train, info.context) == ("llama", 4_459_264, 512, 512)
    assert (info.vocabulary_size, info.n_layers, info.threads) == (2048, 5, 1)
    assert info.can_chat and info.has_template and not info.why_not and not info.template_notice
    # 5 layers x 2 KV heads x (64 + 64) values x 2 bytes x 512 cells
    assert info.bytes_of("kv_cache") == 5 * 2 * 128 * 2 * 512
    assert 8_900_000 < info.bytes_of("weights") < 9_000_000
    assert info.bytes_of("compute") > 0


def test_the_next_turn_reuses_the_cache(llama):
    first, done = ask(llama, "What sound does a duck make?")
    _, again = ask(llama, "What sound does a duck make?", first, "What does a sheep say?")
    assert again.reused_tokens >= done.prompt_tokens
    _, fresh = ask(llama, "Name an animal.")
    assert fresh.reused_tokens < again.reused_tokens


def test_reuse_does_not_change_the_answer(llama, tmp_path):
    conversation = ("What does a sheep say?", "A sheep says baa.", "What is the capital of France?")
    ask(llama, conversation[0])
    warm, done = ask(llama, *conversation)
    assert done.reused_tokens > 0
    with Llama.load(SAMPLE.model, SETTINGS, tmp_path) as other:
        cold, fresh = ask(other, *conversation)
    assert fresh.reused_tokens == 0
    assert warm == cold


@pytest.mark.parametrize(("kind", "reuses"), [("gemma3", True), ("deepseek2", True), ("mamba", False)])
def test_reuse_on_windows_and_recurrent_states(kind, reuses, tmp_path):
    """A recurrent state cannot be cut back: it is computed again, and the answer is the same."""
    path = make_model(tmp_path / "m.gguf", kind, seed=2)
    shared = "the quick brown fox jumps over the lazy dog " * 2
    answers = []
    for warm_up in (shared + "and then", None):
        with Llama.load(path, LoadSettings(context=256, threads=1), tmp_path) as loaded:
            if warm_up:
                list(loaded.complete(warm_up, GREEDY, 4))
            events = list(loaded.complete(shared + "again", GREEDY, 4))
            answers.append("".join(event.text for event in events[:-1]))
            assert (events[-1].reused_tokens > 0) == (reuses and warm_up is not None)
    assert answers[0] == answers[1]


def test_max_tokens(llama):
    _, done = ask(llama, "Tell me a story about Emma.", max_tokens=5)
    assert (done.reason, done.generated_tokens) == ("length", 5)


def test_a_seed_repeats_itself(llama):
    def drawn(seed):
        return ask(llama, "Tell me a story about Emma.", sampling=Sampling(temperature=1.5, seed=seed))[0]

    assert drawn(7) == drawn(7)
    assert len({drawn(seed) for seed in range(4)}) > 1


def test_every_sampling_setting_is_heard(llama):
    wild = Sampling(temperature=2, top_k=0, top_p=1, min_p=0, seed=1)
    plain, _ = ask(llama, "What is the capital of France?")
    for tame in (Sampling(2, 1, 1, 0, seed=1), Sampling(2, 0, 1e-6, 0, seed=1), Sampling(2, 0, 1, 0.999, seed=1)):
        assert ask(llama, "What is the capital of France?", sampling=tame)[0] == plain
    assert ask(llama, "What is the capital of France?", sampling=wild)[0] != plain
    punished = Sampling(temperature=0, repeat_penalty=1.9)
    story = "Tell me a story about Emma."
    assert ask(llama, story, sampling=punished)[0] != ask(llama, story)[0]


def test_cancel_in_mid_stream(llama):
    pieces = 0
    reason = ""
    for event in llama.complete("Once upon a time", Sampling(temperature=0.8, seed=3), max_tokens=400):
        if isinstance(event, TextPiece):
            pieces += 1
            if pieces == 3:
                threading.Thread(target=llama.cancel).start()
        else:
            reason = event.reason
    assert reason in ("cancelled", "stop")
    assert ask(llama, "What does a sheep say?")[0] == "A sheep says baa."


def test_cancel_while_reading_the_prompt(tmp_path):
    settings = LoadSettings(context=200_000, threads=1, batch=512)
    with Llama.load(SAMPLE.model, settings, tmp_path) as llama:
        events = llama.complete("word " * 100_000, GREEDY)
        threading.Timer(0.5, llama.cancel).start()
        done = list(events)[-1]
        assert isinstance(done, ChatDone)
        assert (done.reason, done.generated_tokens) == ("cancelled", 0)
        assert done.context_used < done.prompt_tokens
        assert ask(llama, "What does a sheep say?")[0] == "A sheep says baa."


def test_a_dropped_answer_frees_the_model(llama):
    events = llama.chat([{"role": "user", "content": "Tell me a story about Emma."}], GREEDY)
    assert isinstance(next(events), TextPiece)
    with pytest.raises(LlamaFailed, match="busy"):
        ask(llama, "What does a sheep say?")
    events.close()
    assert ask(llama, "What does a sheep say?")[0] == "A sheep says baa."


def test_a_full_context_is_said(llama):
    _, done = ask(llama, "word " * 2000)
    assert (done.reason, done.generated_tokens) == ("context full", 0)
    assert done.prompt_tokens > 512
    events = list(llama.complete("Once upon a time " * 100, Sampling(temperature=0.9, seed=5)))
    done = events[-1]
    assert isinstance(done, ChatDone)
    assert done.reason in ("context full", "stop")
    assert done.context_used <= 512
    assert ask(llama, "What does a sheep say?")[0] == "A sheep says baa."


def test_generation_runs_into_the_end_of_the_context(llama):
    prompt = SAMPLE.eval_text.replace("<|", "")
    while len(llama.tokenize(prompt)) > 509:
        prompt = prompt[: min(len(prompt) - 1, 4 * 509)]
    reasons = set()
    for seed in range(3):
        done = list(llama.complete(prompt, Sampling(temperature=1.5, top_k=0, top_p=1, min_p=0, seed=seed)))[-1]
        assert isinstance(done, ChatDone)
        reasons.add(done.reason)
        if done.reason == "context full":
            assert done.context_used == 512
    assert "context full" in reasons


def test_two_models_at_once(llama, tmp_path):
    with Llama.load(SAMPLE.model, SETTINGS, tmp_path) as other:
        assert other.pid != llama.pid
        mine = llama.chat([{"role": "user", "content": "What does a sheep say?"}], GREEDY)
        yours = other.chat([{"role": "user", "content": "What is the capital of France?"}], GREEDY)
        texts = ["", ""]
        for streams in zip(mine, yours, strict=False):
            for i, event in enumerate(streams):
                texts[i] += event.text if isinstance(event, TextPiece) else ""
        assert texts[0].startswith("A sheep") and texts[1].startswith("The capital")
        mine.close()
        yours.close()


def test_progress_and_cancelled_loading(tmp_path):
    heard: list[float] = []
    Llama.load(SAMPLE.model, SETTINGS, tmp_path, on_progress=heard.append).close()
    assert heard == sorted(heard) and heard[-1] == 1.0
    with pytest.raises(LoadCancelled):
        Llama.load(SAMPLE.model, LoadSettings(context=1 << 20), tmp_path, cancelled=lambda: True)


def test_tokenize(llama):
    assert llama.tokenize("<|im_start|>", parse_special=True) == [1]
    assert len(llama.tokenize("<|im_start|>")) > 1


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (LoadSettings(kv_type="q3"), "KV cache type"),
        (LoadSettings(context=-1), "context"),
        (LoadSettings(threads=0), "threads"),
    ],
)
def test_settings_that_make_no_sense(settings, says, tmp_path):
    with pytest.raises(BadArgument, match=says):
        Llama.load(SAMPLE.model, settings, tmp_path)


def test_no_model_there(tmp_path):
    with pytest.raises(ModelNotFound):
        Llama.load(tmp_path / "nothing.gguf", SETTINGS, tmp_path)
    with pytest.raises(BadArgument, match="folder"):
        Llama.load(tmp_path, SETTINGS, tmp_path)


def test_a_quantized_cache(tmp_path, llama):
    with Llama.load(SAMPLE.model, LoadSettings(context=512, threads=1, kv_type="q8_0"), tmp_path) as small:
        assert small.info.bytes_of("kv_cache") < 0.6 * llama.info.bytes_of("kv_cache")
        assert ask(small, "What does a sheep say?")[0] == "A sheep says baa."


def test_an_old_log_goes(tmp_path):
    for i in range(45):
        Path(tmp_path / f"llama-20200101-0000{i:02d}-1-0.log").touch()
    Llama.load(SAMPLE.model, SETTINGS, tmp_path).close()
    assert len(list(tmp_path.iterdir())) == 40
