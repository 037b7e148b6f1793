"""The command line of an experiment: `python -m experiments.NAME --help`."""

import argparse
import dataclasses
import hashlib
import importlib.metadata
import json
import platform
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

from experiments.common import preemption
from experiments.common.results import Folder

REPOSITORY = Path(__file__).parents[2]

# Mistakes and mishaps that a user can mend: told in a paragraph, without a traceback.
_EXPECTED = (ValueError, TypeError, OSError, ImportError, RuntimeError, FloatingPointError)


@dataclasses.dataclass(frozen=True)
class Options:
    """Where things are; none of it changes a number.

    Attributes:
      data_dir: folder of prepared TFDS data sets (not needed for digits).
      results_dir: where results/<experiment>/<name>/ is made.
      name: of the run; by default the preset, with a suffix where flags changed it.
      overwrite: start afresh in a folder that holds a run.
    """

    data_dir: Path | None = None
    results_dir: Path = Path("results")
    name: str | None = None
    overwrite: bool = False


def main(name: str) -> None:
    """Runs the experiment `experiments.<name>` as the command line says, then exits.

    Args:
      name: `__spec__.name` of the experiment's module.
    """
    plain_warnings()
    module = importlib.import_module(name)
    try:
        config, options, preset = parse(module, sys.argv[1:])
        if config == module.PRESETS["quick"]:
            compile_in_haste()
        with preemption.listening() as stop:
            folder = execute(module, config, options, preset=preset, stop=stop)
        report(module, folder)
    except preemption.Stopped:
        print(
            "\nstopped by SIGTERM; the same command goes on from the last checkpoint",
            file=sys.stderr,
        )
        sys.exit(preemption.STATUS)
    except KeyboardInterrupt:
        sys.exit("\nstopped; the same command goes on from the last checkpoint")
    except _EXPECTED as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            sys.exit(
                f"\nerror: the device ran out of memory ({str(error)[:200]}); lower --member-batch "
                "or --batch-size, and start afresh or under another --name"
            )
        sys.exit(f"\nerror: {error}")


def parse(module: ModuleType, arguments: list[str]) -> tuple[Any, Options, str]:
    """Config, options and the name of the preset that the flags started from."""
    import tyro

    short = module.__name__.rpartition(".")[2]
    program = f"python -m experiments.{short}"
    first = argparse.ArgumentParser(program, add_help=False, allow_abbrev=False)
    first.add_argument("--preset", choices=list(module.PRESETS), default="default")
    chosen, rest = first.parse_known_args(arguments)
    both = dataclasses.make_dataclass(
        "Flags",
        [
            ("config", tyro.conf.OmitArgPrefixes[module.Config]),
            ("options", tyro.conf.OmitArgPrefixes[Options]),
        ],
        frozen=True,
    )
    description = (
        f"{module.__doc__}\n\n--preset {{{','.join(module.PRESETS)}}} chooses the values that the "
        f"other flags start from; shown are those of '{chosen.preset}'."
    )
    flags = tyro.cli(
        both,
        prog=program,
        description=description,
        args=rest,
        default=both(module.PRESETS[chosen.preset], Options()),
    )
    return flags.config, flags.options, chosen.preset


def compile_in_haste() -> None:
    """Has XLA optimise little: a quick run takes longer to compile than to compute."""
    import jax

    jax.config.update("jax_disable_most_optimizations", True)


