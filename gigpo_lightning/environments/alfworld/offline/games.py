"""One drawn game: what lies where, what is asked for, and the three files that alfworld keeps of it."""

import json
import random
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gigpo_lightning.environments.alfworld.offline.floor_plans import (
    LAMP_STANDS,
    LAMPS,
    FloorPlan,
    Receptacle,
    alfworld_text,
    coordinate,
    goal_library,
    location,
    tables,
)

APPLIANCES = {
    "pick_clean_then_place_in_recep": ("clean", "Cleanable", "SinkBasin"),
    "pick_heat_then_place_in_recep": ("heat", "Heatable", "Microwave"),
    "pick_cool_then_place_in_recep": ("cool", "Coolable", "Fridge"),
}
LOOK = "look_at_obj_in_light"
TWO = "pick_two_obj_and_place"

_MANGLED = str.maketrans({"|": "_bar_", "-": "_minus_", "+": "_plus_", ".": "_dot_"})
# The domain names these types, so every problem must have them as objects.
_NAMED_BY_DOMAIN = (
    *((f"{kind}Type", "otype") for kind in ("Knife", "ButterKnife")),
    *((f"{kind}Type", "rtype") for kind in ("SinkBasin", "Microwave", "Fridge")),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What to do with which class of object, where, and in which room; to look at one in light, the place is a lamp."""

    kind: str
    target: str
    place: str
    plan: FloorPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedObject:
    """An object and the receptacle that it lies in at the start."""

    identity: str
    kind: str
    holder: Receptacle


@dataclass(frozen=True, slots=True, kw_only=True)
class Game:
    """A drawn game.

    Attributes:
        goal: What to do.
        name: The trial's name.
        sentence: The goal in words.
        receptacles: Those of the room that the game has, ordered by identity.
        objects: All objects, in the order in which they were placed: the targets come first.
        start: Where the agent stands at the start; no receptacle is there.
    """

    goal: Goal
    name: str
    sentence: str
    receptacles: tuple[Receptacle, ...]
    objects: tuple[PlacedObject, ...]
    start: str

    def walkthrough(self) -> list[str]:
        """Commands that win, by someone who knows where everything is."""
        names = _names([each.identity for each in self.receptacles] + [each.identity for each in self.objects])
        walk = _Walk(names)
        targets = [each for each in self.objects if each.kind == self.goal.target]
        if self.goal.kind == LOOK:
            lamp = next(each for each in self.objects if each.kind in LAMPS)
            walk.take(targets[0])
            walk.go(lamp.holder)
            walk.commands.append(f"use {names[lamp.identity]}")
            return walk.commands
        place = next(each for each in self.receptacles if each.kind == self.goal.place)
        for target in targets[: 2 if self.goal.kind == TWO else 1]:
            walk.take(target)
            if self.goal.kind in APPLIANCES:
                verb, _, kind = APPLIANCES[self.goal.kind]
                appliance = next(each for each in self.receptacles if each.kind == kind)
                walk.go(appliance)
                walk.commands.append(f"{verb} {names[target.identity]} with {names[appliance.identity]}")
            walk.go(place)
            walk.open(place)
            walk.commands.append(f"move {names[target.identity]} to {names[place.identity]}")
        return walk.commands

    def problem(self) -> str:
        """The initial state and the goal in PDDL."""
        facts = [fact for each in self.receptacles for fact in _receptacle_facts(each)]
        kinds = sorted({each.kind for each in self.objects})
        for holder in sorted({each.kind for each in self.receptacles}):
            facts += [f"(canContain {holder}Type {kind}Type)" for kind in kinds if kind in tables().holds[holder]]
        facts += [fact for each in self.objects for fact in _object_facts(each)]
        facts.append(f"(atLocation agent1 {_mangle(self.start)})")
        look = self.goal.kind == LOOK
        goal: str = goal_library()[self.goal.kind]["pddl"].format(
            obj=self.goal.target, recep=self.goal.place, toggle=self.goal.place if look else ""
        )
        lines = [f"(define (problem plan_{self.name})", "(:domain alfred)", "(:objects"]
        lines += [f"        {name} - {kind}" for name, kind in self._declared()]
        lines += [")", "(:init", *(f"        {fact}" for fact in facts), ")"]
        return "\n".join(lines) + "\n" + goal.replace("#", "-")

    def content(self) -> dict[str, Any]:
        """What ``game.tw-pddl`` holds."""
        return {
            "pddl_domain": alfworld_text("data/alfred.pddl"),
            "grammar": alfworld_text("data/alfred.twl2").replace("UNKNOWN GOAL", self.sentence),
            "pddl_problem": self.problem(),
            "solvable": True,
            "walkthrough": self.walkthrough(),
        }

    def folder(self) -> str:
        """Path of the game's folder in its split, named as alfworld names it."""
        goal = self.goal
        return f"{goal.kind}-{goal.target}-None-{goal.place}-{goal.plan.number}/{self.name}"

    def write(self, split_folder: Path) -> None:
        """Write the game's three files."""
        folder = split_folder / self.folder()
        folder.mkdir(parents=True)
        look = self.goal.kind == LOOK
        facts = {
            "task_id": self.name,
            "task_type": self.goal.kind,
            "pddl_params": {
                "mrecep_target": "",
                "object_sliced": False,
                "object_target": self.goal.target,
                "parent_target": "" if look else self.goal.place,
                "toggle_target": self.goal.place if look else "",
            },
            "scene": {"floor_plan": f"FloorPlan{self.goal.plan.number}", "scene_num": self.goal.plan.number},
            "turk_annotations": {"anns": [{"task_desc": self.sentence, "high_descs": [], "votes": [1]}]},
            "plan": {"high_pddl": [], "low_actions": []},
        }
        (folder / "traj_data.json").write_text(json.dumps(facts, indent=1))
        (folder / "initial_state.pddl").write_text(self.problem())
        (folder / "game.tw-pddl").write_text(json.dumps(self.content()))

    def _declared(self) -> list[tuple[str, str]]:
        types = {(f"{each.kind}Type", "otype") for each in self.objects} | set(_NAMED_BY_DOMAIN)
        types |= {(f"{each.kind}Type", "rtype") for each in self.receptacles}
        locations = {each.location for each in self.receptacles} | {self.start}
        return [
            ("agent1", "agent"),
            *sorted(types),
            *sorted((_mangle(each.identity), "object") for each in self.objects),
            *((_mangle(each.identity), "receptacle") for each in self.receptacles),
            *sorted((_mangle(place), "location") for place in locations),
        ]


class _Walk:
    """Commands of an agent that knows everything, written one after another."""

    def __init__(self, names: dict[str, str]) -> None:
        self.commands: list[str] = []
        self._names = names
        self._location = ""
        self._opened: set[str] = set()

    def go(self, receptacle: Receptacle) -> None:
        if receptacle.location != self._location:
            self.commands.append(f"go to {self._names[receptacle.identity]}")
            self._location = receptacle.location

    def open(self, receptacle: Receptacle) -> None:
        if receptacle.kind in tables().openable and receptacle.identity not in self._opened:
            self.commands.append(f"open {self._names[receptacle.identity]}")
            self._opened.add(receptacle.identity)

    def take(self, target: PlacedObject) -> None:
        self.go(target.holder)
        self.open(target.holder)
        self.commands.append(f"take {self._names[target.identity]} from {self._names[target.holder.identity]}")


def possible_goals(kind: str, plans: list[FloorPlan]) -> list[Goal]:
    """Every goal of a task type that some of the rooms allow, in a fixed order."""
    goals = []
    for plan in plans:
        kinds = {each.kind for each in plan.receptacles}
        if kind in APPLIANCES and APPLIANCES[kind][2] not in kinds:
            continue
        for target in plan.object_classes:
            if target in LAMPS or (kind in APPLIANCES and target not in tables().affords[APPLIANCES[kind][1]]):
                continue
            holders = sorted(each for each in kinds if target in tables().holds[each])
            if kind == LOOK:
                stands = bool(kinds & set(LAMP_STANDS))
                places = [lamp for lamp in LAMPS if lamp in plan.object_classes and holders and stands]
            else:
                appliance = APPLIANCES[kind][2] if kind in APPLIANCES else ""
                places = [each for each in holders if each != appliance] if len(holders) > 1 else []
            goals += [Goal(kind=kind, target=target, place=place, plan=plan) for place in places]
    return goals


def draw_game(
    rng: random.Random, goal: Goal, name: str, *, num_receptacles: int, num_objects: int, duplicates: int
) -> Game:
    """Draw what lies where: targets and others are spread over the receptacles at random.

    Args:
        rng: Where the draws come from; the same state gives the same game.
        goal: What to do.
        name: The trial's name.
        num_receptacles: At most so many receptacles of the room.
        num_objects: At most so many objects, lamps aside.
        duplicates: At most so many objects of one class; two targets are always allowed where two are asked for.
    """
    receptacles = _choose_receptacles(rng, goal, num_receptacles)
    placing = _Placing(rng, receptacles)
    if goal.kind == LOOK:
        placing.put(goal.place, [each for each in receptacles if each.kind in LAMP_STANDS])
    sources = [each for each in receptacles if each.kind != goal.place and goal.target in tables().holds[each.kind]]
    least = 2 if goal.kind == TWO else 1
    for _ in range(rng.randint(least, max(least, duplicates))):
        placing.put(goal.target, sources)
    others = [kind for kind in goal.plan.object_classes if kind != goal.target and kind not in LAMPS]
    num_objects += goal.kind == LOOK
    while others and len(placing.objects) < num_objects:
        kind = rng.choice(others)
        holders = [each for each in receptacles if kind in tables().holds[each.kind]]
        if not holders or placing.counts[kind] >= duplicates:
            others.remove(kind)
            continue
        placing.put(kind, holders)
    taken = {each.location for each in receptacles}
    starts = [place for x, z in goal.plan.points if (place := location(x, z, 0, 30)) not in taken]
    template = rng.choice(goal_library()[goal.kind]["templates"])
    words = {"obj": goal.target.lower(), "recep": goal.place.lower(), "toggle": goal.place.lower()}
    return Game(
        goal=goal,
        name=name,
        sentence=template.format(**words),
        receptacles=receptacles,
        objects=tuple(placing.objects),
        start=rng.choice(starts),
    )


class _Placing:
    """Objects placed so far."""

    def __init__(self, rng: random.Random, receptacles: tuple[Receptacle, ...]) -> None:
        self.objects: list[PlacedObject] = []
        self.counts: Counter[str] = Counter()
        self._rng = rng
        self._taken = {each.identity for each in receptacles}

    def put(self, kind: str, holders: list[Receptacle]) -> None:
        holder = self._rng.choice(holders)
        while True:
            identity = "|".join((kind, *(coordinate(self._rng.uniform(low, 4.0)) for low in (-4.0, 0.1, -4.0))))
            if identity not in self._taken:
                break
        self._taken.add(identity)
        self.objects.append(PlacedObject(identity=identity, kind=kind, holder=holder))
        self.counts[kind] += 1


def _choose_receptacles(rng: random.Random, goal: Goal, limit: int) -> tuple[Receptacle, ...]:
    """Those that the goal needs, and others at random."""
    everything = goal.plan.receptacles
    sources = [each for each in everything if each.kind != goal.place and goal.target in tables().holds[each.kind]]
    needed = [LAMP_STANDS if goal.kind == LOOK else (goal.place,)]
    if goal.kind in APPLIANCES:
        needed.append((APPLIANCES[goal.kind][2],))
    chosen = {rng.choice(sources).identity}
    for kinds in needed:
        if not any(each.identity in chosen for each in everything if each.kind in kinds):
            chosen.add(rng.choice([each for each in everything if each.kind in kinds]).identity)
    rest = [each.identity for each in everything if each.identity not in chosen]
    chosen.update(rng.sample(rest, min(len(rest), max(0, limit - len(chosen)))))
    return tuple(each for each in everything if each.identity in chosen)


def _receptacle_facts(receptacle: Receptacle) -> list[str]:
    name = _mangle(receptacle.identity)
    facts = [
        f"(receptacleType {name} {receptacle.kind}Type)",
        f"(receptacleAtLocation {name} {_mangle(receptacle.location)})",
    ]
    return facts + [f"(openable {name})"] * (receptacle.kind in tables().openable)


def _object_facts(placed: PlacedObject) -> list[str]:
    name = _mangle(placed.identity)
    facts = [f"(objectType {name} {placed.kind}Type)"]
    if placed.kind in LAMPS:  # a lamp that could be carried would leave its receptacle, and could not be used
        facts.append(f"(toggleable {name})")
    else:
        facts.append(f"(pickupable {name})")
        facts += [f"(isReceptacleObject {name})"] * (placed.kind in tables().movable)
        for action in ("Cleanable", "Heatable", "Coolable", "Sliceable"):
            facts += [f"({action.lower()} {name})"] * (placed.kind in tables().affords[action])
    facts.append(f"(inReceptacle {name} {_mangle(placed.holder.identity)})")
    facts.append(f"(objectAtLocation {name} {_mangle(placed.holder.location)})")
    return facts


def _mangle(identity: str) -> str:
    return identity.translate(_MANGLED)


def _names(identities: list[str]) -> dict[str, str]:
    """Names in the game, such as ``drawer 2``: alfworld counts down, the first id in order gets the highest number."""
    by_class: dict[str, list[str]] = defaultdict(list)
    for identity in sorted(identities, key=lambda each: _mangle(each).lower()):
        kind = identity.split("|")[0] + ("Basin" if "Basin" in identity else "")
        by_class[kind.lower()].append(identity)
    return {
        identity: f"{kind} {len(members) - position}"
        for kind, members in by_class.items()
        for position, identity in enumerate(members)
    }
