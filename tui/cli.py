"""The command line. Every command imports what it needs when it runs, so that `--help` is quick."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, NoReturn

from .. import __version__
from ..workbench.errors import NotEnoughMemory, QuantdeckError

if TYPE_CHECKING:
    from ..workbench.llama import Child
    from ..workbench.processes import Detached

EXIT_CODES = """\
exit codes:
  0 ok, 1 error, 2 bad arguments, 3 model not found, 4 authentication needed,
  5 out of memory, 6 validation failed, 7 a job cannot be resumed, 130 stopped by the user
"""
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; every failure is one sentence on standard error."""
    _open_standard_streams()
    # numpy's BLAS would start a thread a core as it is imported; nothing here multiplies matrices.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    arguments = build_parser().parse_args(argv)
    as_json = bool(getattr(arguments, "json", False))
    try:
        module, function = arguments.run.split(":")
        with _llama_for(arguments) as arguments.child, _supervisor_for(arguments) as arguments.supervisor:
            return int(getattr(import_module(f".commands.{module}", __package__), function)(arguments))
    except QuantdeckError as error:
        return _fail(str(error), error.exit_code, as_json)
    except KeyboardInterrupt:
        return _fail("stopped", INTERRUPTED, as_json)
    except BrokenPipeError:
        # The reader went away; point stdout elsewhere so that the interpreter's own flush at exit stays silent.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        from .fault import sentence

        return _fail(sentence(error), NotEnoughMemory.exit_code if isinstance(error, MemoryError) else 1, as_json)


def _open_standard_streams() -> None:
    """Where the caller closed one, no file that is opened later, perhaps a model, may get its number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            setattr(sys, name, os.fdopen(number, "w" if number else "r", encoding="utf-8"))


@contextmanager
def _llama_for(arguments: argparse.Namespace) -> Iterator[Child | None]:
    """llama.cpp's process for a command that loads a model which is here; it comes up while the command is imported."""
    name = arguments.models[0] if hasattr(arguments, "models") else arguments.model
    if not arguments.service or not (name == "sample" or os.path.isfile(name)):  # noqa: PTH113 - never raises
        yield None
        return
    from ..workbench.llama.host import Child
    from ..workbench.paths import Paths

    threads = getattr(arguments, "threads", None)
    child = Child(Paths.from_environment(os.environ).logs, service=arguments.service, threads=threads)
    try:
        yield child
    finally:
        child.close()


@contextmanager
def _supervisor_for(arguments: argparse.Namespace) -> Iterator[Detached | None]:
    """The processes of the job that a command makes; they come up while it is imported and the model is looked at."""
    name = arguments.model
    if arguments.run != "quantize:run" or arguments.dry_run or not (name == "sample" or os.path.exists(name)):  # noqa: PTH110 - never raises
        yield None
        return
    from ..workbench.jobs.ahead import supervisor_ahead
    from ..workbench.jobs.cores import usable_cores

    cores = usable_cores()
    with closing(supervisor_ahead(min(arguments.workers or cores, cores), name)) as supervisor:
        yield supervisor


def _fail(sentence: str, exit_code: int, as_json: bool) -> int:
    from .terminal import Terminal

    terminal = Terminal(as_json)
    terminal.warn(sentence)
    terminal.document({"error": sentence, "exit_code": exit_code})
    return exit_code


def build_parser() -> argparse.ArgumentParser:
    """The whole command line, importing nothing but argparse."""
    parser = _Parser(
        prog="quantdeck",
        description="Look at the machine, choose a quantization, make it, prove it, talk to it.",
        epilog="without a command the workbench opens; MODEL is a GGUF file, a checkpoint folder,"
        " OWNER/NAME[/FILE|:LEVEL] on the Hub, or sample\n\n" + EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"quantdeck {__version__}")
    parser.set_defaults(run="workbench:run", service="", json=False, model=None, demo=False)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    _add_demo(commands)
    _add_detect(commands)
    _add_inspect(commands)
    _add_advise(commands)
    _add_quantize(commands)
    _add_calibrate(commands)
    _add_evaluate(commands)
    _add_jobs(commands)
    _add_chat(commands)
    _add_hub(commands)
    _add_handover(commands)
    _add_completion(commands)
    return parser


