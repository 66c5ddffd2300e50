"""What lies on this machine: our own models, the Hub's cache, Ollama's and LM Studio's folders, chosen ones.

Only names, sizes and small text files are read; hashes are known from where a program keeps them (blob names, our
register) or computed when somebody asks for duplicates.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from .advice.decode_name import decode_name
from .errors import QuantdeckError
from .files import sha256
from .library import Entry
from .text import printable

PlaceKind = Literal["own", "hub", "ollama", "lmstudio", "folder"]
PLACE_NAMES: Mapping[PlaceKind, str] = {
    "own": "here",
    "hub": "Hub cache",
    "ollama": "Ollama",
    "lmstudio": "LM Studio",
    "folder": "folder",
}

MOST_FILES = 50_000
DEEPEST = 8
_LARGEST_TEXT = 1 << 20
_SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.(?:gguf|safetensors)", re.IGNORECASE)
_NAMED = 3
"""So many missing things are named; the rest are counted."""

_DIGEST = re.compile(r"sha256[:-]([0-9a-f]{64})")
_OLLAMA_MODEL = "application/vnd.ollama.image.model"
_OLLAMA_REGISTRY = "registry.ollama.ai"


@dataclass(frozen=True)
class Place:
    """A folder that programs keep models in."""

    kind: PlaceKind
    folder: Path


@dataclass(frozen=True)
class Shelved:
    """A model on this machine: a GGUF with all of its shards, or a checkpoint.

    `kind` is "model", "checkpoint" or "projector". `hashes` are the SHA-256 of `files` where they are known without
    reading them, else empty. `links` are the names under which another program finds the files: symbolic links,
    a manifest. `path` is what is opened. `problem` says in a few words why it is not whole, "" if nothing is known to
    be missing; `files` are those that are there.
    """

    place: PlaceKind
    name: str
    kind: str
    level: str
    files: tuple[Path, ...]
    n_bytes: int
    changed_at: float
    hashes: tuple[str, ...] = ()
    links: tuple[Path, ...] = ()
    entry: Entry | None = field(default=None, compare=False)
    problem: str = ""

    @property
    def path(self) -> Path:
        """The (first) file of a model, the folder of a checkpoint; without files a name that leads to them."""
        first = self.links[0] if self.links and (self.place == "hub" or not self.files) else self.files[0]
        return first.parent if self.kind == "checkpoint" else first

    @property
    def is_source(self) -> bool:
        """True for what the wizard begins with: 16 bits or more."""
        return self.kind == "checkpoint" or self.level in ("F16", "BF16", "F32")


@dataclass(frozen=True)
class Shelf:
    """Everything that was found, the latest first; a sentence for each place that cannot be read."""

    items: tuple[Shelved, ...]
    problems: tuple[str, ...]


def usual_places(
    environ: Mapping[str, str], home: Path, own: Iterable[Path], chosen: Iterable[str]
) -> tuple[Place, ...]:
    """Where models are kept: our own folders, those of other programs as their variables say, and chosen ones."""
    cache = Path(environ.get("XDG_CACHE_HOME") or home / ".cache")
    hub_home = Path(environ.get("HF_HOME") or cache / "huggingface").expanduser()
    hub = environ.get("HF_HUB_CACHE") or environ.get("HUGGINGFACE_HUB_CACHE")
    studio = [home / ".lmstudio" / "models", home / ".cache" / "lm-studio" / "models"]
    return (
        *(Place("own", folder) for folder in own),
        Place("hub", Path(hub).expanduser() if hub else hub_home / "hub"),
        Place("ollama", Path(environ.get("OLLAMA_MODELS") or home / ".ollama" / "models").expanduser()),
        *(Place("lmstudio", folder) for folder in studio),
        *(Place("folder", Path(folder).expanduser()) for folder in chosen),
    )


def look(places: Sequence[Place], registered: Sequence[Entry] = ()) -> Shelf:
    """Everything in `places`, and what is registered wherever it lies; a file that is found twice counts once."""
    known = {os.path.realpath(entry.path): entry for entry in registered if not entry.missing}
    items: list[Shelved] = []
    problems: list[str] = []
    for place in places:
        try:
            found = _READERS.get(place.kind, _folder)(place)
            items += found
        except OSError as error:
            problems.append(f"{printable(str(place.folder))} cannot be read: {error.strerror}.")
    for entry in known.values():
        with contextlib.suppress(OSError):
            items += _gguf_items("own", [_File.of(Path(os.path.realpath(file.path))) for file in entry.all_files])
    return Shelf(tuple(_ordered(_once(items), known)), tuple(problems))


@dataclass(frozen=True)
class _File:
    """A file with what one `stat` says of it; `link` is the name under which it was found, if that is another.

    One that is not `there` is a link to nothing.
    """

    path: Path
    n_bytes: int
    changed_at: float
    link: Path | None = None
    there: bool = True

    @classmethod
    def of(cls, path: Path, link: Path | None = None) -> _File:
        """OSError if it is not there or no regular file."""
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise OSError(None, "it is no file")
        return cls(path, status.st_size, status.st_mtime, link)

    @classmethod
    def linked(cls, link: Path) -> _File:
        """What a link leads to, or nothing; OSError if the link itself cannot be read, or leads to no regular file."""
        target = Path(os.path.realpath(link))
        try:
            return cls.of(target, link)
        except FileNotFoundError:
            return cls(target, 0, link.lstat().st_mtime, link, there=False)

    @property
    def name(self) -> Path:
        """The name that says what it is."""
        return self.link or self.path


def _once(items: Iterable[Shelved]) -> Iterator[Shelved]:
    seen: set[str] = set()
    for item in items:
        real = os.path.realpath(item.files[0] if item.files else item.path)
        if real not in seen:
            seen.add(real)
            yield item


def _ordered(items: Iterable[Shelved], known: Mapping[str, Entry]) -> list[Shelved]:
    listed = []
    for item in items:
        entry = known.get(os.path.realpath(item.files[0])) if item.files else None
        if entry and not entry.changed:
            listed_hashes = tuple(file.sha256 for file in entry.all_files)
            hashes = listed_hashes if len(listed_hashes) == len(item.files) else item.hashes
            listed.append(replace(item, entry=entry, hashes=hashes, level=entry.level))
        else:
            listed.append(item)
    return sorted(listed, key=lambda item: (-item.changed_at, item.name))


# -- folders of files --------------------------------------------------------------------------------------------------


def _walk(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Files and links below a folder, hidden ones left out; no linked folder is entered."""
    waiting, count = [(str(folder), 0)], 0
    while waiting:
        place, depth = waiting.pop()
        try:
            entries = os.scandir(place)
        except FileNotFoundError:
            continue
        except OSError:
            if depth == 0:
                raise
            continue
        with entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    if depth < DEEPEST:
                        waiting.append((entry.path, depth + 1))
                    continue
                count += 1
                if count > MOST_FILES:
                    return
                yield entry


