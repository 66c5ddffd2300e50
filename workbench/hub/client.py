"""The Hub over huggingface_hub: search, repositories, and pieces of their files, with failures in words.

Token, endpoint, proxies, time-outs and offline mode are huggingface_hub's own (HF_TOKEN or its login, HF_ENDPOINT,
HF_HUB_OFFLINE ...). Whatever the other side answers is hostile until proven otherwise: sizes are bounded, kinds are
checked, and no text of a failed request is shown, since it may hold a token.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal, TypeVar
from urllib.parse import quote

from huggingface_hub import constants, get_session, get_token, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]
from huggingface_hub.utils import logging as hub_logging

from ..errors import AuthenticationNeeded, BadArgument, ModelNotFound, QuantdeckError, ValidationFailed
from ..model.wording import shown
from ..text import duration
from .names import Reference, is_repository

Sort = Literal["downloads", "likes", "updated"]
SORTS: Mapping[str, str] = {"downloads": "downloads", "likes": "likes", "updated": "lastModified"}

LARGEST_ANSWER = 32 << 20
LONGEST_ANSWER_SECONDS = 60.0
SLOWEST = 1 << 16
"""Bytes a second below which reading a header is given up."""

MOST_FILES = 20_000
_RETRIED = (408, 429, 500, 502, 503, 504)
_SHA256, _SHA1 = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{40}")
_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", re.ASCII)

# huggingface_hub 1 speaks through httpx, 2 through httpx2: the same classes under another name.
_http: Any = import_module(type(get_session()).__module__.partition(".")[0])

Result = TypeVar("Result")


class HubError(QuantdeckError):
    """The Hub cannot be reached, or answers in a way that cannot be used."""


class Unreachable(HubError):
    """It did not work this time, and may work later; `wait` are the seconds that the server asks for."""

    wait: float | None = None


class Offline(HubError):
    """The user wants no network (HF_HUB_OFFLINE)."""


class _Again(Exception):
    """The request may be tried again, at the earliest in `wait` seconds."""

    def __init__(self, failure: QuantdeckError, wait: float | None = None) -> None:
        self.failure, self.wait = failure, wait


@dataclass(frozen=True)
class Patience:
    """How often a request is tried, seconds before the second try (doubling), and the longest wait that is accepted."""

    tries: int = 4
    first_wait: float = 0.5
    longest_wait: float = 30.0


@dataclass(frozen=True)
class Found:
    """One repository in a list. `updated` is ISO 8601, "" if unknown; `gated` repositories want conditions accepted."""

    id: str
    downloads: int
    likes: int
    updated: str
    gated: bool
    private: bool
    tags: tuple[str, ...]


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository: `sha256` if it is stored as a large file, else `git_sha1`, git's hash of a blob."""

    path: str
    n_bytes: int
    sha256: str = ""
    git_sha1: str = ""


@dataclass(frozen=True)
class Repository:
    """A repository at one commit, with all of its files."""

    about: Found
    commit: str
    license: str
    base_models: tuple[str, ...]
    files: tuple[RemoteFile, ...]

    @property
    def id(self) -> str:
        """OWNER/NAME."""
        return self.about.id

    def file(self, path: str) -> RemoteFile:
        """The file at `path`; ModelNotFound if there is none."""
        found = next((file for file in self.files if file.path == path), None)
        if found is None:
            raise ModelNotFound(
                f"There is no file {shown(path)} in {self.id}; quantdeck hub files {self.id} lists them."
            )
        return found


@dataclass(frozen=True)
class Body:
    """The answer to a request for a part of a file: `pieces` begin at byte `start` of `total`."""

    start: int
    total: int
    pieces: Iterator[bytes]


