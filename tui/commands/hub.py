"""`quantdeck hub`: find models on the Hub, see what fits, and download it."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from ...workbench.errors import BadArgument, ModelNotFound, QuantdeckError
from ...workbench.hub import (
    Downloads,
    Fitted,
    Hub,
    Offer,
    Reference,
    Shop,
    choose,
    find_offer,
    offer_of_level,
    parse_reference,
    plan_download,
)
from ...workbench.session import Session, open_session
from ...workbench.text import printable, size
from ..hub_words import (
    FOUND_COLUMNS,
    FOUND_COLUMNS_RIGHT,
    OFFER_COLUMNS,
    OFFER_COLUMNS_RIGHT,
    download_words,
    found_cells,
    offer_cells,
    shop_headline,
)
from ..terminal import Terminal


def run_search(arguments: argparse.Namespace) -> int:
    """Repositories by words, author and order."""
    terminal = Terminal(arguments.json)
    found = Hub().search(
        " ".join(arguments.words), arguments.sort, arguments.author or "", arguments.tag, arguments.limit
    )
    if found:
        terminal.table(FOUND_COLUMNS, [found_cells(each) for each in found], FOUND_COLUMNS_RIGHT)
    else:
        terminal.say("Nothing was found; try fewer words, or --tag '' for models in other formats than GGUF.")
    terminal.document({"repositories": [vars(each) for each in found]})
    return 0


def run_files(arguments: argparse.Namespace) -> int:
    """What a repository offers, and what of it fits here."""
    terminal = Terminal(arguments.json)
    session, hub = open_session(os.environ), Hub()
    reference = _reference(arguments.repository)
    shop = session.shop(hub, hub.repository(reference.repository, reference.revision), arguments.context)
    say_shop(shop, terminal)
    terminal.document(shop_document(shop))
    return 0


def run_download(arguments: argparse.Namespace) -> int:
    """Download a file, all of its shards, or a checkpoint; Ctrl+C leaves it running."""
    terminal = Terminal(arguments.json)
    session, hub = open_session(os.environ), Hub()
    reference = _reference(arguments.model)
    repository = hub.repository(reference.repository, reference.revision)
    offer = _wanted(session, hub, arguments, reference)
    folder = Path(arguments.output) if arguments.output else session.download_folder(repository.id)
    request = plan_download(hub, repository, offer, folder)
    terminal.facts(
        {
            "From": f"{repository.id} at {repository.commit[:12]}",
            "What": f"{len(request.files)} file{'s' if len(request.files) > 1 else ''}, {size(request.n_bytes)}",
            "To": str(request.result),
        }
    )
    download = session.downloads.begin(request)
    if arguments.detach:
        terminal.say(f"Download {download} has begun; quantdeck hub downloads shows it.")
        terminal.document(session.downloads.snapshot(download).as_dict())
        return 0
    return _follow(session.downloads, download, terminal)


def run_downloads(arguments: argparse.Namespace) -> int:
    """The list of downloads, or one action on one of them."""
    terminal = Terminal(arguments.json)
    downloads = open_session(os.environ).downloads
    if arguments.action == "list":
        listed = downloads.list()
        for each in listed:
            terminal.say(f"  {each.id}  {each.request.repository}  {download_words(each)}")
        if not listed:
            terminal.say("There are no downloads yet; quantdeck hub download OWNER/NAME makes one.")
        terminal.document({"downloads": [each.as_dict() for each in listed]})
        return 0
    if arguments.id is None:
        raise BadArgument(f"Which download? quantdeck hub downloads {arguments.action} ID; without ID it lists them.")
    download = downloads.folder(arguments.id).id
    if arguments.action == "watch":
        return _follow(downloads, download, terminal)
    actions = {"resume": downloads.resume, "pause": downloads.pause, "cancel": downloads.cancel}
    if arguments.action == "remove":
        downloads.remove(download)
        terminal.say(f"Download {download} is removed from the list; its files stay.")
        terminal.document({"download": download, "status": "removed"})
        return 0
    actions[arguments.action](download)
    snapshot = downloads.snapshot(download)
    terminal.say(f"{download}  {download_words(snapshot)}")
    terminal.document(snapshot.as_dict())
    return 0


def _reference(name: str) -> Reference:
    reference = parse_reference(name)
    if reference is None:
        raise BadArgument(
            f"{printable(name)} is not the name of a repository on the Hub: OWNER/NAME, OWNER/NAME/FILE or "
            "OWNER/NAME:LEVEL."
        )
    return reference


def _wanted(session: Session, hub: Hub, arguments: argparse.Namespace, reference: Reference) -> Offer:
    """The file that was named, the one of the wanted level, or the ready-made one that fits best."""
    repository = hub.repository(reference.repository, reference.revision)
    if reference.file:
        repository.file(reference.file)
        offer = find_offer(repository, reference.file)
        if offer is None:
            raise ModelNotFound(f"{printable(reference.file)} is neither a GGUF file, an imatrix, nor a checkpoint.")
        return offer
    if level := reference.level or arguments.level:
        return offer_of_level(repository, level)
    shop = session.shop(hub, repository)
    if shop.best:
        return shop.best.offer
    offer = choose(repository, reference)
    if offer.kind == "checkpoint":
        return offer
    raise QuantdeckError(f"No ready-made file of {repository.id} fits here; name one: {repository.id}/FILE.")


def _follow(downloads: Downloads, download: str, terminal: Terminal) -> int:
    snapshot = downloads.snapshot(download)
    try:
        for snapshot in downloads.follow(download):
            terminal.progress(download_words(snapshot))
    except KeyboardInterrupt:
        terminal.warn(f"the download goes on; quantdeck hub downloads cancel {download} ends it")
        raise
    terminal.document(snapshot.as_dict())
    if snapshot.status == "done":
        terminal.say(f"Done: {snapshot.request.result}, {size(snapshot.request.n_bytes)}, hash checked.")
        return 0
    again = "" if snapshot.status == "cancelled" else f"; quantdeck hub downloads resume {download} goes on"
    terminal.warn(f"the download is {snapshot.status}: {snapshot.message.rstrip('.')}{again}")
    return snapshot.exit_code or QuantdeckError.exit_code


def say_shop(shop: Shop, terminal: Terminal) -> None:
    """A repository in words."""
    about = shop.repository.about
    terminal.heading(shop_headline(shop))
    licence = shop.repository.license or "not given"
    gated = "; gated: its conditions must be accepted on the Hub" if about.gated else ""
    terminal.say(f"  {about.id}, licence {licence}{gated}")
    if shop.note:
        terminal.say(f"  {shop.note}")
    terminal.say()
    terminal.table(OFFER_COLUMNS, [offer_cells(row, shop.best) for row in shop.rows], OFFER_COLUMNS_RIGHT)


def shop_document(shop: Shop) -> dict[str, Any]:
    """The JSON document of `quantdeck hub files`."""
    repository = shop.repository
    return {
        "repository": repository.id,
        "commit": repository.commit,
        "license": repository.license,
        "base_models": list(repository.base_models),
        "gated": repository.about.gated,
        "context": shop.setup.context,
        "recommended": shop.best.offer.path if shop.best else None,
        "note": shop.note,
        "files": [offer_document(row) for row in shop.rows],
    }


def offer_document(row: Fitted) -> dict[str, Any]:
    """One thing to download, as JSON."""
    offer, memory = row.offer, row.memory
    return {
        "path": offer.path,
        "kind": offer.kind,
        "level": offer.level or None,
        "words": list(offer.decoded.words),
        "bytes": offer.n_bytes,
        "parts": [{"path": p.path, "bytes": p.n_bytes, "sha256": p.sha256 or None} for p in offer.parts],
        "missing_shards": offer.missing,
        "memory": {
            "weights": memory.weights,
            "kv_cache": memory.kv_cache,
            "compute": memory.compute,
            "total": memory.total,
        }
        if memory
        else None,
        "fits": row.fits or None,
        "tokens_per_second": row.tokens_per_second,
    }
