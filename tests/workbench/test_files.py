"""Nothing half-written under a final name."""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from pathlib import Path

import pytest

from quantdeck.workbench import files
from quantdeck.workbench.files import locked, sha256, sync_folder, write_atomically


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_writes_and_replaces_and_makes_folders(tmp_path):
    path = tmp_path / "a" / "b" / "file"
    write_atomically(path, b"one")
    write_atomically(path, b"")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert names(path.parent) == ["file"]


def test_permissions_stay_and_new_files_are_private(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, b"one")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    write_atomically(path, b"two")
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_failure_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, failing):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    if failing == "fsync":
        monkeypatch.setattr(files.os, "fsync", fail)
    else:
        monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_interruption_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_links_are_followed(tmp_path):
    target, link = tmp_path / "target", tmp_path / "links" / "link"
    target.write_bytes(b"old")
    link.parent.mkdir()
    link.symlink_to(target)
    write_atomically(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    link.unlink()
    link.symlink_to(tmp_path / "not" / "yet")
    write_atomically(link, b"made")
    assert (tmp_path / "not" / "yet").read_bytes() == b"made"


@pytest.mark.parametrize("name", ["n" * 250, "\u00fc" * 120])
def test_names_as_long_as_the_file_system_allows(tmp_path, name):
    write_atomically(tmp_path / name, b"x")
    assert names(tmp_path) == [name]


def test_a_folder_is_not_replaced(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_atomically(tmp_path / "folder", b"x")
    assert names(tmp_path) == ["folder"]


def test_readers_see_the_old_or_the_new(tmp_path):
    path = tmp_path / "file"
    contents = [bytes([n]) * 100_000 for n in range(40)]
    write_atomically(path, contents[0])
    seen, done = [], threading.Event()

    def read():
        while not done.is_set():
            seen.append(path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for content in contents:
        write_atomically(path, content)
    done.set()
    reader.join()
    assert seen
    assert set(seen) <= set(contents)


@pytest.mark.parametrize("size", [0, 1, (4 << 20) - 1, 4 << 20, (4 << 20) + 1])
def test_sha256(tmp_path, size):
    content = os.urandom(size)
    (tmp_path / "file").write_bytes(content)
    assert sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_syncing_what_is_not_there_is_no_error(tmp_path):
    sync_folder(tmp_path)
    sync_folder(tmp_path / "gone")


def test_locks_exclude_others_and_open_again(tmp_path):
    path = tmp_path / "new folder" / ".lock"
    with locked(path, 1), pytest.raises(TimeoutError), locked(path, 0.05):
        pass
    with locked(path, 0):
        pass


def test_locks_open_again_after_a_failure_inside(tmp_path):
    with pytest.raises(KeyError), locked(tmp_path / ".lock", 1):
        raise KeyError
    with locked(tmp_path / ".lock", 0):
        pass


def test_where_nothing_can_be_locked(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"exists|directory"), locked(tmp_path / "file" / ".lock", 0.05):
        pass

    def cannot(*_):
        raise NotImplementedError

    monkeypatch.setattr("filelock.FileLock.acquire", cannot)
    with pytest.raises(OSError, match="no locks"), locked(tmp_path / ".lock", 0.05):
        pass
