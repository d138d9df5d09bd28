"""Calibration: whether who says 80 % is right in 80 of 100 cases, and the one number that repairs it.

    confidence, right = top(logits, labels)
    ece(confidence, right), temperature(logits, labels)

n items, K classes. Modes of the bins: "strict" are equally wide, (low, high], in fp64, the first with 0 in it;
"reference:gpleiss" are the same in fp32 (Guo et al. 2017); "reference:torchmetrics" are [low, high), so that a
confidence of exactly 1, which is common in fp32, has a bin of its own. Say n with every ECE: few items make it larger.
"""

import numpy as np

from omma.eval.metrics import wilson
from omma.eval.protocols.outcome import STRICT, check_mode

GPLEISS, TORCHMETRICS = "reference:gpleiss", "reference:torchmetrics"
MODES = (STRICT, GPLEISS, TORCHMETRICS)


def softmax(logits: np.ndarray) -> np.ndarray:
    """(n, K) probabilities, in fp64."""
    z = np.asarray(logits, np.float64)
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def top(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(confidence (n,) of the first of the most probable classes, whether it is right (n,))."""
    logits, labels = _checked(logits, labels)
    p = softmax(logits)
    return p.max(axis=1), logits.argmax(axis=1) == labels


def ece(confidence: np.ndarray, right: np.ndarray, bins: int = 15, mode: str = STRICT) -> float:
    """Expected calibration error with equally wide bins: the mean over items of |confidence - accuracy| of their bin.

    confidence: (n,) in 0..1; right: (n,) bool. Naeini et al. 2015. Raises ValueError for confidences outside 0..1.
    """
    check_mode(mode, MODES)
    c, y = _pairs(confidence, right)
    return _gaps(c, y, _wide(c, bins, mode))


def adaptive_ece(confidence: np.ndarray, right: np.ndarray, bins: int = 15) -> float:
    """The same with bins of equally many items (Nguyen and O'Connor 2015; Nixon et al. 2019), in order of confidence.

    Items of one confidence stay in one bin, so that their order decides nothing.
    """
    c, y = _pairs(confidence, right)
    values, counts = np.unique(c, return_counts=True)
    middle = np.cumsum(counts) - counts / 2  # the place of a run of equal confidences
    index = np.minimum((middle * bins / len(c)).astype(int), bins - 1)
    return _gaps(c, y, index[np.searchsorted(values, c)])


def debiased_ece(confidence: np.ndarray, right: np.ndarray, bins: int = 15) -> float:
    """The root mean squared calibration error without what chance adds to it (Kumar et al. 2019).

    From each bin's squared gap its expected noise, accuracy (1 - accuracy) / (n - 1), is taken; bins of one item say
    nothing and are left out. 0 where the noise is larger than the gaps.
    """
    c, y = _pairs(confidence, right)
    total = kept = 0.0
    for rows in _each(_wide(c, bins, STRICT)):
        n, accuracy = len(rows), y[rows].mean()
        if n > 1:
            total += n * ((c[rows].mean() - accuracy) ** 2 - accuracy * (1 - accuracy) / (n - 1))
            kept += n
    return float(np.sqrt(max(total / kept, 0.0))) if kept else 0.0


def reliability(confidence: np.ndarray, right: np.ndarray, bins: int = 15, mode: str = STRICT) -> list[dict]:
    """One row a bin that holds items: low, high, n, confidence (mean), accuracy, low95 and high95 (Wilson's)."""
    check_mode(mode, MODES)
    c, y = _pairs(confidence, right)
    index, rows = _wide(c, bins, mode), []
    for b in np.unique(index):
        here = index == b
        low95, high95 = wilson(int(y[here].sum()), int(here.sum()))
        rows.append({"low": min(int(b), bins) / bins, "high": min(int(b) + 1, bins) / bins, "n": int(here.sum()),
                     "confidence": float(c[here].mean()), "accuracy": float(y[here].mean()), "low95": low95,
                     "high95": high95})  # fmt: skip
    return rows


def brier(logits: np.ndarray, labels: np.ndarray) -> float:
    """The mean squared distance of probabilities from the truth, summed over classes (Brier 1950): 0..2."""
    logits, labels = _checked(logits, labels)
    p = softmax(logits)
    return float(((p - np.eye(p.shape[1])[labels]) ** 2).sum(axis=1).mean())


def nll(logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> float:
    """The mean negative log likelihood in nats, of logits divided by the temperature."""
    logits, labels = _checked(logits, labels)
    z = logits / temperature
    z = z - z.max(axis=1, keepdims=True)
    return float((np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(z)), labels]).mean())


def temperature(logits: np.ndarray, labels: np.ndarray, mode: str = STRICT) -> float:
    """The number to divide logits by, so that their likelihood on these items is the highest (Guo et al. 2017).

    logits: (n, K) of items that no training saw; labels: (n,). Strict: the negative log likelihood is convex in b = 1 /
    T, so Newton's steps within a shrinking bracket find its minimum, in fp64. inf where a constant answer is best, 0
    where every item is right, so that no finite T is best. "reference:gpleiss" takes 200 steps of torch's LBFGS from
    1.5 in fp32, which stops short of the minimum when that is far away.
    """
    check_mode(mode, (STRICT, GPLEISS))
    logits, labels = _checked(logits, labels)
    if mode == GPLEISS:
        return _gpleiss(logits, labels)
    z = logits - logits[np.arange(len(logits)), labels][:, None]  # the right class at 0: the loss is log sum exp(b z)

    def slopes(b: float) -> tuple[float, float]:
        """First and second derivative of the loss: the mean over items of E[z] and Var[z] under softmax(b z)."""
        p = softmax(b * z)
        mean = (p * z).sum(axis=1)
        return float(mean.mean()), float(((p * z**2).sum(axis=1) - mean**2).mean())

    if slopes(0.0)[0] >= 0:
        return float("inf")
    if (z.max(axis=1) <= 0).all():
        return 0.0
    low, high = 0.0, 1.0
    while slopes(high)[0] < 0:
        low, high = high, 2 * high
    b = (low + high) / 2
    for _ in range(100):
        first, second = slopes(b)
        low, high = (b, high) if first < 0 else (low, b)
        step = b - first / second if second > 0 else low
        new = step if low < step < high else (low + high) / 2
        if abs(new - b) <= 1e-14 * b:
            return 1 / new
        b = new
    return 1 / b


def _gpleiss(logits: np.ndarray, labels: np.ndarray) -> float:
    import torch

    x, y = torch.tensor(logits, dtype=torch.float32), torch.tensor(labels)
    t = torch.nn.Parameter(torch.ones(1) * 1.5)
    optimizer = torch.optim.LBFGS([t], lr=0.01, max_iter=200)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(x / t.unsqueeze(1).expand(x.shape), y)
        value.backward()
        return value

    optimizer.step(loss)  # pyright: ignore[reportArgumentType]
    return float(t.item())


def _wide(c: np.ndarray, bins: int, mode: str) -> np.ndarray:
    """The number of each item's bin; `bins` is torchmetrics' extra one."""
    if mode == STRICT:
        return np.clip(np.searchsorted(np.arange(bins + 1) / bins, c, "left") - 1, 0, bins - 1)
    at, step = np.arange(bins + 1), np.float64(np.float32(1 / bins))  # torch.linspace: from both ends, rounded once
    edges = np.where(at < (bins + 1) // 2, at * step, 1 - (bins - at) * step).astype(np.float32)
    c32 = c.astype(np.float32)
    if mode == TORCHMETRICS:
        return np.searchsorted(edges, c32, "right") - 1
    return np.searchsorted(edges, c32, "left") - 1  # 0 itself is in no bin: -1


def _gaps(c: np.ndarray, y: np.ndarray, index: np.ndarray) -> float:
    kept = index >= 0
    index = index[kept]
    sums = np.bincount(index, weights=c[kept]) - np.bincount(index, weights=y[kept])
    return float(np.abs(sums).sum() / len(c))


def _each(index: np.ndarray) -> list[np.ndarray]:
    return [np.flatnonzero(index == b) for b in np.unique(index)]


def _pairs(confidence: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    c, y = np.asarray(confidence, np.float64), np.asarray(right, bool).astype(np.float64)
    if c.ndim != 1 or c.shape != y.shape or not len(c):
        raise ValueError(f"{c.shape} confidences and {y.shape} outcomes; give one of each for at least one item")
    if not ((c >= 0) & (c <= 1)).all():
        raise ValueError("a confidence is outside 0..1; give probabilities, not logits")
    return c, y


def _checked(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    z, y = np.asarray(logits, np.float64), np.asarray(labels, np.int64)
    if z.ndim != 2 or y.shape != z.shape[:1] or not len(y):
        raise ValueError(f"logits {z.shape} and labels {y.shape}; give (n, K) and (n,) of at least one item")
    if not np.isfinite(z).all() or y.min() < 0 or y.max() >= z.shape[1]:
        raise ValueError(f"a logit is not finite, or a label is none of the {z.shape[1]} classes")
    return z, y
