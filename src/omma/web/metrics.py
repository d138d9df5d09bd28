"""What a server has done, in the text format that Prometheus reads (exposition format 0.0.4)."""

import threading
from collections import Counter
from collections.abc import Callable

METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
EDGES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)  # seconds


class Metrics:
    """Counts of answers and their times, and gauges that are asked when somebody looks. Any thread may count."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answers: Counter[tuple[str, str, int]] = Counter()
        self._within: Counter[tuple[str, float]] = Counter()
        self._seconds: Counter[str] = Counter()
        self.gauges: dict[tuple[str, str], Callable[[], float]] = {}

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """route: the pattern of the path, such as /thumbnail/{item}; never what somebody typed, and so method is one of
        METHODS or "other"."""
        method = method if method in METHODS else "other"
        with self._lock:
            self._answers[method, route, status] += 1
            self._seconds[route] += seconds  # type: ignore[assignment]
            for edge in (*EDGES, float("inf")):
                self._within[route, edge] += seconds <= edge

    @property
    def answers(self) -> int:
        return sum(self._answers.values())

    def text(self) -> str:
        with self._lock:
            lines = ["# HELP omma_requests_total Answers by method, route and status.",
                     "# TYPE omma_requests_total counter"]  # fmt: skip
            lines += [f'omma_requests_total{{method="{method}",route="{route}",status="{status}"}} {count}'
                      for (method, route, status), count in sorted(self._answers.items())]  # fmt: skip
            lines += ["# HELP omma_request_seconds Time until an answer was sent.",
                      "# TYPE omma_request_seconds histogram"]  # fmt: skip
            for route in sorted(self._seconds):
                lines += [f'omma_request_seconds_bucket{{route="{route}",le="{edge:g}"}} {self._within[route, edge]}'
                          for edge in EDGES]  # fmt: skip
                whole = self._within[route, float("inf")]
                lines += [f'omma_request_seconds_bucket{{route="{route}",le="+Inf"}} {whole}',
                          f'omma_request_seconds_sum{{route="{route}"}} {self._seconds[route]:.6f}',
                          f'omma_request_seconds_count{{route="{route}"}} {whole}']  # fmt: skip
        for name in dict.fromkeys(name for name, _ in self.gauges):
            lines.append(f"# TYPE {name} gauge")
            lines += [f"{name}{labels} {read():g}" for (known, labels), read in self.gauges.items() if known == name]
        return "\n".join(lines) + "\n"
