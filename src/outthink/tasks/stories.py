"""Stories about quantities: told in plain sentences and read back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

NAMES = ("ann", "bob", "cai", "dan", "eva", "fay", "gus", "hal", "ida", "jon", "kim", "leo", "mia", "ned", "ola", "pam")
NAMES += ("quy", "ron", "sue", "tom", "una", "val", "wim", "xia", "yan", "zoe")
ITEMS = ("pens", "cups", "eggs", "nuts", "keys", "hats", "rings", "books", "coins", "plums")
VERBS = (("has", "does", "have"), ("sold", "did", "sell"), ("found", "did", "find"), ("made", "did", "make"))
TOGETHER = "together"
MAX_STORY, MAX_VALUE = 2000, 10**10

PARTS = {2: "half", 3: "a third", 4: "a quarter"}
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
TELL = {
    "has": "{name} {verb} {n0} {item}",
    "boxes": "{name} {verb} {n0} boxes of {n1} {item}",
    "boxes and": "{name} {verb} {n0} boxes of {n1} {item} and {n2} more",
    "more": "{name} {verb} {n0} more{of} than {s0}",
    "fewer": "{name} {verb} {n0} fewer{of} than {s0}",
    "times": "{name} {verb} {n0} times as many{of} as {s0}",
    "part": "{name} {verb} {n0} as many{of} as {s0}",
    "sum": "{name} {verb} as many{of} as {s0} and {s1} together",
}
KINDS = tuple(TELL)


@dataclass(frozen=True)
class Quantity:
    """How many things one person has: told, or made from those of others; ``kind`` is a key of TELL."""

    name: str
    kind: str
    numbers: tuple[int, ...]
    sources: tuple[str, ...]

    def value(self, values: Mapping[str, int]) -> int:
        """The count, given those of the sources; raises ValueError where it is no whole number from 1 to MAX_VALUE."""
        match self.kind, [*self.numbers, *(values[name] for name in self.sources)]:
            case "has", [count]:
                found = count
            case "boxes" | "times", [count, size]:
                found = count * size
            case "boxes and", [count, size, rest]:
                found = count * size + rest
            case "more" | "sum", [first, second]:
                found = first + second
            case "fewer", [lack, source]:
                found = source - lack
            case "part", [divisor, source] if source % divisor == 0:
                found = source // divisor
            case _:
                found = 0
        if not 1 <= found <= MAX_VALUE:
            raise ValueError(f"{self} has no usable value.")
        return found

    def renamed(self, names: Mapping[str, str]) -> Quantity:
        return replace(self, name=names[self.name], sources=tuple(names[source] for source in self.sources))


@dataclass(frozen=True)
class Story:
    """Quantities in the order in which they are told, and whose count, or whose together, is asked for.

    ``item`` is what is counted; ``verb`` is an index of VERBS.
    """

    quantities: tuple[Quantity, ...]
    question: tuple[str, ...]
    item: str
    verb: int

    @property
    def asked(self) -> str:
        return self.question[0] if len(self.question) == 1 else TOGETHER

    def all_quantities(self) -> tuple[Quantity, ...]:
        """Those told, and the sum that is asked for where there is one."""
        if len(self.question) == 1:
            return self.quantities
        return (*self.quantities, Quantity(TOGETHER, "sum", (), self.question))

    def values(self) -> dict[str, int] | None:
        """Every count by name; None where one has none, or where a source is unknown or depends on itself."""
        values: dict[str, int] = {}
        pending = list(self.all_quantities())
        while pending:
            ready = [quantity for quantity in pending if all(source in values for source in quantity.sources)]
            if not ready:
                return None
            for quantity in ready:
                try:
                    values[quantity.name] = quantity.value(values)
                except ValueError:
                    return None
            pending = [quantity for quantity in pending if quantity.name not in values]
        return values

    def to_json(self) -> dict[str, Any]:
        return {
            "quantities": [[q.name, q.kind, list(q.numbers), list(q.sources)] for q in self.quantities],
            "question": list(self.question),
            "item": self.item,
            "verb": self.verb,
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Story:
        quantities = tuple(Quantity(name, kind, tuple(n), tuple(s)) for name, kind, n, s in data["quantities"])
        return Story(quantities, tuple(data["question"]), data["item"], data["verb"])


def tell_story(story: Story, in_full: bool = False, spelled: bool = False) -> str:
    """The text of ``story``. ``in_full``: every sentence names the item; ``spelled``: small numbers are words."""
    _, auxiliary, infinitive = VERBS[story.verb]
    sentences = [_tell(story, quantity, in_full, spelled) for quantity in story.quantities]
    who, end = " and ".join(story.question), f" {TOGETHER}" if len(story.question) > 1 else ""
    if end and auxiliary == "does":
        auxiliary = "do"
    return ". ".join([*sentences, f"how many {story.item} {auxiliary} {who} {infinitive}{end}?"])


def _tell(story: Story, quantity: Quantity, in_full: bool, spelled: bool) -> str:
    words = {f"s{index}": source for index, source in enumerate(quantity.sources)}
    for index, number in enumerate(quantity.numbers):
        words[f"n{index}"] = WORDS[number] if spelled and number < len(WORDS) else str(number)
    if quantity.kind == "part":
        words["n0"] = PARTS[quantity.numbers[0]]
    of = f" {story.item}" if in_full else ""
    verb = VERBS[story.verb][0]
    return TELL[quantity.kind].format(name=quantity.name, verb=verb, item=story.item, of=of, **words)


def _pattern(template: str) -> re.Pattern[str]:
    """The regular expression of the sentences that ``template`` tells."""
    number = rf"[0-9]{{1,6}}|{'|'.join(WORDS)}|{'|'.join(PARTS.values())}"
    text = template.replace("{of}", "(?: {item})?").replace("{name}", "(?P<name>[a-z]+)").replace("{item}", "[a-z]+")
    text = re.sub(r"{(n\d)}", rf"(?P<\1>{number})", text)
    text = re.sub(r"{(s\d)}", r"(?P<\1>[a-z]+)", text)
    return re.compile(text.replace("{verb}", f"(?:{'|'.join(verb for verb, _, _ in VERBS)})"))


_SENTENCES = tuple((kind, _pattern(template)) for kind, template in TELL.items())
_QUESTION = re.compile(
    r"how many (?P<item>[a-z]+) (?:does|do|did) (?P<first>[a-z]+)(?: and (?P<second>[a-z]+))? "
    rf"(?P<verb>{'|'.join(infinitive for _, _, infinitive in VERBS)})(?P<together> {TOGETHER})?"
)
_NUMBER = {word: number for number, word in (*enumerate(WORDS), *PARTS.items())}


def read_story(text: str) -> Story | None:
    """The story that ``text`` tells in the sentences above, its question last; None where it tells none with values.

    All sentences are about what the question asks for: the same things, had or sold or made alike.
    """
    if len(text) > MAX_STORY:
        return None
    *sentences, question = re.split(r"[.\n]\s*", text.strip().lower().rstrip("?. "))
    asked = _QUESTION.fullmatch(question)
    if asked is None or (asked["second"] is None) != (asked["together"] is None):
        return None
    quantities = [_read_sentence(sentence) for sentence in sentences]
    names = [quantity.name for quantity in quantities if quantity is not None]
    if len(set(names)) < len(quantities) or TOGETHER in names:
        return None
    who = (asked["first"],) if asked["second"] is None else (asked["first"], asked["second"])
    verb = [infinitive for _, _, infinitive in VERBS].index(asked["verb"])
    story = Story(tuple(quantity for quantity in quantities if quantity is not None), who, asked["item"], verb)
    ways = [(in_full, spelled) for in_full in (False, True) for spelled in (False, True)]
    for sentence, quantity in zip(sentences, story.quantities, strict=True):
        if sentence not in [_tell(story, quantity, *way) for way in ways]:
            return None
    return story if story.values() is not None and not {*who} - {*names} else None


def _read_sentence(sentence: str) -> Quantity | None:
    for kind, pattern in _SENTENCES:
        if match := pattern.fullmatch(sentence):
            parts = match.groupdict()
            told = [parts[key] for key in ("n0", "n1", "n2") if key in parts]
            numbers = tuple(_NUMBER[number] if number in _NUMBER else int(number) for number in told)
            if (kind == "part") == all(number in PARTS.values() for number in told) or not told:
                return Quantity(parts["name"], kind, numbers, tuple(parts[k] for k in ("s0", "s1") if k in parts))
    return None
