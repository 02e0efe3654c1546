"""A scripted expert that searches: it knows only what it has seen, so that what it does can be learnt."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

_GOALS = (
    (1, r"look at (?P<target>\w+) under the (?P<lamp>\w+)"),
    (1, r"examine the (?P<target>\w+) with the (?P<lamp>\w+)"),
    (1, r"put a (?P<how>clean|hot|cool) (?P<target>\w+) in (?P<destination>\w+)"),
    (1, r"(?P<how>clean|heat|cool) some (?P<target>\w+) and put it in (?P<destination>\w+)"),
    (2, r"put two (?P<target>\w+) in (?P<destination>\w+)"),
    (2, r"find two (?P<target>\w+) and put them in (?P<destination>\w+)"),
    (1, r"put (?:a|some) (?P<target>\w+) (?:in|on) (?P<destination>\w+)"),
)
_APPLIANCES = {"clean": "sinkbasin", "heat": "microwave", "cool": "fridge"}
_UNDOES = {"heat": "cool", "cool": "heat"}

_LISTED = re.compile(r"(?:On the (?P<on>\w+ \d+)|The (?P<open>\w+ \d+) is open\. In it), you see (?P<things>[^.]*)\.")
_NAMED = re.compile(r"an? (\w+ \d+)")
_DONE = re.compile(r"You (?:pick up|move|put|clean|heat|cool) ")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Goal:
    """What is asked for, in the game's class words."""

    target: str  # what to find
    destination: str = ""  # where to put it; empty where a lamp is to be used
    lamp: str = ""  # what to look at it with
    how: str = ""  # clean, heat, cool or nothing: what to do with it first
    count: int = 1  # how many, all into the same receptacle


