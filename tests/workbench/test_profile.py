"""The profile: what is read, what is kept, what is refused, and that nothing gets lost."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quantdeck.workbench import profile as module
from quantdeck.workbench.hardware import Bandwidth, Cpu, Disk, Gpu, Hardware, Memory
from quantdeck.workbench.profile import ChatSettings, ChosenPaths, Profile, ProfileStore, merged, parse, tomllib

GPU = Gpu("RTX 3070", "NVIDIA", "CUDA", 8 << 30, None, False, False, "550", "8.6", "01:00.0")
HARDWARE = Hardware(
    system="Linux",
    environment="",
    cpu=Cpu("Ryzen", "x86_64", 8, 16, 2.5, "quota", ("AVX2", "FMA"), "llama.cpp"),
    memory=Memory(32 << 30, 24 << 30, None, "", 20 << 30, 0, 0),
    disk=Disk("/home/me", 1 << 40, 1 << 39, "ext4"),
    gpus=(GPU, replace(GPU, memory_free=7 << 30)),
    gpu_offload=None,
    detected_at="2026-11-21T09:00:00+00:00",
    notes=("One sentence.",),
)
FULL = Profile(
    theme="harbour",
    recent_models=("/models/a.gguf", "owner/name"),
    paths=ChosenPaths("/out", ("/models", "/more models"), "/models"),
    chat=ChatSettings(system_prompt='Say "hi".\nBe brief.', temperature=0.0, seed=7, context=4096),
    wizard={"goal": "balanced", "context": 8192, "this machine": True, "memory.gib": 7.5},
    keys={"quit": "ctrl+x"},
    corrections={"cpu-speed": 0.62},
    bandwidth=Bandwidth(33.5e9, 4, "2026-11-21T09:00:00+00:00"),
    hardware=HARDWARE,
)


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "config" / "profile.toml"


@pytest.fixture
def store(path) -> ProfileStore:
    return ProfileStore(path)


def write(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def asides(path: Path) -> list[Path]:
    return sorted(path.parent.glob("profile.toml.broken-*"))


def set_theme(name: str):
    return lambda profile: replace(profile, theme=name)


def test_missing_file_is_the_defaults_and_stays_missing(store, path):
    result = store.read()
    assert (result.profile, result.messages, result.saved) == (Profile(), (), True)
    assert not path.exists()
    assert not store.update(lambda profile: profile).messages
    assert not path.exists()


def test_everything_comes_back(store, path):
    assert store.update(lambda _: FULL).messages == ()
    assert ProfileStore(path).read().profile == FULL
    assert tomllib.loads(path.read_text())["schema"] == module.SCHEMA
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_back_to_nothing(store, path):
    store.update(lambda _: FULL)
    store.update(lambda _: Profile())
    assert ProfileStore(path).read().profile == Profile()


def test_only_what_changed_is_touched(store, path):
    before = (
        "# my profile\n"
        'colour = "kept"   # unknown, and mine\n'
        "schema = 1\n\n"
        "[chat]   # about chat\n"
        "top_k = 10 # few\n"
        'temperature = "hot"\n'
        "future = {a = 1}\n\n"
        "[plugin.deep]\n"
        "x = [1, 2,\n  3]\n"
    )
    write(path, before)
    result = store.update(lambda p: replace(p, theme="dusk", chat=replace(p.chat, top_k=20)))
    assert result.saved
    after = path.read_text()
    assert after.replace("top_k = 20", "top_k = 10").replace('theme = "dusk"\n', "") == before
    assert ProfileStore(path).read().profile.theme == "dusk"
    assert ProfileStore(path).read().profile.chat.top_k == 20


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("theme = 3", "theme"),
        ("recent_models = 'x'", "recent_models"),
        ("recent_models = ['x', 1]", "recent_models[1]"),
        ("chat = 1", "chat"),
        ("chat.temperature = 'hot'", "chat.temperature"),
        ("chat.temperature = true", "chat.temperature"),
        ("chat.temperature = nan", "chat.temperature"),
        ("chat.temperature = -1", "chat.temperature"),
        ("chat.top_k = 1.5", "chat.top_k"),
        ("chat.top_p = 1.5", "chat.top_p"),
        ("chat.seed = -1", "chat.seed"),
        ("chat.seed = 'x'", "chat.seed"),
        ("chat.max_tokens = 0", "chat.max_tokens"),
        ("wizard = [1]", "wizard"),
        ("wizard.goal = [1]", "wizard.goal"),
        ("wizard.goal = 2020-01-01", "wizard.goal"),
        ("keys.quit = 1", "keys.quit"),
        ("bandwidth = {threads = 1}", "bandwidth"),
        ("hardware = {system = 'Linux'}", "hardware"),
        ("schema = 'one'", "schema"),
        ("schema = 0", "schema"),
    ],
)
def test_wrong_values_fall_back_and_say_so(store, path, line, key):
    write(path, f"{line}\n" + ("" if key == "theme" else "theme = 'dusk'\n"))
    result = store.read()
    assert len(result.messages) == 1
    assert result.messages[0].startswith("profile.toml: ")
    assert key.partition("[")[0] in result.messages[0]
    assert "must be" in result.messages[0]
    expected = Profile() if key == "theme" else Profile(theme="dusk")
    assert result.profile == expected
    # What we could not understand is still there after we write something else.
    store.update(lambda p: replace(p, corrections={"x": 1.0}))
    assert line.partition(" = ")[2] in path.read_text()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[chat]\ntempreature = 1\n", "chat.tempreature is not known; did you mean chat.temperature?"),
        ("themes = 'x'\n", "themes is not known; did you mean theme?"),
        ('"th\\u001beme" = 1\n', "not known"),
    ],
)
def test_typos_get_a_hint(store, path, text, words):
    write(path, text)
    messages = store.read().messages
    assert any(words in message for message in messages)
    assert "\x1b" not in "".join(messages)


def test_unknown_keys_that_resemble_nothing_are_silent(store, path):
    write(path, "zebra = 1\n[qqq]\nx = 1\n")
    assert store.read().messages == ()


@pytest.mark.parametrize(
    "content",
    [
        b"theme = ",
        b"theme = 'a'\ntheme = 'b'\n",
        b"\xff\xfe\x00t",
        b"\x00",
        b"[" * 5000,
        b"a = " + b"[" * 5000,
        b"x = 1\n" + b"# " + b"x" * (5 << 20),
        b"theme = 'dusk'\n\x1b[2J",
    ],
)
def test_broken_files_are_set_aside_whole(store, path, content):
    write(path, content)
    result = store.read()
    assert result.profile == Profile()
    (aside,) = asides(path)
    assert aside.read_bytes() == content
    assert not path.exists()
    assert aside.name in result.messages[0]
    assert store.update(set_theme("dusk")).saved
    assert ProfileStore(path).read().profile.theme == "dusk"
    assert aside.read_bytes() == content


def test_update_sets_aside_too_and_never_reuses_a_name(store, path):
    for number in range(3):
        write(path, f"broken {number}")
        assert store.update(set_theme(f"t{number}")).saved
    assert sorted(aside.read_text() for aside in asides(path)) == ["broken 0", "broken 1", "broken 2"]


def test_a_folder_is_set_aside(store, path):
    path.mkdir(parents=True)
    (path / "inside").write_text("mine")
    assert "no file" in store.read().messages[0]
    assert (asides(path)[0] / "inside").read_text() == "mine"


def test_a_pipe_does_not_hang(store, path):
    path.parent.mkdir(parents=True)
    os.mkfifo(path)
    assert store.read().profile == Profile()
    assert store.update(set_theme("dusk")).saved


def test_unreadable_file_is_set_aside(store, path):
    path.parent.mkdir(parents=True)
    path.symlink_to("profile.toml")  # to itself: nobody can open it
    assert store.read().profile == Profile()
    assert store.update(set_theme("dusk")).saved
    assert len(asides(path)) == 1


def test_a_link_to_a_file_elsewhere_stays_a_link(store, path, tmp_path):
    path.parent.mkdir(parents=True)
    target = tmp_path / "dotfiles" / "profile.toml"
    write(target, "theme = 'old'\n")
    path.symlink_to(target)
    store.update(set_theme("dusk"))
    assert path.is_symlink()
    assert 'theme = "dusk"' in target.read_text()


def test_newer_schema_is_read_but_never_written(store, path):
    before = "schema = 99\ntheme = 'dusk'\nchat = 'now text'\n"
    write(path, before)
    result = store.read()
    assert result.profile == Profile(theme="dusk")
    assert "newer" in result.messages[0]
    changed = store.update(set_theme("dawn"))
    assert changed.profile.theme == "dawn"
    assert not changed.saved
    assert path.read_text() == before
    assert store.read().profile.theme == "dawn"
    assert asides(path) == []


def rename_colour(table):
    table["theme"] = table.pop("colour")


def drop_blink(table):
    table.pop("blink", None)


def test_migrations_run_in_order_and_reach_the_file():
    text = "schema = 1\ncolour = 'dusk' # evening\nblink = true\nother = 1\n"
    migrations = (rename_colour, drop_blink)
    old, problems, schema = parse(text, migrations)
    assert (old.theme, problems, schema) == ("dusk", [], 3)
    written = merged(text, old, replace(old, keys={"quit": "x"}), migrations)
    assert tomllib.loads(written) == {"schema": 3, "other": 1, "theme": "dusk", "keys": {"quit": "x"}}
    again, _, schema = parse(written, migrations)
    assert (again.theme, schema) == ("dusk", 3)


def test_recent_models_are_bounded_and_unique(store, path):
    for number in range(50):
        store.update(lambda p, n=number: p.with_recent(f"m{n % 30}"))
    recent = store.read().profile.recent_models
    assert len(recent) == 20
    assert recent[0] == "m19"
    assert len(set(recent)) == 20
    write(path, f"recent_models = {[str(i) for i in range(500)]}\n")
    assert len(store.read().profile.recent_models) == 20


def test_tables_of_every_layout_can_be_changed(store, path):
    for text in (
        "chat.top_k = 3\nchat.top_p = 0.5\n",
        "chat = {top_k = 3, top_p = 0.5}\n",
        "[chat]\ntop_k = 3\n[plugin]\na = 1\n[chat.extra]\nb = 2\n",
        "[plugin]\na = 1\n",
        "[[plugin]]\na = 1\n[[plugin]]\n",
        "wizard.'a b'.c = 1\n",
        "\ufeff# from another system\n",
        "theme = 'x'\r\n[chat]\r\ntop_k = 3\r\n",
    ):
        write(path, text)
        before = tomllib.loads(text.lstrip("\ufeff"))
        result = store.update(lambda _: FULL)
        assert result.saved, (text, result.messages)
        assert ProfileStore(path).read().profile == FULL
        assert tomllib.loads(path.read_text()).get("plugin") == before.get("plugin")


strings = st.text(st.characters(codec="utf-8"), max_size=20)
numbers = st.floats(allow_nan=False, allow_infinity=False)
profiles = st.builds(
    Profile,
    theme=strings,
    recent_models=st.lists(strings, max_size=5, unique=True).map(tuple),
    chat=st.builds(
        ChatSettings, system_prompt=strings, temperature=st.floats(0, 10), seed=st.none() | st.integers(0, 99)
    ),
    wizard=st.dictionaries(strings, strings | st.booleans() | st.integers(-(2**63), 2**63 - 1) | numbers, max_size=4),
    keys=st.dictionaries(strings, strings, max_size=4),
    corrections=st.dictionaries(strings, numbers, max_size=4),
    bandwidth=st.none() | st.builds(Bandwidth, numbers, st.integers(1, 64), strings),
    hardware=st.sampled_from([None, HARDWARE]),
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(profiles, profiles)
def test_any_profile_into_any_other(old, new):
    first = merged("# mine\nunknown = 1\n", Profile(), old)
    assert first is not None
    assert parse(first)[0] == old
    second = merged(first, old, new)
    assert second is not None
    assert parse(second)[:2] == (new, parse(second)[1])
    assert tomllib.loads(second)["unknown"] == 1


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200))
def test_any_text_is_a_profile_or_a_plain_error(text):
    try:
        parse(text)
    except (ValueError, RecursionError):
        return


def test_two_programs_do_not_eat_each_others_changes(path):
    program = (
        "import sys\nfrom dataclasses import replace\nfrom pathlib import Path\n"
        "from quantdeck.workbench.profile import ProfileStore\n"
        "store, name = ProfileStore(Path(sys.argv[1])), sys.argv[2]\n"
        "for i in range(25):\n"
        "    result = store.update(lambda p: replace(p, wizard=dict(p.wizard) | {f'{name}{i}': i}))\n"
        "    assert result.saved, result.messages\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    children = [
        subprocess.Popen([sys.executable, "-c", program, str(path), name], env=environment) for name in ("a", "b", "c")
    ]
    assert [child.wait(60) for child in children] == [0, 0, 0]
    assert ProfileStore(path).read().profile.wizard == {f"{name}{i}": i for name in "abc" for i in range(25)}


def test_full_disk_goes_on_without_saving_and_catches_up(store, path, monkeypatch):
    store.update(set_theme("old"))

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_atomically", full)
        result = store.update(set_theme("dusk"))
        assert (result.profile.theme, result.saved) == ("dusk", False)
        assert result.messages == ("profile.toml cannot be saved: No space left on device.",)
        assert store.update(lambda p: p.with_recent("m")).profile == Profile(theme="dusk", recent_models=("m",))
        assert store.read().profile.theme == "dusk"
    assert ProfileStore(path).read().profile.theme == "old"
    # Meanwhile the other program changed something else; nothing of either is lost.
    ProfileStore(path).update(lambda p: replace(p, keys={"quit": "x"}))
    assert store.update(lambda p: p).saved
    assert ProfileStore(path).read().profile == Profile(theme="dusk", recent_models=("m",), keys={"quit": "x"})
    # Once saved, it is no longer ours to insist on.
    ProfileStore(path).update(set_theme("dawn"))
    assert store.read().profile.theme == "dawn"


def test_home_that_cannot_be_written(tmp_path):
    (tmp_path / "config").write_text("a file where the folder should be")
    store = ProfileStore(tmp_path / "config" / "profile.toml")
    assert store.read().profile == Profile()
    result = store.update(set_theme("dusk"))
    assert (result.profile.theme, result.saved, len(result.messages)) == ("dusk", False, len(result.messages))
    assert store.read().profile.theme == "dusk"


def test_locked_by_another_program(store, path, monkeypatch):
    monkeypatch.setattr(module, "_LOCK_SECONDS", 0.1)
    path.parent.mkdir(parents=True)
    with module.locked(path.with_name(".profile.toml.lock"), 1):
        result = store.update(set_theme("dusk"))
        write(path, "broken")
        assert ProfileStore(path).read().profile == Profile()
        assert path.read_text() == "broken"
    assert not result.saved
    assert "lock" in result.messages[0]


SECRETS = [
    "hf_" + "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7aB3dE6g",
    "sk-proj-" + "aB3dE6gH9jK2mN5pQ8sT",
    "ghp_" + "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7aB3dE6gH9",
    "github_pat_" + "11ABCDEFG0aB3dE6gH9jK2",
    "AKIA" + "IOSFODNN7EXAMPLE",
    "https://me:pass" + "word@huggingface.co/owner/name",
    "Authorization: Bearer " + "aB3dE6gH9jK2mN5pQ8sT",
    "-----BEGIN OPENSSH PRIVATE " + "KEY-----",
]


def holders(secret: str):
    """A profile for each place in it that can hold text, found by walking the fields, with the secret there."""
    for field in fields(Profile):
        value = getattr(FULL, field.name)
        for changed in _replaced(value, secret):
            yield field.name, replace(FULL, **{field.name: changed})


def _replaced(value, secret):
    if isinstance(value, str):
        yield f"before {secret}"
    elif isinstance(value, tuple):
        for item in value[:1]:
            for changed in _replaced(item, secret):
                yield (changed, *value[1:])
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from ({**value, key: changed} for changed in _replaced(item, secret))
        yield {**value, secret: next(iter(value.values()))}
    elif hasattr(value, "__dataclass_fields__"):
        for field in fields(value):
            yield from (replace(value, **{field.name: c}) for c in _replaced(getattr(value, field.name), secret))


@pytest.mark.parametrize("secret", SECRETS)
def test_no_field_can_hold_a_secret(store, path, secret):
    profiles = list(holders(secret))
    assert {name for name, _ in profiles} == {field.name for field in fields(Profile)}
    for name, profile in profiles[:: 1 if secret == SECRETS[0] else 7]:
        result = store.update(lambda _, new=profile: new)
        assert result.profile == replace(FULL, **{name: getattr(Profile(), name)})
        assert name in result.messages[0]
        assert "secret" in result.messages[0]
        assert secret not in path.read_text()
        assert secret not in "".join(result.messages)
        path.unlink()


@pytest.mark.parametrize(
    "path_to_model",
    [
        "/models/hf_models-of-mine/llama-3-8b-instruct.gguf",
        "/srv/task-oriented-models-2024/disk-sk-learn.gguf",
        "https://huggingface.co/owner/name",
        "/home/me@work/x:y.gguf",
        "/models/0123456789abcdef0123456789abcdef01234567.gguf",
    ],
)
def test_names_that_only_resemble_secrets_are_kept(store, path, path_to_model):
    assert store.update(lambda p: p.with_recent(path_to_model)).messages == ()
    assert ProfileStore(path).read().profile.recent_models == (path_to_model,)


def test_named_secrets_are_refused_and_token_counts_are_not(store, path):
    refused = store.update(lambda p: replace(p, wizard={"hub_token": "qwertyuiop"}))
    assert refused.profile.wizard == {}
    kept = store.update(lambda p: replace(p, wizard={"tokens": 4096}, chat=replace(p.chat, max_tokens=99)))
    assert kept.messages == ()
    assert ProfileStore(path).read().profile.chat.max_tokens == 99


def test_names_that_are_not_text_are_refused_without_losing_the_rest(store, path):
    result = store.update(lambda p: replace(p.with_recent("/models/\udcff.gguf"), theme="dusk"))
    assert result.saved
    assert "recent_models" in result.messages[0]
    assert ProfileStore(path).read().profile == Profile(theme="dusk")
