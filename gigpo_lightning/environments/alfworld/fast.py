"""textworld's PDDL engine, made fast: what never changes is parsed and translated once.

The stock engine parses every template of every command at every step, copies whole derivation contexts, and translates
PDDL to SAS twice at each load and each reset. Here parses, rules and translations are kept; texts, commands, facts and
scores are equal to the stock engine's to the byte, which the tests check transcript by transcript. Nothing of textworld
is replaced: stock environments in the same process stay stock. Not thread-safe, like the engine itself.
"""

import copy
import json
import re
import sys
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import fast_downward
from textworld.core import GameState
from textworld.envs.pddl import logic as pddl_logic
from textworld.envs.pddl import textgen
from textworld.envs.pddl.pddl import PddlEnv
from textworld.logic import Action, Placeholder, Proposition, Rule, Type, Variable

from gigpo_lightning.environments.alfworld.expressions import value_of
from gigpo_lightning.environments.alfworld.translation import Translation, pddl2sas, translate

_GAMES_KEPT = 64  # what their commands come to; 0.3 MiB each
_GRAMMARS_KEPT = 64
_EXPRESSIONS_KEPT = 4096

_BLANK = "UNKNOWN GOAL"  # what the domain's own grammar has where a game has its goal sentence
_GOAL = re.compile(r"Your task is to: ([a-z0-9 ]+)\.")

Context = dict[str, Any]
Pair = tuple[Any, Context]  # a symbol and what it is derived in
Called = tuple[tuple[str, ...], ...]


@dataclass(slots=True)
class _Kept:
    """What all episodes of a game share; actions and commands go by the numbers of their operators."""

    translation: Translation  # of its problem; it numbers the operators
    start: tuple[Proposition, ...] = ()  # the facts that the native engine has at the start, once it is known
    # Names, and the stock engine's actions, templates not yet filled in.
    actions: dict[int, tuple[str, Action]] = field(default_factory=dict)
    called: Called = ()  # what things were called in the episode that began last
    # With these names: templates filled in, and their texts, where neither can depend on the state.
    commands: dict[int, tuple[str, str]] = field(default_factory=dict)

    def commands_with(self, called: Called) -> dict[int, tuple[str, str]]:
        """The commands, with these names; whoever has those of other names keeps them."""
        if called != self.called:
            self.called, self.commands = called, {}
        return self.commands


class FastPddlEnv(PddlEnv):  # type: ignore[misc]
    """The stock environment on kept parses and translations; same arguments, same answers."""

    def load(self, filename_or_data: Any) -> None:
        """Load a game's file, or its content."""
        from_file = isinstance(filename_or_data, str | Path)
        self._game_file = filename_or_data if from_file else None
        data = json.loads(Path(filename_or_data).read_text()) if from_file else filename_or_data
        self._game_data = data
        self.walkthrough = data.get("walkthrough", None)
        self._logic = _game_logic(data["pddl_domain"], data["grammar"])
        self._pddl_state = self._new_state()
        self._is_fresh = True
        self._entity_infos = self._get_entity_infos()

    def reset(self) -> Any:
        """Start the game anew."""
        if not self._is_fresh or self._pddl_state.has_planner != self._needs_planner():
            self._pddl_state = self._new_state()
        self._is_fresh = False
        self.prev_state = None
        self.state = GameState()
        self._last_action = None
        self._moves = 0
        # Wrappers may rename entities after load().
        called = tuple((key, info.name, info.definite, info.indefinite) for key, info in self._entity_infos.items())
        self._commands = self._pddl_state.kept.commands_with(called)
        context = {
            "state": self._pddl_state,
            "facts": list(self._pddl_state.facts),
            "variables": {},
            "mapping": {},
            "entity_infos": self._entity_infos,
        }
        self.state.feedback = self._logic.grammar.derive("#intro#", context)
        self.state.raw = self.state.feedback
        self._gather_infos()
        if "walkthrough" in self.request_infos.extras:
            self.state["extra.walkthrough"] = self.walkthrough or self._pddl_state.replan(self._entity_infos)
        return self.state

    def _new_state(self) -> "FastPddlState":
        domain, grammar, problem = (self._game_data[name] for name in ("pddl_domain", "grammar", "pddl_problem"))
        kept = _kept(sys.intern(domain), grammar, problem)
        return FastPddlState(self.downward_lib, problem, self._logic, kept, planner=self._needs_planner())

    def _needs_planner(self) -> bool:
        return self.request_infos.policy_commands or "walkthrough" in self.request_infos.extras

    def _gather_infos(self) -> None:
        """Fill in the state as the stock engine does, command by command."""
        state, infos = self.state, self._entity_infos
        state["command_templates"] = sorted(set(action.template for action in self._logic.actions.values()))
        state["won"] = self._pddl_state.check_goal()
        state["lost"] = False
        state["_entity_infos"] = dict(infos)
        facts = list(self._pddl_state.facts)
        state["_facts"] = facts
        if self.request_infos.facts:
            state["facts"] = list(map(self._get_human_readable_fact, facts))
        state["last_action"] = None
        state["_last_action"] = self._last_action
        state["_valid_actions"] = self._pddl_state.all_applicable_actions()
        names = {key: info.name for key, info in infos.items()}
        state["_valid_commands"] = [self._command(action, names, facts) for action in state["_valid_actions"]]
        state["admissible_commands"] = sorted(set(state["_valid_commands"]))
        if self.request_infos.moves:
            state["moves"] = self._moves
        if self.request_infos.policy_commands:
            state["policy_commands"] = self._pddl_state.replan(infos)

    def _command(self, action: Any, names: dict[str, str], facts: list[Any]) -> str:
        """The text of an action; kept for this game where it cannot depend on the state."""
        kept = self._commands.get(action.id)
        if kept is not None:
            action.command_template = kept[0]
            return kept[1]
        template = action.command_template
        context = {
            "state": self._pddl_state,
            "facts": facts,
            "variables": {placeholder.name: self._entity_infos[v.name] for placeholder, v in action.mapping.items()},
            "mapping": action.mapping,
            "entity_infos": self._entity_infos,
        }
        action.command_template = self._logic.grammar.derive(template, context)
        command: str = action.format_command(names)
        if self._logic.grammar.is_constant(template, self._pddl_state.constant_predicates):
            self._commands[action.id] = (action.command_template, command)
        return command


