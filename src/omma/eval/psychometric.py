"""Psychometric curves: how a share of right answers rises or falls with one knob of a scene, and where it is lost.

    curve = fitted(size, right, asked, guess=0.5, log=True)
    curve.threshold, curve.low95, curve.high95        # 18.2, 15.4, 21.0: "loses orientation below 18 px"

A curve is P(x) = guess + (1 - guess - lapse) / (1 + exp(-(a + b t))), t = x or log2 x (Wichmann and Hill 2001): guess
is what chance gives, lapse what is missed however easy it is. The threshold is where P is halfway between chance and
all right, 75 % of two options. U units (a pair, with all its questions), R draws of the bootstrap.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import NormalDist

import numpy as np

from omma.eval.metrics import wilson

LAPSES = np.array([0.0, 0.02, 0.04, 0.06])  # how much may be missed however easy it is
DRAWS = 400
LEVELS = 40  # values of a knob that are told apart; more are put into so many of equally many units
POINTS = 8  # of a plot
LEAST = 30  # units for a curve
RIDGE = 1e-6  # of a² + b², so that a step has a finite slope
WIDEST = 2.0  # times its lower end at most: a threshold whose interval is wider is not told


@dataclass(frozen=True)
class Curve:
    """middle and slope: a = -slope * middle, in t. threshold: in x, None where P never gets there or all goes one way.

    low95, high95: of the threshold, by the bootstrap of units; None where a twentieth of the draws had none in the
    range that was seen. p: two-sided, of no trend at all (Mantel 1963). points: {"x", "n", "share", "low95", "high95"}.
    """

    guess: float
    lapse: float
    middle: float
    slope: float
    threshold: float | None
    low95: float | None
    high95: float | None
    p: float
    units: int
    least: float
    most: float
    log: bool
    points: list[dict] = field(repr=False)

    @property
    def lost(self) -> tuple[str, float, float, float] | None:
        """("below" or "above", threshold, low95, high95) where the interval allows to say so: inside the range that was
        seen, and not wide (twice its lower end on a logarithmic knob, half of the range on another)."""
        if self.threshold is None or self.low95 is None or self.high95 is None or self.p >= 0.05:
            return None
        wide = (
            self.high95 > WIDEST * self.low95 if self.log else self.high95 - self.low95 > (self.most - self.least) / 2
        )
        if wide or not self.least < self.low95 <= self.high95 < self.most:
            return None
        return ("below" if self.slope > 0 else "above"), self.threshold, self.low95, self.high95

    def at(self, x: float | np.ndarray) -> np.ndarray:
        """P at x."""
        t = transformed(np.asarray(x, float), self.log)
        return self.guess + (1 - self.guess - self.lapse) * logistic(self.slope * (t - self.middle))


def fitted(
    x: Sequence[float] | np.ndarray,
    right: Sequence[float] | np.ndarray,
    asked: Sequence[float] | np.ndarray,
    *,
    guess: float,
    log: bool = False,
    seed: int = 0,
    draws: int = DRAWS,
) -> Curve:
    """The curve of the highest likelihood, with the threshold's interval.

    x: (U,) the knob of each unit; right, asked: (U,) of its questions; guess: the share that chance gives. Units are
    independent, the questions of one are not. Raises ValueError for fewer than two values, x <= 0 with log, or a guess
    that leaves nothing to see.
    """
    x, right, asked = np.asarray(x, float), np.asarray(right, float), np.asarray(asked, float)
    if not 0 <= guess < 1 - LAPSES[-1]:
        raise ValueError(f"guess={guess}; a curve needs a chance from 0 to below {1 - LAPSES[-1]:.2f}")
    if len(x) < 2 or np.ptp(x) == 0 or (log and x.min() <= 0):
        raise ValueError(f"{len(np.unique(x))} values from {x.min() if len(x) else '–'}; a curve needs two at least, "
                         f"above 0 where it is logarithmic")  # fmt: skip
    at, levels = leveled(x)
    t = transformed(levels, log)
    centre, scale = float(t.mean()), float(t.std()) or 1.0
    z = (t - centre) / scale

    hits, trials, onto = right, asked, np.eye(len(levels))[at]

    def counted(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(R, U) weights -> right and asked of each level, (R, levels)."""
        return (weights * hits) @ onto, (weights * trials) @ onto

    s, n = counted(np.ones((1, len(x))))
    grid = np.repeat([[0.0, 2.0], [0.0, -2.0]], len(LAPSES), axis=0)  # rising and falling
    lapses = np.tile(LAPSES, 2)
    found, losses = newton(grid, np.repeat(s, len(grid), 0), np.repeat(n, len(grid), 0), z, guess, lapses)
    best = int(np.argmin(losses))
    (a, b), lapse = found[best], float(lapses[best])
    slope, middle = b / scale, centre - a * scale / b if b else math.inf

    rng = np.random.default_rng(seed)
    picked = rng.integers(len(x), size=(draws, len(x)))
    weights = np.stack([np.bincount(row, minlength=len(x)) for row in picked]).astype(float)
    s, n = counted(weights)
    s, n = np.repeat(s, len(LAPSES), 0), np.repeat(n, len(LAPSES), 0)
    again, losses = newton(np.tile(found[best], (len(s), 1)), s, n, z, guess, np.tile(LAPSES, draws))
    kept = losses.reshape(draws, -1).argmin(axis=1) + len(LAPSES) * np.arange(draws)
    drawn = [crossing(*again[row], lapse=float(LAPSES[row % len(LAPSES)]), guess=guess) for row in kept]
    places = np.array([centre + scale * place for place, (_, b2) in zip(drawn, again[kept], strict=True) if b2 * b > 0])
    ends = t.min(), t.max()
    seen = places[(places > ends[0]) & (places < ends[1])]
    low = high = threshold = None
    here = centre + scale * crossing(a, b, lapse, guess)
    if ends[0] < here < ends[1]:
        threshold = float(back(here, log))
    if threshold is not None and len(seen) >= 0.975 * draws:
        # The draws without a threshold in the range lie beyond its ends: they are in the tails that are cut off.
        low, high = (float(back(value, log)) for value in np.quantile(places, [0.025, 0.975]))
    return Curve(guess, lapse, middle, slope, threshold, low, high, trend(transformed(x, log), right / asked), len(x),
                 float(x.min()), float(x.max()), log, points(x, right, asked))  # fmt: skip


