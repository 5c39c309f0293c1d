"""The command line. JAX is imported after the arguments are parsed, so that ``--help`` and mistakes answer at once.

Exit codes: 0 fine; 1 an experiment or one of its checks failed; 2 the command or its configuration cannot be used; 130 interrupted.
"""

import argparse
import difflib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from jaxdiff._version import __version__

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130

# Kept equal to experiments.registry.TOPICS by a test; importing that module would import pydantic.
TOPICS = ("functions", "activations", "losses", "problems", "solvers", "stencils", "kinds", "datasets")

# Likewise, of derivatives.check.MODES; importing that module would import JAX.
MODES = ("forward", "reverse")
DTYPES = ("float64", "float32", "bfloat16", "float16")

_EPILOG = """exit codes:
  0  fine
  1  an experiment failed, one of its checks did, or a derivative is wrong
  2  the command line or the configuration cannot be used

examples:
  jaxdiff run configs/quickstart.toml
  jaxdiff run configs/accuracy.toml --set experiment.0.dtypes='["float32"]' --seed 7
  jaxdiff list kinds
  jaxdiff check losses.py:huber --at '[0.3, -2.0]' --at 1.0
"""


class _Parser(argparse.ArgumentParser):
    """argparse, with the nearest valid word in its complaint about a choice."""

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        choices = list(action.choices or ())
        if choices and value not in choices:
            near = difflib.get_close_matches(str(value), [str(choice) for choice in choices], n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise argparse.ArgumentError(action, f"unknown {value!r}{hint} (choose from {', '.join(map(str, choices))})")

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USAGE, f"{self.prog}: {message}\n")


