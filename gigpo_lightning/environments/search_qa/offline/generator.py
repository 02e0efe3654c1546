"""An invented world of facts: a corpus and questions about it, made offline, for tests and tiny policies."""

import json
import logging
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

from gigpo_lightning.environments.generated import make_once
from gigpo_lightning.environments.search_qa.offline.words import (
    ADJECTIVES,
    FIRST_NAMES,
    NOUNS,
    REGIONS,
    SURNAMES,
    TOWNS,
    TRADES,
)
from gigpo_lightning.environments.splits import deal
from gigpo_lightning.errors import check_count

_logger = logging.getLogger(__name__)

CORPUS_FILE = "corpus.jsonl"
_SHARES = {"train": 0.6, "dev": 0.1, "test": 0.3}  # of the subjects that the splits' questions are about
SPLITS = tuple(_SHARES)
ONE_HOP, TWO_HOP = "one_hop", "two_hop"

Row = dict[str, object]

_FORMAT = 1  # counted up when the same settings would give another world
_MANIFEST = "world.json"
_FOLDER = "world"


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """How large the world is, and how many questions each split has. The same settings give the same files.

    Half of a split's questions need one search, half two: the second query needs the first one's answer. No person,
    work or town is the subject of questions in two splits.

    Attributes:
        seed: Where all draws come from.
        people: Each has a trade and a town.
        works: Each was written by one of the people.
        train: Questions in ``train``.
        dev: Questions in ``dev``.
        test: Questions in ``test``.

    Raises:
        ValueError: If a number is out of its range, or the world is too small for so many questions.
    """

    seed: int = 0
    people: int = 300
    works: int = 300
    train: int = 600
    dev: int = 100
    test: int = 300

    def __post_init__(self) -> None:
        most = {"people": len(FIRST_NAMES) * len(SURNAMES), "works": len(ADJECTIVES) * len(NOUNS)}
        for name, limit in most.items():
            check_count(name, getattr(self, name), 10, limit)
        for name in ("seed", *SPLITS):
            check_count(name, getattr(self, name), 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Facts:
    """All that is true: each person's trade and birthplace, each work's author, each town's region."""

    trade: dict[str, str]
    birthplace: dict[str, str]
    author: dict[str, str]
    region: dict[str, str]


def generate_world(data_dir: str | Path, world: World) -> None:
    """Write ``corpus.jsonl`` and one file of questions a split into ``data_dir/world``, unless they are there already.

    The folder appears when all is done, never in part; two processes may make the same one.

    Raises:
        ValueError: If ``data_dir`` holds another world, or the world is too small for its questions.
    """
    folder = Path(data_dir) / _FOLDER

    def write(partial: Path) -> None:
        _logger.info("making a world of %d people and %d works in %s", world.people, world.works, folder)
        facts = _draw_facts(world)
        _write_lines(partial / CORPUS_FILE, _corpus(facts, world.seed))
        for split in SPLITS:
            _write_lines(partial / f"{split}.jsonl", _draw_questions(facts, world, split))

    make_once(folder, _MANIFEST, {"format": _FORMAT, **asdict(world)}, "a world", "data_dir", write)


def _write_lines(file: Path, rows: Sequence[Row]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _draw_facts(world: World) -> _Facts:
    rng = random.Random(f"{world.seed}/facts")
    people = rng.sample([f"{first} {last}".title() for first, last in product(FIRST_NAMES, SURNAMES)], world.people)
    works = rng.sample(
        [f"The {adjective} {noun}".title() for adjective, noun in product(ADJECTIVES, NOUNS)], world.works
    )
    return _Facts(
        trade={person: rng.choice(TRADES) for person in people},
        birthplace={person: rng.choice(TOWNS).title() for person in people},
        author={work: rng.choice(people) for work in works},
        region={town.title(): rng.choice(REGIONS).title() for town in TOWNS},
    )


def _corpus(facts: _Facts, seed: int) -> list[Row]:
    """Every fact's passage, in an order that gives nothing away."""
    texts = {
        person: f"{person} is a {facts.trade[person]} who was born in {town}."
        for person, town in facts.birthplace.items()
    }
    texts |= {work: f"{work} is a novel written by {author}." for work, author in facts.author.items()}
    texts |= {town: f"{town} is a town in the region of {region}." for town, region in facts.region.items()}
    titles = list(texts)
    random.Random(f"{seed}/corpus").shuffle(titles)
    return [{"id": str(index), "contents": f'"{title}"\n{texts[title]}'} for index, title in enumerate(titles)]


def _draw_questions(facts: _Facts, world: World, split: str) -> list[Row]:
    """The rows of a split's questions, the two kinds in turn."""
    wanted = getattr(world, split)
    rng = random.Random(f"{world.seed}/{split}")
    possible = _possible_questions(facts, world.seed, split)
    chosen: dict[str, list[Row]] = {}
    for kind, count in ((ONE_HOP, wanted - wanted // 2), (TWO_HOP, wanted // 2)):
        questions = [question for question in possible if question["data_source"] == kind]
        if len(questions) < count:
            raise ValueError(
                f"{split} must be small enough for a world of {world.people} people and {world.works} works, got "
                f"{wanted}: it has {len(questions)} questions of kind {kind} there, and needs {count}"
            )
        chosen[kind] = rng.sample(questions, count)
    return [chosen[kind][place] for place in range(wanted) for kind in (ONE_HOP, TWO_HOP) if place < len(chosen[kind])]


def _possible_questions(facts: _Facts, seed: int, split: str) -> list[Row]:
    """All that can be asked about a split's own people, works and towns."""
    people, works, towns = (
        _share(list(names), seed, split) for names in (facts.birthplace, facts.author, facts.region)
    )
    asked: list[Row] = []
    for person in people:
        town = facts.birthplace[person]
        asked += [
            _question(f"Where was {person} born?", town, person),
            _question(f"What is the trade of {person}?", facts.trade[person], person),
            _question(f"In which region was {person} born?", facts.region[town], person, town),
        ]
    for work in works:
        author = facts.author[work]
        asked += [
            _question(f"Who wrote {work}?", author, work),
            _question(f"Where was the author of {work} born?", facts.birthplace[author], work, author),
            _question(f"What is the trade of the author of {work}?", facts.trade[author], work, author),
        ]
    asked += [_question(f"In which region is {town}?", facts.region[town], town) for town in towns]
    return asked


def _question(text: str, answer: str, *titles: str) -> Row:
    """The row of a question: its one right answer, and the passages that it needs, in the order of finding them."""
    kind = ONE_HOP if len(titles) == 1 else TWO_HOP
    return {"data_source": kind, "question": text, "golden_answers": [answer], "gold_titles": list(titles)}


def _share(names: list[str], seed: int, split: str) -> Sequence[str]:
    """A split's own part of the names."""
    random.Random(f"{seed}/subjects").shuffle(names)
    return deal(names, _SHARES)[split]


def world_corpus(data_dir: str | Path) -> Path:
    """Where the corpus of the world in ``data_dir`` is, or will be."""
    return Path(data_dir) / _FOLDER / CORPUS_FILE
