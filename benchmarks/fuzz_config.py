"""Mutates the shipped configurations and sees what the command line makes of them, up to ``--dry_run``.

    python benchmarks/fuzz_config.py [--seed 0] [--cases 700] [--processes 2] [--out cases.jsonl]

A mutant is parsed by the real parser in a forked process, which has imported all it needs. It is accepted, refused in
one line that names the key (or, where the whole file was changed, the file), refused without, or ends in a traceback.
Some mutants are nonsense and must be refused, some are what they were and must not be. The exit code is 1 if there is
a traceback, accepted nonsense, a refusal of what is right, or if less than 97 % of the refusals name the key.
"""

import argparse
import contextlib
import copy
import json
import logging
import math
import multiprocessing
import os
import random
import re
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from rich.console import Console
from rich.table import Table

from gigpo_lightning import cli
from gigpo_lightning.sweep import command

ROOT = Path(__file__).resolve().parents[1]
OUT = Console()
GOAL = 0.97
SECTIONS = ("trainer", "model", "data")
PACKAGE = "# @package _global_\n"
WORD = "?\u00e9\u4e2d\u05d0\U0001f600\u202e\u0301"
Path_ = tuple[str | int, ...]

# Numbers that may be negative, or have no end; every other may not.
SIGNED = {"success_reward", "exponent", "final_exponent"}
ENDLESS = {"max_grad_norm"}
# Numbers of which there must be one.
COUNTS = {
    *("group_size", "tasks_per_epoch", "max_steps", "minibatch_size", "micro_batch_tokens", "batch_size", "max_tokens"),
    *("hidden_size", "num_layers", "num_heads", "intermediate_size", "max_length", "max_grad_norm", "learning_rate"),
    *("max_epochs", "devices", "check_val_every_n_epoch", "max_model_len", "kv_cache_gib", "gpu_memory_utilization"),
    *("max_turns", "top_k", "episodes_per_task", "size", "num_products"),
}
# Mappings whose keys are the user's own.
FREE = {"files", "options", "per_source", "hydra", "params"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One mutant.

    Attributes:
        number: Of the case.
        source: The shipped configuration.
        kind: Of the mutation.
        key: What was changed; nothing if the whole file was.
        content: Of the mutated file.
        must: Whether it has to be refused or accepted.
        names: Words of which a refusal has to hold one; nothing asks for the file's name.
    """

    number: int
    source: str
    kind: str
    key: str
    content: bytes
    must: Literal["refuse", "accept", "either"]
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of it.

    Attributes:
        how: ``accepted``, ``refused``, ``traceback`` or ``time``.
        said: Message, or the traceback.
        seconds: Time that it took.
    """

    how: str
    said: str = ""
    seconds: float = 0.0


def classify(case: Case, outcome: Outcome) -> str:
    """What an outcome is worth: a verdict, of which those with ``!`` miss the goal at once."""
    if outcome.how in ("traceback", "time"):
        return f"{outcome.how}!"
    if outcome.how == "accepted":
        return "accepted nonsense!" if case.must == "refuse" else "accepted"
    if case.must == "accept":
        return "refused what is right!"
    return "refused" if _is_named(case, outcome.said) else "refused without the key"


def _is_named(case: Case, said: str) -> bool:
    if "\n" in said or not said:
        return False
    if not case.names:
        return "mutant.yaml" in said or bool(re.search(r"\b(trainer|model|data|seed_everything)\b", said))
    return any(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", said) for name in case.names)


class Mutator:
    """Makes mutants of one configuration.

    Args:
        draw: Randomness.
        source: Name of the configuration.
        text: What it holds.
        classes: Every ``class_path`` of all configurations, with the key of its place.
    """

    def __init__(self, draw: random.Random, source: str, text: str, classes: Sequence[tuple[str, str]]) -> None:
        self.draw = draw
        self.source = source
        self.text = text
        self.tree = yaml.safe_load(text)
        self.classes = classes
        self.keys = [path for path, _ in nodes(self.tree) if path and not FREE & set(map(str, path))]
        self.numbers = [path for path in self.keys if is_number(at(self.tree, path))]
        self.words = [path for path in self.keys if isinstance(at(self.tree, path), str) and path[-1] != "class_path"]
        self.named = [path for path in self.keys if path[-1] == "class_path"]
        self.places = [path for path in self.keys if isinstance(path[-1], str)]
        self.kinds: list[tuple[str, Callable[[], Case | None]]] = [
            ("drop", self.drop),
            ("null", self.null),
            ("wrong type", self.wrong_type),
            ("list for scalar", self.listed),
            *[(name, self.number_of(name, value)) for name, value in NUMBERS.items()],
            *[(name, self.number_of(name, value)) for name, value in NUMBERS.items()],
            ("word for number", self.word_for_number),
            ("empty word", self.empty_word),
            ("unicode", self.unicode),
            ("misspelt key", self.misspelt),
            ("misspelt key", self.misspelt),
            ("unknown key", self.unknown),
            ("doubled key", self.doubled),
            ("doubled key", self.doubled),
            ("no class", self.no_class),
            ("class of another place", self.swapped),
            ("section", self.section),
            ("file", self.file),
            ("file", self.file),
        ]

    def mutant(self, number: int) -> Case:
        """One that can be made of this configuration."""
        while True:
            kind, make = self.draw.choice(self.kinds)
            made = make()
            if made is not None:
                return Case(**{**asdict(made), "number": number, "kind": made.kind or kind})

    def case(
        self, path: Path_, content: Any, must: Literal["refuse", "accept", "either"], *, names: Sequence[str] = ()
    ) -> Case:
        """A mutant, as long as nobody has numbered it."""
        words = [str(each) for each in path if isinstance(each, str)]
        package = PACKAGE if self.text.startswith(PACKAGE) else ""  # a comment that Hydra reads
        raw = content if isinstance(content, bytes) else package.encode() + dumped(content)
        last = words[-2:] if words[-1:] == ["class_path"] or words[:1] == ["defaults"] else words[-1:]
        return Case(
            number=-1,
            source=self.source,
            kind="",
            key=".".join(map(str, path)),
            content=raw,
            must=must,
            names=tuple(names) or tuple(last),
        )

    def changed(self, path: Path_, value: Any) -> Any:
        """The configuration with another value."""
        tree = copy.deepcopy(self.tree)
        at(tree, path[:-1])[path[-1]] = value
        return tree

    def drop(self) -> Case:
        """Without a key."""
        path = self.draw.choice(self.places)
        tree = copy.deepcopy(self.tree)
        del at(tree, path[:-1])[path[-1]]
        return self.case(path, tree, "either", names=[str(each) for each in path[-3:] if isinstance(each, str)])

    def null(self) -> Case:
        """A key left empty."""
        path = self.draw.choice(self.keys)
        return self.case(path, self.changed(path, None), "refuse" if path in SECTIONS else "either")

    def wrong_type(self) -> Case:
        """A value of another kind."""
        path = self.draw.choice(self.keys)
        value = self.draw.choice([{"a": 1}, [{"a": [1]}], {"class_path": 3}, True, "word", 3, 2.5, [], {}])
        return self.case(path, self.changed(path, value), "either")

    def listed(self) -> Case | None:
        """A list where one value is wanted."""
        if not self.numbers:
            return None
        path = self.draw.choice(self.numbers)
        number = at(self.tree, path)
        return self.case(path, self.changed(path, [number]), "either" if path[-1] == "devices" else "refuse")

    def number_of(self, name: str, value: float | int) -> Callable[[], Case | None]:
        """Another number."""

        def make() -> Case | None:
            if not self.numbers:
                return None
            path = self.draw.choice(self.numbers)
            key = next(str(each) for each in reversed(path) if isinstance(each, str))
            nonsense = {
                "-7": key not in SIGNED,
                "0": key in COUNTS and not isinstance(path[-1], int),
                "nan": True,
                "inf": key not in ENDLESS,
                "-inf": True,
            }.get(name, False)
            return self.case(path, self.changed(path, value), "refuse" if nonsense else "either")

        return make

    def word_for_number(self) -> Case | None:
        """A word where a number is wanted."""
        if not self.numbers:
            return None
        path = self.draw.choice([each for each in self.numbers if each[-1] != "devices"] or self.numbers)
        return self.case(path, self.changed(path, self.draw.choice(["", "many", WORD, "1e", "0x", "--"])), "refuse")

    def empty_word(self) -> Case | None:
        """Nothing between the quotes."""
        path = self.draw.choice(self.words) if self.words else None
        return None if path is None else self.case(path, self.changed(path, ""), "either")

    def unicode(self) -> Case | None:
        """Characters from anywhere."""
        if not self.words:
            return None
        path = self.draw.choice(self.words)
        value = "".join(chr(self.draw.choice([*range(32, 127), *range(161, 0x2FFF), 0x1F600])) for _ in range(8))
        return self.case(path, self.changed(path, value), "either")

    def misspelt(self) -> Case:
        """A key with a letter too few, too many or in the wrong place."""
        path = self.draw.choice(self.places)
        key = str(path[-1])
        spot = self.draw.randrange(1, len(key))
        wrong = self.draw.choice([key[:spot] + key[spot + 1 :], key[:spot] + key[spot - 1] + key[spot:], f"{key}s"])
        if wrong == key or wrong in at(self.tree, path[:-1]):
            wrong = f"{key}_"
        tree = copy.deepcopy(self.tree)
        parent = at(tree, path[:-1])
        entries = [(wrong if each == key else each, value) for each, value in parent.items()]
        parent.clear()
        parent.update(entries)
        above = [str(each) for each in path[-3:-1] if isinstance(each, str) and each != "init_args"]
        names = [wrong, key, *(above if key in ("class_path", "init_args") else [])]
        return self.case(path, tree, "refuse", names=names)

    def unknown(self) -> Case:
        """A key that nobody knows."""
        path = self.draw.choice(self.places)[:-1]
        tree = copy.deepcopy(self.tree)
        at(tree, path)["unheard_of"] = 1
        return self.case((*path, "unheard_of"), tree, "refuse")

    def doubled(self) -> Case | None:
        """A key that stands twice in a mapping."""
        lines = dumped(self.tree).decode().splitlines()
        found = [index for index, line in enumerate(lines) if re.match(r"\s*\w+: [^\[{&*|>]", line)]
        if not found:
            return None
        index = self.draw.choice(found)
        key = lines[index].split(":")[0].strip()
        lines.insert(index + 1, lines[index])
        return self.case((key,), "\n".join(lines).encode(), "refuse")

    def no_class(self) -> Case | None:
        """A class that is not there."""
        if not self.named:
            return None
        path = self.draw.choice(self.named)
        old = str(at(self.tree, path))
        new = self.draw.choice([f"{old}x", f"nowhere.{old}", "no.such.Class", "os.system", "3", f"{old}."])
        return self.case(path, self.changed(path, new), "refuse")

    def swapped(self) -> Case | None:
        """A class that belongs elsewhere."""
        if not self.named:
            return None
        path = self.draw.choice(self.named)
        here = place(path)
        others = [name for where, name in self.classes if where != here]
        return self.case(path, self.changed(path, self.draw.choice(others)), "refuse")

    def section(self) -> Case | None:
        """A whole section that holds no settings."""
        found = [each for each in SECTIONS if each in self.tree]
        if not found:
            return None
        section = self.draw.choice(found)
        return self.case((section,), self.changed((section,), self.draw.choice([None, [], [1], 3, True, ""])), "refuse")

    def file(self) -> Case:
        """Another file."""
        name, content, must = self.draw.choice(self._files())
        made = self.case((), content, must)
        return Case(**{**asdict(made), "kind": f"file {name}", "names": ()})

    def _files(self) -> list[tuple[str, bytes, Literal["refuse", "accept", "either"]]]:
        text = self.text
        raw = text.encode()
        cut = self.draw.randrange(len(raw))
        return [
            ("cut", raw[:cut], "either"),
            ("with a hole", raw[:cut] + raw[cut + self.draw.randrange(1, 40) :], "either"),
            ("with a NUL", raw[:cut] + b"\0" + raw[cut:], "refuse"),
            ("with a byte of Latin-1", raw + b"# \xe9\n", "refuse"),
            ("in UTF-16", text.encode("utf-16"), "refuse"),
            ("in UTF-32", text.encode("utf-32"), "refuse"),
            ("with a BOM", text.encode("utf-8-sig"), "accept"),
            ("with CRLF", text.replace("\n", "\r\n").encode(), "accept"),
            ("empty", b"", "refuse"),
            ("of comments", b"# nothing\n", "refuse"),
            ("of a list", b"- 1\n", "refuse"),
            ("of a word", b"word\n", "refuse"),
            ("twice", raw + b"\n" + raw, "refuse"),
            ("of two documents", raw + b"\n---\n" + raw, "refuse"),
            ("that holds itself", raw + b"\nx: &x [*x]\n", "refuse"),
            ("with an unknown alias", raw + b"\nx: *x\n", "refuse"),
            ("with a tag", raw + b"\nx: !!python/object:os.system {}\n", "refuse"),
            ("that is deep", b"trainer: " + b"[" * 500 + b"]" * 500, "refuse"),
            ("with tabs", raw.replace(b"  ", b"\t", self.draw.randrange(1, 9)), "either"),
        ]


NUMBERS: dict[str, float | int] = {
    "-7": -7,
    "0": 0,
    "nan": math.nan,
    "inf": math.inf,
    "-inf": -math.inf,
    "huge": 10**18,
    "huge float": 1e300,
    "half": 2.5,
    "true": True,
}


def nodes(tree: Any, path: Path_ = ()) -> Iterator[tuple[Path_, Any]]:
    """Every value of a configuration with its path, those of mappings and lists among them."""
    yield path, tree
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield from nodes(value, (*path, key))


def at(tree: Any, path: Path_) -> Any:
    """The value of a path."""
    for each in path:
        tree = tree[each]
    return tree


def is_number(value: Any) -> bool:
    """Whether it is one; a truth value is none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def place(path: Path_) -> str:
    """The key that a class stands under."""
    return next((str(each) for each in reversed(path[:-1]) if isinstance(each, str) and each != "init_args"), "")


def dumped(tree: Any) -> bytes:
    """A configuration as YAML, without anchors."""

    class Plain(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    return yaml.dump(tree, Dumper=Plain, sort_keys=False, allow_unicode=True).encode("utf-8", "surrogatepass")


def corpus(only: str = "*") -> dict[str, str]:
    """The shipped configurations whose paths match a pattern: text by path."""
    paths = sorted((ROOT / "configs").rglob("*.yaml"))
    texts = {str(path.relative_to(ROOT)): path.read_text() for path in paths}
    return {source: text for source, text in texts.items() if fnmatch(source, only)}


def make_cases(seed: int, number: int, texts: dict[str, str]) -> list[Case]:
    """As many mutants as asked for, the same for a seed.

    Args:
        seed: Of all of them.
        number: How many.
        texts: Configurations.
    """
    draw = random.Random(seed)
    trees = [yaml.safe_load(text) for text in texts.values()]
    named = [(place(path), value) for tree in trees for path, value in nodes(tree) if path and path[-1] == "class_path"]
    classes = sorted(set(named))
    mutators = [Mutator(draw, source, text, classes) for source, text in texts.items()]
    # Presets and sweeps are short: a mutant of one is drawn a third as often.
    weights = [1 if "/credit/" in each.source or "/sweep/" in each.source else 3 for each in mutators]
    return [draw.choices(mutators, weights)[0].mutant(index) for index in range(number)]


def try_file(source: str, path: Path) -> Outcome:
    """What the command line makes of a file in the place of a shipped configuration; nothing is run."""
    started = time.perf_counter()
    words = ["fit", "--config", str(path), "--trainer.default_root_dir", str(path.parent), "--dry_run"]
    if "/credit/" in source:
        words[1:1] = ["--config", "configs/gridworld_cpu.yaml"]
    try:
        if "/sweep/" in source:
            tree = path.parent / "tree"
            (tree / "sweep").mkdir(parents=True, exist_ok=True)
            (tree / "sweep" / "mutant.yaml").write_bytes(path.read_bytes())
            run = ["run=gridworld_cpu"] if "default" in source else []
            name = ["--config-name", "mutant", "--config-dir", str(tree), "--dry_run", *run]
            command.carry_out(["-m", *name, f"hydra.sweep.dir={path.parent / 'swept'}"])
        else:
            cli.build_cli(words)
        outcome = Outcome(how="accepted")
    except cli.MENDABLE as error:
        outcome = Outcome(how="refused", said=cli.what_is_wrong(error))
    except SystemExit as error:
        outcome = Outcome(how="traceback", said=f"SystemExit({error.code})")
    except BaseException:  # whatever it is, a user would see it
        outcome = Outcome(how="traceback", said=traceback.format_exc()[-3000:])
    return Outcome(how=outcome.how, said=outcome.said, seconds=time.perf_counter() - started)


def _child(connection: Connection, case: Case) -> None:
    with open(os.devnull, "w") as nothing, tempfile.TemporaryDirectory() as folder:
        os.dup2(nothing.fileno(), 1)
        os.dup2(nothing.fileno(), 2)
        path = Path(folder) / "mutant.yaml"
        path.write_bytes(case.content)
        connection.send(try_file(case.source, path))
        connection.close()


def run_cases(cases: Sequence[Case], processes: int, limit: float) -> Iterator[tuple[Case, Outcome]]:
    """Try every case in a process of its own, forked from this one.

    Args:
        cases: Mutants.
        processes: How many at once.
        limit: Seconds after which one is killed.
    """
    context = multiprocessing.get_context("fork")
    left, running = list(reversed(cases)), dict[Connection, tuple[Any, Case, float]]()
    while left or running:
        while left and len(running) < processes:
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_child, args=(theirs, case := left.pop()))
            process.start()
            theirs.close()
            running[ours] = process, case, time.perf_counter()
        ready = wait(list(running), timeout=0.5)
        for connection, (process, case, started) in list(running.items()):
            late = time.perf_counter() - started > limit
            if connection not in ready and not late:
                continue
            outcome = Outcome(how="time", seconds=limit)
            if connection in ready:
                try:
                    outcome = connection.recv()
                except EOFError:
                    outcome = Outcome(how="traceback", said="the process died")
            else:
                process.kill()
            process.join()
            connection.close()
            del running[connection]
            yield case, outcome


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Have nobody talk but this script, in the project's root."""
    before, level, words = Path.cwd(), logging.root.manager.disable, sys.argv
    logging.disable(logging.CRITICAL)
    sys.argv = ["gigpo"]
    os.chdir(ROOT)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
        sys.argv = words
        os.chdir(before)


def warm_up(texts: dict[str, str]) -> dict[str, str]:
    """Those configurations that this machine accepts as they are; all that they need is then imported."""
    kept = {}
    for source, text in texts.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "mutant.yaml"
            path.write_text(text)
            outcome = try_file(source, path)
        if outcome.how == "accepted":
            kept[source] = text
        else:
            OUT.print(f"left out: {source}: {outcome.said[-500:]}", markup=False)
    return kept


def main() -> None:
    """Mutate, run, count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int, default=700)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--limit", type=float, default=60.0, help="seconds of a case")
    parser.add_argument("--only", default="*", help="mutate configurations whose paths match this pattern")
    parser.add_argument("--out", type=Path, help="a JSON line for every case")
    arguments = parser.parse_args()
    started = time.perf_counter()
    torch.set_num_threads(1)  # a process that is forked from one whose threads have computed waits for them for ever
    with quiet():
        texts = warm_up(corpus(arguments.only))
        cases = make_cases(arguments.seed, arguments.cases, texts)
        tried = sorted(run_cases(cases, arguments.processes, arguments.limit), key=lambda each: each[0].number)
    judged = [(case, outcome, classify(case, outcome)) for case, outcome in tried]
    if arguments.out is not None:
        with arguments.out.open("w") as lines:
            for case, outcome, verdict in judged:
                held = asdict(case) | asdict(outcome) | {"verdict": verdict, "content": case.content.decode("latin-1")}
                lines.write(json.dumps(held) + "\n")
    raise SystemExit(report(judged, time.perf_counter() - started))


def report(judged: Sequence[tuple[Case, Outcome, str]], seconds: float) -> int:
    """Show what came out; the exit code."""
    verdicts = Counter(verdict for _, _, verdict in judged)
    table = Table("mutation", *sorted(verdicts))
    for kind in sorted({case.kind for case, _, _ in judged}):
        counts = Counter(verdict for case, _, verdict in judged if case.kind == kind)
        table.add_row(kind, *(str(counts[verdict] or "") for verdict in sorted(verdicts)))
    OUT.print(table)
    for case, outcome, verdict in judged:
        if verdict not in ("accepted", "refused"):
            said = outcome.said.strip().splitlines()[-1:] if verdict == "traceback!" else [outcome.said]
            OUT.print(
                f"{verdict} case {case.number}: {case.kind} of {case.key or 'the file'} in {case.source}", markup=False
            )
            OUT.print(f"    {' '.join(said)[:300]}", markup=False)
    refusals = verdicts["refused"] + verdicts["refused without the key"]
    share = verdicts["refused"] / max(1, refusals)
    missed = sum(count for verdict, count in verdicts.items() if verdict.endswith("!"))
    named = f"{refusals} refusals, {share:.1%} of them name the key"
    OUT.print(f"{len(judged)} cases in {seconds:.0f} s; {named}; {dict(verdicts)}")
    return int(missed > 0 or share < GOAL)


if __name__ == "__main__":
    main()
