"""Pictures of games, equilibria and the ways to them; needs the extra `plot`.

Each function draws on the axes `ax`, or on those of a new figure, and returns them. Lines differ by dashes and markers
and not by colour alone, and shades by lightness, so that pictures can be read in black and white. Nothing is shown, and
no setting of matplotlib is changed: `ax.figure.savefig(...)` writes a picture to a file. Legends stand to the right of
lines, so figures of one's own need `layout="constrained"`.

One file, though long: five pictures that share their colours, dashes and checks, and one place to look for them.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

try:
    import matplotlib.pyplot as plt
    from matplotlib.axes import Axes
    from matplotlib.colors import LinearSegmentedColormap
except ImportError as error:
    raise ImportError(f'nashjax.plotting needs {error.name}: python -m pip install "nashjax[plot]"') from error

from nashjax._execution.distances import measure_distances
from nashjax._solve import solve
from nashjax._validation import (
    as_numbers,
    check_all,
    check_choice,
    check_integer,
    check_policy,
    check_positive,
    invalid,
    shown,
    wrong_type,
)
from nashjax.games import Game
from nashjax.games.conversion import check_one_player
from nashjax.problem import Problem
from nashjax.solution import Trajectory

CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(0.75)]])
"""Where the three actions of a triangle lie, `[3, 2]`: left, right, top. A policy `p` lies at `p @ CORNERS`."""
PREFERENCE_COLORS = LinearSegmentedColormap.from_list(
    "preference", ["#08244f", "#4a6d8c", "#a3a3a3", "#e0b56a", "#fff3c9"]
)
"""Blue below 1/2, grey there, yellow above; the lightness only grows."""
DASHES = ("-", "--", "-.")  # dots are for what a theory says
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h")
MOST_NUMBERS = 12
"""Up to this many items the numbers stand in the cells of a heat map."""
MOST_TICKS = 40
"""No more items than these are named along an axis."""
__all__ = ["convergence", "equilibrium_path", "preference_heatmap", "ranking_intervals", "simplex_dynamics"]

MEASURES = {"exploitability": "exploitability", "kl": "KL(p*‖p), nats", "span": "span of log p - log p*, nats"}


def convergence(
    trajectories: Mapping[str, Any],
    *,
    beta: float | None = None,
    measure: str = "exploitability",
    equilibrium: ArrayLike | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw how methods converge: a measure against the queries or the comparisons made, one line for each method.

    For a batch of games, a line is the median of what each game has reached, up to where all of them go.

    Args:
      trajectories: by the name of the method, what `nashjax.trajectory` returned, or the `history` of what
        `nashjax.stochastic.train` returned; one game or a batch. Trajectories count queries and histories count
        comparisons, so that they cannot share axes.
      beta: if given, dots show the rate that the theory promises Nash Mirror Prox, `(1 + 2 beta)^(-N/2)` after `N`
        queries, from the first value of the first method on. Under `"kl"` that is a bound, under the other measures a
        slope to compare with. > 0, and only for trajectories.
      measure: `"exploitability"`, in units of preference; `"kl"`, `KL(p*||p)` in nats; or `"span"`, the largest minus
        the smallest entry of `log p - log p*`. The last two need trajectories with `distances`, or `equilibrium`.
      equilibrium: `p*`, probabilities that broadcast to `[*batch, n]`; by default the one that the trajectories were
        recorded with (`nashjax.trajectory(..., equilibrium=True)`).
      ax: where to draw.

    Raises:
      TypeError: an argument has the wrong type.
      ValueError: an argument is not valid.

    Example:
      >>> import nashjax as nj
      >>> cycle = [[0.5, 0.9, 0.2], [0.1, 0.5, 0.8], [0.8, 0.2, 0.5]]
      >>> paths = {
      ...     type(method).__name__: nj.trajectory(cycle, 0.1, algorithm=method, num_steps=20, equilibrium=True)
      ...     for method in (nj.NashMP(), nj.AdaptiveNashMP())
      ... }
      >>> ax = nj.plotting.convergence(paths, measure="kl", beta=0.1)
      >>> ax.get_ylabel()
      'KL(p*‖p), nats'
    """
    if not isinstance(trajectories, Mapping) or not trajectories:
        raise wrong_type("trajectories", "a mapping from names to trajectories, with at least one", trajectories)
    check_choice("measure", measure, tuple(MEASURES))
    if beta is not None:
        beta = check_positive("beta", beta)
    histories = [name for name, path in trajectories.items() if _is_history(path)]
    if histories and len(histories) < len(trajectories):
        requirement = "either trajectories, which count queries, or histories, which count comparisons"
        raise invalid("trajectories", requirement, f"both; {histories[0]!r} is a history", "Draw them on two axes.")
    if histories and (beta is not None or measure != "exploitability"):
        name, given, allowed = ("beta", beta, "None") if beta is not None else ("measure", measure, "'exploitability'")
        raise invalid(name, f"{allowed} for histories of stochastic.train", repr(given))
    lines = {name: _medians(name, path, measure, equilibrium) for name, path in trajectories.items()}

    ax = _axes(ax)
    for k, (name, (queries, values)) in enumerate(lines.items()):
        ax.plot(queries, values, label=name, markevery=_sparse(len(queries), k), **_style(k))
    if beta is not None:
        first, start = (column[0] for column in next(iter(lines.values())))
        queries = np.unique(np.concatenate([queries for queries, _ in lines.values()]))
        promised = start * (1 + 2 * beta) ** (-(queries - first) / 2)
        ax.plot(queries, promised, ":", color="black", label="(1 + 2 beta)^(-N/2)")
    ax.set(xlabel="comparisons" if histories else "queries N", ylabel=MEASURES[measure], yscale="log")
    return _finish(ax)


