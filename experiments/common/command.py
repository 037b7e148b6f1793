"""The command line of an experiment: `python -m experiments.NAME --help`."""

import argparse
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

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
      dry_run: load the data and say what the run would do and take; compute and write nothing.
      data_devices: parts that the examples of a step are dealt out to; members get what is left.
      model_devices: parts that the weights of a sweep are dealt out to.
      distributed: this is one of several processes, as a TPU pod, Slurm or Open MPI says.
      coordinator: the same, elsewhere: address and port of process 0.
      num_processes: how many, with a coordinator.
      process_id: which this is, with a coordinator.
    """

    data_dir: Path | None = None
    results_dir: Path = Path("results")
    name: str | None = None
    overwrite: bool = False
    dry_run: bool = False
    data_devices: int = 1
    model_devices: int = 1
    distributed: bool = False
    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None


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
        start_processes(options)
        if options.dry_run:
            print(rehearse(module, config, options, preset=preset))
            return
        with preemption.listening() as stop:
            folder = execute(module, config, options, preset=preset, stop=stop)
        if folder.writes:
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
            _fail(
                f"the device ran out of memory ({str(error)[:200]}); lower --member-batch or "
                "--batch-size, and start afresh or under another --name"
            )
        _fail(str(error))


def _fail(message: str) -> NoReturn:
    """Ends with a paragraph and status 1; of several processes at once, or it waits for others."""
    import jax

    print(f"\nerror: {message}", file=sys.stderr, flush=True)
    if jax.distributed.is_initialized():
        os._exit(1)
    sys.exit(1)


def parse(module: ModuleType, arguments: list[str]) -> tuple[Any, Options, str]:
    """Config, options and the name of the preset that the flags started from."""
    import tyro

    program = f"python -m experiments.{_short(module)}"
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
    if _version("jaxlib") == "0.10.2":  # others know no such flag, and would not start with it
        flags = os.environ.get("XLA_FLAGS", "")  # read when XLA first compiles
        os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_use_fusion_emitters=false".strip()


def start_processes(options: Options) -> None:
    """Joins the other processes of the run, where there are any."""
    from iw_jax import parallel

    numbers = options.coordinator, options.num_processes, options.process_id
    if options.distributed or any(number is not None for number in numbers):
        parallel.start(*numbers)


def mesh_of(options: Options) -> Any:
    """All devices; None where there is one."""
    import jax

    import iw_jax as iw

    parts = {"data": options.data_devices, "model": options.model_devices}
    if jax.device_count() == 1 and set(parts.values()) == {1}:
        return None
    return iw.make_mesh(**parts)


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
      The results folder; of several processes only the first one's is written.
    """
    import jax

    from experiments.common import machine, style
    from experiments.common.context import Context
    from iw_jax import parallel

    start = time.time()

    def begin():
        mesh = mesh_of(options)
        dataset = module.load(config, options.data_dir)
        folder = Folder(_path(module, config, options, preset), writes=jax.process_index() == 0)
        if folder.writes:
            identity = _identity(module, config, dataset)
            folder = Folder.open(folder.path, identity, options.overwrite)
        return mesh, dataset, folder

    mesh, dataset, folder = parallel.together(begin)
    show_progress = show_progress and folder.writes
    if parallel.anywhere(folder.writes and folder.finished):
        return folder

    if show_progress:
        print(machine.report(), file=sys.stderr)
        if preset == "paper":  # may take days
            print(f"{preset}: {estimate(module, config, dataset)}", file=sys.stderr)
    context = Context(folder, show_progress, stop=stop or preemption.Request(), mesh=mesh)
    rows = module.run(config, dataset, context)
    if not folder.writes:
        return folder
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
    command = " ".join(["python -m", f"experiments.{_short(module)}", *sys.argv[1:]])
    folder.write_json("manifest.json", manifest(config, dataset, command, start, context.seconds))
    for leftover in ("checkpoints", "partial"):
        import shutil

        shutil.rmtree(folder.path / leftover, ignore_errors=True)
    return folder


def rehearse(module: ModuleType, config: Any, options: Options, *, preset: str) -> str:
    """What a run would do, where, and what it would take; nothing is written.

    Arguments as for `execute`.

    Raises:
      ResultsError: if the results folder holds a run of another configuration.
    """
    from experiments.common import machine

    mesh_of(options)
    dataset = module.load(config, options.data_dir)
    path = _path(module, config, options, preset)
    there = Folder(path).holds(_identity(module, config, dataset), options.overwrite)
    return "\n".join(
        [
            f"experiment: {_short(module)}, preset {preset}; a dry run, nothing is written",
            f"device:     {machine.report()}",
            f"data:       {dataset.name} ({dataset.checksum})",
            f"results:    {path}, {there}",
            f"cost:       {estimate(module, config, dataset)}",
        ]
    )


def estimate(module: ModuleType, config: Any, dataset: Any) -> str:
    """A line on what a run will take, of experiments that train networks."""
    from experiments.common import cost

    if not hasattr(module, "stages"):
        return "no estimate for this experiment"
    return cost.estimate(module.stages(config, dataset))


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


def _short(module: ModuleType) -> str:
    return module.__name__.rpartition(".")[2]


def _path(module: ModuleType, config: Any, options: Options, preset: str) -> Path:
    name = options.name or default_name(module, config, preset)
    return options.results_dir / _short(module) / name


def _identity(module: ModuleType, config: Any, dataset: Any) -> dict[str, Any]:
    """What must agree for a run to go on."""
    return {
        "experiment": _short(module),
        "config": dataclasses.asdict(config),
        "data_checksum": dataset.checksum,
    }


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
