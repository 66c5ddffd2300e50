"""Downloads as jobs: killed, cut, cancelled, damaged, resumed; against the loopback Hub, in processes of their own."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from huggingface_hub import constants

from quantdeck.workbench.errors import AuthenticationNeeded, BadArgument, ResumeFailed, ValidationFailed
from quantdeck.workbench.hub import (
    DownloadRequest,
    Downloads,
    DownloadSnapshot,
    Hub,
    Patience,
    find_offer,
    offers,
    plan_download,
)
from quantdeck.workbench.hub import downloads as module
from quantdeck.workbench.hub.download_state import FetchStarted
from quantdeck.workbench.jobs.journal import JournalReader
from quantdeck.workbench.jobs.preflight import NotEnoughSpace
from quantdeck.workbench.model import read_model
from support.hub_files import sample, shards
from support.hub_server import GOOD_TOKEN, HubServer, hub_server

NAME = "owner/model-GGUF"
FILE = "model-F16.gguf"


@dataclass
class Desk:
    """A server, a client, and a folder for downloads."""

    server: HubServer
    hub: Hub
    downloads: Downloads
    folder: Path

    def plan(self, path: str = FILE) -> DownloadRequest:
        repository = self.hub.repository(NAME)
        offer = find_offer(repository, path)
        assert offer
        return replace(plan_download(self.hub, repository, offer, self.folder), tries=3, first_wait=0.1)

    def begin(self, path: str = FILE) -> str:
        return self.downloads.begin(self.plan(path))

    def until(self, download: str, wanted: Callable[[DownloadSnapshot], bool], seconds: float = 30) -> DownloadSnapshot:
        watch, give_up = self.downloads.watch(download), time.monotonic() + seconds
        while not wanted(snapshot := watch.look()):
            log = self.downloads.folder(download).log.read_text()
            assert time.monotonic() < give_up, (snapshot, log)
            time.sleep(0.02)
        return snapshot

    def end(self, download: str) -> DownloadSnapshot:
        return self.until(download, lambda snapshot: snapshot.ended)

    def pid(self, download: str) -> int:
        events = JournalReader(self.downloads.folder(download).journal).read()
        return [event.pid for event in events if isinstance(event, FetchStarted)][-1]

    @property
    def partial(self) -> Path:
        return self.folder / f".{FILE}.partial"


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Desk]:
    with hub_server() as server:
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        for name, value in {"HF_ENDPOINT": server.endpoint, "HF_HOME": str(tmp_path / "hf")}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2] / ".src"))
        server.add(NAME, {FILE: sample(), **shards("Q/part-F16", 3)})
        desk = Desk(
            server,
            Hub(Patience(first_wait=0.01), endpoint=server.endpoint),
            Downloads(tmp_path / "d"),
            tmp_path / "out",
        )
        yield desk
        for name in desk.downloads.ids():
            desk.downloads.cancel(name)


def test_a_file_arrives_whole_under_its_name(desk: Desk) -> None:
    snapshot = desk.end(desk.begin())
    assert (snapshot.status, snapshot.bytes_done) == ("done", len(sample())), snapshot
    assert snapshot.request.result == desk.folder / FILE
    assert (desk.folder / FILE).read_bytes() == sample()
    assert sorted(path.name for path in desk.folder.iterdir()) == [FILE]


def test_shards_arrive_together_and_make_a_model(desk: Desk) -> None:
    snapshot = desk.end(desk.begin("Q/part-F16-00002-of-00003.gguf"))
    assert snapshot.status == "done"
    assert len(read_model(snapshot.request.result).files) == 3


def test_progress_rate_and_time_left(desk: Desk) -> None:
    desk.server.bytes_per_second = 3_000_000
    download = desk.begin()
    snapshot = desk.until(download, lambda s: s.seconds_left is not None)
    assert 0 < snapshot.bytes_done < len(sample()) and snapshot.status == "running"
    assert 500_000 < snapshot.rate < 5_000_000
    assert snapshot.seconds_left == pytest.approx((len(sample()) - snapshot.bytes_done) / snapshot.rate)
    assert not (desk.folder / FILE).exists()
    assert desk.end(download).status == "done"


def test_killed_and_resumed_it_fetches_only_the_rest(desk: Desk) -> None:
    desk.server.bytes_per_second = 3_000_000
    download = desk.begin()
    desk.until(download, lambda s: s.bytes_done > 1_000_000)
    os.kill(desk.pid(download), signal.SIGKILL)
    snapshot = desk.until(download, lambda s: s.ended)
    assert snapshot.status == "interrupted" and "resume" in snapshot.message
    before = desk.partial.stat().st_size
    assert 0 < before < len(sample())
    desk.server.bytes_per_second = 0
    desk.server.requests.clear()
    desk.downloads.resume(download)
    assert desk.end(download).status == "done"
    assert [r.headers["range"] for r in desk.server.asked("/blobs/")] == [f"bytes={before}-{len(sample()) - 1}"]
    assert (desk.folder / FILE).read_bytes() == sample()
    with pytest.raises(ResumeFailed):
        desk.downloads.resume(download)


def test_broken_connections_are_picked_up_where_they_broke(desk: Desk) -> None:
    plan = desk.plan()
    desk.server.cut(1_000_000, 500_000, 2_000_000, 10)
    desk.server.fail("/resolve/", 503)
    desk.server.fail("/blobs/", 429, retry_after="1")
    assert desk.end(desk.downloads.begin(plan)).status == "done"
    assert (desk.folder / FILE).read_bytes() == sample()


def test_a_server_without_ranges_begins_again(desk: Desk) -> None:
    plan = desk.plan()
    desk.server.cut(1_000_000)
    desk.server.ignores_ranges = True
    assert desk.end(desk.downloads.begin(plan)).status == "done"
    assert (desk.folder / FILE).read_bytes() == sample()


def test_a_wrong_hash_never_gets_the_name(desk: Desk) -> None:
    desk.server.corrupted.add(FILE)
    snapshot = desk.end(desk.begin())
    assert (snapshot.status, snapshot.exit_code) == ("failed", 6) and "hash" in snapshot.message
    assert list(desk.folder.iterdir()) == []


def test_a_torn_part_is_fetched_again_from_the_start(desk: Desk) -> None:
    desk.folder.mkdir()
    desk.partial.write_bytes(bytes(100_000))
    assert desk.end(desk.begin()).status == "done"
    assert (desk.folder / FILE).read_bytes() == sample()


def test_a_server_that_is_gone_ends_it_resumably(desk: Desk) -> None:
    plan = desk.plan()
    desk.server.fail("/resolve/", 500, 3)
    download = desk.downloads.begin(plan)
    snapshot = desk.end(download)
    assert snapshot.status == "failed" and "status 500" in snapshot.message
    desk.downloads.resume(download)
    assert desk.end(download).status == "done"


def test_cancel_removes_what_was_there(desk: Desk) -> None:
    desk.server.bytes_per_second = 2_000_000
    download = desk.begin()
    desk.until(download, lambda s: s.bytes_done > 0)
    desk.downloads.cancel(download)
    assert desk.downloads.snapshot(download).status == "cancelled"
    assert list(desk.folder.iterdir()) == []
    desk.downloads.remove(download)
    assert desk.downloads.ids() == []


def test_pause_then_the_same_request_goes_on(desk: Desk) -> None:
    desk.server.bytes_per_second = 2_000_000
    plan = desk.plan()
    download = desk.downloads.begin(plan)
    desk.until(download, lambda s: s.bytes_done > 0)
    with pytest.raises(BadArgument, match="is running"):
        desk.downloads.remove(download)
    with pytest.raises(BadArgument, match="same place"):
        desk.downloads.begin(replace(plan, commit="f" * 40))
    desk.downloads.pause(download)
    assert desk.downloads.snapshot(download).status == "interrupted" and desk.partial.exists()
    desk.server.bytes_per_second = 0
    assert desk.downloads.begin(plan) == download
    assert desk.end(download).status == "done"


def test_a_killed_one_can_be_cancelled(desk: Desk) -> None:
    desk.server.bytes_per_second = 2_000_000
    download = desk.begin()
    desk.until(download, lambda s: s.bytes_done > 0)
    os.kill(desk.pid(download), signal.SIGKILL)
    desk.until(download, lambda s: s.ended)
    desk.downloads.cancel(download)
    assert not desk.partial.exists() and desk.downloads.snapshot(download).status == "cancelled"


def test_gated_files_are_refused_before_anything_is_written(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.server.repos[NAME].gated = "auto"
    with pytest.raises(AuthenticationNeeded):
        desk.plan()
    assert not desk.folder.exists()
    monkeypatch.setenv("HF_TOKEN", GOOD_TOKEN)
    download = desk.begin()
    assert desk.end(download).status == "done"
    kept = b"".join(path.read_bytes() for path in desk.downloads.folder(download).path.iterdir())
    assert GOOD_TOKEN.encode() not in kept


def test_no_room_is_said_at_the_start(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = module.shutil.disk_usage("/")._replace(free=1 << 20)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(NotEnoughSpace, match="make room"):
        desk.plan()


def test_another_file_of_the_name_is_never_touched(desk: Desk) -> None:
    desk.folder.mkdir()
    (desk.folder / FILE).write_bytes(b"mine")
    with pytest.raises(BadArgument, match="another file"):
        desk.plan()
    (desk.folder / FILE).write_bytes(bytes(len(sample())))
    snapshot = desk.end(desk.begin())
    assert snapshot.status == "failed" and "another file" in snapshot.message
    assert (desk.folder / FILE).read_bytes() == bytes(len(sample()))
    (desk.folder / FILE).write_bytes(sample())
    desk.server.requests.clear()
    assert desk.end(desk.begin()).status == "done"


@pytest.mark.parametrize("path", ["../../evil.gguf", "a\x1b]0;x\x07.gguf", ".hidden.gguf", "x" * 250 + ".gguf"])
def test_hostile_names_write_nothing(desk: Desk, path: str) -> None:
    desk.server.add(NAME, {path: sample()})
    repository = desk.hub.repository(NAME)
    with pytest.raises(ValidationFailed) as caught:
        plan_download(desk.hub, repository, offers(repository)[0], desk.folder)
    assert str(caught.value).isprintable() and not desk.folder.exists()


def test_begun_twice_at_once_it_is_one_download(desk: Desk) -> None:
    desk.server.bytes_per_second = 1 << 22
    request = desk.plan()
    with ThreadPoolExecutor(3) as pool:
        begun = list(pool.map(desk.downloads.begin, [request] * 3))
    assert len(set(begun)) == 1 == len(desk.downloads.ids())
    assert desk.end(begun[0]).status == "done"


def test_a_full_disk_at_the_start_is_one_sentence(desk: Desk) -> None:
    download = desk.begin()
    desk.end(download)
    folder = desk.downloads.folder(download)
    folder.journal.unlink()
    folder.journal.symlink_to("/dev/full")
    with pytest.raises(ResumeFailed, match=r"cannot be written: No space left on device; make room"):
        desk.downloads.resume(download)
    assert "Traceback" not in folder.log.read_text()
    folder.journal.unlink()


def test_a_damaged_request_is_said_so(desk: Desk) -> None:
    desk.server.bytes_per_second = 2_000_000
    download = desk.begin()
    desk.downloads.pause(download)
    request = desk.downloads.folder(download).request_path
    good = request.read_bytes()
    for bad in (b"", b"{}", good.replace(FILE.encode(), b"../x.gguf")):
        request.write_bytes(bad)
        with pytest.raises((ResumeFailed, ValidationFailed)):
            desk.downloads.snapshot(download)
        assert desk.downloads.list() == []
    request.write_bytes(good)
