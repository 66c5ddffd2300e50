"""`7` Hub: find a model, see which of its files fits here, download it, talk to it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import ContentSwitcher, DataTable, Input, Static

from ...workbench.errors import QuantdeckError
from ...workbench.hub import parse_reference, providers
from ...workbench.session import Session
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
from ..messages import OpenChat, OpenWizard
from ..widgets.grid import Grid
from ..widgets.result import FIT_COLOURS
from .ask import AskYes
from .room import Room

# The client's library takes half a second to import: it waits until somebody searches.
if TYPE_CHECKING:
    from ...workbench.hub import (
        DownloadRequest,
        DownloadSnapshot,
        DownloadWatch,
        Fitted,
        Found,
        Hub,
        Offer,
        Shop,
        Sort,
    )

LOOK_SECONDS = 0.5
SORTS: tuple[Sort, ...] = ("downloads", "likes", "updated")
MARKS = {**FIT_COLOURS, "take": "fit-ok", "gated": "text-warning"}


class HubRoom(Room):
    """A search with its results, the files of one repository, and the download that was begun last."""

    NAME = "Hub"
    HELP = """
Type words and press Enter, or press the key of a publisher. Enter on a repository shows its files: the level that its
name means, its size, the memory it needs here, and whether that fits; the cursor is on the one to take. Enter on a file
downloads it after a question; the download goes on if you leave, and its hash is checked before it gets its name. Then
Enter talks to it, or opens the wizard if it has 16 bits. Private and gated repositories need a token (hf auth login).
"""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "enter", "Choose", priority=True),
        Binding("escape", "back", "Back", key_display="esc"),
        Binding("backspace", "back", "Back", show=False),
        Binding("slash", "search", "Search"),
        Binding("o", "order", "Order", tooltip="Sort by downloads, likes, or the latest change"),
        Binding("g", "formats", "GGUF/all", tooltip="Only GGUF, or models in every format"),
        Binding("f", "quants", "Its quants", tooltip="Ready-made quants of this model, whoever made them"),
        Binding("p", "pause", "Pause", tooltip="Pause the download, or let it go on"),
        Binding("c", "cancel", "Cancel", tooltip="Cancel the download"),
        *(
            Binding(provider.key, f"provider('{provider.author}', '{provider.tag}')", provider.author, show=False)
            for provider in providers()
        ),
    ]

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._client: Hub | None = None
        self._words, self._author, self._tag, self._sort = "", "", "gguf", SORTS[0]
        self._asked = 0
        self._shop: Shop | None = None
        self._watch: DownloadWatch | None = None
        self._snapshot: DownloadSnapshot | None = None
        self._looking = False

    def compose_middle(self) -> ComposeResult:
        with Vertical(id="hub"):
            with ContentSwitcher(initial="search", id="hub-steps"):
                with Vertical(id="search"):
                    yield Input(placeholder="Search the Hub: name of a model, then Enter", id="words")
                    yield Static(_publishers(), id="publishers")
                    yield Static("", id="found-words", markup=False)
                    yield Grid(FOUND_COLUMNS, FOUND_COLUMNS_RIGHT, MARKS, id="found")
                with Vertical(id="files"):
                    yield Static("", id="files-title", classes="title", markup=False)
                    yield Static("", id="files-note", markup=False)
                    yield Grid(OFFER_COLUMNS, OFFER_COLUMNS_RIGHT, MARKS, id="offers")
                    yield Static("", id="file-words", classes="muted", markup=False)
            yield Static("", id="download", markup=False)

    def on_mount(self) -> None:
        """The field has the keys; a download that was begun before is shown."""
        self.query_one("#words", Input).focus()
        self.in_background(self._latest_download, self._follow)
        self.set_interval(LOOK_SECONDS, self._look)

    @property
    def step(self) -> str:
        """What is shown: search or files."""
        return self.query_one("#hub-steps", ContentSwitcher).current or "search"

    def _show(self, step: str) -> None:
        self.query_one("#hub-steps", ContentSwitcher).current = step
        self.set_focus(self.query_one("#offers" if step == "files" else "#found", Grid))
        self.refresh_bindings()

    def _hub(self) -> Hub:
        """The client, made in the background."""
        from ...workbench.hub import Hub, Patience

        # Somebody looks on: two time-outs are long enough.
        self._client = self._client or Hub(Patience(tries=2))
        return self._client

    # -- search ------------------------------------------------------------------------------------------------------

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Enter in the field: a repository by its name, or a search."""
        self._words, self._author = event.value.strip(), ""
        self._tag = self._tag if self._tag in ("", "gguf") else "gguf"
        reference = parse_reference(self._words)
        if reference:
            self.open(reference.repository, reference.file, revision=reference.revision, level=reference.level)
        else:
            self._search()

    def _search(self) -> None:
        self._asked += 1
        asked, words, author, tag, sort = self._asked, self._words, self._author, self._tag, self._sort
        self.query_one("#found-words", Static).update("Searching …")

        def show(found: tuple[Found, ...]) -> None:
            if asked == self._asked:
                self._found(found)

        self.in_background(lambda: self._hub().search(words, sort, author, tag), show, awaited=False)

    def _found(self, found: tuple[Found, ...]) -> None:
        what = (
            "GGUF"
            if self._tag == "gguf"
            else self._tag.replace("base_model:quantized:", "quants of ") or "every format"
        )
        whose = f" of {self._author}" if self._author else ""
        count = f"{len(found)} repositories" if len(found) > 1 else "1 repository"
        told = f"{count}{whose}, {what}, by {self._sort}" if found else "Nothing found: fewer words?"
        self.query_one("#found-words", Static).update(printable(told))
        self.query_one("#found", Grid).show([(each.id, found_cells(each)) for each in found])
        if found and self.step == "search":
            self.query_one("#found", Grid).move_cursor(row=0)
            self._show("search")

    def action_search(self) -> None:
        """Back to the field."""
        self.query_one("#hub-steps", ContentSwitcher).current = "search"
        self.query_one("#words", Input).focus()

    def action_order(self) -> None:
        """The next order."""
        self._sort = SORTS[(SORTS.index(self._sort) + 1) % len(SORTS)]
        self._search()

    def action_formats(self) -> None:
        """Only GGUF, or everything."""
        self._tag = "" if self._tag else "gguf"
        self._search()

    def action_provider(self, author: str, tag: str) -> None:
        """What a publisher has, of the words in the field."""
        self._author, self._tag = author, tag
        self._words = self.query_one("#words", Input).value.strip()
        self._search()

    # -- one repository ----------------------------------------------------------------------------------------------

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Enter on a repository or on a file."""
        key = event.row_key.value or ""
        if event.data_table.id == "found":
            self.open(key)
        elif self._shop and (row := self._row(key)):
            self._plan(row.offer)

    def open(self, name: str, file: str = "", context: int | None = None, revision: str = "", level: str = "") -> None:
        """Show what a repository offers at a context (None: as in chats), the cursor on `file` or `level` if named."""
        self._asked += 1
        asked = self._asked
        self.query_one("#found-words", Static).update(f"Reading {printable(name)} …")

        def show(shop: Shop) -> None:
            if asked == self._asked:
                self._opened(*_named(shop, file, level))

        self.in_background(
            lambda: self.session.shop(self._hub(), self._hub().repository(name, revision), context), show, awaited=False
        )

    def _opened(self, shop: Shop, file: str) -> None:
        self._shop = shop
        about = shop.repository.about
        licence = f"licence {shop.repository.license or 'not given'}"
        gated = " · gated: accept its conditions on the Hub" if about.gated else ""
        self.query_one("#found-words", Static).update("")
        self.query_one("#files-title", Static).update(printable(shop_headline(shop)))
        self.query_one("#files-note", Static).update(printable(f"{about.id} · {licence}{gated}\n{shop.note}".rstrip()))
        grid = self.query_one("#offers", Grid)
        grid.show([(_key(row), offer_cells(row, shop.best)) for row in shop.rows])
        named = next((row for row in shop.rows if any(part.path == file for part in row.offer.parts)), None)
        if chosen := named or shop.best:
            grid.go_to(_key(chosen))
        self._show("files")

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        """Say what the name of the file under the cursor means."""
        if event.data_table.id == "offers" and (row := self._row(event.row_key.value or "")):
            words = " ".join(row.offer.decoded.words) if row.offer.kind != "checkpoint" else _CHECKPOINT_WORDS
            self.query_one("#file-words", Static).update(printable(words))

    def action_quants(self) -> None:
        """Repositories that say they hold quants of this model, or of what it was made from."""
        if self._shop:
            repository = self._shop.repository
            base = repository.base_models[0] if repository.base_models else repository.id
            self._words, self._author, self._tag = "", "", f"base_model:quantized:{base}"
            self.query_one("#hub-steps", ContentSwitcher).current = "search"
            self._search()

    def _row(self, key: str) -> Fitted | None:
        return next((row for row in self._shop.rows if _key(row) == key), None) if self._shop else None

    # -- download ----------------------------------------------------------------------------------------------------

    def _plan(self, offer: Offer) -> None:
        shop = self._shop
        assert shop is not None
        from ...workbench.hub import plan_download

        folder = self.session.download_folder(shop.repository.id)
        self.in_background(lambda: plan_download(self._hub(), shop.repository, offer, folder), self._ask, awaited=False)

    def _ask(self, request: DownloadRequest) -> None:
        def answered(yes: bool | None) -> None:
            if yes:
                self.in_background(lambda: self._begin(request), self._follow)

        what = request.files[0].name if len(request.files) == 1 else f"{len(request.files)} files"
        self.app.push_screen(
            AskYes(f"Download {what}, {size(request.n_bytes)}, to {request.folder}? (y: yes, n: no)"), answered
        )

    def _begin(self, request: DownloadRequest) -> DownloadWatch:
        downloads = self.session.downloads
        return downloads.watch(downloads.begin(request))

    def _latest_download(self) -> DownloadWatch | None:
        downloads = self.session.downloads
        unfinished = [each.id for each in downloads.list() if each.status not in ("done", "cancelled")]
        return downloads.watch(unfinished[-1]) if unfinished else None

    def _follow(self, watch: DownloadWatch | None) -> None:
        self._watch, self._snapshot = watch, None
        self._look()

    def _look(self) -> None:
        if self._watch and not self._looking:
            self._looking = True
            self.run_worker(self._read, thread=True, exit_on_error=False)

    def _read(self) -> None:
        watch = self._watch
        snapshot = watch.look() if watch else None
        self.app.call_from_thread(self._looked, watch, snapshot)

    def _looked(self, watch: DownloadWatch | None, snapshot: DownloadSnapshot | None) -> None:
        self._looking = False
        if watch is not self._watch or snapshot is None or snapshot == self._snapshot:
            return
        before, self._snapshot = self._snapshot, snapshot
        self.query_one("#download", Static).update(printable(self._words_of(snapshot)))
        self.refresh_bindings()
        if snapshot.ended:
            self._watch = None
        if snapshot.status == "done" and before is not None and self.app.screen is not self:
            self.tell(f"{snapshot.request.result.name} is downloaded and checked.")

    def _words_of(self, snapshot: DownloadSnapshot) -> str:
        name = snapshot.request.files[0].name if snapshot.request.kind == "model" else snapshot.request.repository
        line = f"{name}: {download_words(snapshot)}"
        if snapshot.status == "done":
            wizard = "Enter opens the wizard." if self._is_source(snapshot) else "Enter talks to it."
            return f"{line}\n{wizard if snapshot.request.kind in ('model', 'checkpoint') else ''}"
        if snapshot.status in ("interrupted", "failed"):
            return f"{line}\np goes on, c gives up."
        return line

    def _is_source(self, snapshot: DownloadSnapshot) -> bool:
        """True for what is quantized first, not talked to."""
        from ...workbench.advice import decode_name

        request = snapshot.request
        return request.kind == "checkpoint" or decode_name(request.result.name).level in ("F16", "BF16", "F32")

    async def action_enter(self) -> None:
        """Enter: on to what was downloaded, else what the list or field does."""
        done = self._snapshot
        ready = done is not None and done.status == "done" and done.request.kind in ("model", "checkpoint")
        if done is None or not ready or self.step != "files":
            await super().action_enter()
            return
        self._snapshot = None
        self.query_one("#download", Static).update("")
        result: Path = done.request.result
        self.post_message(OpenWizard(result) if self._is_source(done) else OpenChat(result))

    def action_pause(self) -> None:
        """Pause a running download, or let one go on."""
        if snapshot := self._snapshot:
            downloads = self.session.downloads
            act = downloads.resume if snapshot.ended else downloads.pause

            def change() -> DownloadWatch:
                act(snapshot.id)
                return downloads.watch(snapshot.id)

            self.in_background(change, self._follow)

    def action_cancel(self) -> None:
        """Cancel the download, after a question."""
        if not (snapshot := self._snapshot):
            return
        downloads = self.session.downloads

        def give_up() -> DownloadWatch:
            downloads.cancel(snapshot.id)
            return downloads.watch(snapshot.id)

        def answered(yes: bool | None) -> None:
            if yes:
                self.in_background(give_up, self._follow)

        self.app.push_screen(AskYes(f"Cancel the download of {snapshot.request.repository}? Its part goes."), answered)

    # -- keys --------------------------------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Only the keys that mean something now."""
        if not self.is_mounted:
            return True
        if action in ("order", "formats", "provider"):
            return self.step == "search"
        if action == "quants":
            return self.step == "files"
        if action in ("pause", "cancel"):
            return self._snapshot is not None and self._snapshot.status not in ("done", "cancelled")
        return True

    def action_back(self) -> None:
        """From the files to the results, from the field to the results."""
        if self._snapshot and self._snapshot.status in ("done", "cancelled"):
            self._snapshot = None
            self.query_one("#download", Static).update("")
        if self.step == "files":
            self._show("search")
        elif isinstance(self.focused, Input):
            self.set_focus(self.query_one("#found", Grid))

    def failed(self, why: str) -> None:
        """The search or download did not work; the room stands. Over the results there is room for the reason."""
        searching = self.step == "search"
        self.query_one("#found-words", Static).update(printable(why) if searching else "")
        if not searching or self.app.screen is not self:
            super().failed(why)


_CHECKPOINT_WORDS = "The model as it was published, with configuration and tokenizer: the wizard makes quants of it."


def _named(shop: Shop, file: str, level: str) -> tuple[Shop, str]:
    """The file to stand on; that a level does not tell one becomes the shop's note."""
    from ...workbench.hub import offer_of_level

    try:
        return shop, offer_of_level(shop.repository, level).path if level else file
    except QuantdeckError as error:
        return replace(shop, note=f"{error} {shop.note}".rstrip()), ""


def _key(row: Fitted) -> str:
    return row.offer.path or "checkpoint"


def _publishers() -> Content:
    # Key and name are one word, so that no line ends between them.
    parts = [Content.assemble((each.key, "$accent"), f":{each.author}  ") for each in providers()]
    return Content.assemble("esc, then ", *parts)