def simplex_dynamics(
    game: Game | jax.typing.ArrayLike,
    beta: float,
    trajectories: Mapping[str, Trajectory | ArrayLike] | None = None,
    *,
    reference: jax.typing.ArrayLike | None = None,
    labels: Sequence[str] = ("1", "2", "3"),
    ax: Axes | None = None,
) -> Axes:
    """Draw the dynamics of a game of three actions on the triangle of all policies, its equilibrium a star.

    The arrows are the flow of mirror descent against oneself, `dp/dt = p (g - <p, g>)` with `g = P p - beta log(p/r)`,
    which at `beta = 0` is the replicator equation. Their length grows with the square root of the speed.

    Args:
      game: one game of 3 actions, a `Game` or preferences `[3, 3]`.
      beta: regularization, >= 0, in units of preference.
      trajectories: paths to draw, by name: of one game as `nashjax.trajectory` returns it, or probabilities
        `[steps, 3]`. A dot marks where each begins.
      reference: `r`, probabilities `[3]`, all > 0; default uniform.
      labels: names of the three actions, which are the corners at the left, at the right and at the top.
      ax: where to draw.

    Raises:
      TypeError: an argument has the wrong type.
      ValueError: an argument is not valid.
    """
    check_one_player(game)
    inputs = Problem.build(game, beta, reference)
    if inputs.game.num_actions != 3 or inputs.batch_shape != ():
        found = f"{inputs.game.num_actions} actions and the batch shape {list(inputs.batch_shape)}"
        raise invalid("game", "one game of 3 actions, also with beta and reference", found)
    r = np.full(3, 1 / 3) if reference is None else np.asarray(reference, np.float64)
    if not (r > 0).all():
        raise invalid("reference", "3 probabilities > 0, since the whole triangle is drawn", str(r.tolist()))
    names = _names("labels", labels, 3)
    paths = {name: _path(name, path) for name, path in (trajectories or {}).items()}
    star = np.asarray(solve(game, beta, reference=reference).policy, np.float64) @ CORNERS

    ax = _axes(ax)
    ax.fill(*CORNERS.T, facecolor="none", edgecolor="black", linewidth=1)
    points = _inside(18)
    g = np.asarray(inputs.game.payoffs(jnp.asarray(points.T, inputs.beta.dtype))).T - beta * np.log(points / r)
    flow = points * (g - np.sum(points * g, axis=1, keepdims=True)) @ CORNERS
    speed = np.linalg.norm(flow, axis=1, keepdims=True)
    moving = speed > 16 * jnp.finfo(inputs.beta.dtype).eps  # the rest is rounding
    arrows = np.where(moving, flow, 0) / np.sqrt(np.where(moving, speed * speed.max(), 1))
    ax.quiver(*(points @ CORNERS).T, *arrows.T, color="0.65", angles="xy", scale=22, width=0.004, zorder=1)
    for k, (name, path) in enumerate(paths.items()):
        xy = path @ CORNERS
        ax.plot(*xy.T, label=name, markevery=_sparse(len(xy), k, 12), linewidth=1.2, **_style(k))
        ax.plot(*xy[0], "o", color="black", markersize=4, zorder=3)
    ax.plot(*star, "*", color="black", markerfacecolor="white", markersize=16, zorder=4, label="equilibrium")
    for name, corner, (x, y), align in zip(
        names, CORNERS, ((0, -9), (0, -9), (0, 6)), ("top", "top", "bottom"), strict=True
    ):
        ax.annotate(name, corner, (x, y), textcoords="offset points", ha="center", va=align)
    ax.set_aspect("equal")
    ax.set_axis_off()
    ax.legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(0.68, 1))
    return ax


