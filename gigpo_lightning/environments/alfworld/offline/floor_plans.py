"""ALFRED's 120 floor plans, from the tables that the alfworld wheel carries."""

import json
import random
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from gigpo_lightning.environments.alfworld.engine import import_engine

ROOMS = {
    "Kitchen": range(1, 31),
    "LivingRoom": range(201, 231),
    "Bedroom": range(301, 331),
    "Bathroom": range(401, 431),
}
LAMPS = ("DeskLamp", "FloorLamp")
LAMP_STANDS = ("CoffeeTable", "Desk", "DiningTable", "Dresser", "Shelf", "SideTable")

_HELD_OUT_PER_ROOM = 6  # ALFRED keeps the first of each room type for its unseen splits
_GRID = 0.25  # metres between the points an agent can stand on


@dataclass(frozen=True, slots=True, kw_only=True)
class Receptacle:
    """Something that holds objects.

    Attributes:
        identity: ALFRED's id, such as ``Drawer|+00.95|+00.22|-02.20``.
        kind: Its class, such as ``Drawer``.
        location: Where the agent stands to use it, such as ``loc|4|-5|2|30``; some receptacles share one.
    """

    identity: str
    kind: str
    location: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FloorPlan:
    """One room, its receptacles ordered by identity; points are where the agent can stand, in steps of the grid."""

    number: int
    receptacles: tuple[Receptacle, ...]
    object_classes: tuple[str, ...]
    points: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """What alfworld knows of classes.

    Attributes:
        holds: Classes of objects that each class of receptacle can contain.
        affords: Classes of objects that can be ``Heatable``, ``Coolable``, ``Cleanable``, ``Sliceable``.
        openable: Classes of receptacles with a door or a lid.
        movable: Classes of objects that contain others.
        classes: Every class, of objects and receptacles.
    """

    holds: dict[str, frozenset[str]]
    affords: dict[str, frozenset[str]]
    openable: frozenset[str]
    movable: frozenset[str]
    classes: frozenset[str]


@cache
def tables() -> Tables:
    """Read alfworld's tables of classes."""
    import_engine()
    from alfworld.gen import constants

    movable = frozenset(constants.MOVABLE_RECEPTACLES)
    return Tables(
        holds={kind: frozenset(each) for kind, each in constants.VAL_RECEPTACLE_OBJECTS.items() if kind not in movable},
        affords={action: frozenset(each) for action, each in constants.VAL_ACTION_OBJECTS.items()},
        openable=frozenset(constants.OPENABLE_CLASS_LIST) - movable,
        movable=movable,
        classes=frozenset((*constants.OBJECTS, *constants.RECEPTACLES)),
    )


@cache
def goal_library() -> dict[str, Any]:
    """Goals of each task type, in PDDL and as sentences."""
    import_engine()
    from alfworld.gen.goal_library import gdict

    return dict(gdict)


@cache
def alfworld_text(name: str) -> str:
    """A text file of the alfworld package, such as ``data/alfred.pddl``."""
    import_engine()
    return (_package() / name).read_text()


def split_plans(split: str) -> list[FloorPlan]:
    """Floor plans of a split: ``valid_unseen`` has those that ALFRED holds out, the others share the rest."""
    unseen = split == "valid_unseen"
    return [
        floor_plan(number)
        for numbers in ROOMS.values()
        for position, number in enumerate(numbers)
        if (position < _HELD_OUT_PER_ROOM) == unseen
    ]


@cache
def floor_plan(number: int) -> FloorPlan:
    """Read a floor plan.

    Receptacles that its room has but that come without a position stand at a point drawn once for that plan.
    """
    import_engine()
    layouts = _package() / "gen" / "layouts"
    poses = json.loads((layouts / f"FloorPlan{number}-openable.json").read_text())
    classes = set(json.loads((layouts / f"FloorPlan{number}-objects.json").read_text()))
    metres = np.load(layouts / f"FloorPlan{number}-layout.npy")
    points = tuple(sorted({(round(float(x) / _GRID), round(float(z) / _GRID)) for x, z in metres}))
    receptacles = [
        Receptacle(identity=identity, kind=identity.split("|")[-1 if identity.endswith("Basin") else 0], location=place)
        for identity, (x, z, rotation, horizon) in sorted(poses.items())
        if (place := location(round(x / _GRID), round(z / _GRID), round(rotation / 90), round(horizon)))
    ]
    holds = tables().holds
    receptacles += _unplaced(number, points, sorted((classes & set(holds)) - {each.kind for each in receptacles}))
    pickable = frozenset().union(*holds.values())
    return FloorPlan(
        number=number,
        receptacles=tuple(sorted(receptacles, key=lambda each: each.identity)),
        object_classes=tuple(sorted((classes & pickable) | (classes & set(LAMPS)))),
        points=points,
    )


def location(x: int, z: int, rotation: int, horizon: int) -> str:
    """ALFRED's name of a place to stand at: grid point, quarter turns, degrees that the head looks down."""
    return f"loc|{x}|{z}|{rotation}|{horizon}"


def coordinate(metres: float) -> str:
    """A coordinate as ALFRED's ids write it."""
    return f"{metres:+06.2f}"


def _unplaced(number: int, points: tuple[tuple[int, int], ...], kinds: list[str]) -> list[Receptacle]:
    receptacles = []
    for kind, (x, z) in zip(kinds, random.Random(number).sample(points, len(kinds)), strict=True):
        whole = kind.removesuffix("Basin")  # in ALFRED's ids a basin is a part of its sink or bathtub
        parts = [whole, coordinate(x * _GRID), coordinate(0.9), coordinate(z * _GRID)]
        identity = "|".join(parts if whole == kind else [*parts, kind])
        receptacles.append(Receptacle(identity=identity, kind=kind, location=location(x, z, 0, 45)))
    return receptacles


def _package() -> Path:
    return Path(str(resources.files("alfworld")))
