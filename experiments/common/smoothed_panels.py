"""What the table of `experiments.smoothed_entropy` says, and the panels of its figure."""

from typing import Any

import numpy as np

from experiments.common import style, tables
from experiments.common.tables import Rows
from iw_jax.activations.mixture import noise_entropy

LOOKS = {  # colour, marker, what it is
    "sp": (style.BLUE, "o", "iw.smoothed_entropy, σ known"),
    "kde": (style.ORANGE, "s", "kernel density, width fitted"),
    "knn": (style.GREEN, "D", "3rd nearest neighbour"),
}


# ----------------------------------------------------------------------------------- the table


def select(rows: Rows, **where: Any) -> Rows:
    """Rows with these values."""
    return [row for row in rows if all(row[key] == value for key, value in where.items())]


def cells(rows: Rows, kind: str) -> list[dict[str, Any]]:
    """What tells the laws of a kind, and their σ, apart; each once."""
    names = ("kind", "law", "dimension", "sigma")
    found = {tuple(row[name] for name in names): None for row in rows if row["kind"] == kind}
    return [dict(zip(names, each, strict=True)) for each in found]


def estimates(rows: Rows, name: str = "nats", **where: Any) -> np.ndarray:
    """A column of one law, σ and estimator, (numbers, repeats)."""
    return tables.grid(rows, name, axes=("num_samples", "repeat"), **where)


def errors(rows: Rows, **where: Any) -> np.ndarray:
    """Estimates less the truth, (numbers, repeats)."""
    return estimates(rows, **where) - estimates(rows, "exact_nats", **where)


def numbers(rows: Rows, **where: Any) -> np.ndarray:
    """n, increasing."""
    return np.array(sorted({row["num_samples"] for row in select(rows, **where)}))


def rms(values: np.ndarray) -> np.ndarray:
    """Root mean square over repeats."""
    return np.sqrt(np.mean(values**2, -1))


def name_of(cell: dict[str, Any]) -> str:
    """Of a law and its σ, for legends and messages."""
    law = _shown(cell["law"]) if cell["kind"] == "code" else f"d = {cell['dimension']}"
    return f"{law}, σ = {cell['sigma']:g}"


def _shown(code: str) -> str:
    """RM(r,m), as it is written where commas do not separate columns."""
    return code.replace(" ", ",")


# ---------------------------------------------------------------------------------- the panels


def _against_n(axis: Any, n: np.ndarray, values: np.ndarray, name: str, **look: Any) -> None:
    """Mean over repeats, (n, repeats), with their standard deviation."""
    colour, marker, _ = LOOKS[name]
    look = {"color": colour, "marker": marker, "capsize": 2, **look}
    axis.errorbar(n, values.mean(1), values.std(1, ddof=1), **look)
    axis.set(xscale="log", xlabel="samples n")


def draw_corners(axis: Any, rows: Rows, size: int, config: Any) -> None:
    """Errors in d dimensions against n, at the smallest σ (open, dashed) and the largest."""
    dashes = dict(zip(sorted({config.sigmas[0], config.sigmas[-1]}), ("--", "-"), strict=False))
    for cell in cells(rows, "corners"):
        if cell["dimension"] != size or cell["sigma"] not in dashes:
            continue
        dash = dashes[cell["sigma"]]
        face = {"markerfacecolor": "white"} if dash == "--" else {}
        for name in LOOKS:
            where = cell | {"estimator": name}
            values = errors(rows, **where)
            _against_n(axis, numbers(rows, **where), values, name, linestyle=dash, **face)
    for sigma, dash in dashes.items():
        axis.plot([], [], color="black", linestyle=dash, label=f"σ = {sigma:g}")
    axis.axhline(0, color="black", linewidth=1)
    axis.set_yscale("symlog", linthresh=0.1)
    axis.yaxis.set_major_formatter("{x:g}")
    axis.legend(fontsize=8)
    title = f"2^{size} Gaussians of sd {config.spread:g}, d = {size}"
    axis.set(ylabel="estimate - h, nats", title=title)


