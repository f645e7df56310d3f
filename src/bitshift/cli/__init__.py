"""The command line: ``bitshift VERB ...``.

Only the asked verb's file is imported, and each imports what it needs when it runs: ``bitshift --help``, ``run`` and
``inspect FILE`` never import torch.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from bitshift.cli.errors import BAD_INPUT, FAILED, INTERRUPTED, OK, explain, near_miss
from bitshift.cli.output import Output
from bitshift.cli.verbs import SUMMARIES, Verb

_HELP = """usage: bitshift VERB [...]

Train networks whose weights are signed powers of two, and run the trained integers, bit for bit, everywhere.

verbs:
{verbs}

first steps:
  bitshift demo                                train, export and run a network, then open its report
  bitshift run runs/demo/net.safetensors my_digit.png
  bitshift inspect runs/demo/net.safetensors   every layer, its format, and every multiplication left
  bitshift train --list                        the recipes
  bitshift VERB --help                         flags and examples of one verb

Every verb takes --json (one JSON object on stdout) and --traceback.
Exit codes: 0 done, 1 failed while running, 2 wrong usage or bad input, 130 stopped by Ctrl-C.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code and never raises for bad input. ``argv`` is without the program's name."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        width = max(map(len, SUMMARIES))
        print(_HELP.format(verbs="\n".join(f"  {name:<{width}}  {line}" for name, line in SUMMARIES.items())))
        return OK if argv else BAD_INPUT
    if argv[0] == "--version":
        from bitshift import __version__

        print(f"bitshift {__version__}")
        return OK
    if argv[0] not in SUMMARIES:
        print(f"bitshift: {near_miss(argv[0], SUMMARIES, 'verb')}\nfor help: bitshift --help", file=sys.stderr)
        return BAD_INPUT
    try:
        verb = _parse(argv[0], argv[1:])
    except SystemExit as stop:  # tyro has printed its help (0) or its complaint (2)
        return stop.code if isinstance(stop.code, int) else FAILED
    return _execute(argv[0], verb)


def _parse(name: str, argv: list[str]) -> Verb:
    import tyro

    from bitshift.cli.flags import NUMBERS, quiet_defaults

    cls = importlib.import_module(f"bitshift.cli.verbs.{name.replace('-', '_')}").VERB
    quiet_defaults(cls)
    with NUMBERS:
        return tyro.cli(
            cls,
            prog=f"bitshift {name}",
            description=cls.help_text,
            args=argv,
            config=(tyro.conf.FlagCreatePairsOff,),
        )


class _LogLine(logging.Formatter):
    """A log record as one line: information bare, the rest with its level in front."""

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        return text if record.levelno <= logging.INFO else f"{record.levelname.lower()}: {text}"


def _execute(name: str, verb: Verb) -> int:
    """Run a parsed verb with the library's warnings on stderr, and turn any failure into a message and a code."""
    logger = logging.getLogger("bitshift")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_LogLine())
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    out = Output(as_json=verb.json)
    try:
        verb.run(out)
        sys.stdout.flush()
    except BrokenPipeError:  # `bitshift inspect ... | head`: the reader has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except SystemExit as stop:  # training stopped by SIGTERM, after its checkpoint
        return stop.code if isinstance(stop.code, int) else FAILED
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the border: every failure becomes a message
        if verb.traceback or os.environ.get("BITSHIFT_DEBUG") == "1":
            traceback.print_exc()
        code, message = explain(error)
        prefix = "" if code == INTERRUPTED else "error: "
        if (process := _speaker(code, error)) is not None:  # one write: processes of torchrun share the stream
            sys.stderr.write(f"{process}bitshift {name}: {prefix}{message}\n")
        out.result({"error": message, "exit_code": code})
        return code
    else:
        return OK
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _speaker(code: int, error: BaseException) -> str | None:
    """What stands in front of the message of this process; None: a process of torchrun that leaves it to its main one.

    Bad input stops all of them alike, unless it is met while training, where each reads rows of its own.
    """
    rank, world = os.environ.get("RANK", ""), os.environ.get("WORLD_SIZE", "1")
    if world == "1" or not rank or os.environ.get("LOCAL_RANK", "0") == "0":  # others set LOCAL_RANK alone, too
        return ""
    training = any(Path(frame.filename).name == "loop.py" for frame in traceback.extract_tb(error.__traceback__))
    return f"[process {rank}] " if code != BAD_INPUT or training else None


__all__ = ["main"]
