"""Putting a finished file and its card on the Hub, when the user asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

from ..errors import AuthenticationNeeded, BadArgument, ModelNotFound, QuantdeckError
from ..model.wording import shown
from .client import Hub, HubError, explain, usable_token
from .names import is_repository, local_name

CARD = "README.md"


@dataclass(frozen=True)
class Uploaded:
    """What was put on the Hub: the address of the commit, and the names of the files there."""

    url: str
    files: tuple[str, ...]


def check_upload(files: Sequence[Path], repository: str) -> None:
    """What can be checked before anybody is asked: the name, a token, the files.

    BadArgument, AuthenticationNeeded or ModelNotFound.
    """
    if not is_repository(repository):
        raise BadArgument(f"{shown(repository)} is not the name of a repository: OWNER/NAME.")
    if not usable_token():
        raise AuthenticationNeeded("An upload needs a token with write access: run hf auth login, or set HF_TOKEN.")
    for file in files:
        local_name(file.name)
        if not file.is_file():
            raise ModelNotFound(f"There is no file {shown(file)}.")


def upload(hub: Hub, files: Sequence[Path], repository: str, card: str, private: bool = False) -> Uploaded:
    """One commit with all files; makes the repository if it is new, and leaves a card alone that is there already.

    Raises:
        AuthenticationNeeded: no token, or one that may not write there.
        HubError: the Hub cannot be reached, or refuses.
    """
    check_upload(files, repository)
    disable_progress_bars()
    api = HfApi(endpoint=hub.endpoint, library_name="quantdeck")
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        additions = [CommitOperationAdd(path_in_repo=file.name, path_or_fileobj=file) for file in files]
        if not any(file.path == CARD for file in hub.repository(repository).files):
            additions.append(CommitOperationAdd(path_in_repo=CARD, path_or_fileobj=card.encode()))
        made = api.create_commit(repository, additions, commit_message=f"Add {files[0].name} (Quantdeck)")
    except QuantdeckError:
        raise
    except HfHubHTTPError as error:
        raise explain(error, repository) from None
    except OSError as error:
        why = error.strerror or "the connection broke"
        raise HubError(
            f"The upload to {repository} did not work: {why}; try again, parts that arrived are kept."
        ) from None
    except Exception as error:
        # The transfer library raises kinds of its own, whose texts may hold addresses that carry signatures.
        raise HubError(f"The upload to {repository} did not work ({type(error).__name__}); try again.") from None
    return Uploaded(str(made.commit_url), tuple(addition.path_in_repo for addition in additions))