class Hub:
    """The Hub that huggingface_hub is set up for. Safe to use from several threads."""

    def __init__(
        self,
        patience: Patience = Patience(),
        sleep: Callable[[float], None] = time.sleep,
        endpoint: str = constants.ENDPOINT,
    ) -> None:
        # Its warnings would be written across the screen; failures reach the user as sentences.
        hub_logging.set_verbosity(logging.CRITICAL)
        self.patience, self.endpoint, self._sleep = patience, endpoint.rstrip("/"), sleep

    # -- questions ---------------------------------------------------------------------------------------------------

    def search(
        self, words: str = "", sort: Sort = "downloads", author: str = "", tag: str = "", limit: int = 50
    ) -> tuple[Found, ...]:
        """Repositories whose names hold `words`, the first `limit` by `sort`; `tag` is a filter such as "gguf".

        Raises HubError and AuthenticationNeeded, like all methods.
        """
        if sort not in SORTS:
            raise BadArgument(f"Models cannot be sorted by {shown(sort)}; choose one of {', '.join(SORTS)}.")
        wanted = {"search": words.strip(), "author": author.strip(), "filter": tag}
        query = {key: value for key, value in wanted.items() if value}
        query |= {"sort": SORTS[sort], "direction": "-1", "limit": str(limit)}
        answer, _ = self._ask("/api/models", query, "the search")
        items = answer if isinstance(answer, list) else []
        found = (_found(item) for item in items[:limit])
        return tuple(each for each in found if each)

    def repository(self, name: str, revision: str = "") -> Repository:
        """A repository with its files; ModelNotFound if there is none that may be seen."""
        if not is_repository(name):
            raise BadArgument(f"{shown(name)} is not the name of a repository: OWNER/NAME.")
        at = f"/revision/{quote(revision, safe='')}" if revision else ""
        answer, _ = self._ask(f"/api/models/{name}{at}", {}, name)
        about = _found(answer)
        commit = answer.get("sha") if isinstance(answer, dict) else None
        if about is None or not isinstance(commit, str) or not _SHA1.fullmatch(commit):
            raise HubError(f"The Hub's answer about {name} cannot be understood; is HF_ENDPOINT right?")
        card = answer.get("cardData")
        card = card if isinstance(card, dict) else {}
        return Repository(about, commit, _licence(card, about), _base_models(card), self._files(name, commit))

    def _files(self, name: str, commit: str) -> tuple[RemoteFile, ...]:
        files, listed = list[RemoteFile](), 0
        path, query = f"/api/models/{name}/tree/{commit}", {"recursive": "true", "expand": "false"}
        while path:
            page, path = self._ask(path, query, name)
            query = {}
            items = page if isinstance(page, list) else []
            files += [file for item in items if (file := _remote_file(item))]
            listed += len(items)
            if not items:
                break  # what comes after an empty page may never end
            if listed > MOST_FILES:
                raise HubError(f"{name} holds more than {MOST_FILES} files; name one of them: {name}/FILE.")
        return tuple(sorted(files, key=lambda file: file.path))

    # -- files -------------------------------------------------------------------------------------------------------

    @contextmanager
    def open(self, reference: Reference, start: int = 0, end: int | None = None) -> Iterator[Body]:
        """A file from byte `start` to before `end`, as it comes; a server that knows no ranges begins at byte 0.

        Raises Unreachable, also while the pieces are read, when it may work later.
        """
        url = hf_hub_url(reference.repository, reference.file, revision=reference.revision or None)
        url = self.endpoint + url[len(constants.ENDPOINT) :]
        last = "" if end is None else str(end - 1)
        wanted = {"Range": f"bytes={start}-{last}"} if start or end is not None else {}
        response = self._retried(lambda: self._send(url, {}, wanted, str(reference)))
        try:
            first, total = _extent(response, shown(str(reference)))
            yield Body(first, total, self._pieces(response, str(reference)))
        finally:
            response.close()

    def read(self, reference: Reference, start: int, count: int) -> bytes:
        """Up to `count` bytes of a file from `start` on; Unreachable if they do not come after some tries."""

        def once() -> bytes:
            until = time.monotonic() + LONGEST_ANSWER_SECONDS + count / SLOWEST
            try:
                with self.open(reference, start, start + count) as body:
                    if body.start != start:
                        raise HubError(f"The server of {shown(str(reference))} cannot send parts of files.")
                    content = bytearray()
                    for piece in body.pieces:
                        content += piece
                        if len(content) >= count:
                            break
                        if time.monotonic() > until:
                            raise Unreachable(f"{shown(str(reference))} comes too slowly; try again later.")
                    return bytes(content[:count])
            except Unreachable as error:
                raise _Again(error) from None

        return self._retried(once)

    def small_file(self, reference: Reference, n_bytes: int) -> bytes:
        """A whole file of at most `LARGEST_ANSWER` bytes."""
        if n_bytes > LARGEST_ANSWER:
            raise ValidationFailed(f"{shown(str(reference))} is larger than {LARGEST_ANSWER >> 20} MiB.")
        return self.read(reference, 0, n_bytes) if n_bytes else b""

    # -- requests ----------------------------------------------------------------------------------------------------

    def _ask(self, path: str, query: Mapping[str, str], about: str) -> tuple[Any, str]:
        """The JSON at `path`, and the path of the next page, "" if there is none."""

        def once() -> tuple[Any, str]:
            response = self._send(self.endpoint + path, query, {}, about)
            try:
                return json.loads(self._whole(response, about)), self._next_page(response)
            except (ValueError, RecursionError):
                raise HubError(f"{self.endpoint} does not answer as the Hub does; is HF_ENDPOINT right?") from None
            except Unreachable as error:
                raise _Again(error) from None
            finally:
                response.close()

        return self._retried(once)

    def _next_page(self, response: Any) -> str:
        """Only a page of the same server: the token goes along."""
        url = str(response.links.get("next", {}).get("url") or "")
        return url[len(self.endpoint) :] if url.startswith(self.endpoint + "/") else ""

    def _whole(self, response: Any, about: str) -> bytes:
        content, until = bytearray(), time.monotonic() + LONGEST_ANSWER_SECONDS
        for piece in self._pieces(response, about):
            content += piece
            if len(content) > LARGEST_ANSWER or time.monotonic() > until:
                raise HubError("The Hub's answer is too large or too slow.")
        return bytes(content)

    def _pieces(self, response: Any, about: str) -> Iterator[bytes]:
        try:
            yield from response.iter_bytes()
        except (_http.HTTPError, _http.StreamError, OSError):
            raise Unreachable(f"The connection broke while {shown(about)} was read; try again.") from None

    def _send(self, url: str, query: Mapping[str, str], headers: Mapping[str, str], about: str) -> Any:
        """An open answer that says yes; for the caller to close. Raises what `explain` makes of anything else."""
        try:
            client = get_session()
            sent = build_hf_headers(library_name="quantdeck", token=None if usable_token() else False)
            request = client.build_request(
                "GET",
                url,
                params=dict(query) or None,
                # A compressed answer has no length that could be checked.
                headers={**sent, "Accept-Encoding": "identity", **headers},
                timeout=float(constants.HF_HUB_DOWNLOAD_TIMEOUT),
            )
            response = client.send(request, stream=True, follow_redirects=True)
        except OfflineModeIsEnabled:
            raise Offline("HF_HUB_OFFLINE is set, so the Hub is not asked; unset it to go online.") from None
        except (_http.InvalidURL, _http.UnsupportedProtocol, _http.TooManyRedirects):
            raise HubError("The address of the Hub cannot be used; is HF_ENDPOINT (or a proxy) right?") from None
        except (_http.HTTPError, OSError) as error:
            raise _Again(_unreachable(self.endpoint, error)) from None
        try:
            hf_raise_for_status(response)
        except HfHubHTTPError as error:
            failure = explain(error, about)
            wait = _retry_after(response.headers)
            response.close()
            if response.status_code in _RETRIED:
                raise _Again(failure, wait) from None
            raise failure from None
        return response

    def _retried(self, attempt: Callable[[], Result]) -> Result:
        wait = self.patience.first_wait
        for number in range(1, self.patience.tries + 1):
            try:
                return attempt()
            except _Again as again:
                asked = again.wait if again.wait is not None else wait
                if number == self.patience.tries or asked > self.patience.longest_wait:
                    if isinstance(again.failure, Unreachable):
                        again.failure.wait = again.wait
                    raise again.failure from None
            self._sleep(asked)
            wait *= 2
        raise AssertionError("a patience of no tries")


