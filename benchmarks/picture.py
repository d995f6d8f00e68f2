"""The picture in the README: what goes into a solve and what comes out.

Run `python -m benchmarks.picture` in the project's folder (seconds; needs the extra `plot`). Writes
benchmarks/results/picture.png.
"""

from __future__ import annotations

import jax
import matplotlib as mpl
import numpy as np

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

import nashjax as nj
from benchmarks.record import RESULTS

BETAS = (0.2, 0.05, 0.01)
BLUES = ("#9ecae1", "#4292c6", "#084594")


def draw_game(axes: Axes, P: np.ndarray) -> None:
    """The matrix."""
    image = axes.imshow(P, cmap="RdBu", vmin=0, vmax=1)
    axes.set(title="in: how often one is preferred\nover another", xlabel="over", ylabel="item")
    axes.set_xticks(range(len(P)), list("ABCDEFGH"))
    axes.set_yticks(range(len(P)), list("ABCDEFGH"))
    axes.figure.colorbar(image, ax=axes, shrink=0.8)


def draw_policies(axes: Axes, P: np.ndarray) -> None:
    """The mixtures at several betas, all found in one call."""
    policy = np.asarray(nj.solve(P, np.array(BETAS)).policy)
    n = len(P)
    for k, beta in enumerate(BETAS):
        axes.bar(np.arange(n) + 0.27 * (k - 1), policy[k], 0.27, color=BLUES[k], label=f"beta = {beta:g}")
    axes.plot(range(n), (P.sum(1) - 0.5) / (n - 1), "k_", markersize=16, label="mean win rate")
    axes.set_xticks(range(n), list("ABCDEFGH"))
    axes.set(title="out: the equilibrium at three betas", ylabel="probability", xlabel="item")
    axes.legend(frameon=False, fontsize=8)


def draw_certificates(axes: Axes) -> None:
    """The certificates of many games as the queries go on, both algorithms."""
    games = nj.games.random_game(jax.random.key(0), 50, (512,))
    for algorithm, steps, color in ((nj.NashMP(), 120, "#cb6a49"), (nj.AdaptiveNashMP(), 120, "#084594")):
        path = nj.trajectory(games, 0.02, algorithm=algorithm, num_steps=steps)
        # Each game has its own count of queries: what it has reached by each count.
        grid = np.arange(1, 240)
        best = np.minimum.accumulate(np.asarray(path.exploitability), axis=1)
        reached = np.array(
            [b[np.searchsorted(q, grid, side="right") - 1] for b, q in zip(best, np.asarray(path.queries), strict=True)]
        )
        reached = np.maximum(reached, 1e-12)
        axes.fill_between(grid, reached.min(0), reached.max(0), color=color, alpha=0.3, linewidth=0)
        axes.plot(grid, np.median(reached, 0), color=color, label=type(algorithm).__name__)
    axes.set_yscale("log")
    axes.set(
        title="the certificate of 512 games\n(50 actions, beta = 0.02; median and range)",
        xlabel="preference queries",
        ylabel="exploitability",
        ylim=(1e-12, 1),
    )
    axes.legend(frameon=False, fontsize=8)


def main() -> None:
    """Draw and write."""
    jax.config.update("jax_enable_x64", True)
    P = np.asarray(nj.games.random_game(jax.random.key(4), 8, kind="low_rank", scale=2.0).preferences)
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained", width_ratios=(1, 1.2, 1.2))
    draw_game(axes[0], P)
    draw_policies(axes[1], P)
    draw_certificates(axes[2])
    for panel in axes[1:]:
        panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(RESULTS / "picture.png", dpi=110)


if __name__ == "__main__":
    main()