def newton(
    start: np.ndarray, right: np.ndarray, asked: np.ndarray, z: np.ndarray, guess: float, lapse: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Fisher scoring with damping, many fits at once: ((R, 2) a and b, (R,) negative log likelihoods).

    start: (R, 2); right, asked: (R, L) of the levels z (L,); lapse: (R,). In fp64; a step that makes the likelihood
    smaller is not made, but a shorter one.
    """
    theta, damping = start.astype(float), np.full(len(start), 1e-3)
    room = (1 - guess - lapse)[:, None]

    def loss_of(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        curve = logistic(theta[:, :1] + theta[:, 1:] * z)
        p = np.clip(guess + room * curve, 1e-12, 1 - 1e-12)
        loss = -(right * np.log(p) + (asked - right) * np.log1p(-p)).sum(axis=1)
        return loss + RIDGE * (theta**2).sum(axis=1), p, room * curve * (1 - curve)

    loss, p, steep = loss_of(theta)
    for _ in range(60):
        force = (right - asked * p) / (p * (1 - p)) * steep
        weight = asked * steep**2 / (p * (1 - p))
        g0, g1 = force.sum(axis=1) - 2 * RIDGE * theta[:, 0], (force * z).sum(axis=1) - 2 * RIDGE * theta[:, 1]
        h00, h01, h11 = weight.sum(axis=1), (weight * z).sum(axis=1), (weight * z**2).sum(axis=1)
        h00, h11 = h00 * (1 + damping) + 2 * RIDGE, h11 * (1 + damping) + 2 * RIDGE
        det = h00 * h11 - h01**2
        step = np.stack([(h11 * g0 - h01 * g1) / det, (h00 * g1 - h01 * g0) / det], axis=1)
        step *= np.minimum(1, 5 / np.maximum(np.abs(step).max(axis=1, keepdims=True), 1e-300))
        new_loss, new_p, new_steep = loss_of(theta + step)
        better = new_loss <= loss
        theta = np.where(better[:, None], theta + step, theta)
        p, steep = np.where(better[:, None], new_p, p), np.where(better[:, None], new_steep, steep)
        gain = np.where(better, loss - new_loss, np.inf)
        loss = np.where(better, new_loss, loss)
        damping = np.where(better, damping / 8, np.minimum(damping * 8, 1e6))
        if (gain < 1e-12 * (1 + loss)).all() or (damping >= 1e6).all():
            break
    return theta, loss


def crossing(a: float, b: float, lapse: float, guess: float) -> float:
    """z where P is halfway between chance and all right; inf where the slope is nothing."""
    share = ((1 - guess) / 2) / (1 - guess - lapse)  # of the way up
    return (math.log(share / (1 - share)) - a) / b if b else math.inf


def trend(t: np.ndarray, share: np.ndarray) -> float:
    """The two-sided p value of no trend of shares over t: (U - 1) r² is chi squared with one degree (Mantel 1963)."""
    if np.ptp(t) == 0 or np.ptp(share) == 0:
        return 1.0
    r = float(np.corrcoef(t, share)[0, 1])
    return 2 * (1 - NormalDist().cdf(abs(r) * math.sqrt(len(t) - 1)))


def leveled(x: np.ndarray, most: int = LEVELS) -> tuple[np.ndarray, np.ndarray]:
    """(the level of each unit (U,), the levels' mean values): each value its own, or `most` of equally many units.

    Units of one value stay in one level.
    """
    values, index, counts = np.unique(x, return_inverse=True, return_counts=True)
    if len(values) > most:
        middle = np.cumsum(counts) - counts / 2
        into = np.minimum((middle * most / len(x)).astype(int), most - 1)
        into = np.unique(into, return_inverse=True)[1]
        index = into[index]
        values = np.bincount(index, weights=x) / np.bincount(index)
    return index, values


def points(x: np.ndarray, right: np.ndarray, asked: np.ndarray) -> list[dict]:
    """What to draw: shares of up to POINTS levels. The interval is Wilson's of the units, which are independent."""
    index, values = leveled(x, POINTS)
    found = []
    for level, value in enumerate(values):
        here = index == level
        share, units = float(right[here].sum() / asked[here].sum()), int(here.sum())
        low, high = wilson(share * units, units)
        found.append({"x": float(value), "n": units, "share": share, "low95": low, "high95": high})
    return found


def logistic(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(x, -700, 700)))


def transformed(x: np.ndarray, log: bool) -> np.ndarray:
    return np.log2(x) if log else np.asarray(x, float)


def back(t: float, log: bool) -> float:
    return 2.0**t if log else t