def _folder(place: Place) -> list[Shelved]:
    ggufs: list[_File] = []
    checkpoints: dict[Path, list[_File]] = {}
    for entry in _walk(place.folder):
        lower = entry.name.lower()
        with contextlib.suppress(OSError):
            if lower.endswith(".gguf"):
                ggufs.append(_File.of(Path(entry.path)))
            elif lower.endswith(".safetensors"):
                checkpoints.setdefault(Path(entry.path).parent, []).append(_File.of(Path(entry.path)))
    return [*_gguf_items(place.kind, ggufs), *_checkpoint_items(place.kind, checkpoints)]


def _gguf_items(kind: PlaceKind, files: Sequence[_File]) -> list[Shelved]:
    """Shards of one model are one item, its first shard first."""
    groups: dict[tuple[str, str], list[_File]] = {}
    for file in files:
        match = _SHARD.fullmatch(str(file.name))
        key = (match[1], match[3]) if match else (str(file.name), "")
        groups.setdefault(key, []).append(file)
    items = []
    for group in groups.values():
        group.sort(key=lambda file: str(file.name))
        items.append(_item(kind, group[0].name.name, group, ""))
    return items


def _checkpoint_items(kind: PlaceKind, folders: Mapping[Path, Sequence[_File]]) -> list[Shelved]:
    items = []
    for folder, files in folders.items():
        config = folder / "config.json"
        if os.path.lexists(config):
            item = _item(kind, folder.name, sorted(files, key=lambda file: str(file.name)), "checkpoint")
            items.append(item if config.exists() else replace(item, problem="its config.json is a link to nothing"))
    return items