class FastPddlState(pddl_logic.PddlState):  # type: ignore[misc]
    """The stock state on a kept translation; the planner's own is made only where a planner was asked for."""

    def __init__(self, downward_lib: Any, pddl_problem: str, logic: Any, kept: _Kept, *, planner: bool) -> None:
        self.kept = kept
        self._facts: dict[Any, set[Proposition]] = defaultdict(set)
        self._vars_by_name: dict[str, Variable] = {}
        self._vars_by_type: dict[str, set[Variable]] = defaultdict(set)
        self._var_counts: Counter[str] = Counter()
        self._logic = logic
        self.has_planner = planner
        self.downward_lib = downward_lib
        self.pddl_problem = pddl_problem
        translation = kept.translation
        self._actions = translation.actions
        self.name2type = translation.type_of
        self.constant_predicates = translation.constant
        for name, supertypes in translation.types:
            with suppress(ValueError):  # known already, as in the stock engine
                logic.types.add(Type(name, supertypes))
        downward_lib.load_sas(zlib.decompress(translation.packed_sas))
        if planner:
            downward_lib.load_sas_replan(pddl2sas(logic.domain, pddl_problem, optimize=True)[1].encode())
        self.add_facts(
            Proposition(predicate, [Variable(name, self.name2type[name]) for name in names])
            for predicate, names in translation.initial
        )
        if not kept.start:
            atoms = (pddl_logic.Atom * downward_lib.get_state_size())()
            downward_lib.get_state(atoms)
            facts = (atom.get_fact(self.name2type) for atom in atoms)
            kept.start = tuple(fact for fact in facts if not fact.is_negation)
        self.add_facts(kept.start)

    def all_applicable_actions(self) -> list[Action]:
        """The stock engine's, each a copy of one that is kept."""
        operators = (fast_downward.Operator * self.downward_lib.get_applicable_operators_count())()
        self.downward_lib.get_applicable_operators(operators)
        self._operators = {operator.id: operator for operator in operators}
        actions: dict[str, Action] = {}  # of operators with one name the first
        for number, operator in self._operators.items():
            if number not in self.kept.actions:
                self.kept.actions[number] = operator.name, self._action(operator)
            name, action = self.kept.actions[number]
            if name not in actions:
                actions[name] = Action.__new__(Action)
                vars(actions[name]).update(vars(action))
        return list(actions.values())

    def _action(self, operator: Any) -> Action:
        name, *arguments = operator.name.split()
        action = Action(name=name, preconditions=[], postconditions=[])
        action.id = operator.id
        action.mapping = {
            Placeholder(parameter.name.strip("?"), parameter.type_name): Variable(argument, parameter.type_name)
            for parameter, argument in zip(self._actions[name].parameters, arguments, strict=False)
        }
        action.command_template = self._logic.actions[name].template
        action.feedback_rule = self._logic.actions[name].feedback_rule
        return action


