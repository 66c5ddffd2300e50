"""The Hugging Face Hub: search, what a repository offers, headers before anything is downloaded, and downloads.

hub = Hub(); repository = hub.repository("owner/name")      one repository at one commit
rows = fitted(offers(repository), model, machine, setup)     its files decoded, with the memory they need here
model = read_remote(hub, parse_reference("owner/name"))      a header by ranges
Downloads(folder).begin(...)                                 a download that survives this program
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .client import Found, Hub, HubError, Offline, Patience, RemoteFile, Repository, Sort, Unreachable
    from .download_state import DownloadRequest, DownloadSnapshot, DownloadWatch
    from .downloads import Downloads, plan_download
    from .files import Fitted, Offer, best, find_offer, fitted, header_offer, offers, only_pickled
    from .names import Reference, parse_reference
    from .provider import Provider, providers
    from .ready_made import Origin, Pick, ReadyMade, look_for, origin, picks
    from .remote import choose, read_offer, read_remote
    from .shopping import Shop, shop
    from .uploading import Uploaded, check_upload, upload

_HOMES = {
    "DownloadRequest": "download_state",
    "DownloadSnapshot": "download_state",
    "DownloadWatch": "download_state",
    "Downloads": "downloads",
    "Fitted": "files",
    "Found": "client",
    "Hub": "client",
    "HubError": "client",
    "Offer": "files",
    "Offline": "client",
    "Origin": "ready_made",
    "Patience": "client",
    "Pick": "ready_made",
    "Provider": "provider",
    "ReadyMade": "ready_made",
    "Reference": "names",
    "RemoteFile": "client",
    "Repository": "client",
    "Shop": "shopping",
    "Sort": "client",
    "Unreachable": "client",
    "Uploaded": "uploading",
    "best": "files",
    "check_upload": "uploading",
    "choose": "remote",
    "find_offer": "files",
    "fitted": "files",
    "header_offer": "files",
    "look_for": "ready_made",
    "offers": "files",
    "only_pickled": "files",
    "origin": "ready_made",
    "parse_reference": "names",
    "picks": "ready_made",
    "plan_download": "downloads",
    "providers": "provider",
    "read_offer": "remote",
    "read_remote": "remote",
    "shop": "shopping",
    "upload": "uploading",
}


def __getattr__(name: str) -> Any:
    """Names are imported when they are first used: huggingface_hub takes its time, and most starts never ask it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


__all__ = [
    "DownloadRequest",
    "DownloadSnapshot",
    "DownloadWatch",
    "Downloads",
    "Fitted",
    "Found",
    "Hub",
    "HubError",
    "Offer",
    "Offline",
    "Origin",
    "Patience",
    "Pick",
    "Provider",
    "ReadyMade",
    "Reference",
    "RemoteFile",
    "Repository",
    "Shop",
    "Sort",
    "Unreachable",
    "Uploaded",
    "best",
    "check_upload",
    "choose",
    "find_offer",
    "fitted",
    "header_offer",
    "look_for",
    "offers",
    "only_pickled",
    "origin",
    "parse_reference",
    "picks",
    "plan_download",
    "providers",
    "read_offer",
    "read_remote",
    "shop",
    "upload",
]
