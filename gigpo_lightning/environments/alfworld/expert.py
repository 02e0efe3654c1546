"""A scripted expert that searches: it knows only what it has seen, so that what it does can be learnt."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

_GOALS = (
    (r"look at (?P<target>\w+) under the (?P<lamp>\w+)", ""),
    (r"examine the (?P<target>\w+) with the (?P<lamp>\w+)", ""),
    (r"put a (?P<how>clean|hot|cool) (?P<target>\w+) in (?P<destination>\w+)", ""),
    (r"(?P<how>clean|heat|cool) some (?P<target>\w+) and put it in (?P<destination>\w+)", ""),
    (r"put two (?P<target>\w+) in (?P<destination>\w+)", "two"),
    (r"find two (?P<target>\w+) and put them in (?P<destination>\w+)", "two"),
    (r"put (?:a|some) (?P<target>\w+) (?:in|on) (?P<destination>\w+)", ""),
)
_APPLIANCES = {"clean": "sinkbasin", "hot": "microwave", "heat": "microwave", "cool": "fridge"}
_VERBS = {"clean": "clean", "hot": "heat", "heat": "heat", "cool": "cool"}
_LISTED = re.compile(r"(?:On the (?P<on>\w+ \d+)|The (?P<open>\w+ \d+) is open\. In it), you see (?P<things>[^.]*)\.")
_DONE = re.compile(r"You (pick up|move|put|clean|heat|cool)\b")


@dataclass(slots=True, kw_only=True)
class _Goal:
    """What is asked for, in the game's class words."""

    target: str
    destination: str = ""
    lamp: str = ""
    how: str = ""
    count: int = 1


class SearchingExpert:
    """Looks through unvisited receptacles in the order of the commands, and does what the goal asks for.

    It sees the instruction, the observations and the admissible actions; it never reads the game's facts or its
    walkthrough. It may be led astray by others' actions: it is told of each with ``observe``.
    """

    def __init__(self) -> None:
        self._begin(_Goal(target=""))

    def reset(self, instruction: str, observation: str) -> None:
        """Forget the last episode and begin one.

        Raises:
            ValueError: If the instruction is not one of the six task types' sentences.
        """
        self._begin(parse_goal(instruction))

    def observe(self, action: str) -> None:
        """Hear what was really done."""
        self._last = action

    def act(self, observation: str, admissible_actions: Sequence[str]) -> str:
        """Say what to do now; always an admissible action, if there is one."""
        self._learn(observation)
        allowed = set(admissible_actions)
        plan = self._handle(allowed) if self._held else self._seek(allowed)
        for command in plan:
            if command in allowed:
                return command
        return self._search(admissible_actions)

    def _begin(self, goal: _Goal) -> None:
        self._goal = goal
        self._at = ""
        self._held = ""
        self._last = ""
        self._where: dict[str, str] = {}  # thing -> receptacle it was last seen in
        self._known: set[str] = set()  # receptacles whose content has been seen
        self._ready: set[str] = set()  # things that are clean, hot or cool as asked for
        self._placed: dict[str, str] = {}  # things that are where they should be

    def _learn(self, observation: str) -> None:
        """Take in what the last action did, and what is to be seen."""
        words = self._last.split()
        if self._last.startswith("go to ") and observation.startswith("You arrive at "):
            self._at = self._last.removeprefix("go to ")
        if _DONE.match(observation):
            thing = " ".join(words[1:3])
            if words[0] == "take":
                self._held = thing
                self._where.pop(thing, None)
                self._placed.pop(thing, None)
            elif words[0] in ("move", "put"):
                self._held = ""
                self._put_down(thing, " ".join(words[-2:]))
            elif words[0] == _VERBS.get(self._goal.how):
                self._ready.add(thing)
            elif words[0] in ("heat", "cool"):
                self._ready.discard(thing)
        for match in _LISTED.finditer(observation):
            receptacle = match["on"] or match["open"]
            self._known.add(receptacle)
            self._where = {thing: place for thing, place in self._where.items() if place != receptacle}
            self._where |= dict.fromkeys(re.findall(r"an? (\w+ \d+)", match["things"]), receptacle)

    def _put_down(self, thing: str, receptacle: str) -> None:
        self._where[thing] = receptacle
        goal = self._goal
        fits = _class_of(thing) == goal.target and _class_of(receptacle) == goal.destination
        if fits and (not goal.how or thing in self._ready):
            self._placed[thing] = receptacle

    def _handle(self, allowed: set[str]) -> list[str]:
        """What to do with the thing in hand, best first."""
        goal, held = self._goal, self._held
        if _class_of(held) != goal.target:
            return [*sorted(c for c in allowed if c.startswith(f"move {held} to ")), f"open {self._at}"]
        if goal.lamp:
            lamps = [thing for thing in self._where if _class_of(thing) == goal.lamp]
            return [f"use {lamp}" for lamp in lamps] + [self._approach(self._where[lamp]) for lamp in lamps]
        if goal.how and held not in self._ready:
            appliance = f"{_APPLIANCES[goal.how]} 1"
            return [
                *sorted(c for c in allowed if c.startswith(f"{_VERBS[goal.how]} {held} with ")),
                f"go to {appliance}",
            ]
        return self._deliver(allowed)

    def _deliver(self, allowed: set[str]) -> list[str]:
        """Bring the thing in hand to its destination; a second one to where the first one is."""
        taken = next(iter(self._placed.values()), "")
        if _class_of(self._at) == self._goal.destination and (not taken or taken == self._at):
            return [f"move {self._held} to {self._at}", f"open {self._at}"]
        if taken:
            return [f"go to {taken}"]
        return sorted(c for c in allowed if c.startswith(f"go to {self._goal.destination} "))

    def _seek(self, allowed: set[str]) -> list[str]:
        """How to get hold of a thing that is asked for, if it is known where one is."""
        things = [t for t in self._where if _class_of(t) == self._goal.target and t not in self._placed]
        commands = [f"take {thing} from {self._where[thing]}" for thing in things]
        if self._at and self._at not in self._known:
            commands.append(f"open {self._at}")
        for thing in things:
            commands += [self._approach(self._where[thing]), f"open {self._where[thing]}"]
        return commands

    def _approach(self, receptacle: str) -> str:
        return f"go to {receptacle}"

    def _search(self, admissible_actions: Sequence[str]) -> str:
        """Open what is here and unknown, else go to the next unknown receptacle, in the order of the commands."""
        if self._at not in self._known and f"open {self._at}" in admissible_actions:
            return f"open {self._at}"
        places = [c.removeprefix("go to ") for c in admissible_actions if c.startswith("go to ")]
        unknown = [place for place in places if place not in self._known]
        if not unknown:  # seen everything, and yet not enough: look again
            self._known.clear()
            unknown = places
        return f"go to {unknown[0]}" if unknown else admissible_actions[0]


def parse_goal(instruction: str) -> _Goal:
    """Read a goal sentence of any of the six task types.

    Raises:
        ValueError: If it is none of them.
    """
    for pattern, count in _GOALS:
        found = re.fullmatch(pattern, instruction.strip().rstrip("."))
        if found:
            return _Goal(count=2 if count else 1, **found.groupdict())
    raise ValueError(f"instruction must be a goal sentence of ALFWorld, got {instruction!r}")


def _class_of(name: str) -> str:
    return name.split(" ", 1)[0]