def execute(
    module: ModuleType,
    config: Any,
    options: Options,
    *,
    preset: str,
    show_progress: bool = True,
    stop: preemption.Request | None = None,
) -> Folder:
    """Runs an experiment to its end and writes its results folder.

    Args:
      module: the experiment: `Config`, `PRESETS`, `load`, `run`, `check`, `summarize`, `plot`.
      config: what to compute.
      options: where things are.
      preset: the preset the config came from.
      show_progress: whether to draw a bar.
      stop: a request to stop; None for one that nobody makes.

    Returns:
      The results folder.
    """
    from experiments.common import style
    from experiments.common.context import Context

    start = time.time()
    short = module.__name__.rpartition(".")[2]
    settings = dataclasses.asdict(config)
    name = options.name or default_name(module, config, preset)
    dataset = module.load(config, options.data_dir)
    identity = {"experiment": short, "config": settings, "data_checksum": dataset.checksum}
    folder = Folder.open(options.results_dir / short / name, identity, options.overwrite)
    if folder.finished:
        return folder

    context = Context(folder, show_progress, stop=stop or preemption.Request())
    rows = module.run(config, dataset, context)
    folder.write_rows("metrics.csv", rows)
    rows = folder.read_rows("metrics.csv")  # figure and checks see what the table says, no more
    checks = module.check(rows, config)
    summary = module.summarize(rows, config) | context.notes
    folder.write_json(
        "summary.json", {**summary, "checks": [dataclasses.asdict(c) for c in checks]}
    )
    with style.figure_style():
        figure = module.plot(rows, config)
        style.save(figure, folder)
    command = " ".join(["python -m", f"experiments.{short}", *sys.argv[1:]])
    folder.write_json("manifest.json", manifest(config, dataset, command, start, context.seconds))
    for leftover in ("checkpoints", "partial"):
        import shutil

        shutil.rmtree(folder.path / leftover, ignore_errors=True)
    return folder


def report(module: ModuleType, folder: Folder) -> None:
    """Prints the table, the checks and the paths of a finished run."""
    rows, summary = folder.read_rows("metrics.csv"), folder.read_json("summary.json")
    print(module.table(rows))
    for key, value in summary.items():
        if key != "checks":
            print(f"{key}: {json.dumps(value, ensure_ascii=False)}")
    for check in summary["checks"]:
        print(f"{'pass' if check['passed'] else 'FAIL'}  {check['name']}: {check['message']}")
    seconds = folder.read_json("manifest.json")["seconds"]["total"]
    print(f"\n{folder.path}/figure.png, metrics.csv, summary.json   ({seconds:.0f} s)")


def default_name(module: ModuleType, config: Any, preset: str) -> str:
    """The preset's name; with a suffix that stands for the changed flags, where there are any."""
    if config == module.PRESETS[preset]:
        return preset
    base, changed = dataclasses.asdict(module.PRESETS[preset]), dataclasses.asdict(config)
    different = {k: v for k, v in changed.items() if v != base[k]}
    digest = hashlib.sha256(json.dumps(different, sort_keys=True).encode()).hexdigest()[:6]
    dataset = f"-{config.dataset}" if "dataset" in different else ""
    return f"{preset}{dataset}-{digest}"


def manifest(config: Any, dataset: Any, command: str, start: float, stages: dict) -> dict:
    """What a reader needs to repeat the run: command, versions, devices, revision, data, times."""
    import resource

    import jax

    packages = ("iw_jax", "jax", "jaxlib", "flax", "optax", "numpy")
    # ru_maxrss counts kilobytes on Linux, bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "command": command,
        "root_seed": config.seed,
        "data": {"name": dataset.name, "checksum": dataset.checksum},
        "devices": [f"{d.platform} {d.device_kind}" for d in jax.devices()],
        "python": platform.python_version(),
        "versions": {p: _version(p) for p in packages},
        "git": _git(),
        "seconds": {"total": time.time() - start, **stages},
        "peak_memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _git() -> dict[str, Any]:
    def ask(*words: str) -> str:
        done = subprocess.run(
            ["git", *words], cwd=REPOSITORY, capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    try:
        return {"revision": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain"))}
    except OSError:  # no git on this machine
        return {"revision": "", "dirty": False}


def plain_warnings() -> None:
    """Warnings as one line, since users read them beside a progress bar."""
    warnings.showwarning = lambda message, *_, **__: print(f"\nwarning: {message}", file=sys.stderr)
    sys.unraisablehook = _unless_a_write_was_given_up


def _unless_a_write_was_given_up(unraisable: Any) -> None:
    # One failed write of a checkpoint, which is told as a warning, leaves those beside it without
    # the loop that they report to; each would print a traceback.
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)