def usable_token() -> bool:
    """True if huggingface_hub has a token; AuthenticationNeeded if it is one that cannot even be sent."""
    if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN:
        return False
    token = get_token()
    if token is not None and not (token.isascii() and token.isprintable() and " " not in token):
        raise AuthenticationNeeded("The token in HF_TOKEN or of the login is damaged; log in again: hf auth login.")
    return token is not None


def explain(error: HfHubHTTPError, about: str) -> QuantdeckError:
    """A refused request in one sentence, without any of its own text."""
    status, what = error.response.status_code, shown(about)
    repository = "/".join(what.split("/")[:2])
    if isinstance(error, GatedRepoError) or (status in (401, 403) and not isinstance(error, RepositoryNotFoundError)):
        return _locked(repository, status)
    if isinstance(error, RepositoryNotFoundError):
        if status == 401 and not usable_token():
            return AuthenticationNeeded(
                f"There is no public repository {repository}: check the name; if it is private, run hf auth login."
            )
        return ModelNotFound(f"There is no repository {repository} on the Hub that you may see; check the name.")
    if isinstance(error, RevisionNotFoundError):
        return ModelNotFound(f"{repository} has no such branch, tag or commit; leave it out for the latest files.")
    if isinstance(error, EntryNotFoundError) or status == 404:
        return ModelNotFound(f"There is no {what} on the Hub; quantdeck hub files {repository} lists what is there.")
    if status == 429:
        wait = _retry_after(error.response.headers)
        when = f"in {duration(wait)}" if wait is not None else "in a few minutes"
        return Unreachable(f"The Hub has had too many requests from here; try again {when}, or log in for more.")
    if status >= 500 or status in _RETRIED:
        return Unreachable(f"The Hub has a problem of its own (status {status}); try again later.")
    return HubError(f"The Hub refuses the request for {what} (status {status}).")


