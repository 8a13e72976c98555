"""A world small enough to enumerate: lines of steps below a prompt, a verifier of partial lines, exact sums."""

import functools
import math

import numpy as np

from outthink.core.question import Question
from outthink.core.rng import mix
from outthink.reason.holding import Holding
from outthink.reason.particles.islands import key_of, run_islands
from outthink.reason.particles.sweep import sweep
from quick_toy import cached_law, toy

ALPHABET, PROMPT, LONGEST = "ab\n", "a", 6
BASE = cached_law(5, len(ALPHABET) + 1, 0.8)
LEAN = np.array([0.0, 0.0, 1.0, -0.5])  # towards more steps


@functools.cache
def law(prefix):
    """Logits that depend on the whole prefix; lines seldom end in their first two tokens."""
    return BASE(prefix) + LEAN - (3.0 if len(prefix) < 3 else 0.0) * np.array([0, 0, 0, 1])


def last_letter(text):
    """The answer: the last letter of a text of two or more that ends in one."""
    return text[-1] if len(text) >= 2 and text[-1] != "\n" else None


def answered_early(text):
    """An answer that a finished step can give, so that the line is whole then: its length, if it begins with b."""
    return ("short" if text.index("\n") < 3 else "long") if text.startswith("b") and "\n" in text else None


def question(parse=last_letter, right="b"):
    return Question(PROMPT, parse, lambda answer: answer == right)


def model(budget=None, seed=0, longest=LONGEST, **sampling):
    return toy(ALPHABET, len(PROMPT) + longest, budget, seed, law, **sampling)


class Judge:
    """A process verifier: a fixed pseudo-random log-weight for every text; one pattern in eight is ruled out."""

    name, sound, partial = "judge", False, True

    def __init__(self, spread=2.0, veto=True):
        self.spread, self.veto = spread, veto

    def require(self, question):
        pass

    def of(self, text):
        key = 99
        for character in text:
            key = mix(key, ord(character))
        return -math.inf if self.veto and text and key % 8 == 0 else -self.spread * ((key >> 8) % 1000) / 1000

    async def score(self, question, branches, ledger):
        ledger.charge(verifier_calls=len(branches))
        return [self.of(branch.full_text) for branch in branches]

    def accepts(self, score):
        return False

    def log_potential(self, prefix):
        """The same as a `Potential`."""
        return self.of(prefix.text)


@functools.cache
def lines(asked, longest=LONGEST):
    """Every whole line: (text, log-probability, finish), by recursion over prefixes."""
    lm, found, stack = model(longest=longest), [], [((), 0.0)]
    while stack:
        line, log_prob = stack.pop()
        text = lm.spell(line)
        if (line and line[-1] == lm.end) or (text.endswith("\n") and asked.parse(text) is not None):
            found.append((text, log_prob, "stop"))
        elif len(line) == longest:
            found.append((text, log_prob, "length"))
        else:
            following = lm.log_probs(lm.encode(PROMPT) + line)
            stack += [((*line, t), log_prob + float(following[t])) for t in range(len(ALPHABET) + 1)]
    return found


def tilted(asked, log_weight, steps="\n", longest=LONGEST):
    """Exact unnormalised sums by answer, of p(line) exp(log_weight(line)) over lines no step of which is ruled out."""
    sums = {}
    for text, log_prob, finish in lines(asked, longest):
        seen = [text[: i + 1] for i, c in enumerate(text) if steps is None or c == steps]
        if any(log_weight(part) == -math.inf for part in seen):
            continue
        answer = asked.parse(text if finish == "stop" else text[: text.rfind("\n") + 1])
        sums[answer] = sums.get(answer, 0.0) + math.exp(log_prob + log_weight(text))
    return sums


async def islands(asked, lm, target, plan, num, size, seed=0):
    """``num`` independent sweeps of ``size`` particles."""
    root = await lm.root(PROMPT)

    async def one(number, count, purse):
        async with Holding() as held:
            return await sweep(asked, root, target, plan, count, held, key_of(seed, number), purse=purse)

    return await run_islands(num * size, num, lm.ledger, one)


def by_answer(asked, sweeps, answers):
    """Unbiased estimates [K, answers]: for each sweep, the mean over its particles of weight x (answer is this)."""
    table = np.zeros((len(sweeps), len(answers)))
    for k, one in enumerate(sweeps):
        for p in one.particles:
            if p.log_weight > -math.inf:
                table[k, answers.index(asked.answer_of(p.tip))] += math.exp(p.log_weight) / len(one.particles)
    return table


def z_scores(table, truth):
    """(mean - truth) / standard error, of each column."""
    mean, error = table.mean(axis=0), table.std(axis=0, ddof=1) / math.sqrt(len(table))
    return (mean - truth) / np.maximum(error, 1e-12)
