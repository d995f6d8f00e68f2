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
