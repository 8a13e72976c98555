"""When more samples are not worth it: a leader that can hardly be overtaken, and a checker that can be fooled."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from outthink.core.errors import UserError


def probability_of_lead(first: int, second: int) -> float:
    """The posterior probability that an answer with ``first`` votes is truly more common than one with ``second``.

    P(p > 1/2) for p ~ Beta(first + 1, second + 1): a uniform prior on the share of the two (Aggarwal et al. 2023, Let's
    Sample Step by Step, arXiv:2305.11860, section 3).
    """
    from scipy.special import betaincc

    return float(betaincc(first + 1, second + 1, 0.5))


@dataclass(frozen=True)
class Resampling:
    """Drawing lines until a fallible checker accepts one, for a gain of 1 if it is right and a loss if it is wrong.

    ``right``: the shares of right lines that a problem may have, and ``prior`` their weights; the checker accepts a
    right line with probability ``accepts_right`` and a wrong one with ``accepts_wrong``. A wrong answer costs
    ``wrong_cost``, a line ``line_cost``, no answer nothing (Stroebl, Kapoor and Narayanan 2024, Inference Scaling
    fLaws, arXiv:2411.17501, section 4).
    """

    right: NDArray[np.float64]
    prior: NDArray[np.float64]
    accepts_right: float
    accepts_wrong: float
    wrong_cost: float = 1.0
    line_cost: float = 0.0

    @classmethod
    def beta(
        cls,
        alpha: float,
        beta: float,
        accepts_right: float,
        accepts_wrong: float,
        wrong_cost: float = 1.0,
        line_cost: float = 0.0,
    ) -> Resampling:
        """With shares of right lines distributed as Beta(``alpha``, ``beta``), on 512 quantiles of equal weight.

        Raises UserError for a number outside its range.
        """
        from scipy.stats import beta as law

        for name, value, allowed in (
            ("alpha", alpha, 0 < alpha < math.inf),
            ("beta", beta, 0 < beta < math.inf),
            ("accepts_right", accepts_right, 0 < accepts_right <= 1),
            ("accepts_wrong", accepts_wrong, 0 <= accepts_wrong <= 1),
            ("wrong_cost", wrong_cost, 0 <= wrong_cost < math.inf),
            ("line_cost", line_cost, 0 <= line_cost < math.inf),
        ):
            if not allowed:
                raise UserError(f"{name}={value} is out of range: rates lie between 0 and 1, costs are not negative.")
        right = np.asarray(law.ppf((np.arange(512) + 0.5) / 512, alpha, beta))
        return cls(right, np.full(512, 1 / 512), accepts_right, accepts_wrong, wrong_cost, line_cost)

    def after(self, rejected: int) -> NDArray[np.float64]:
        """The law over ``right`` once that many lines were drawn and all rejected."""
        weights = self.prior * (1 - self._accepted) ** rejected
        return weights / total if (total := weights.sum()) > 0 else self.prior

    def gain_of_next(self, rejected: int) -> float:
        """The expected gain of one more line. Where the checker accepts right lines at least as often as wrong ones it
        falls with every rejection, so that below 0 it is time to stop; else rejections speak for the lines.
        """
        hit, fooled = self._rates(rejected)
        return hit - self.wrong_cost * fooled - self.line_cost

    def confidence(self, rejected: int) -> float:
        """The probability that a line accepted after ``rejected`` others is right."""
        hit, fooled = self._rates(rejected)
        return hit / (hit + fooled) if hit + fooled > 0 else 0.0

    def best_number(self, most: int = 10_000) -> int:
        """The number of lines, of at most ``most``, after which to give up: `value` is highest there."""
        if self.accepts_right >= self.accepts_wrong:
            return next((k for k in range(most) if self.gain_of_next(k) <= 0), most)
        best, value, highest, reached = 0, 0.0, 0.0, self.prior
        for number in range(1, most + 1):
            value += float(reached @ self._per_line)
            reached = reached * (1 - self._accepted)
            if value > highest:
                best, highest = number, value
        return best

    def accuracy(self, tries: int) -> float:
        """The share of problems answered rightly with at most ``tries`` lines."""
        return float(self.prior @ (self.right * self.accepts_right * self._geometric(tries)))

    def value(self, tries: int) -> float:
        """The expected gain less costs of giving up after ``tries`` lines."""
        return float(self.prior @ (self._per_line * self._geometric(tries)))

    @property
    def ceiling(self) -> float:
        """The accuracy that no number of lines exceeds: below 1 wherever the checker can be fooled."""
        hit = self.right * self.accepts_right
        return float(self.prior @ np.divide(hit, self._accepted, out=np.zeros_like(hit), where=self._accepted > 0))

    @property
    def _per_line(self) -> NDArray[np.float64]:
        """The expected gain of one line by the share of right ones."""
        gain = self.right * self.accepts_right - self.wrong_cost * (1 - self.right) * self.accepts_wrong
        return gain - self.line_cost

    @property
    def _accepted(self) -> NDArray[np.float64]:
        return self.right * self.accepts_right + (1 - self.right) * self.accepts_wrong

    def _rates(self, rejected: int) -> tuple[float, float]:
        law = self.after(rejected)
        hit, fooled = law @ self.right * self.accepts_right, law @ (1 - self.right) * self.accepts_wrong
        return float(hit), float(fooled)

    def _geometric(self, tries: int) -> NDArray[np.float64]:
        """The expected number of lines drawn: the sum over k < tries of (1 - accepted)^k."""
        left = 1 - self._accepted
        return np.where(
            left < 1, -np.expm1(tries * np.log(np.maximum(left, 1e-300))) / np.maximum(1 - left, 1e-300), tries
        )