class _Parser(argparse.ArgumentParser):
    """argparse's, but a usage error is a document too for those who asked for documents."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the arguments and end with exit code 2."""
        if "--json" in sys.argv[1:]:
            _fail(message, 2, as_json=True)
            self.exit(2)
        super().error(message)


Commands = argparse._SubParsersAction  # the type has no public name


def _command(
    commands: Commands[_Parser], name: str, run: str, text: str, aliases: Sequence[str] = (), service: str = ""
) -> _Parser:
    """A command that calls `run`, a module and its function; `service` is what it asks of llama.cpp first."""
    command = commands.add_parser(
        name,
        help=text,
        description=text[0].upper() + text[1:] + ".",
        aliases=list(aliases),
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run, service=service)
    return command


def _add_json(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--json", action="store_true", help="one JSON document on standard output, words on standard error"
    )


def _add_pre(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--pre",
        default=None,
        metavar="NAME",
        help="pre-tokenizer of a checkpoint, by llama.cpp's name, if you know better",
    )


def _add_demo(commands: Commands[_Parser]) -> None:
    command = _command(commands, "demo", "demo:run", "the whole line on the built-in sample model")
    command.add_argument("--headless", action="store_true", help="in the terminal, without the workbench")
    command.add_argument("-q", "--level", default=None, help="use this level instead of the recommended one")
    command.add_argument("-o", "--output", default=None, help="keep the quantized model here")
    _add_json(command)


def _add_detect(commands: Commands[_Parser]) -> None:
    command = _command(commands, "detect", "detect:run", "what this machine is and what of it may be used")
    command.add_argument("--measure", action="store_true", help="measure memory and computing again (two seconds)")
    _add_json(command)


def _add_inspect(commands: Commands[_Parser]) -> None:
    command = _command(commands, "inspect", "inspect:run", "what a model file holds", aliases=["info"])
    command.add_argument(
        "model",
        metavar="MODEL",
        help="a GGUF file (any shard of a split one), a checkpoint, sample, or OWNER/NAME[/FILE|:LEVEL] on the Hub",
    )
    command.add_argument("--tensors", action="store_true", help="list every tensor")
    _add_pre(command)
    _add_json(command)


def _add_advise(commands: Commands[_Parser]) -> None:
    command = _command(commands, "advise", "advise:run", "which quantization fits, and why")
    command.add_argument(
        "model", metavar="MODEL", help="a GGUF file, a checkpoint, sample, or OWNER/NAME[/FILE|:LEVEL]"
    )
    command.add_argument(
        "--context", type=_count, default=None, metavar="N", help="wanted context in tokens (8192, 32K)"
    )
    _add_pre(command)
    command.add_argument("--goal", choices=["balanced", "quality", "speed", "size"], default="balanced")
    command.add_argument(
        "--memory", type=_bytes, default=None, metavar="BYTES", help="for a machine with this RAM (16G)"
    )
    command.add_argument(
        "--vram",
        type=_bytes,
        default=None,
        metavar="BYTES",
        help="and this GPU memory (24G); alone: this machine with such a card",
    )
    command.add_argument("--slots", type=_count, default=1, metavar="N", help="users at the same time")
    command.add_argument(
        "--hub",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="look on the Hub for ready-made quants (default: where MODEL is a name on the Hub)",
    )
    _add_json(command)


