"""Answers by other means than the library: plain numpy and decimal arithmetic, one game at a time."""

from decimal import Decimal, localcontext

import numpy as np


def exact_kl(p: np.ndarray, q: np.ndarray) -> float:
    """`KL(p||q)` of unnormalised positive vectors, normalised first, in 60 digits."""
    with localcontext() as context:
        context.prec = 60
        P, Q = [Decimal(float(x)) for x in p], [Decimal(float(x)) for x in q]
        total_p, total_q = sum(P), sum(Q)
        return float(sum(a / total_p * ((a / total_p) / (b / total_q)).ln() for a, b in zip(P, Q, strict=True) if a))


def draw_games(seed: int, n: int, batch: tuple[int, ...], kind: str) -> np.ndarray:
    """Games of the kinds of `nashjax.games.random_game`, other ones, `[*batch, n, n]`: nothing is compiled."""
    rng = np.random.default_rng([seed, n])
    match kind:
        case "gaussian":
            margin = np.tanh(rng.normal(size=(*batch, n, n)) / 2) / 2
        case "uniform":
            margin = rng.random((*batch, n, n)) - 0.5
        case "tournament":
            margin = rng.integers(0, 2, (*batch, n, n)) - 0.5
        case "cyclic":
            place = rng.permuted(np.broadcast_to(np.arange(n), (*batch, n)), axis=-1)
            ahead = (place[..., None, :] - place[..., :, None]) % n
            margin = np.where(ahead <= (n - 1) // 2, 0.5, np.where(ahead > n // 2, -0.5, 0.0))
        case "bradley_terry":
            rating = rng.normal(size=(*batch, n))
            margin = np.tanh((rating[..., :, None] - rating[..., None, :]) / 2) / 2
        case "low_rank":
            blades, chests = rng.normal(size=(2, *batch, n, 2))
            ahead = blades @ np.swapaxes(chests, -1, -2)
            margin = np.tanh((ahead - np.swapaxes(ahead, -1, -2)) / 4) / 2
        case _:
            raise ValueError(kind)
    upper = np.triu(margin, 1)
    return 0.5 + upper - np.swapaxes(upper, -1, -2)


def equilibrium(P: np.ndarray, beta: float, reference: np.ndarray) -> np.ndarray:
    """The regularised equilibrium by damped Newton with continuation in beta, residuals in extended precision.

    Solves `u = log r + A p / beta - logsumexp`, `p = exp(u)`, for `u = log p`.
    """
    A = P.astype(np.longdouble) - np.longdouble(0.5)
    log_r = np.log(reference.astype(np.longdouble))

    def residual(u: np.ndarray, b: float) -> np.ndarray:
        target = log_r + A @ np.exp(u) / np.longdouble(b)
        target -= target.max()
        return target - np.log(np.exp(target).sum()) - u

    u = log_r.copy()
    for b in np.geomspace(max(beta, 1.0), beta, 8):
        size = np.abs(residual(u, b)).max()
        for _ in range(60):
            p = np.exp(u)
            response = np.exp(residual(u, b) + u)
            jacobian = np.eye(len(u)) - ((A - response @ A) * p / b).astype(np.float64)
            move = np.linalg.solve(jacobian, residual(u, b).astype(np.float64))
            fraction = 1.0
            while fraction > 1e-4 and np.abs(residual(u + fraction * move, b)).max() > size:
                fraction /= 2
            following = np.abs(residual(u + fraction * move, b)).max()
            if following >= size:  # as small as rounding allows
                break
            u, size = u + fraction * move, following
            if b > beta and size < 1e-3:  # near enough to go on to the next
                break
        assert b > beta or size < 1e-15
    p = np.exp(u)
    return (p / p.sum()).astype(np.float64)