def _lacking(files: Sequence[_File]) -> str:
    """What is missing of the files of one model, in a few words."""
    dead = [file.name.name for file in files if not file.there]
    if dead:
        return f"{_listed(dead)} {'is a link' if len(dead) == 1 else 'are links'} to nothing"
    shards = [match for file in files if (match := _SHARD.fullmatch(file.name.name))]
    counts = {int(match[3]) for match in shards}
    present = {int(match[2]) for match in shards}
    if len(counts) != 1:
        return ""
    count = counts.pop()
    absent = [str(number) for number in range(1, min(count, MOST_FILES) + 1) if number not in present]
    return f"shard{'s' if len(absent) > 1 else ''} {_listed(absent)} of {count} missing" if absent else ""


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NAMED])
    return shown if len(names) <= _NAMED else f"{shown} and {len(names) - _NAMED} more"


def _item(kind: PlaceKind, name: str, files: Sequence[_File], as_kind: str, level: str = "") -> Shelved:
    """An item of at least one file, there or not."""
    decoded = decode_name(name)
    there = [file for file in files if file.there]
    digests = [_DIGEST.fullmatch(file.path.name) for file in there]
    hashes = [match[1] if match else file.path.name for match, file in zip(digests, there, strict=True)]
    sound = len(there) == len(files) and all(re.fullmatch(r"[0-9a-f]{64}", digest) for digest in hashes)
    return Shelved(
        place=kind,
        name=name,
        kind=as_kind or ("projector" if decoded.projector else "model"),
        level=level or ("" if as_kind == "checkpoint" else decoded.level),
        files=tuple(file.path for file in there),
        n_bytes=sum(file.n_bytes for file in there),
        changed_at=max(file.changed_at for file in files),
        hashes=tuple(hashes) if sound else (),
        links=tuple(file.link for file in files if file.link),
        problem=_lacking(files),
    )


# -- the Hub's cache: models--OWNER--NAME/snapshots/COMMIT/path -> ../../blobs/HASH ------------------------------------


def _hub(place: Place) -> list[Shelved]:
    items: list[Shelved] = []
    try:
        repositories = [entry for entry in os.scandir(place.folder) if entry.name.startswith("models--")]
    except FileNotFoundError:
        return []
    for repository in repositories:
        name = repository.name.removeprefix("models--").replace("--", "/")
        snapshots = Path(repository.path, "snapshots")
        with contextlib.suppress(OSError):
            for commit in snapshots.iterdir():
                items += _snapshot(name, commit)
    return items


def _snapshot(repository: str, commit: Path) -> list[Shelved]:
    ggufs: list[_File] = []
    checkpoints: dict[Path, list[_File]] = {}
    for entry in _walk(commit):
        lower, link = entry.name.lower(), Path(entry.path)
        if not lower.endswith((".gguf", ".safetensors")):
            continue
        with contextlib.suppress(OSError):
            file = _File.linked(link)
            if lower.endswith(".gguf"):
                ggufs.append(file)
            else:
                checkpoints.setdefault(link.parent, []).append(file)
    found = [*_gguf_items("hub", ggufs), *_checkpoint_items("hub", checkpoints)]
    return [replace(item, name=repository) if item.kind == "checkpoint" else item for item in found]


# -- Ollama: manifests/REGISTRY/NAMESPACE/NAME/TAG names blobs/sha256-HASH ---------------------------------------------


def _ollama(place: Place) -> list[Shelved]:
    items = []
    for manifest in _manifests(place.folder):
        layers = _layers(manifest)
        with contextlib.suppress(OSError):
            files = [_blob(place, digest, manifest) for media, digest in layers if media == _OLLAMA_MODEL]
            if files:
                item = _item("ollama", _ollama_name(place.folder, manifest), files, "", _ollama_level(place, manifest))
                absent = sum(not _blob_path(place, digest).is_file() for _, digest in layers)
                problem = f"{absent} of its {len(layers)} blobs missing" if absent else ""
                items.append(replace(item, links=(manifest,), problem=problem))
    return items


