"""A world of steps that is small enough to enumerate, and verifiers that know what they want, for tests of searches."""

from __future__ import annotations

import math
from itertools import product

import numpy as np

from outthink.core.budget import Ledger
from outthink.core.question import Question
from outthink.core.rng import mix, uniforms
from outthink.core.sampling import Sampling
from outthink.lm.toy import ToyBranch, ToyLM, random_law

PROMPT = "a"


class StepWorld:
    """Lines of ``depth`` steps, each a letter of ``letters`` and a line break; the letters written are the answer.

    The model writes any letter with a probability that depends on all before it, then always a line break.
    """

    def __init__(self, letters="abc", depth=3, seed=0, sharpness=0.3):
        self.letters, self.depth = letters, depth
        self.alphabet = letters + "\n"
        self._law, self._known = random_law(seed, len(self.alphabet) + 1, sharpness), {}
        self.question = Question(PROMPT, self.parse, lambda answer: answer == "never")

    def parse(self, text):
        steps = text.split("\n")[:-1]
        return "".join(steps[: self.depth]) if len(steps) >= self.depth else None

    def law(self, prefix):
        if prefix not in self._known:
            self._known[prefix] = self._logits(prefix)
        return self._known[prefix]

    def _logits(self, prefix):
        size = len(self.letters)
        logits = np.full(len(self.alphabet) + 1, -1e9)
        if len(prefix) % 2:
            logits[:size] = self._law(prefix)[:size]
        else:
            logits[size] = 0.0
        return logits

    def lm(self, budget=None, seed=0, **sampling):
        context = 2 + 2 * self.depth
        return ToyLM(self.law, self.alphabet, Ledger(budget), Sampling(seed=seed, **sampling), context=context)

    def leaves(self):
        """Every answer."""
        return ["".join(path) for path in product(self.letters, repeat=self.depth)]

    def log_prob(self, path):
        """The model's log-probability of the steps ``path``."""
        lm, prefix, total = self.lm(), list(self.lm().encode(PROMPT)), 0.0
        for letter in path:
            for token in (self.alphabet.index(letter), len(self.letters)):
                total += float(lm.log_probs(prefix)[token])
                prefix.append(token)
        return total


class Scores:
    """A verifier whose score of a line is a function of the steps written so far, as a string of letters."""

    name, sound, partial = "scores", False, True

    def __init__(self, score, accept=math.inf):
        self._score, self._accept = score, accept
        self.asked = []

    def require(self, question):
        pass

    async def score(self, question, branches, ledger):
        ledger.charge(verifier_calls=len(branches))
        paths = [branch.full_text.replace("\n", "") for branch in branches]
        self.asked += paths
        return [self._score(path) for path in paths]

    def accepts(self, score):
        return score >= self._accept


def random_score(seed, low=0.05):
    """A score log u of each path, u uniform in [low, 1]: the same for the same seed."""

    def score(path):
        key = seed
        for letter in path:
            key = mix(key, ord(letter))
        u = float(uniforms(np.array([key], dtype=np.uint64), np.array([7], dtype=np.uint64))[0])
        return math.log(low + (1 - low) * u)

    return score


def optimistic(world, leaf_score):
    """The best leaf score below each path: an admissible heuristic, and exact at the leaves."""
    best = {}
    for leaf in world.leaves():
        for end in range(world.depth + 1):
            best[leaf[:end]] = max(best.get(leaf[:end], -math.inf), leaf_score(leaf))
    return best.__getitem__


def path_of(thought):
    """The steps from the root to ``thought`` as letters."""
    return "".join(t.text for t in thought.line()).replace("\n", "")


def grown(tree):
    """Thoughts of the tree that some tokens were written for."""
    return [thought for thought in tree.walk() if thought.tokens]


def record_branches(monkeypatch):
    """A list that every branch of a toy model is put into as it is handed out."""
    handed_out = []
    root, extend = ToyLM.root, ToyBranch.extend

    async def recording_root(self, prompt):
        branch = await root(self, prompt)
        handed_out.append(branch)
        return branch

    async def recording_extend(self, *args, **options):
        branches = await extend(self, *args, **options)
        handed_out.extend(branches)
        return branches

    monkeypatch.setattr(ToyLM, "root", recording_root)
    monkeypatch.setattr(ToyBranch, "extend", recording_extend)
    return handed_out
