"""Samples summed up."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spread:
    """Some samples of one quantity: the median, the quartiles, the least and the most."""

    median: float
    low: float
    high: float
    least: float
    most: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Spread:
        """Sum up one sample or more. Raises ValueError if there is none."""
        if not samples:
            raise ValueError("there must be at least one sample")
        low, median, high = (
            statistics.quantiles(samples, n=4, method="inclusive")
            if len(samples) > 1
            else [samples[0]] * 3
        )
        return cls(median, low, high, min(samples), max(samples))

    @property
    def half_width(self) -> float:
        """Half of what the middle half of the samples spans."""
        return (self.high - self.low) / 2