def _blob_path(place: Place, digest: str) -> Path:
    return place.folder / "blobs" / f"sha256-{digest}"


def _blob(place: Place, digest: str, manifest: Path) -> _File:
    path = _blob_path(place, digest)
    try:
        return _File.of(path)
    except FileNotFoundError:
        return _File(path, 0, manifest.stat().st_mtime, there=False)


def _manifests(folder: Path) -> list[Path]:
    return [Path(entry.path) for entry in _walk(folder / "manifests")]


def _layers(manifest: Path) -> list[tuple[str, str]]:
    """(media type, digest) of everything that a manifest names, its configuration included."""
    content = _json(manifest)
    listed = content.get("layers")
    layers = [*(listed if isinstance(listed, list) else []), content.get("config")]
    found = []
    for layer in layers:
        match = _DIGEST.fullmatch(str(layer.get("digest", ""))) if isinstance(layer, dict) else None
        if match and isinstance(layer, dict):
            found.append((str(layer.get("mediaType", "")), match[1]))
    return found


def _ollama_name(folder: Path, manifest: Path) -> str:
    registry, *middle, name, tag = ("", "", *manifest.relative_to(folder / "manifests").parts)[-4:]
    parts = [part for part in (registry, *middle) if part not in ("", _OLLAMA_REGISTRY, "library")]
    return f"{'/'.join([*parts, name])}:{tag}"


def _ollama_level(place: Place, manifest: Path) -> str:
    """The level as Ollama's own configuration of the model says it."""
    content = _json(manifest).get("config")
    match = _DIGEST.fullmatch(str(content.get("digest", ""))) if isinstance(content, dict) else None
    config = _json(_blob_path(place, match[1])) if match else {}
    return decode_name(str(config.get("file_type", ""))[:32]).level


def _json(path: Path) -> dict[str, Any]:
    """A small JSON object; empty for anything else."""
    try:
        if path.stat().st_size > _LARGEST_TEXT:
            return {}
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


_READERS: Mapping[PlaceKind, Callable[[Place], list[Shelved]]] = {"hub": _hub, "ollama": _ollama}


# -- duplicates and deleting -------------------------------------------------------------------------------------------


def duplicates(items: Sequence[Shelved], hash_file: Callable[[Path], str] = sha256) -> tuple[tuple[Shelved, ...], ...]:
    """Groups of items with the same bytes. Only files of equal size are hashed, and only where no hash is known."""
    by_size: dict[tuple[int, int], list[Shelved]] = {}
    for item in items:
        by_size.setdefault((item.n_bytes, len(item.files)), []).append(item)
    groups: dict[tuple[str, ...], list[Shelved]] = {}
    for same in by_size.values():
        for item in same if len(same) > 1 else []:
            with contextlib.suppress(OSError):
                groups.setdefault(item.hashes or tuple(map(hash_file, item.files)), []).append(item)
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)


def delete(item: Shelved, places: Sequence[Place]) -> None:
    """Delete a model with the names that lead to it; what another model of the same program still uses stays.

    So does a file that a link in one of `places` leads to from outside of all of them: there only the link goes.

    QuantdeckError if the system does not let it.
    """
    try:
        for link in item.links:
            link.unlink(missing_ok=True)
        for file in item.files:
            if not _still_used(file, item, places) and (not item.links or _is_inside(file, places)):
                file.unlink(missing_ok=True)
    except OSError as error:
        raise QuantdeckError(f"{printable(item.name)} cannot be deleted: {error.strerror}.") from None


def _is_inside(file: Path, places: Sequence[Place]) -> bool:
    real = Path(os.path.realpath(file))
    return any(real.is_relative_to(os.path.realpath(place.folder)) for place in places)


def _still_used(file: Path, item: Shelved, places: Sequence[Place]) -> bool:
    if item.place == "ollama":
        digest = file.name.removeprefix("sha256-")
        folders = [place.folder for place in places if place.kind == "ollama"]
        return any(digest == used for f in folders for manifest in _manifests(f) for _, used in _layers(manifest))
    if item.place == "hub" and item.links:
        repository = next((p for p in item.links[0].parents if p.name.startswith("models--")), None)
        if repository:
            return any(os.path.realpath(entry.path) == str(file) for entry in _walk(repository / "snapshots"))
    return False
