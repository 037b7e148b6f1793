"""Lists the experiments: `python -m experiments`."""

import ast
from pathlib import Path


def names() -> dict[str, str]:
    """First docstring line of every experiment, by name; nothing is imported."""
    files = sorted(Path(__file__).parent.glob("[!_]*.py"))
    return {
        f.stem: (ast.get_docstring(ast.parse(f.read_text())) or "").split("\n")[0] for f in files
    }


if __name__ == "__main__":
    print("Run one with: python -m experiments.NAME --help\n")
    for name, line in names().items():
        print(f"  {name:<16}  {line}")