def draw_layer(axis: Any, rows: Rows) -> None:
    """Entropy of the spiral network's layer against n; band: the interval where σ is known."""
    (cell,) = cells(rows, "layer")
    for name in LOOKS:
        where = cell | {"estimator": name}
        _against_n(axis, numbers(rows, **where), estimates(rows, **where), name)
    where = cell | {"estimator": "sp"}
    n, lower, upper = numbers(rows, **where), *(
        estimates(rows, f"{end}_nats", **where).mean(1) for end in ("lower", "upper")
    )  # fmt: skip
    axis.fill_between(n, lower, upper, color=style.BLUE, alpha=0.15, linewidth=0)
    title = f"third layer of a spiral network, d = {cell['dimension']}, σ = {cell['sigma']:g}"
    axis.set(ylabel="h, nats", title=title)


def draw_channel(axis: Any, rows: Rows, config: Any) -> None:
    """I(S; S + Z) of codes against σ, exact and from the fewest (open) and the most samples."""
    looks = zip((style.PURPLE, style.BLUE, style.ORANGE), ("D", "o", "s"), strict=True)
    for law, (colour, marker) in zip(_codes(rows), looks, strict=False):
        own = [cell for cell in cells(rows, "code") if cell["law"] == law]
        sigma = np.array([cell["sigma"] for cell in own])
        noise = np.asarray(noise_entropy(own[0]["dimension"], sigma))
        truth = np.array([select(rows, **cell)[0]["exact_nats"] for cell in own])
        axis.plot(sigma, truth - noise, color=colour, linewidth=1, label=f"{_shown(law)}, exact")
        for i, face in ((0, "white"), (-1, colour)):
            found = np.array([estimates(rows, estimator="sp", **cell)[i].mean() for cell in own])
            said = f"n = {config.numbers[i]}"
            look = {"color": colour, "marker": marker, "markerfacecolor": face, "linestyle": ""}
            axis.plot(sigma, found - noise, label=said, **look)
    axis.legend(fontsize=8)
    title = "codes over a noisy channel: words of RM(r, m), d = 2^m"
    axis.set(xlabel="σ", ylabel="I(S; S + Z), nats", title=title)


def draw_code_error(axis: Any, rows: Rows, config: Any) -> None:
    """Errors for codes against n."""
    some = sorted({config.code_sigmas[0], 1.0, 2.0} & set(config.code_sigmas))
    dashes = dict(zip(some, ("--", "-", ":"), strict=False))
    looks = dict(zip(_codes(rows), (style.PURPLE, style.BLUE, style.ORANGE), strict=False))
    for cell in cells(rows, "code"):
        if cell["sigma"] in dashes and cell["law"] in looks:
            where = cell | {"estimator": "sp"}
            look = {"color": looks[cell["law"]], "linestyle": dashes[cell["sigma"]]}
            look["label"] = name_of(cell)
            _against_n(axis, numbers(rows, **where), errors(rows, **where), "sp", **look)
    axis.axhline(0, color="black", linewidth=1)
    axis.legend(fontsize=8)
    axis.set(ylabel="estimate - I, nats", title="the same codes: the estimate comes from below")


def _codes(rows: Rows) -> list[str]:
    return list(dict.fromkeys(cell["law"] for cell in cells(rows, "code")))


def draw_monte_carlo(axis: Any, rows: Rows) -> None:
    """Error of Monte Carlo against n_MC, for given samples."""
    looks = (style.BLUE, "o"), (style.ORANGE, "s"), (style.GREEN, "D"), (style.PURPLE, "^")
    for cell, (colour, marker) in zip(cells(rows, "monte_carlo"), looks, strict=False):
        own = sorted(select(rows, **cell), key=lambda row: row["num_draws"])
        draws, found, bound = (
            tables.column(own, name) for name in ("num_draws", "rmse_nats", "bound_nats")
        )
        axis.loglog(draws, found, color=colour, marker=marker, linestyle="", label=name_of(cell))
        level = np.exp(np.mean(np.log(found * np.sqrt(draws))))
        axis.loglog(draws, level / np.sqrt(draws), color=colour, linewidth=1)
        axis.loglog(draws, bound, color=colour, linestyle=":", linewidth=1)
    axis.legend(fontsize=8)
    title = "Monte-Carlo error; lines: slope -1/2; dotted: Thm 5"
    axis.set(xlabel="draws a sample n_MC", ylabel="RMSE, nats", title=title)