def build_parser() -> argparse.ArgumentParser:
    """The parser of every command.

    Example:
        >>> build_parser().parse_args(["run", "configs/quickstart.toml", "--seed", "7"]).seed
        7
    """
    parser = _Parser(
        prog="jaxdiff",
        description="Derivatives you can trust, batches of small optimizations, experiments you can rerun.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"jaxdiff {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command", required=True, parser_class=_Parser)

    shared = _Parser(add_help=False)
    shared.add_argument("--json", action="store_true", help="one JSON object on standard output, nothing else")
    config = _Parser(add_help=False)
    config.add_argument("config", type=Path, help="a TOML file, see configs/")
    config.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override one key; the value is TOML, an experiment goes by position or name: experiment.0.max_steps=50",
    )
    config.add_argument("--seed", type=int, help="of every random number of the run")
    config.add_argument("--precision", choices=("float32", "float64"), help="dtype of experiments that do not list their own")
    config.add_argument("--device", choices=("auto", "cpu", "gpu"), help="where JAX computes")
    config.add_argument("--output", metavar="FOLDER", help="folder that the run folder is made in")

    run = commands.add_parser("run", parents=[config, shared], help="run the experiments of a file and write a report")
    run.add_argument("--quiet", action="store_true", help="print nothing but mistakes")
    commands.add_parser("validate", parents=[config, shared], help="check a file without running it")
    listing = commands.add_parser("list", parents=[shared], help="what configurations may name")
    listing.add_argument("topic", nargs="?", choices=TOPICS, help="one of " + ", ".join(TOPICS) + "; counts of all where absent")
    commands.add_parser("doctor", parents=[shared], help="versions, devices, dtypes and the compile cache")
    check = commands.add_parser("check", parents=[shared], help="hold the derivatives of a function of yours against finite differences")
    check.add_argument("function", help="module:function, the module from the current folder or installed; or path/to/file.py:function")
    check.add_argument(
        "--at",
        action="append",
        required=True,
        metavar="JSON",
        help="one positional argument of the function, repeatable; a list of numbers is an array, an object a dictionary; numbers written "
        "without a point are integers and not differentiated",
    )
    check.add_argument("--dtype", choices=DTYPES, default="float64", help="of the numbers in --at; float64 where absent")
    check.add_argument("--order", type=int, choices=(1, 2), default=1, help="2 to check second derivatives too")
    check.add_argument("--mode", choices=MODES, help="of automatic differentiation; both where absent")
    check.add_argument("--seed", type=int, default=0, help="of the random directions")
    report = commands.add_parser("report", parents=[shared], help="write the report of a run folder again, from what it saved")
    report.add_argument("folder", type=Path, help="a run folder")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    try:
        options = build_parser().parse_args(arguments)
    except SystemExit as stop:  # argparse exits by itself; a caller in Python wants a number
        return int(stop.code or 0)
    from jaxdiff.experiments.config import ConfigError

    commands = {"run": _run, "validate": _validate, "list": _list, "doctor": _doctor, "check": _check, "report": _report}
    try:
        return commands[options.command](options)
    except ConfigError as error:
        _complain(error.lines, options.json)
        return EXIT_USAGE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone (`jaxdiff list problems | head`); keep Python from complaining about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK


def _complain(lines: Sequence[str], as_json: bool) -> None:
    for line in lines:
        print(line, file=sys.stderr)
    if as_json:
        print(json.dumps({"error": list(lines)}))


def _load(options: argparse.Namespace) -> Any:
    from jaxdiff.experiments import config

    overrides = {key: getattr(options, key) for key in ("seed", "precision", "device", "output")}
    return config.load(options.config, options.set, **overrides)


def _run(options: argparse.Namespace) -> int:
    from jaxdiff.experiments import console
    from jaxdiff.experiments import run as runner

    run = _load(options)
    runner.configure_jax(run)
    is_silent = options.quiet or options.json
    finished = runner.run(run, notify=None if is_silent else console.notify)
    if options.json:
        print(json.dumps(finished.summary(), allow_nan=False))
    elif not options.quiet:
        console.show_run(finished)
    return EXIT_OK if finished.is_good else EXIT_FAILED


def _validate(options: argparse.Namespace) -> int:
    run = _load(options)
    if options.json:
        print(json.dumps(run.model_dump(mode="json", exclude_none=True)))
    else:
        count = len(run.experiment)
        kinds = ", ".join(experiment.label for experiment in run.experiment)
        print(f"{options.config}: fine, {count} experiment{'s' if count != 1 else ''} ({kinds})")
    return EXIT_OK


def _list(options: argparse.Namespace) -> int:
    from jaxdiff.experiments import console, registry

    topics = [options.topic] if options.topic else list(registry.TOPICS)
    entries = {topic: registry.describe(topic) for topic in topics}
    if options.json:
        print(json.dumps(entries[options.topic] if options.topic else entries))
    elif options.topic:
        console.show_entries(options.topic, entries[options.topic])
    else:
        console.show_counts(entries)
    return EXIT_OK


def _doctor(options: argparse.Namespace) -> int:
    from jaxdiff.experiments import console, environment

    findings = environment.diagnose()
    if options.json:
        print(json.dumps(findings))
    else:
        console.show_findings(findings)
    return EXIT_OK if findings["is_good"] else EXIT_FAILED


def _check(options: argparse.Namespace) -> int:
    from jaxdiff.experiments import subject
    from jaxdiff.experiments.config import ConfigError

    function = subject.load_function(options.function)
    arguments = [subject.argument_from_json(text, options.dtype) for text in options.at]
    import jax

    from jaxdiff.derivatives import check_derivatives

    if options.dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    modes = options.mode or MODES
    try:
        report = check_derivatives(function, *arguments, order=options.order, modes=modes, seed=options.seed)
    except Exception as error:  # whatever a function of the user's raises at the values given is a mistake in the command
        raise ConfigError([f"{options.function}: {type(error).__name__}: {str(error).strip().splitlines()[0]}"]) from error
    if options.json:
        print(json.dumps(report.to_dict(), allow_nan=False))
    else:
        from rich.console import Console

        # Wide where it is not a terminal, for there nobody reads it in eighty columns.
        Console(highlight=False, width=None if sys.stdout.isatty() else 132).print(report)
    return EXIT_FAILED if report.failed else EXIT_OK


def _report(options: argparse.Namespace) -> int:
    from jaxdiff.experiments import report

    path = report.write(options.folder)
    print(json.dumps({"report": str(path)}) if options.json else path)
    return EXIT_OK


if __name__ == "__main__":
    raise SystemExit(main())
