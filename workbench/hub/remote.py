"""Headers of models on the Hub, read by ranges: the same `Model` as of a file here, before anything is downloaded."""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath

from ..errors import ModelNotFound, ValidationFailed
from ..model import Model, read_model
from ..model.gguf import GgufFile, NoSuchFile, parse_gguf, read_gguf_model
from ..model.wording import shown
from .client import Hub, HubError, RemoteFile, Repository
from .files import Offer, find_offer, header_offer, offer_of_level, offers, only_pickled
from .names import Reference, local_name

LARGEST_HEADER = 100 << 20
"""Bytes of a safetensors header; the format's own limit."""

_FIRST_PIECE = 1 << 20


def read_remote(hub: Hub, reference: Reference) -> Model:
    """The model that `reference` names; for a whole repository, its 16-bit model, or the largest file if there is none.

    `Model.path` is the name on the Hub, and there are no weights to open.

    Raises:
        ModelNotFound: no such repository or file, or none that is a model.
        AuthenticationNeeded, HubError: as `Hub`.
        ValidationFailed: the file is damaged, or not what it says.
    """
    repository = hub.repository(reference.repository, reference.revision)
    return read_offer(hub, repository, choose(repository, reference))


def choose(repository: Repository, reference: Reference) -> Offer:
    """The offer that a reference means; ModelNotFound in words if there is none."""
    if reference.file:
        repository.file(reference.file)
        offer = find_offer(repository, reference.file)
        if offer is None:
            raise ModelNotFound(f"{shown(reference.file)} in {repository.id} is neither a GGUF file nor a checkpoint.")
        return offer
    if reference.level:
        return offer_of_level(repository, reference.level)
    offer = header_offer(offers(repository))
    if offer is not None:
        return offer
    if only_pickled(repository):
        raise ModelNotFound(
            f"{repository.id} holds pickled weights alone, which may run any code and are never opened; look for a "
            "repository with safetensors or GGUF files."
        )
    raise ModelNotFound(f"{repository.id} holds no GGUF file and no safetensors checkpoint.")


def read_offer(hub: Hub, repository: Repository, offer: Offer) -> Model:
    """The header of one offer; ValidationFailed for one that is incomplete or no model."""
    if offer.kind == "checkpoint":
        return _checkpoint(hub, repository, offer)
    known = {Path(repository.id, file.path): file for file in repository.files}
    return read_gguf_model(Path(repository.id, offer.path), partial(_gguf_file, hub, repository, known))


def _gguf_file(hub: Hub, repository: Repository, known: Mapping[Path, RemoteFile], path: Path) -> GgufFile:
    file = known.get(path)
    if file is None:
        raise NoSuchFile(f"There is no file {shown(path)} on the Hub.")
    reference = Reference(repository.id, file.path, repository.commit)

    def read(count: int, position: int) -> bytes:
        return hub.read(reference, position, min(count, file.n_bytes - position))

    return parse_gguf(path, file.n_bytes, read)


def _checkpoint(hub: Hub, repository: Repository, offer: Offer) -> Model:
    """The checkpoint's reader works on a folder, so it gets one: small files whole, weights as headers and holes."""
    try:
        with tempfile.TemporaryDirectory(prefix="quantdeck-hub-") as name:
            folder = Path(name) / repository.id.split("/")[1]
            folder.mkdir()
            for file in offer.parts:
                _lay_down(hub, repository, file, folder)
            model = read_model(folder)
            for value in model.metadata.values():
                value.python  # noqa: B018 - decoded values do not come from the folder any more
    except OSError as error:
        raise HubError(
            f"The headers of {repository.id} cannot be laid out in {tempfile.gettempdir()}: {error.strerror}."
        ) from None
    shards = tuple(Path(repository.id, PurePosixPath(file.path)) for file in offer.parts)
    return replace(model, path=Path(repository.id), files=shards)


def _lay_down(hub: Hub, repository: Repository, file: RemoteFile, folder: Path) -> None:
    reference = Reference(repository.id, file.path, repository.commit)
    target = folder / local_name(file.path)
    if file.path.endswith(".safetensors"):
        target.write_bytes(_safetensors_header(hub, reference, file))
        os.truncate(target, file.n_bytes)
    else:
        target.write_bytes(hub.small_file(reference, file.n_bytes))


def _safetensors_header(hub: Hub, reference: Reference, file: RemoteFile) -> bytes:
    start = hub.read(reference, 0, min(_FIRST_PIECE, file.n_bytes))
    if len(start) < 8:
        raise ValidationFailed(f"{shown(str(reference))} is no safetensors file: it is too short.")
    whole = 8 + int(struct.unpack_from("<Q", start)[0])
    if whole > min(LARGEST_HEADER, file.n_bytes):
        raise ValidationFailed(f"{shown(str(reference))} is no safetensors file: its header is longer than it may be.")
    rest = hub.read(reference, len(start), whole - len(start)) if whole > len(start) else b""
    return start[:whole] + rest