class SearchingExpert:
    """Looks through unknown receptacles in the order of the commands, and does what the goal asks for.

    It sees the instruction, the observations and the admissible actions; it never reads the game's facts or its
    walkthrough. Others may act in its place: it is told of each action with ``observe``. It goes, opens, takes, moves
    and uses appliances; it never needs ``look``, ``examine`` or ``inventory``.
    """

    def __init__(self) -> None:
        self._begin(_Goal(target=""), "")

    def _begin(self, goal: _Goal, observation: str) -> None:
        self._goal = goal
        self._last = ""
        self._held = ""
        self._places = _NAMED.findall(observation)
        self._here: list[str] = []
        self._where: dict[str, str] = {}  # thing -> receptacle it was last seen in
        self._known: set[str] = set()  # receptacles whose content has been seen
        self._ready: set[str] = set()  # things that are clean, hot or cool as asked for

    def reset(self, instruction: str, observation: str) -> None:
        """Forget the last episode and begin one.

        Raises:
            ValueError: If the instruction is not one of the six task types' sentences.
        """
        self._begin(_parse_goal(instruction), observation)

    def observe(self, action: str) -> None:
        """Hear what was really done."""
        self._last = action

    def act(self, observation: str, admissible_actions: Sequence[str]) -> str:
        """Say what to do now; always an admissible action.

        Raises:
            ValueError: If there is none.
        """
        if not admissible_actions:
            raise ValueError("admissible_actions must hold at least one action, got none")
        self._learn(observation)
        self._here = [place for place in self._places if f"examine {place}" in admissible_actions]
        plan = self._handle(admissible_actions) if self._held else self._fetch()
        allowed = set(admissible_actions)
        advice = next((command for command in plan if command in allowed), "")
        return advice or self._search(admissible_actions)

    def _learn(self, observation: str) -> None:
        """Take in what the last action did, and what is to be seen."""
        if _DONE.match(observation):
            verb, *words = self._last.split()
            thing, place = " ".join(words[:2]), " ".join(words[-2:])
            if verb == "take":
                self._held = thing
                self._where.pop(thing, None)
            elif verb in ("move", "put"):
                self._held = ""
                self._where[thing] = place
            elif verb == self._goal.how:
                self._ready.add(thing)
            elif verb == _UNDOES.get(self._goal.how):
                self._ready.discard(thing)
        for match in _LISTED.finditer(observation):
            receptacle = match["on"] or match["open"]
            self._known.add(receptacle)
            self._where = {thing: place for thing, place in self._where.items() if place != receptacle}
            self._where |= dict.fromkeys(_NAMED.findall(match["things"]), receptacle)

    def _handle(self, actions: Sequence[str]) -> list[str]:
        """What to do with the thing in hand, best first."""
        goal, held = self._goal, self._held
        if _class_of(held) != goal.target:
            lay_down = [each for each in actions if each.startswith((f"move {held} to ", f"put {held} in"))]
            return lay_down + [f"open {place}" for place in self._here]
        if goal.lamp:
            lamps = [thing for thing in self._where if _class_of(thing) == goal.lamp]
            return [f"use {lamp}" for lamp in lamps] + [f"go to {self._where[lamp]}" for lamp in lamps]
        if goal.how and held not in self._ready:
            appliances = [place for place in sorted(self._places) if _class_of(place) == _APPLIANCES[goal.how]]
            return [f"{goal.how} {held} with {each}" for each in appliances] + [f"go to {each}" for each in appliances]
        homes = [self._home()] if self._home() else self._destinations()
        commands = []
        for home in homes:
            commands += [f"move {held} to {home}", f"put {held} in/on {home}"]
        commands += [f"open {home}" for home in homes if home in self._here]
        return commands + [f"go to {home}" for home in homes]

    def _fetch(self) -> list[str]:
        """How to get hold of a thing that is asked for, if it is known where one is."""
        home = self._home()
        things = [each for each, place in self._where.items() if _class_of(each) == self._goal.target and place != home]
        commands = [f"take {thing} from {self._where[thing]}" for thing in things]
        if any(self._where[thing] in self._here for thing in things):
            commands += [f"open {self._where[thing]}" for thing in things]
        commands += [f"open {place}" for place in self._here if place not in self._known]
        return commands + [f"go to {self._where[thing]}" for thing in things]

    def _search(self, actions: Sequence[str]) -> str:
        """Open what is here and unknown, else go to the next unknown receptacle, in the order of the commands.

        A receptacle that shares this place cannot be gone to from here: if no other is left, step aside first.
        """
        closed = [f"open {place}" for place in self._here if place not in self._known]
        reachable = [action for action in actions if action.startswith("go to ")]
        unknown = [action for action in reachable if action.removeprefix("go to ") not in self._known]
        if not unknown and set(self._places) <= self._known:
            self._known.clear()  # all seen, and yet not enough: look again
        for action in (*closed, *unknown, *reachable):
            if action in actions:
                return action
        return actions[0]

    def _destinations(self) -> list[str]:
        """Receptacles that the goal names, those of this place first, then in the order of the commands."""
        places = sorted(place for place in self._places if _class_of(place) == self._goal.destination)
        return sorted(places, key=lambda place: place not in self._here)

    def _home(self) -> str:
        """The one receptacle where several things shall lie together: where most of them lie already."""
        if self._goal.count == 1:
            return ""
        laid = [place for thing, place in self._where.items() if _class_of(thing) == self._goal.target]
        return max((place for place in self._destinations() if place in laid), key=laid.count, default="")


def _parse_goal(instruction: str) -> _Goal:
    """Read a goal sentence of any of the six task types."""
    for count, pattern in _GOALS:
        found = re.fullmatch(pattern, instruction.strip().rstrip("."))
        if found:
            words = found.groupdict()
            if words.get("how") == "hot":
                words["how"] = "heat"
            return _Goal(count=count, **words)
    raise ValueError(f"instruction must be a goal sentence of ALFWorld, got {instruction!r}")


def _class_of(name: str) -> str:
    return name.split(" ", 1)[0]
