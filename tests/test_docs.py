"""The words that users copy: every Python block runs, and every name and flag exists."""

import dataclasses
import importlib
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"-?\d+\.?\d*(?:e[+-]?\d+)?")

# Runs blocks in one namespace; prints, as JSON, what each of them printed.
RUNNER = """
import contextlib, io, json, sys
namespace, printed = {"__name__": "__main__"}, []
for name, source in json.load(sys.stdin):
    with contextlib.redirect_stdout(io.StringIO()) as output:
        exec(compile(source, name, "exec"), namespace)
    printed.append(output.getvalue())
print(json.dumps(printed))
"""


@pytest.mark.parametrize(
    "page", ["README.md", pytest.param("docs/quickstart.md", marks=pytest.mark.slow)]
)
def test_python_blocks_run_and_print_what_the_page_shows(page):
    if not (ROOT / page).exists():
        pytest.skip(f"{page} is not written yet")
    found = blocks(ROOT / page)
    has_equinox = importlib.util.find_spec("equinox") is not None
    chosen = [b for b in found if has_equinox or "import equinox" not in b.source]
    assert chosen, f"{page} has no Python block"
    for block, printed in zip(chosen, run(page, chosen), strict=True):
        assert_same_output(printed, block.shown, f"{page}, block at line {block.line}")
    if chosen != found:
        pytest.skip("equinox is not installed: its block did not run, all others did")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_dotted_name_exists(page):
    text = FENCE.sub("", page.read_text())
    names = set(re.findall(r"`((?:iw|iw_jax|experiments)(?:\.\w+)+)", text))
    missing = sorted(name for name in names if not exists(name))
    assert not missing


def test_every_flag_of_the_experiments_page_exists():
    from experiments.common import command

    page = (ROOT / "docs/experiments.md").read_text()
    modules = [importlib.import_module(f"experiments.{name}") for name in experiments()]
    kinds = [command.Options, *(module.Config for module in modules)]
    known = {field.name.replace("_", "-") for kind in kinds for field in dataclasses.fields(kind)}
    flags = set(re.findall(r"--([a-z][a-z-]*)", page))
    assert flags
    assert flags <= known | {"preset", "help"}


def test_every_experiment_has_its_paragraph():
    page = (ROOT / "docs/experiments.md").read_text()
    assert [name for name in experiments() if f"## {name}\n" not in page] == []


@dataclasses.dataclass(frozen=True)
class Block:
    """A Python block, and the output that the page shows below it (empty if none)."""

    line: int
    source: str
    shown: str


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    fences = list(FENCE.finditer(text))
    following = [*fences[1:], None]
    return [
        Block(
            line=text.count("\n", 0, fence.start()) + 1,
            source=fence[2],
            shown=after[2] if after is not None and after[1] == "text" else "",
        )
        for fence, after in zip(fences, following, strict=True)
        if fence[1] == "python"
    ]


def run(page: str, chosen: list[Block]) -> list[str]:
    """A process of its own, since the tests' has float64 on and users have not."""
    # Compiling is nearly all of the time; optimising the programs would double it.
    settings = {"JAX_ENABLE_X64": "0", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    # Blank lines before each source, so that a traceback names the line of the page.
    sources = [(page, "\n" * block.line + block.source) for block in chosen]
    done = subprocess.run(
        [sys.executable, "-c", RUNNER],
        input=json.dumps(sources),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **settings, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def assert_same_output(printed: str, shown: str, where: str) -> None:
    """Equal words; numbers within 10 %, which is what releases and processors may differ by."""
    if not shown:
        return
    assert words(printed) == words(shown), where
    given, expected = (list(map(float, NUMBER.findall(text))) for text in (printed, shown))
    assert given == pytest.approx(expected, rel=0.1), where


def words(text: str) -> list[str]:
    return NUMBER.sub("#", text).split()


def exists(name: str) -> bool:
    """Whether a dotted name leads to a module, an attribute, or a field of a dataclass."""
    head, *rest = name.split(".")
    head = "iw_jax" if head == "iw" else head
    found = importlib.import_module(head)
    for i, part in enumerate(rest):
        if hasattr(found, part):
            found = getattr(found, part)
        elif part in getattr(found, "__dataclass_fields__", {}):
            return i == len(rest) - 1
        else:
            try:
                found = importlib.import_module(f"{found.__name__}.{part}")
            except (ImportError, AttributeError):
                return False
    return True


def experiments() -> list[str]:
    from experiments.__main__ import names

    return list(names())
