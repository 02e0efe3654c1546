"""A game's problem in PDDL, translated for the planner's engine once.

The stock engine translates at each load and each reset, twice.
"""

import gc
import sys
import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import fast_downward

_GAMES_KEPT = 1280  # about 50 KiB each; all that the tiny training plays, between its evaluations too


@dataclass(frozen=True, slots=True, kw_only=True)
class Translation:
    """What a state needs of a problem's translation to SAS.

    Attributes:
        packed_sas: The planning task as the C++ engine reads it, compressed to a tenth.
        actions: The domain's actions by name.
        types: Pairs of a type's name and its supertypes'.
        type_of: Type of every object.
        initial: Facts of the problem file, as predicates and the names of what they are about.
        constant: Predicates that no action and no axiom changes.
    """

    packed_sas: bytes
    actions: dict[str, Any]
    types: tuple[tuple[str, Any], ...]
    type_of: dict[str, str]
    initial: tuple[tuple[str, tuple[str, ...]], ...]
    constant: frozenset[str]


@lru_cache(_GAMES_KEPT)
def translate(domain: str, problem: str) -> Translation:
    """What the engine needs of a problem; kept."""
    task, sas = pddl2sas(domain, problem)
    type_of = {each.name: each.type_name for each in task.objects}
    return Translation(
        packed_sas=zlib.compress(sas.encode(), 1),
        actions=_actions(domain, task),
        types=tuple((each.name, each.supertype_names) for each in task.types),
        type_of=type_of,
        initial=tuple(fact for atom in task.init if (fact := _fact(atom)) is not None),
        constant=_constant_predicates(task),
    )


_actions_of_domain: dict[str, dict[str, Any]] = {}


def _actions(domain: str, task: Any) -> dict[str, Any]:
    """A domain's actions by name; only their names and parameters are read, so one copy serves every game."""
    if domain not in _actions_of_domain:
        _actions_of_domain.clear()
        _actions_of_domain[domain] = {action.name: action for action in task.actions}
    return _actions_of_domain[domain]


def _constant_predicates(task: Any) -> frozenset[str]:
    changed = {effect.literal.predicate for action in task.actions for effect in action.effects}
    changed |= {axiom.name for axiom in task.axioms}
    return frozenset(predicate.name.lower() for predicate in task.predicates if predicate.name not in changed)


def _fact(atom: Any) -> tuple[str, tuple[str, ...]] | None:
    """An initial atom or fluent as a fact; None for equalities, costs and distances, as in the stock engine."""
    pddl = fast_downward.translate.pddl
    if isinstance(atom, pddl.conditions.Atom):
        return None if atom.predicate == "=" else (sys.intern(atom.predicate), tuple(map(sys.intern, atom.args)))
    if isinstance(atom, pddl.f_expression.Assign):
        name = f"{atom.expression.value}"
        if atom.fluent.symbol == "total-cost" or name.isdigit():
            return None
        return name, tuple(atom.fluent.args)
    return None


def pddl2sas(domain: str, problem: str, optimize: bool = False) -> tuple[Any, str]:
    """Translate, and put back the command line that the translator overwrites.

    It makes many small objects that all stay: looking for garbage among them takes a quarter of its time, and more
    beside a trainer's heap.
    """
    arguments, collecting = sys.argv, gc.isenabled()
    gc.disable()
    try:
        task, sas = fast_downward.pddl2sas(domain, problem, optimize=optimize)
    finally:
        sys.argv = arguments
        if collecting:
            gc.enable()
    return task, sas
