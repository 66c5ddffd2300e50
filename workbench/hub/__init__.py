"""The Hugging Face Hub: search, what a repository offers, headers before anything is downloaded, and downloads.

hub = Hub(); repository = hub.repository("owner/name")      one repository at one commit
rows = fitted(offers(repository), model, machine, setup)     its files decoded, with the memory they need here
model = read_remote(hub, parse_reference("owner/name"))      a header by ranges
Downloads(folder).begin(...)                                 a download that survives this program
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazy

if TYPE_CHECKING:
    from .client import Found, Hub, HubError, Offline, Patience, RemoteFile, Repository, Sort, Unreachable
    from .download_state import DownloadRequest, DownloadSnapshot, DownloadWatch
    from .downloads import Downloads, plan_download
    from .files import Fitted, Offer, best, find_offer, fitted, header_offer, offer_of_level, offers, only_pickled
    from .names import Reference, parse_reference
    from .provider import Provider, providers
    from .ready_made import Origin, Pick, ReadyMade, look_for, origin, picks
    from .remote import choose, read_offer, read_remote
    from .shopping import Shop, shop
    from .uploading import Uploaded, check_upload, upload

# huggingface_hub takes its time, and most starts never ask it.
__getattr__ = lazy(
    __name__,
    {
        "client": "Found Hub HubError Offline Patience RemoteFile Repository Sort Unreachable",
        "download_state": "DownloadRequest DownloadSnapshot DownloadWatch",
        "downloads": "Downloads plan_download",
        "files": "Fitted Offer best find_offer fitted header_offer offer_of_level offers only_pickled",
        "names": "Reference parse_reference",
        "provider": "Provider providers",
        "ready_made": "Origin Pick ReadyMade look_for origin picks",
        "remote": "choose read_offer read_remote",
        "shopping": "Shop shop",
        "uploading": "Uploaded check_upload upload",
    },
)

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
    "offer_of_level",
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