class FastGrammar(textgen.ContextSensitiveGrammar):  # type: ignore[misc]
    """The stock grammar; symbols are never copied or changed, so that parses can be kept."""

    def derive(self, start: str, context: Context | None = None) -> str:
        """Derive the text of a template, depth first."""
        stack: list[Pair] = [(symbol, context or {}) for symbol in reversed(_symbols(start))]
        texts: list[str] = []
        while stack:
            symbol, given = stack.pop()
            if isinstance(symbol, textgen.TerminalSymbol):
                texts.append(str(symbol.symbol))
            else:
                stack.extend(reversed(self._expand(symbol, given)))
        return "".join(texts)

    def is_constant(self, template: str, constant_predicates: frozenset[str]) -> bool:
        """Whether a template's text depends on nothing that can change in a game."""
        return all(_is_constant(symbol, constant_predicates) for symbol in _symbols(template))

    def _expand(self, symbol: Any, context: Context) -> list[Pair]:
        """One step of a derivation."""
        if isinstance(symbol, textgen.NonterminalSymbol):
            return [(part, context) for part in self._rule(symbol, context).rhs]
        if isinstance(symbol, textgen.ConditionalSymbol):
            contexts = _query(symbol.given, context) if symbol.given else [context]
            return [(symbol.expression, each) for each in contexts]
        if isinstance(symbol, textgen.EvalSymbol):
            value = value_of(symbol.expression, context["variables"])
            return [(textgen.TerminalSymbol(value), context)]
        if isinstance(symbol, textgen.ListSymbol):
            return _listed(self._expand(symbol.symbol, context), context)
        raise NotImplementedError(f"Unknown symbol: {type(symbol)}")

    def _rule(self, symbol: Any, context: Context) -> Any:
        """The first rule of a symbol whose condition holds."""
        rules = self._rules.get(str(symbol))
        if not rules:
            raise textgen.CSGUnknownSymbolError(symbol)
        return next(
            rule for rule in rules if not rule.condition or any(True for _ in _matches(rule.condition, context))
        )


def _listed(items: list[Pair], context: Context) -> list[Pair]:
    """Put separators between a list's items, as the grammar names them."""
    if not items:
        return [(textgen.NonterminalSymbol("list_empty"), context)]
    separator = (textgen.NonterminalSymbol("list_separator"), context)
    last_separator = (textgen.NonterminalSymbol("list_last_separator"), context)
    listed = items[:1]
    for position, item in enumerate(items[1:], start=2):
        listed += [last_separator if position == len(items) else separator, item]
    return listed


def _matches(expression: str, context: Context) -> Iterator[Any]:
    matches: Iterator[Any] = context["state"].all_assignments(_rule_of(expression), context["mapping"])
    return matches


def _query(expression: str, context: Context) -> list[Context]:
    """One context for every way to fill in a query's variables."""
    infos = context["entity_infos"]
    contexts = []
    for match in _matches(expression, context):
        new = {placeholder.name: infos[variable.name] for placeholder, variable in match.items()}
        contexts.append(context | {"variables": context["variables"] | new, "mapping": {**context["mapping"], **match}})
    return contexts


def _is_constant(symbol: Any, constant_predicates: frozenset[str]) -> bool:
    if isinstance(symbol, textgen.TerminalSymbol | textgen.EvalSymbol):
        return True
    if isinstance(symbol, textgen.ConditionalSymbol):
        predicates = _rule_of(symbol.given).preconditions if symbol.given else ()
        queried = {predicate.name.removeprefix("not_").lower() for predicate in predicates}
        return queried <= constant_predicates and _is_constant(symbol.expression, constant_predicates)
    return isinstance(symbol, textgen.ListSymbol) and _is_constant(symbol.symbol, constant_predicates)


@lru_cache(_EXPRESSIONS_KEPT)
def _symbols(template: str) -> tuple[Any, ...]:
    return tuple(textgen._parse_and_convert(template, rule_name="symbols"))


@lru_cache(_EXPRESSIONS_KEPT)
def _rule_of(expression: str) -> Any:
    return Rule.parse_conjunctive_query(expression)


def _game_logic(domain: str, grammar: str) -> Any:
    """A game's logic; games that differ in their goal sentence alone share one parse, which takes 0.1 s."""
    found = _GOAL.search(grammar)
    if found is None or _BLANK in grammar or grammar.count(found[0]) > 1:
        return _parsed_logic(domain, grammar)
    blank = grammar[: found.start(1)] + _BLANK + grammar[found.end(1) :]
    kept = _parsed_logic(domain, blank)
    filled = {name: [_with_goal(rule, found[1]) for rule in rules] for name, rules in kept.grammar._rules.items()}
    if filled == kept.grammar._rules:  # the blank is where this module does not look for it
        return _parsed_logic(domain, grammar)
    logic = copy.copy(kept)
    logic.grammar = FastGrammar()
    logic.grammar._rules.update(filled)
    return logic


def _with_goal(rule: Any, goal: str) -> Any:
    """The rule with the goal sentence where the blank is; itself, if it has none."""
    if not any(isinstance(symbol, textgen.TerminalSymbol) and _BLANK in symbol.symbol for symbol in rule.rhs):
        return rule
    rule = copy.copy(rule)
    rule.rhs = [
        textgen.TerminalSymbol(symbol.symbol.replace(_BLANK, goal))
        if isinstance(symbol, textgen.TerminalSymbol)
        else symbol
        for symbol in rule.rhs
    ]
    return rule


@lru_cache(_GAMES_KEPT)
def _kept(domain: str, grammar: str, problem: str) -> _Kept:
    """Cached per game."""
    return _Kept(translate(domain, problem))


@lru_cache(_GRAMMARS_KEPT)
def _parsed_logic(domain: str, grammar: str) -> Any:
    logic = pddl_logic.GameLogic(domain, grammar)
    fast = FastGrammar()
    fast.update(logic.grammar)
    logic.grammar = fast
    return logic
