"""Panels of shopping goals: by product, so that none is on both sides, or as verl-agent numbers them."""

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import astuple
from pathlib import Path
from typing import Literal

from gigpo_lightning.environments.base import Task, TaskPanel
from gigpo_lightning.environments.splits import deal
from gigpo_lightning.environments.webshop.catalogue import Catalogue
from gigpo_lightning.environments.webshop.entities import Goal
from gigpo_lightning.environments.webshop.nouns import PlainNouns
from gigpo_lightning.environments.webshop.offline.generator import ShopSettings, catalogue_files, generate_catalogue
from gigpo_lightning.environments.webshop.reward import shopping_reward
from gigpo_lightning.errors import check_count, check_seed

Split = Literal["train", "valid", "test"]
Scheme = Literal["by_product", "verl_agent"]
_SHARES = {"train": 0.8, "valid": 0.1, "test": 0.1}
SPLITS = tuple(_SHARES)
_VERL_AGENT_HELD_OUT = 500
_NOUNS = PlainNouns()
"""Any will do: a product has all nouns of its own title."""


def webshop_panel(
    catalogue: Catalogue,
    split: str,
    scheme: Scheme = "by_product",
    seed: int = 233,
    max_goals_per_product: int | None = None,
    reachable_only: bool = False,
) -> TaskPanel:
    """List a split's goals in an order that is the same on every machine, and mixes products.

    ``by_product`` deals out the products, so that neither a product nor an instruction is in two splits. ``verl_agent``
    shuffles all goals once and calls the first 500 ``valid``, the rest ``train``, as published numbers have it; nearly
    all of its held-out goals ask for products that are trained on.

    Differs from verl-agent, which shuffles anew in every worker, so that its workers' goals overlap, held out or not.

    The arguments are those of ``WebShopTasks``; ``verl_agent`` has no split ``test``.

    Raises:
        ValueError: If an argument is not one of its values, or nothing is left.
    """
    if scheme not in ("by_product", "verl_agent"):
        raise ValueError(f"scheme must be 'by_product' or 'verl_agent', got {scheme!r}")
    splits = SPLITS if scheme == "by_product" else SPLITS[:2]
    if split not in splits:
        raise ValueError(f"split must be one of {splits} with scheme {scheme!r}, got {split!r}")
    check_count("max_goals_per_product", 1 if max_goals_per_product is None else max_goals_per_product)
    numbered = list(enumerate(catalogue.goals))
    random.Random(seed).shuffle(numbered)
    if scheme == "verl_agent":
        held_out = split == "valid"
        chosen = numbered[:_VERL_AGENT_HELD_OUT] if held_out else numbered[_VERL_AGENT_HELD_OUT:]
    else:
        chosen = _of_products(numbered, split, seed)
    if reachable_only:
        chosen = [(number, goal) for number, goal in chosen if _is_reachable(catalogue, goal)]
    if max_goals_per_product is not None:
        chosen = _at_most(chosen, max_goals_per_product)
    if not chosen:
        raise ValueError(f"catalogue must have goals for split {split!r}, but of its {len(numbered)} none is left")
    shop = catalogue.identity
    return TaskPanel.from_tasks(
        Task(
            task_id=f"{goal.asin}-{number}",
            kind=goal.category,
            payload={"goal": goal, "shop": shop},
            fingerprint=hashlib.sha256(json.dumps(astuple(goal)).encode()).hexdigest(),
        )
        for number, goal in chosen
    )


class WebShopTasks:
    """Where a run's shopping goals come from.

    Args:
        catalogue: What is sold; name the same files as the environment's, and they are read once.
        scheme: ``by_product``, or ``verl_agent`` to compare with published numbers.
        seed: Of the splits' order.
        max_goals_per_product: At most so many goals of a product, drawn by the seed: of the official thousand products
            ten have two fifths of all goals. Default: all.
        reachable_only: Leave out synthetic goals that even their own product, as it is asked for, does not meet in
            everything: by the original's rules these are 458 of the 6910 of the official thousand products.
        generated: Make this catalogue where the files are named, if it is not there yet; default: only read.

    Raises:
        ValueError: If a catalogue is to be made, but its files have other names or stand in two folders.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        scheme: Scheme = "by_product",
        seed: int = 233,
        max_goals_per_product: int | None = None,
        reachable_only: bool = False,
        generated: ShopSettings | None = None,
    ) -> None:
        check_seed(seed)
        if max_goals_per_product is not None:
            check_count("max_goals_per_product", max_goals_per_product)
        folder = catalogue.files[0].parent
        if generated is not None and catalogue.files != catalogue_files(folder):
            wanted = _named(catalogue_files(folder))
            raise ValueError(f"catalogue must name {wanted} to be generated, got {_named(catalogue.files)}")
        self.catalogue = catalogue
        self.scheme = scheme
        self.seed = seed
        self.max_goals_per_product = max_goals_per_product
        self.reachable_only = reachable_only
        self.generated = generated

    def prepare(self) -> None:
        """Make the catalogue, if one is asked for; at once where it exists."""
        if self.generated is not None:
            generate_catalogue(self.catalogue.files[0].parent, self.generated)

    def panel(self, split: str) -> TaskPanel:
        """Return the split's panel, as ``webshop_panel`` lists it."""
        limits = (self.max_goals_per_product, self.reachable_only)
        return webshop_panel(self.catalogue, split, self.scheme, self.seed, *limits)


def _of_products(numbered: list[tuple[int, Goal]], split: str, seed: int) -> list[tuple[int, Goal]]:
    """The goals of a split's products, without instructions that an earlier split has."""
    asins = sorted({goal.asin for _, goal in numbered})
    random.Random(seed).shuffle(asins)
    split_of = {asin: name for name, dealt in deal(asins, _SHARES).items() for asin in dealt}
    earlier = SPLITS[: SPLITS.index(split)]
    said = {goal.instruction for _, goal in numbered if split_of[goal.asin] in earlier}
    ours = [(number, goal) for number, goal in numbered if split_of[goal.asin] == split]
    return [(number, goal) for number, goal in ours if goal.instruction not in said]


def _is_reachable(catalogue: Catalogue, goal: Goal) -> bool:
    """Whether the goal's own product, with the options that are asked for, is a success."""
    pairs = [option for option in goal.options if isinstance(option, tuple)]
    if len(pairs) < len(goal.options):
        return True  # people wrote values without saying of what: nothing says how to choose them
    return shopping_reward(catalogue[goal.asin], catalogue.price(goal.asin), dict(pairs), goal, _NOUNS).total == 1.0


def _at_most(numbered: Iterable[tuple[int, Goal]], limit: int) -> list[tuple[int, Goal]]:
    counts: Counter[str] = Counter()
    kept = []
    for number, goal in numbered:
        counts[goal.asin] += 1
        if counts[goal.asin] <= limit:
            kept.append((number, goal))
    return kept


def _named(files: tuple[Path, Path]) -> str:
    """The files of a catalogue, each with the argument that names it."""
    return f"products {files[0]} and attributes {files[1]}"