def _add_quantize(commands: Commands[_Parser]) -> None:
    command = _command(commands, "quantize", "quantize:run", "make a quantized model")
    command.add_argument(
        "model", metavar="MODEL", help="a GGUF file in F32, F16 or BF16, a checkpoint folder, or sample"
    )
    command.add_argument(
        "format", nargs="?", default="gguf", metavar="FORMAT", choices=["gguf"], help="gguf, the only one yet"
    )
    command.add_argument("-q", "--level", required=True, metavar="LEVEL", help="Q4_K_M, Q8_0, BF16 ...")
    command.add_argument(
        "-o", "--output", default=None, metavar="OUT", help="file to write (default: MODEL-LEVEL.gguf)"
    )
    command.add_argument(
        "--split-max-size",
        default=None,
        metavar="N(M|G)",
        help="write files OUT-00001-of-0000N.gguf with so many megabytes or gigabytes of weights at most, as 2G",
    )
    command.add_argument("--imatrix", default=None, metavar="FILE", help="importance matrix (GGUF or .dat)")
    command.add_argument(
        "--tensor-type", action="append", default=[], metavar="REGEX=TYPE", help="type for tensors whose name matches"
    )
    command.add_argument("--output-type", default=None, metavar="TYPE", help="type of the output tensor")
    command.add_argument("--embedding-type", default=None, metavar="TYPE", help="type of the token embedding")
    _add_pre(command)
    command.add_argument(
        "--allow-requantize",
        action="store_true",
        help="take a quantized source too: quality is lost twice",
    )
    command.add_argument("--pure", action="store_true", help="the level's own type for every tensor, no mix")
    command.add_argument("--workers", type=_count, default=None, metavar="N", help="worker processes")
    command.add_argument("--overwrite", action="store_true", help="replace OUT when the new file is verified")
    command.add_argument("--dry-run", action="store_true", help="plan and check everything, write nothing")
    command.add_argument("--detach", action="store_true", help="start the job and return at once")
    _add_json(command)


def _add_calibrate(commands: Commands[_Parser]) -> None:
    command = _command(commands, "calibrate", "calibrate:run", "make an importance matrix", service="calibrate")
    command.add_argument("model", metavar="MODEL", help="a GGUF file, best in 16 bit, or sample")
    command.add_argument("-o", "--output", default=None, metavar="FILE", help="imatrix.gguf, or .dat for older tools")
    _add_text(command, "calibration")
    command.add_argument("--with-output", action="store_true", help="weigh output.weight too")
    _add_json(command)


def _add_evaluate(commands: Commands[_Parser]) -> None:
    text = "measure quality, speed and memory of models"
    command = _command(commands, "evaluate", "evaluate:run", text, service="evaluate")
    command.add_argument("models", metavar="MODEL", nargs="+", help="GGUF files, or sample")
    command.add_argument("--reference", default=None, metavar="MODEL", help="measure the divergence from this model")
    _add_text(command, "evaluation")
    command.add_argument(
        "--questions", default=None, metavar="FILE", help="JSONL with question and answer, or none (built in: sample's)"
    )
    command.add_argument(
        "--lock-step", action="store_true", help="compute the reference each time instead of keeping its logits"
    )
    command.add_argument("--no-speed", action="store_true", help="do not measure speed and memory")
    command.add_argument("--markdown", default=None, metavar="FILE", help="write the table there")
    command.add_argument("--csv", default=None, metavar="FILE", help="write the table there")
    _add_json(command)


def _add_text(command: argparse.ArgumentParser, what: str) -> None:
    """What calibration and evaluation share: a text, and how it goes through the model."""
    command.add_argument(
        "-d", "--data", default=None, metavar="TEXT", help=f"text file, JSON or JSONL (default: our {what} text)"
    )
    command.add_argument("--context", type=_count, default=512, metavar="N", help="tokens a chunk (512)")
    command.add_argument("--chunks", type=_bytes, default=0, metavar="N", help="only the first N chunks (0: all)")
    command.add_argument(
        "--parse-special",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="read markers such as <|im_start|> as special tokens (default: if the text holds any)",
    )
    command.add_argument("--threads", type=_count, default=None, metavar="N", help="threads to compute with")
    command.add_argument("--gpu-layers", type=int, default=-1, metavar="N", help="layers on the GPU (-1: all)")


def _add_jobs(commands: Commands[_Parser]) -> None:
    command = _command(commands, "jobs", "jobs:run", "what is being made, and what was")
    command.add_argument(
        "action",
        nargs="?",
        default="list",
        choices=["list", "show", "watch", "pause", "resume", "cancel", "workers", "nice", "remove"],
    )
    command.add_argument("id", nargs="?", default=None, metavar="ID", help="the job; any unique beginning or end of it")
    command.add_argument("value", nargs="?", type=int, default=None, metavar="N", help="for workers and nice")
    _add_json(command)


