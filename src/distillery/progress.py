"""Progress of long loops: a bar on a terminal, a plain line every ten seconds in a log; and the work of a process."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType

from tqdm import tqdm

from distillery import processes

LINE_SECONDS = 10.0

MOST_RATES = 200
"""Of a process that are recorded: where there are more, every second one is dropped."""


@dataclass
class Work:
    """The work of this process.

    Attributes:
        images: that went through a network, or were read.
        earlier: seconds of killed processes whose work this one took over.
        rates: seconds of this process, and images until then.
    """

    images: int = 0
    earlier: float = 0.0
    rates: list[tuple[float, int]] = field(default_factory=list)
    every: float = LINE_SECONDS
    _next: float = 0.0

    def take_over(self, seconds: float) -> None:
        """Note the seconds of killed processes; of several such notes the largest includes the others."""
        self.earlier = max(self.earlier, seconds)

    def count(self, images: int) -> None:
        """Count images, and record how many there are every ten seconds or less often."""
        self.images += images
        now = time.monotonic()
        if now >= self._next:
            self._next = now + self.every
            self.rates.append((round(processes.age(), 1), self.images))
            if len(self.rates) > MOST_RATES:
                self.rates, self.every = self.rates[1::2], 2 * self.every

    @property
    def seconds(self) -> float:
        """Since this process started, plus those of killed processes."""
        return self.earlier + processes.age()


WORK = Work()


def count_images(number: int) -> None:
    """Add images that went through a network, or were read, to those of this process: its cost names them."""
    WORK.count(number)


class Progress:
    """Counts the units of work of one loop, and shows throughput and remaining time."""

    def __init__(
        self,
        what: str,
        total: int,
        unit: str = "step",
        done: int = 0,
        *,
        quiet: bool = False,
        state: Callable[[], str] = str,
    ) -> None:
        """
        Args:
            quiet: show nothing, but count.
            state: of the loop, in words, for the end of a line; it is asked when a line is printed.
        """
        self._quiet, self._state = quiet, state
        self.what, self.total, self.unit, self.done = what, total, unit, done
        self._first, self._start = done, time.monotonic()
        self._last_line = self._start
        self._bar = (
            tqdm(desc=what, total=total, initial=done, unit=unit, dynamic_ncols=True)
            if sys.stderr.isatty() and not quiet
            else None
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        elif kind is None:
            self._line()

    def advance(self, units: int = 1) -> None:
        """Count `units` more as done."""
        self.done += units
        if self.unit == "image":
            count_images(units)
        if self._bar is not None:
            self._bar.update(units)
            if time.monotonic() - self._last_line >= 1:
                self._last_line = time.monotonic()
                self._bar.set_postfix_str(self._state())
        elif time.monotonic() - self._last_line >= LINE_SECONDS:
            self._line()

    def _line(self) -> None:
        now = time.monotonic()
        self._last_line = now
        if self._quiet:
            return
        rate = (self.done - self._first) / max(now - self._start, 1e-9)
        left = (self.total - self.done) / rate if rate > 0 else float("inf")
        words = [f"{self.what}: {self.done}/{self.total} {self.unit}", f"{rate:.3g} {self.unit}/s"]
        words += [f"{left:.0f} s left", *filter(None, [self._state()])]
        print(", ".join(words), file=sys.stderr, flush=True)
