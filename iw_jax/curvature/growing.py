"""A spectral measure that grows product by product: a deflated head, then batches of probes.

`init` -> state, `step(A, state)` -> state, `finish(state)` -> measure; `spectral_measure` is the
loop around them. The head is block Krylov from one random block: its space Q is deflated, its trace
known up to truncation. What is left is estimated by probes orthogonal to Q, each followed through
its own Krylov vectors. All products, of head and probes, make up ONE space (see `krylov`), so that
a probe's rule knows the outliers that the head has found and converges as if they were not there.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from iw_jax import checks, trees
from iw_jax.curvature import dense, krylov, measure, quadrature
from iw_jax.curvature.krylov import Subspace
from iw_jax.curvature.operators import Operator

# An n x n matrix in float64 up to here takes at most half a gigabyte.
DENSE_LIMIT = 8192

# Probes of the batch that finds out how deep to go, and the most in any later one.
_PILOTS, _BATCH = 4, 32


class Plan(NamedTuple):
    """How a fixed number of products is spent, before anything is known of A.

    Attributes:
      block: width of the head's block.
      blocks: depth of the head; block * blocks directions are deflated.
      probes: probes, drawn orthogonal to the head.
      depth: Krylov vectors of each probe.
    """

    block: int
    blocks: int
    probes: int
    depth: int

    @property
    def cost(self) -> int:
        """Products spent."""
        return self.block * self.blocks + self.probes * self.depth


def default_plan(num_matvecs: int) -> Plan:
    """A third for the head, the rest on probes whose depth and number grow together.

    Measured on spectra of networks, outliers over ten decades and power laws (benchmarks/
    log_determinant.py): between a quarter and a half for the head the error hardly changes, nor
    does it with the block's width; four products at once take a fifth less time than one by one.
    Depth 20 at 240 products leaves 1 % open where c λ_max is 1e5; half of it would serve 1e3.

    Args:
      num_matvecs: products allowed, at least 4.
    """
    if num_matvecs < 24:  # too few to find a space worth deflating
        probes = max(2, round(0.8 * math.sqrt(num_matvecs)))
        return Plan(1, 0, probes, num_matvecs // probes)
    block = min(num_matvecs // 12, 4)
    blocks = num_matvecs // (3 * block)
    rest = num_matvecs - block * blocks
    probes = max(rest // round(20 * math.sqrt(num_matvecs / 240)), 2)
    return Plan(block, blocks, probes, rest // probes)


class Strand(NamedTuple):
    """Vectors of one batch and of their powers: `width * depth` consecutive rows of the basis."""

    width: int
    depth: int
    is_head: bool


def basis_bytes(A: Operator, num_matvecs: int = 240) -> int:
    """Memory that a measure of so many products takes for its basis, but for a few blocks more."""
    return min(num_matvecs, A.size) * A.size * np.dtype(A.dtype).itemsize


@trees.record
class Growth:
    """The state of a measurement: continuing from it gives what no interruption would have.

    Attributes:
      key: for what is still to be drawn.
      space: all directions multiplied so far.
      residuals: (r, n), what the last products of every strand left outside the space.
      probes: (P, rows), coordinates in the basis of the probes drawn so far.
      strands: the head first (if there is one), then the batches of probes.
      targets: what to reach.
      ended: "" while growing; then "tolerance" or "budget".
    """

    key: jax.Array
    space: Subspace
    residuals: jax.Array
    probes: jax.Array
    strands: tuple[Strand, ...] = trees.static()
    targets: "Targets" = trees.static()
    ended: str = trees.static()

    @property
    def spent(self) -> int:
        """Products spent."""
        return sum(strand.width * strand.depth for strand in self.strands)

    @property
    def head(self) -> int:
        """Rows of the basis that belong to the head."""
        return sum(s.width * s.depth for s in self.strands if s.is_head)

    @property
    def rank(self) -> jax.Array:
        """Dimensions of the head: its rows that are not empty."""
        return krylov.present(self.space)[: self.head].sum()


class Targets(NamedTuple):
    """What a measurement is to reach, and with what.

    Attributes:
      num_matvecs: products allowed.
      plan: how they are spent, if that is fixed; None to decide by what the products reveal.
      c: where the tolerance holds; empty if nowhere.
      rtol: 95 % half-width over the value.
      atol: added to it; nats.
      quantities: of what: names of `measure.QUANTITIES`.
      policy: see `SpectralMeasure`.
    """

    num_matvecs: int
    plan: Plan | None
    c: tuple[float, ...]
    rtol: float
    atol: float
    quantities: tuple[str, ...]
    policy: str


def spectral_measure(
    A: Operator,
    *,
    key: jax.Array,
    num_matvecs: int = 240,
    c: Any = None,
    rtol: float = 0.0,
    atol: float = 0.0,
    quantities: tuple[str, ...] = tuple(measure.QUANTITIES),
    plan: Plan | None = None,
    policy: str = "error",
    callback: Callable[[Growth], None] | None = None,
    stored: dict[str, np.ndarray] | None = None,
) -> measure.SpectralMeasure:
    """Nodes and weights that give log det(I + cA) and its relatives for every c at once.

    Where n <= num_matvecs (and n <= 8192) the n products of the identity give everything: the
    result is exact. Else a third of the products, at most, finds a head of deflated directions, the
    others follow random probes; see the module's docstring. Deterministic given the key.

    Without `c` the plan is fixed beforehand (`default_plan`) to serve all c up to about 1e5/λ_max.
    With `c` the measure grows by what the first products reveal: probes go deeper while truncation
    is the larger error at the worst c, more probes are drawn while sampling is; until the 95 %
    half-widths of all `quantities` are at most rtol * value + atol for every c, or the budget is
    spent. `measure.ended` says which. Many c cost as much as the hardest of them.

    Under `jit` the plan is fixed, whatever `c`.

    Args:
      A: a symmetric operator on n weights.
      key: a typed random key.
      num_matvecs: products allowed, at least 4. The basis takes num_matvecs * n numbers.
      c: where accuracy is wanted: positive, scalar or array, λ²/β. None for a fixed plan.
      rtol: relative tolerance; 0 to spend the budget.
      atol: absolute tolerance; nats.
      quantities: what the tolerance is for, of "logdet", "effective_dimension" and "information";
        γ is often the slowest.
      plan: a fixed plan of your own, taken at its word: no dense path, no `num_matvecs`, and a
        tolerance only decides what `converged` says.
      policy: what negative eigenvalues mean: "error", "clip" or "abs"; see `SpectralMeasure`.
      callback: is shown the state after each block of products, to read there and then: the next
        step uses it up. The last one shown is what the measure is made of. Not under `jit`.
      stored: `pack` of such a state, made with the same arguments, to go on from.

    Raises:
      TypeError: for a key that is no typed random key.
      ValueError: for counts, tolerances or a policy out of range, products that are not finite, or
        with policy "error" a Ritz value that is negative beyond rounding. Under `jit` the last two
        cannot raise: `Estimate.converged` is False then.

    References:
      Chen & Hallman, arXiv:2205.01736 (Krylov-aware deflation); Ubaru, Chen & Saad 2017 (SLQ).
    """
    _check(A, key, num_matvecs, c, rtol, atol, quantities, plan, policy)
    if plan is None and A.size <= min(num_matvecs, DENSE_LIMIT):
        return dense.dense_measure(A, policy=policy)
    state = init(
        A,
        key=key,
        num_matvecs=num_matvecs,
        c=c,
        rtol=rtol,
        atol=atol,
        quantities=quantities,
        plan=plan,
        policy=policy,
    )
    if stored is not None:
        state = unpack(state, stored)
        if state.ended and callback is not None:
            callback(state)
    while not state.ended:
        state = step(A, state)
        if callback is not None:
            callback(state)
    return finish(state)


def init(
    A: Operator,
    *,
    key: jax.Array,
    num_matvecs: int = 240,
    c: Any = None,
    rtol: float = 0.0,
    atol: float = 0.0,
    quantities: tuple[str, ...] = tuple(measure.QUANTITIES),
    plan: Plan | None = None,
    policy: str = "error",
) -> Growth:
    """The state before the first product; arguments and errors as `spectral_measure`."""
    _check(A, key, num_matvecs, c, rtol, atol, quantities, plan, policy)
    concrete = trees.is_concrete((A, key, c))
    num_matvecs = min(num_matvecs, A.size)
    if plan is None and (c is None or not concrete):
        plan = default_plan(num_matvecs)
    if plan is not None:
        num_matvecs = plan.cost
    if not concrete:  # traced, nobody looks at a tolerance
        rtol = atol = 0.0
    wanted = tuple(np.ravel(c).tolist()) if c is not None and concrete else ()
    space = krylov.empty(num_matvecs, A.size, A.dtype)
    return Growth(
        key=key,
        space=space,
        residuals=jnp.zeros((0, A.size), A.dtype),
        probes=jnp.zeros((0, num_matvecs), A.dtype),
        strands=(),
        targets=Targets(
            num_matvecs, plan, wanted, float(rtol), float(atol), tuple(quantities), policy
        ),
        ended="",
    )


def step(A: Operator, state: Growth) -> Growth:
    """One block of products (traced: one strand, whole), or the end, by what has been seen.

    Args:
      A: the operator `init` was given.
      state: of `init` or `step`. It is used up: its basis is donated to the state returned. `pack`
        it before, where it is to be kept.

    Raises:
      ValueError: for products that are not finite.
    """
    if state.ended:
        return state
    action = _planned(state) if state.targets.plan is not None else _adaptive(state)
    if isinstance(action, str):
        return trees.replace(state, ended=action)
    state = _deepen(A, state) if action is None else _begin(A, state, action)
    dense.require_finite(state.space.matrix)
    return state


def finish(state: Growth) -> measure.SpectralMeasure:
    """The measure of all products so far.

    Args:
      state: of `step`; it need not have ended.

    Raises:
      ValueError: with policy "error", for a Ritz value that is negative beyond rounding.
    """
    filled, head, size = state.spent, state.head, state.space.basis.shape[1]
    outside = krylov.project_out(state.residuals, state.space, filled)
    space, probes = state.space, state.probes
    arrays: Any = *krylov.scaled_gram(outside), space.matrix, probes, krylov.present(space)
    if trees.is_concrete((space, probes)):  # on the host, where a slice is not compiled
        arrays = map(np.asarray, arrays)
    gram, unit, matrix, probes, present = arrays
    gram, unit = quadrature.widened(gram, unit)
    matrix, probes, present = matrix[:filled, :filled], probes[:, :filled], present[:filled]
    early, owners = _first_halves(state.strands), _last_rows(state.strands)
    rule, vectors = quadrature.gauss(matrix, probes, present, head)
    radau = quadrature.gauss_radau(
        matrix,
        probes,
        present,
        head,
        eigen=(rule.nodes, vectors),
        residual_gram=gram * unit**2,
        owners=owners,
        resolution=float(np.finfo(matrix.dtype).eps),
    )
    part = quadrature.after(matrix[np.ix_(early, early)], radau.nodes)
    half, _ = quadrature.gauss(part, probes[:, early], present[early], head)
    return measure.require_sound(
        measure.SpectralMeasure(
            gauss=rule,
            radau=radau,
            half=half,
            overlap=quadrature.overlap(vectors, head),
            cost=filled,
            tolerance=measure.spectral_tolerance(rule.nodes, matrix.dtype),
            rank=present[:head].sum(),
            size=size,
            policy=state.targets.policy,
            ended=state.ended or "budget",
            rtol=state.targets.rtol,
            atol=state.targets.atol,
        )
    )


_ENDS = ("", "tolerance", "budget")


def pack(state: Growth) -> dict[str, np.ndarray]:
    """A state as arrays by name, to be stored; without empty rows of the basis, or empty arrays."""
    arrays = {
        "key": np.asarray(jax.random.key_data(state.key)),
        "basis": np.asarray(state.space.basis)[: state.spent],
        "matrix": np.asarray(state.space.matrix),
        "residuals": np.asarray(state.residuals),
        "probes": np.asarray(state.probes),
        "strands": np.array(state.strands, np.int64).reshape(-1, 3),
        "ended": np.array(_ENDS.index(state.ended)),
    }
    return {name: x for name, x in arrays.items() if x.size}


def unpack(start: Growth, stored: dict[str, np.ndarray]) -> Growth:
    """The state that `pack` stored.

    Args:
      start: of `init`, with the arguments of the stored state.
      stored: of `pack`.

    Raises:
      ValueError: for arrays of a state that was started with other arguments.
    """
    expected: dict[str, Any] = {
        "matrix": start.space.matrix,
        "key": jax.random.key_data(start.key),
        "basis": start.space.basis[:0],
        "probes": start.probes,
        "residuals": start.residuals,
    }
    stored = {"strands": np.zeros((0, 3)), **expected, **stored}
    for name, like in expected.items():
        given = stored[name]
        rows = np.shape(given) if name in ("matrix", "key") else (len(like), *given.shape[1:])
        if rows != like.shape or given.dtype != like.dtype:
            raise ValueError(
                f"stored must be a state of the same measurement, got {name} of shape "
                f"{given.shape} and type {given.dtype}"
            )
    filled = len(stored["basis"])
    basis = start.space.basis.at[:filled].set(stored["basis"])
    return trees.replace(
        start,
        key=jax.random.wrap_key_data(
            jnp.asarray(stored["key"]), impl=jax.random.key_impl(start.key)
        ),
        space=Subspace(basis, jnp.asarray(stored["matrix"]), jnp.asarray(filled, jnp.int32)),
        residuals=jnp.asarray(stored["residuals"]),
        probes=jnp.asarray(stored["probes"]),
        strands=tuple(Strand(int(w), int(d), bool(h)) for w, d, h in stored["strands"]),
        ended=_ENDS[int(stored["ended"])],
    )


def _begin(A: Operator, state: Growth, strand: Strand) -> Growth:
    """A new strand from random vectors: of the head, or of probes orthogonal to it."""
    size = A.size
    key, own = jax.random.split(state.key)
    start = jax.random.normal(own, (strand.width, size), A.dtype)
    if strand.width == size:  # all directions: axes of the weights lose none to rounding
        start = jnp.eye(size, dtype=A.dtype)
    if not strand.is_head:
        start = krylov.project_out(start, state.space, state.head)
        norms = jnp.linalg.norm(start, axis=1, keepdims=True)
        start = start * (jnp.sqrt(size - state.rank) / jnp.where(norms > 0, norms, 1))
    negligible = 10 * float(np.finfo(A.dtype).eps) * math.sqrt(size)
    space, residual = _multiply(A, state.space, start, negligible, strand.depth)
    probes = state.probes
    if not strand.is_head:
        probes = jnp.concatenate([probes, krylov.coordinates(space, start)])
    return trees.replace(
        state,
        key=key,
        space=space,
        residuals=jnp.concatenate([state.residuals, residual]),
        probes=probes,
        strands=(*state.strands, strand),
    )


def _deepen(A: Operator, state: Growth) -> Growth:
    """One block more of the last strand."""
    *others, last = state.strands
    block = state.residuals[-last.width :]
    space, residual = _multiply(A, state.space, block, krylov.rounding(state.space), 1)
    return trees.replace(
        state,
        space=space,
        residuals=jnp.concatenate([state.residuals[: -last.width], residual]),
        strands=(*others, last._replace(depth=last.depth + 1)),
    )


def _multiply(
    A: Operator, space: Subspace, block: jax.Array, negligible: Any, depth: int
) -> tuple[Subspace, jax.Array]:
    """`depth` blocks of products, each of the residual of the one before."""
    if depth == 1:
        return krylov.advance(A.flat_block, space, block, negligible)

    def body(_, carry):
        space, residual = krylov.advance(A.flat_block, *carry)
        return space, residual, krylov.rounding(space)

    carry = space, block, jnp.asarray(negligible, space.matrix.dtype)
    space, residual, _ = jax.lax.fori_loop(0, depth, body, carry)
    return space, residual


def _planned(state: Growth) -> Strand | str | None:
    """What the fixed plan says: a new strand, None to deepen the last one, or why it ends."""
    plan = state.targets.plan
    assert plan is not None
    traced = not trees.is_concrete((state.space, state.key))
    wanted = [Strand(plan.block, plan.blocks, True), Strand(plan.probes, plan.depth, False)]
    for strand in (s for s in wanted if s.width and s.depth):
        now = next((s for s in state.strands if s.is_head == strand.is_head), None)
        if now is None:
            return strand if traced else strand._replace(depth=1)
        if now.depth < strand.depth:
            return None
    return "budget"


def _adaptive(state: Growth) -> Strand | str | None:
    """What is to be done next: a new strand, None to deepen the last one, or why it ends."""
    left = state.targets.num_matvecs - state.spent
    if not state.strands or state.strands[-1].is_head:
        block = default_plan(state.targets.num_matvecs).block
        if _head_pays(state, block):
            return None if state.strands else Strand(block, 1, True)
        return Strand(min(_PILOTS, left // 2), 1, False)

    worst, truncation, sampling = _worst(finish(state), state.targets)
    tolerated = state.targets.rtol > 0 or state.targets.atol > 0
    if tolerated and worst <= 1:
        return "tolerance"
    width, depth, _ = state.strands[-1]
    if truncation > sampling / 2 and left >= width:
        return None
    more = min(_BATCH, left // depth)
    if tolerated:  # sampling error falls with the root of the number of probes
        factor = (sampling / max(1 - truncation, 0.1)) ** 2 - 1
        more = min(more, max(math.ceil(factor * state.probes.shape[0]), _PILOTS))
    if more >= 1:
        return Strand(more - more % _PILOTS if more > _PILOTS else more, 1, False)
    return None if left >= width else "budget"


def _head_pays(state: Growth, block: int) -> bool:
    """Whether one more block of the head is worth its products.

    Deflating an eigenvalue λ takes 2 f(λ)² off the variance of a probe. To save the same by more
    probes of depth k at a tolerance t (two standard errors) takes k 2 f(λ)² (2/t)² products; so
    it pays while f(λ) > t / sqrt(8 k), for which depth 6 is a fair guess. Half of the Ritz values
    of a Krylov space stand for eigenvalues that are deflated well. Never more than a third of the
    budget, since between a quarter and a half of it the error hardly changes.
    """
    targets, spent = state.targets, state.spent
    if targets.num_matvecs < 24 or spent + block > targets.num_matvecs // 3:
        return False
    if spent < 4 * block or not (targets.rtol or targets.atol):
        return True
    ritz = np.maximum(np.linalg.eigvalsh(np.asarray(state.space.matrix)[:spent, :spent]), 0)
    for quantity in targets.quantities:
        gains = measure.QUANTITIES[quantity](np.asarray(targets.c)[:, None] * ritz)
        allowed = targets.rtol * gains.sum(-1) + targets.atol
        if np.any(np.median(gains, -1) > allowed / math.sqrt(48)):
            return True
    return False


def _worst(measured: measure.SpectralMeasure, targets: Targets) -> tuple[float, float, float]:
    """Half-width over what is tolerated (over the value, if nothing is), at the worst c.

    Returns:
      The whole, the part of truncation and that of sampling.
    """
    c = np.asarray(targets.c)
    ratios = []
    for quantity in targets.quantities:
        estimate = getattr(measured, quantity)(c)
        lower, upper = estimate.interval()
        open_ = (estimate.bracket_upper - estimate.bracket_lower) / 2
        allowed = targets.rtol * np.abs(estimate.value) + targets.atol
        if not targets.rtol and not targets.atol:
            allowed = np.abs(estimate.value)
        whole = (upper - lower) / 2
        scale = np.where(whole > 0, np.where(allowed > 0, allowed, 1e-300), 1)
        ratios.append(np.stack([whole / scale, open_ / scale]))
    whole, truncation = np.concatenate(ratios, axis=1)
    at = int(np.argmax(whole))
    return float(whole[at]), float(truncation[at]), float(whole[at] - truncation[at])


def _last_rows(strands: tuple[Strand, ...]) -> np.ndarray:
    """The rows of the basis whose products left the residuals, in their order."""
    stops = np.cumsum([s.width * s.depth for s in strands])
    parts = [np.arange(t - s.width, t) for t, s in zip(stops, strands, strict=True)]
    return np.concatenate([np.zeros(0, int), *parts])


def _first_halves(strands: tuple[Strand, ...]) -> np.ndarray:
    """The rows of the head, and those of each batch up to half of its depth."""
    stops = np.cumsum([s.width * s.depth for s in strands])
    parts = []
    for stop, (width, depth, is_head) in zip(stops, strands, strict=True):
        kept = depth if is_head else max(depth // 2, 1)
        first = stop - width * depth
        parts.append(np.arange(first, first + width * kept))
    return np.concatenate([np.zeros(0, int), *parts])


def _check(
    A: Operator,
    key: jax.Array,
    num_matvecs: int,
    c: Any,
    rtol: float,
    atol: float,
    quantities: tuple[str, ...],
    plan: Plan | None,
    policy: str,
) -> None:
    checks.key("key", key)
    checks.at_least("num_matvecs", num_matvecs, 4)
    measure.require_policy(policy)
    if c is not None:
        checks.positive("c", c)
    for name, value in (("rtol", rtol), ("atol", atol)):
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} must be finite and not negative, got {value}")
        if value and c is None:
            raise ValueError(f"{name} needs to know where it holds: give c too")
    if not quantities or not set(quantities) <= set(measure.QUANTITIES):
        raise ValueError(
            f"quantities must be some of {tuple(measure.QUANTITIES)}, got {quantities!r}"
        )
    if plan is None:
        return
    for name, value in plan._asdict().items():
        checks.at_least(f"plan.{name}", value, 0)
    checks.at_least("plan.cost", plan.cost, 1)
    if plan.block * plan.blocks > A.size:
        raise ValueError(
            f"plan must not deflate more than the {A.size} weights, got {plan.block} times "
            f"{plan.blocks}"
        )