def _add_chat(commands: Commands[_Parser]) -> None:
    command = _command(commands, "chat", "chat:run", "talk to a model", service="chat")
    command.add_argument("model", metavar="MODEL", help="a GGUF file, or sample")
    command.add_argument("-p", "--prompt", default=None, help="one question; without it a conversation starts")
    command.add_argument("--system", default=None, help="system prompt")
    command.add_argument("--context", type=_count, default=None, metavar="N", help="context in tokens")
    command.add_argument("--max-tokens", type=_count, default=None, metavar="N", help="longest answer")
    command.add_argument(
        "--temperature", type=float, default=None, metavar="T", help="0 always takes the likeliest token"
    )
    command.add_argument("--seed", type=int, default=None, metavar="N", help="the same seed gives the same answer")
    command.add_argument("--gpu-layers", type=int, default=None, metavar="N", help="layers on the GPU (-1: all)")
    command.add_argument("--smoke-test", action="store_true", help="ten fixed prompts, judged")
    _add_json(command)


def _add_hub(commands: Commands[_Parser]) -> None:
    hub = _command(commands, "hub", "hub:run_downloads", "find models on the Hugging Face Hub, and download them")
    actions = hub.add_subparsers(title="actions", metavar="ACTION", required=True)
    search = _command(actions, "search", "hub:run_search", "repositories by words")
    search.add_argument("words", nargs="*", metavar="WORDS")
    search.add_argument("--sort", choices=["downloads", "likes", "updated"], default="downloads")
    search.add_argument("--author", default=None, metavar="X", help="only this user's or organization's")
    search.add_argument("--tag", default="gguf", help="the Hub's filter (default gguf; '' for none)")
    search.add_argument("--limit", type=_count, default=30, metavar="N")
    files = _command(actions, "files", "hub:run_files", "what a repository offers, and what fits here")
    files.add_argument("repository", metavar="OWNER/NAME")
    files.add_argument("--context", type=_count, default=None, metavar="N", help="wanted context in tokens")
    download = _command(actions, "download", "hub:run_download", "fetch a file, or what fits best")
    download.add_argument("model", metavar="OWNER/NAME[/FILE|:LEVEL]")
    download.add_argument("-q", "--level", default=None, help="the file of this level")
    download.add_argument("-o", "--output", default=None, metavar="DIR", help="folder to write into")
    download.add_argument("--detach", action="store_true", help="start it and return at once")
    downloads = _command(actions, "downloads", "hub:run_downloads", "what is being fetched, and what was")
    choices = ["list", "watch", "pause", "resume", "cancel", "remove"]
    downloads.add_argument("action", nargs="?", default="list", choices=choices)
    downloads.add_argument("id", nargs="?", default=None, metavar="ID", help="any unique beginning or end of it")
    for command in (search, files, download, downloads):
        _add_json(command)


def _add_handover(commands: Commands[_Parser]) -> None:
    handover = _command(commands, "handover", "handover:run", "command lines that run a finished file elsewhere")
    handover.add_argument("model", metavar="FILE", help="a GGUF file, or sample")
    handover.add_argument("--context", type=_count, default=None, metavar="N", help="context in tokens")
    card = _command(commands, "card", "handover:run_card", "a model card for a finished file")
    card.add_argument("model", metavar="FILE", help="a GGUF file")
    card.add_argument("-o", "--output", default=None, metavar="FILE.md", help="write it there")
    upload = _command(commands, "upload", "handover:run_upload", "put a finished file and its card on the Hub")
    upload.add_argument("model", metavar="FILE", help="a GGUF file")
    upload.add_argument("repository", metavar="OWNER/NAME")
    upload.add_argument("--private", action="store_true", help="make the repository private if it is new")
    upload.add_argument("--yes", action="store_true", help="do not ask")
    for command in (handover, card, upload):
        _add_json(command)


def _add_completion(commands: Commands[_Parser]) -> None:
    command = _command(commands, "completion", "completion:run", "print the completion script of a shell")
    command.add_argument("shell", choices=["bash", "zsh", "tcsh"])


def _bytes(text: str) -> int:
    """A size such as 16G."""
    from ..workbench.text import parse_size

    try:
        return parse_size(text)
    except ValueError as problem:
        raise argparse.ArgumentTypeError(str(problem)) from None


def _count(text: str) -> int:
    """A whole number above zero; 32K is 32,768."""
    value = _bytes(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
