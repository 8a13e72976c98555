"""The toy model drawn in plain Python, many times as fast, for tests that need tens of thousands of lines."""

import asyncio
import functools
import math

from outthink.core.budget import Ledger
from outthink.core.rng import mix
from outthink.core.sampling import Sampling, Until
from outthink.lm.toy import ToyBranch, ToyLM, random_law

GAMMA, MASK = 0x9E3779B97F4A7C15, (1 << 64) - 1


class QuickLM(ToyLM):
    """A `ToyLM` that draws the very same lines at temperature 1, biased or not; without a limit on its ledger."""

    known = None

    def with_sampling(self, sampling):
        return self._like(self.ledger, sampling)

    def with_ledger(self, ledger):
        return self._like(ledger, self.sampling)

    def _like(self, ledger, sampling):
        made = QuickLM(self.law, self.alphabet, ledger, sampling, self.context, self.tree)
        made.known = self.known
        return made

    async def root(self, prompt):
        self.known = {} if self.known is None else self.known
        slow = await super().root(prompt)
        return QuickBranch(self, None, slow.thought, slow.key, slow._prefix, slow._unpaid)

    def laws(self, prefix, biases):
        """(model log-probabilities, sampling probabilities, their logs) after ``prefix``."""
        where = (prefix, biases)
        if where not in self.known:
            logits = [float(x) for x in self.law(prefix).astype("float32")]
            biased = list(logits)
            for token, bias in biases:
                biased[token] += bias
            self.known[where] = (_log_softmax(logits), [math.exp(x) for x in _log_softmax(biased)])
        return self.known[where]


class QuickBranch(ToyBranch):
    """A branch of a `QuickLM`."""

    async def extend(self, n=1, until=None, sampling=None, on_token=None):
        lm, until, sampling = self._lm, until or Until(), sampling or self._lm.sampling
        if lm.ledger.limited or on_token or sampling.top_logprobs or sampling.temperature != 1:
            return await super().extend(n, until, sampling, on_token)
        self.refuse_if_closed("extend")
        lm.ledger.charge(prefilled=self._unpaid, flops=self._unpaid)
        self._unpaid, biases = 0, tuple(sampling.logit_bias.items())
        children = [QuickBranch(lm, self, self.thought.child(), key, self._prefix) for key in self.next_keys(n)]
        for child in children:
            child.finish_line(until, mix(sampling.seed, child.key), biases)
            child.record()
        drawn = sum(len(child.tokens) for child in children)
        lm.ledger.charge(decoded=drawn, flops=drawn)
        await asyncio.sleep(0)
        return children

    async def feed(self, text):
        slow = await super().feed(text)
        child = QuickBranch(self._lm, self, slow.thought, slow.key, slow._prefix, slow._unpaid)
        child.tokens, child.text, child.completion = slow.tokens, slow.text, slow.completion
        return child

    def finish_line(self, until, key, biases):
        lm, start, prefix = self._lm, len(self._prefix), self._prefix
        log_probs, drawn, text = [], [], ""
        finish = None if start < lm.context else "length"
        while finish is None:
            model, law = lm.laws(prefix, biases)
            token = _draw(law, key, len(prefix))
            prefix, text = (*prefix, token), text + lm.spell([token])
            log_probs.append(model[token])
            drawn.append(math.log(law[token]))
            if token == lm.end or any(stop in text for stop in until.stop):
                finish, self.ended = "stop", token == lm.end
            elif len(prefix) - start == until.max_tokens or len(prefix) >= lm.context:
                finish = "length"
        self._prefix, self.tokens, self.text = prefix, prefix[start:], text
        self.completion = text[: min((at for stop in until.stop if (at := text.find(stop)) >= 0), default=len(text))]
        self.log_probs, self.sample_log_probs, self.finish = tuple(log_probs), tuple(drawn), finish


def _draw(law, key, position):
    z = (key + GAMMA * (position + 1)) & MASK
    for _ in range(2):
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        z ^= z >> 31
    point, total = ((z >> 12) + 0.5) * 2.0**-52 * math.fsum(law), 0.0
    for token, p in enumerate(law):
        total += p
        if point < total:
            return token
    return len(law) - 1


def _log_softmax(scores):
    top = max(scores)
    total = top + math.log(math.fsum(math.exp(s - top) for s in scores))
    return [s - total for s in scores]


@functools.cache
def cached_law(seed, size, sharpness=1.5):
    """`random_law`, computed once for each prefix."""
    return functools.cache(random_law(seed, size, sharpness))


def toy(alphabet, context, budget=None, seed=0, law=None, **sampling):
    """A quick toy model; ``law`` should be cached."""
    made = law or cached_law(3, len(alphabet) + 1)
    return QuickLM(made, alphabet, Ledger(budget), Sampling(seed=seed, **sampling), context=context)