def _locked(repository: str, status: int) -> QuantdeckError:
    page = f"https://huggingface.co/{repository}"
    if not usable_token():
        return AuthenticationNeeded(
            f"{repository} needs a token: accept its conditions at {page}, then run hf auth login or set HF_TOKEN."
        )
    if status == 401:
        return AuthenticationNeeded("Your token is not valid (any more); log in again: hf auth login.")
    return AuthenticationNeeded(
        f"Your token may not read {repository}: accept its conditions at {page}, or use a token with read access."
    )


def _unreachable(endpoint: str, error: Exception) -> Unreachable:
    slow = isinstance(error, _http.TimeoutException)
    why = "does not answer in time" if slow else "cannot be reached"
    return Unreachable(f"{shown(endpoint)} {why}; check the network, a proxy (HTTPS_PROXY) and HF_ENDPOINT.")


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server asks to wait (RFC 9110 Retry-After in seconds, or the Hub's ratelimit header)."""
    asked = str(headers.get("retry-after", "")).strip()
    if asked.isdecimal() and len(asked) < 8:
        return float(asked)
    limit = re.search(r";\s*r\s*=\s*0\s*;\s*t\s*=\s*(\d{1,7})", str(headers.get("ratelimit", "")))
    return float(limit[1]) if limit else None


def _extent(response: Any, about: str) -> tuple[int, int]:
    """Where an answer begins in its file, and how large the file is."""
    if response.status_code == 206:
        match = _RANGE.fullmatch(str(response.headers.get("content-range", "")))
        if match:
            return int(match[1]), int(match[3])
        raise HubError(f"The server's answer for {about} does not say which part of the file it is.")
    length = str(response.headers.get("content-length", ""))
    return 0, int(length) if length.isdecimal() else -1


def _found(item: Any) -> Found | None:
    if not isinstance(item, dict) or not isinstance(item.get("id"), str) or not is_repository(item["id"]):
        return None
    updated, tags = item.get("lastModified"), item.get("tags")
    return Found(
        id=item["id"],
        downloads=_count(item.get("downloads")),
        likes=_count(item.get("likes")),
        updated=updated[:32] if isinstance(updated, str) else "",
        gated=bool(item.get("gated")),
        private=item.get("private") is True,
        tags=tuple(_strings(tags)),
    )


def _remote_file(item: Any) -> RemoteFile | None:
    if not isinstance(item, dict) or item.get("type") != "file" or not isinstance(item.get("path"), str):
        return None
    try:
        item["path"].encode()
    except UnicodeEncodeError:
        return None  # no address names it
    lfs, oid = item.get("lfs"), item.get("oid")
    large = lfs if isinstance(lfs, dict) else {}
    sha256 = large.get("oid") or large.get("sha256")
    return RemoteFile(
        path=item["path"],
        n_bytes=_count(large.get("size", item.get("size"))),
        sha256=sha256 if isinstance(sha256, str) and _SHA256.fullmatch(sha256) else "",
        git_sha1=oid if isinstance(oid, str) and _SHA1.fullmatch(oid) and not large else "",
    )


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 60 else 0


def _strings(value: Any) -> Sequence[str]:
    return [each for each in value[:1000] if isinstance(each, str)] if isinstance(value, list) else []


def _licence(card: Mapping[str, Any], about: Found) -> str:
    if isinstance(card.get("license"), str):
        return str(card["license"])[:100]
    return next((tag.removeprefix("license:")[:100] for tag in about.tags if tag.startswith("license:")), "")


def _base_models(card: Mapping[str, Any]) -> tuple[str, ...]:
    base = card.get("base_model")
    return tuple(name for name in _strings([base] if isinstance(base, str) else base) if is_repository(name))