def preference_heatmap(
    preferences: ArrayLike,
    *,
    items: Sequence[str] | None = None,
    order: ArrayLike | None = None,
    comparisons: ArrayLike | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw a preference matrix as a map of shades, 1/2 in the middle of the scale.

    Pairs that were never compared are hatched. Up to 12 items, the numbers stand in the cells.

    Args:
      preferences: `[n, n]`, `preferences[i, j]` how often item `i` is preferred over item `j`, in [0, 1]; NaN for
        pairs that were never compared.
      items: names of the `n` items; default their numbers, from 0.
      order: the items from the top down and from the left to the right, each once, `[n]`; default as they are.
      comparisons: how often each pair was compared, `[n, n]`, >= 0; 0 hatches a pair.
      ax: where to draw.

    Raises:
      TypeError: an argument has the wrong type.
      ValueError: an argument is not valid.
    """
    P = _array("preferences", preferences, ("n", "n"))
    n = len(P)
    if P.shape[1] != n:
        raise invalid("preferences", "a square matrix [n, n]", f"shape {list(P.shape)}")
    check_all(
        "preferences", P, np.isnan(P) | ((P >= 0) & (P <= 1)), "a number in [0, 1], or NaN for a pair never compared"
    )
    names = _names("items", range(n) if items is None else items, n)
    place = np.arange(n) if order is None else _order(order, n)
    never = np.isnan(P)
    if comparisons is not None:
        counts = _array("comparisons", comparisons, (n, n))
        check_all("comparisons", counts, counts >= 0, "a number >= 0")
        never |= (counts == 0) & ~np.eye(n, dtype=bool)
    P, never, names = P[np.ix_(place, place)], never[np.ix_(place, place)], [names[i] for i in place]

    ax = _axes(ax)
    known = np.ma.masked_where(never, P)
    half = float(np.ma.max(np.abs(known - 0.5))) if known.count() else 0.0
    half = half if half > 0 else 0.5
    image = ax.imshow(known, cmap=PREFERENCE_COLORS, vmin=0.5 - half, vmax=0.5 + half)
    if never.any():
        edges = np.arange(n + 1) - 0.5
        blank = np.ma.masked_where(~never, np.zeros((n, n)))
        ax.pcolor(edges, edges, blank, cmap="binary", vmin=0, vmax=1, hatch="////", edgecolors="0.6", linewidth=0)
    if n <= MOST_NUMBERS:
        for i, j in np.argwhere(~never):
            color = "white" if P[i, j] < 0.5 - 0.3 * half else "black"  # on the dark shades
            ax.text(j, i, f"{P[i, j]:.2f}", ha="center", va="center", fontsize=8, color=color)
    step = math.ceil(n / MOST_TICKS)
    ax.set_xticks(range(0, n, step), names[::step], rotation=90 if n > MOST_NUMBERS or max(map(len, names)) > 3 else 0)
    ax.set_yticks(range(0, n, step), names[::step])
    ax.set(xlabel="over the item of this column", ylabel="item of this row")
    ax.figure.colorbar(image, ax=ax, label="how often the row is preferred over the column", shrink=0.85)
    return ax


def equilibrium_path(
    betas: ArrayLike,
    policies: ArrayLike,
    *,
    items: Sequence[str] | None = None,
    top: int = 8,
    ax: Axes | None = None,
) -> Axes:
    """Draw how the mass of each item moves as `beta` falls, from the left to the right.

    The axis is logarithmic; `beta = 0`, if it is among them, stands at the right end, behind a thin line.

    Args:
      betas: `[num_betas]`, >= 0, at least one > 0, each once, in any order.
      policies: the equilibrium at each, probabilities `[num_betas, n]`, as of `nashjax.solve_path`.
      items: names of the `n` items; default their numbers, from 0.
      top: how many items have a line of their own, >= 1, those with the most mass anywhere on the path; the mass of
        the rest together is one more, `others`.
      ax: where to draw.

    Raises:
      TypeError: an argument has the wrong type.
      ValueError: an argument is not valid.
    """
    b = _array("betas", betas, ("num_betas",))
    check_all("betas", b, np.isfinite(b) & (b >= 0), "a finite number >= 0")
    if not (b > 0).any() or len(np.unique(b)) < len(b):
        raise invalid("betas", "different numbers, at least one of them > 0", shown(b.tolist()))
    p = _array("policies", policies, (len(b), "n"))
    check_policy("policies", p)
    n = p.shape[1]
    names = _names("items", range(n) if items is None else items, n)
    top = check_integer("top", top, 1)

    falling = np.argsort(-b)
    b, p = b[falling], p[falling]
    least, most = b[b > 0].min(), b.max()
    edge = least / max(3.0, (most / least) ** 0.12)  # where 0 stands
    x = np.where(b > 0, b, edge)
    ranked = np.argsort(-p.max(axis=0), kind="stable")

    ax = _axes(ax)
    for k, i in enumerate(ranked[:top]):
        ax.plot(x, p[:, i], label=names[i], markevery=_sparse(len(x), k), **_style(k))
    if n > top:
        ax.plot(x, p[:, ranked[top:]].sum(axis=1), ":", color="0.4", label="others")
    ax.set_xscale("log")
    ticks = [10.0**k for k in range(math.ceil(math.log10(least) - 1e-9), math.floor(math.log10(most) + 1e-9) + 1)]
    ticks = ticks if len(ticks) > 1 else sorted({float(least), float(most)})
    marks = [f"{tick:g}" for tick in ticks]
    if b[-1] == 0:
        ax.axvline(math.sqrt(edge * least), color="0.8", linewidth=0.8)
        ticks, marks = [edge, *ticks], ["0", *marks]
    ax.set_xticks(ticks, marks)
    ax.minorticks_off()
    ax.invert_xaxis()
    ax.set(xlabel="beta (falling)", ylabel="mass in the equilibrium", ylim=(0, None))
    return _finish(ax)


def ranking_intervals(
    items: Sequence[str],
    value: ArrayLike,
    low: ArrayLike,
    high: ArrayLike,
    *,
    label: str = "payoff against the equilibrium",
    top: int = 25,
    ax: Axes | None = None,
) -> Axes:
    """Draw a value of each item and its interval, one row an item, in the order given from the top down.

    Args:
      items: names of the `n` items, the best first.
      value: `[n]`, the dots.
      low: lower ends of the intervals, `[n]`.
      high: upper ends, `[n]`, not below the lower ones.
      label: what the value is, with its unit.
      top: how many items to draw at most, >= 1.
      ax: where to draw.

    Raises:
      TypeError: an argument has the wrong type.
      ValueError: an argument is not valid.
    """
    v = _array("value", value, ("n",))
    lower, upper = _array("low", low, (len(v),)), _array("high", high, (len(v),))
    for name, x in (("value", v), ("low", lower), ("high", upper)):
        check_all(name, x, np.isfinite(x), "a finite number")
    check_all("high", upper, upper >= lower, "a number not below that of low")
    names = _names("items", items, len(v))
    shown = min(check_integer("top", top, 1), len(v))

    ax = _axes(ax)
    rows = np.arange(shown)
    ax.hlines(rows, lower[:shown], upper[:shown], color="0.45", linewidth=2)
    ax.plot(v[:shown], rows, "o", color="black", markersize=5)
    ax.set_yticks(rows, names[:shown])
    ax.set(xlabel=label, ylabel="item" if shown == len(v) else f"the first {shown} of {len(v)} items")
    ax.set_ylim(shown - 0.5, -0.5)
    ax.grid(axis="x", alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _axes(ax: Axes | None) -> Axes:
    return plt.subplots(layout="constrained")[1] if ax is None else ax


def _finish(ax: Axes) -> Axes:
    ax.grid(alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    return ax


def _style(k: int) -> dict[str, Any]:
    """Dashes and marker of the `k`-th line, together different for 33 lines."""
    return {"linestyle": DASHES[k % len(DASHES)], "marker": MARKERS[k % len(MARKERS)], "markersize": 5}


def _sparse(length: int, k: int, markers: int = 9) -> tuple[int, int]:
    """The first marker of a line and the step to the next: not all lines have theirs at the same places."""
    step = max(1, length // markers)
    return (k * step // 4) % step, step


def _is_history(path: Any) -> bool:
    """Return whether this is a history of `stochastic.train`, whose module is imported if there is one."""
    records = sys.modules.get("nashjax.stochastic.records")
    return records is not None and isinstance(path, records.Record)


def _medians(name: str, path: Any, measure: str, equilibrium: ArrayLike | None) -> tuple[np.ndarray, np.ndarray]:
    """Queries, and the median over games of the measure that each game has reached after them, `[points]` each."""
    place = f"trajectories[{name!r}]"
    if _is_history(path):
        return _history_medians(place, path)
    if not isinstance(path, Trajectory):
        allowed = "a Trajectory of nashjax.trajectory or a history of nashjax.stochastic.train"
        raise wrong_type(place, allowed, path)
    values = path.exploitability if measure == "exploitability" else _distance(place, path, measure, equilibrium)
    queries, values = (np.asarray(x).reshape(-1, x.shape[-1]) for x in (path.queries, values))
    if queries.size == 0:
        raise invalid(place, "a trajectory of at least one game", f"the batch shape {list(path.queries.shape[:-1])}")
    grid = np.unique(queries)
    grid = grid[(grid >= queries[:, 0].max()) & (grid <= queries[:, -1].min())]
    reached = [v[np.searchsorted(q, grid, side="right") - 1] for q, v in zip(queries, values, strict=True)]
    return grid, np.median(reached, axis=0)


def _history_medians(place: str, history: Any) -> tuple[np.ndarray, np.ndarray]:
    """Comparisons, and the median over games of the exploitability after them, `[records]` each."""
    if history.exploitability is None:
        advice = "Use a BernoulliOracle or a ProbabilityOracle."
        raise invalid(place, "a history with exploitabilities", "one of an oracle that knows no matrix", advice)
    comparisons, values = np.atleast_1d(history.comparisons), np.asarray(history.exploitability)
    values = values.reshape(len(comparisons), -1)
    if values.size == 0:
        raise invalid(place, "a history of at least one game", "one of no games")
    return comparisons, np.median(values, axis=1)


def _distance(place: str, path: Trajectory, measure: str, equilibrium: ArrayLike | None) -> Any:
    """A distance of every policy of a path to the equilibrium, `[*batch, steps + 1]`."""
    if equilibrium is None:
        if path.distances is None:
            advice = "Or record with trajectory(..., equilibrium=True)."
            raise invalid("equilibrium", f"probabilities [*batch, n] with measure={measure!r}", "None", advice)
        return getattr(path.distances, measure)
    star, shape = as_numbers("equilibrium", equilibrium), (*path.log_policy.shape[:-2], path.log_policy.shape[-1])
    try:
        stars = np.broadcast_to(star, shape)
    except ValueError:
        required = f"an array that broadcasts to {list(shape)} for {place}"
        raise invalid("equilibrium", required, f"shape {list(star.shape)}") from None
    check_policy("equilibrium", star)
    with np.errstate(divide="ignore"):
        log_star = jnp.asarray(np.log(stars), path.log_policy.dtype)
    return getattr(measure_distances(path.log_policy, log_star, (log_star.shape[-1],)), measure)


def _path(name: str, path: Trajectory | ArrayLike) -> np.ndarray:
    """The policies of a path on the triangle, `[steps, 3]`."""
    place = f"trajectories[{name!r}]"
    policies = np.exp(np.asarray(path.log_policy, np.float64)) if isinstance(path, Trajectory) else path
    p = _array(place, policies, ("steps", 3))
    check_policy(place, p)
    return p


def _inside(parts: int) -> np.ndarray:
    """Policies of three actions on a regular grid inside the triangle, `[points, 3]`."""
    i, j = (x.ravel() for x in np.meshgrid(np.arange(parts), np.arange(parts), indexing="ij"))
    k = parts - 1 - i - j
    return (np.stack([i, j, k], axis=1)[k >= 0] + 1 / 3) / parts


def _array(name: str, x: ArrayLike, shape: tuple[int | str, ...]) -> np.ndarray:
    """A float64 array of this shape, of which words stand for any length >= 1."""
    array = as_numbers(name, x)
    fits = array.ndim == len(shape) and array.size > 0
    if not fits or any(isinstance(b, int) and a != b for a, b in zip(array.shape, shape, strict=True)):
        allowed = ", ".join(map(str, shape))
        raise invalid(name, f"an array [{allowed}] that is not empty", f"shape {list(array.shape)}")
    return array


def _names(name: str, items: Any, n: int) -> list[str]:
    names = [str(item).replace("$", r"\$") for item in items]  # no formulas
    if len(names) != n:
        raise invalid(name, f"{n} names", str(len(names)))
    return names


def _order(order: ArrayLike, n: int) -> np.ndarray:
    place = np.asarray(order)
    if place.shape != (n,) or not np.array_equal(np.sort(place), np.arange(n)):
        raise invalid("order", f"the numbers from 0 to {n - 1}, each once", shown(place.tolist()))
    return place.astype(int)
