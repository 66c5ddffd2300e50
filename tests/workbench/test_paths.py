"""Where things live."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from quantdeck.workbench.paths import Paths

NAMES = ("profile", "themes", "jobs", "library", "models", "logs")


def every(paths: Paths) -> list[Path]:
    return [getattr(paths, field.name) for field in fields(Paths)] + [getattr(paths, name) for name in NAMES]


def test_home_holds_everything_and_nothing_is_made(tmp_path):
    home = tmp_path / "deck"
    paths = Paths.from_environment({"QUANTDECK_HOME": str(home)})
    assert all(path.is_relative_to(home) for path in every(paths))
    assert paths.profile == home / "profile.toml"
    assert not home.exists()


def test_places_do_not_fall_together(tmp_path):
    paths = Paths.from_environment({"QUANTDECK_HOME": str(tmp_path)})
    assert len({getattr(paths, name) for name in NAMES}) == len(NAMES)


def test_home_is_absolute_and_knows_the_tilde(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Paths.from_environment({"QUANTDECK_HOME": "deck"}).config == tmp_path / "deck"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Paths.from_environment({"QUANTDECK_HOME": "~/deck"}).config == tmp_path / "deck"
    # A home that nobody has stays a name like any other.
    assert Paths.from_environment({"QUANTDECK_HOME": "~nobody-here/deck"}).config.is_absolute()


def test_without_home_each_system_decides(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "c"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "d"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "k"))
    for environ in ({}, {"QUANTDECK_HOME": ""}):
        paths = Paths.from_environment(environ)
        assert all(path.is_absolute() and "quantdeck" in str(path) for path in every(paths))
        assert not (tmp_path / "c").exists()
