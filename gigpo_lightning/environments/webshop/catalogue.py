"""The shop's catalogue: one for all the environments of a process, whatever its size."""

import random
from collections.abc import Iterator
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from gigpo_lightning.environments.webshop.entities import Goal, Product
from gigpo_lightning.environments.webshop.files import JsonFile
from gigpo_lightning.environments.webshop.goals import check_description, check_wishes, human_goals, synthetic_goals
from gigpo_lightning.environments.webshop.pages import item_page
from gigpo_lightning.environments.webshop.products import is_sold, make_product, searchable_text
from gigpo_lightning.errors import check_count, check_seed
from gigpo_lightning.retrieval import Bm25Index

PRICE_SEED = 233
"""The original's seed of its goals' order; it does not seed its prices."""
_KEPT_PRODUCTS = 1 << 14
_KEPT_SEARCHES = 1 << 12


class Catalogue:
    """Products, their prices, their search engine and the goals made of them, from the official files, unchanged.

    Only names the files until something is asked of it: the files may be made in between, and it can be copied and sent
    to other processes at no cost. All catalogues of the same arguments in one process share what was read. Products
    stay in their file, and are read when they are looked at; memory holds their places, their ids and the index.

    Args:
        products: The product file, such as ``items_shuffle_1000.json``.
        attributes: The attribute file, such as ``items_ins_v2_1000.json``.
        human_goals: The file of instructions that people wrote; default: goals are made of the products.
        num_products: Only the file's first entries; default: all.
        price_seed: Of the prices that the file gives as a range, and of the goals' price limits.
    """

    def __init__(
        self,
        products: str | Path,
        attributes: str | Path,
        human_goals: str | Path | None = None,
        num_products: int | None = None,
        price_seed: int = PRICE_SEED,
    ) -> None:
        check_count("num_products", 1 if num_products is None else num_products)
        check_seed(price_seed, "price_seed")
        people = None if human_goals is None else str(Path(human_goals).absolute())
        self._files = (str(Path(products).absolute()), str(Path(attributes).absolute()), people)
        self._options = (num_products, price_seed)

    @classmethod
    def load(
        cls,
        products: str | Path,
        attributes: str | Path,
        human_goals: str | Path | None = None,
        num_products: int | None = None,
        price_seed: int = PRICE_SEED,
    ) -> "Catalogue":
        """Read the files now; the arguments are the class's.

        Raises:
            ValueError: If a file is missing or not of the official form; the message names it and the product.
        """
        catalogue = cls(products, attributes, human_goals, num_products, price_seed)
        _ = catalogue.shelves
        return catalogue

    @property
    def identity(self) -> str:
        """This shop's identity: its files, the number of products, and the prices' seed."""
        return repr((*self._files, *self._options))

    @property
    def files(self) -> tuple[Path, Path]:
        """The product file and the attribute file, which may not be there yet."""
        return Path(self._files[0]), Path(self._files[1])

    @property
    def shelves(self) -> "Shelves":
        """What was read.

        Raises:
            ValueError: If a file is missing or not of the official form; the message names it and the product.
        """
        return _shelves(*self._files, *self._options)

    def search(self, query: str, k: int) -> list[tuple[str, float]]:
        """The best ``k`` products for some words, best first, as the original's Lucene ranks them.

        Returns:
            Pairs of a product's id and its score.
        """
        shelves = self.shelves
        return [(shelves.asins[row], score) for row, score in shelves.index.search(query, k)]

    def __len__(self) -> int:
        return len(self.shelves.asins)

    def __getitem__(self, asin: str) -> Product:
        """The product of an id.

        Raises:
            KeyError: If there is none.
        """
        return self.shelves.product(self.shelves.rows[asin])

    def price(self, asin: str) -> float:
        """What a product costs in this shop, in dollars.

        Raises:
            KeyError: If there is none of that id.
        """
        return float(self.shelves.prices[self.shelves.rows[asin]])

    @property
    def goals(self) -> tuple[Goal, ...]:
        """Everything that can be asked for, in the order of the products."""
        return self.shelves.goals()


class Shelves:
    """What a process holds of a catalogue, whose arguments it takes.

    Raises:
        ValueError: If a file is missing or not of the official form.
    """

    def __init__(
        self, products: str, attributes: str, human_goals: str | None, num_products: int | None, price_seed: int
    ) -> None:
        self._products = JsonFile(Path(products))
        self._attributes = JsonFile(Path(attributes))
        self._instructions = None if human_goals is None else JsonFile(Path(human_goals))
        self._rng = random.Random(price_seed)
        places: list[tuple[int, int, int, int]] = []
        self.asins: list[str] = []
        self.prices = np.empty(0)
        self.index = Bm25Index(self._read(num_products, places), self.asins)
        self._places = np.array(places, dtype=np.int64)
        self.rows = {asin: row for row, asin in enumerate(self.asins)}
        self.product = lru_cache(_KEPT_PRODUCTS)(self._product)
        self.item_page = lru_cache(_KEPT_PRODUCTS)(lambda row, attributes: item_page(self.product(row), attributes))
        self.best = lru_cache(_KEPT_SEARCHES)(lambda query, k: tuple(row for row, _ in self.index.search(query, k)))
        self.goals = cache(self._goals)

    def _read(self, num_products: int | None, places: list[tuple[int, int, int, int]]) -> Iterator[str]:
        """Each product's text for the index; keeps its place on the way."""
        described = {}
        for asin, start, length, entry in self._attributes.object_entries():
            check_description(entry, f"{self._attributes.path}, product {asin!r}")
            described[asin] = (start, length)
        prices: list[float] = []
        seen: set[str] = set()
        for number, (start, length, entry) in enumerate(self._products.list_entries()):
            if number == num_products:
                break
            if not isinstance(entry, dict) or "asin" not in entry:
                raise ValueError(f"{self._products.path} must list products, each with an 'asin', got {entry!r:.80}")
            asin = entry["asin"]
            if not is_sold(asin) or asin in seen:
                continue
            if asin != asin.upper():  # a click's words are in lower case, and cannot name it
                raise ValueError(f"{self._products.path} must have ids in upper case, got {asin!r}")
            if self._instructions is None and asin not in described:
                raise ValueError(
                    f"{self._attributes.path} must have every product of {self._products.path}, but lacks {asin!r}; "
                    "with human_goals it may"
                )
            seen.add(asin)
            product = self._made(entry, None)
            prices.append(product.prices[0] if len(product.prices) == 1 else self._rng.uniform(*product.prices))
            places.append((start, length, *described.get(asin, (0, 0))))
            self.asins.append(asin)
            yield searchable_text(product)
        if not prices:
            raise ValueError(f"{self._products.path} must list at least one product, got none")
        self.prices = np.array(prices)

    def _product(self, row: int) -> Product:
        start, length, described, described_length = map(int, self._places[row])
        attributes = self._attributes.entry(described, described_length) if described_length else None
        return self._made(self._products.entry(start, length), attributes)

    def _made(self, entry: dict[str, Any], attributes: dict[str, Any] | None) -> Product:
        try:
            return make_product(entry, attributes)
        except ValueError as error:
            raise ValueError(f"{self._products.path}: {error}") from error

    def _goals(self) -> tuple[Goal, ...]:
        rng = random.Random()
        rng.setstate(self._rng.getstate())  # the limits are drawn after all prices, by the same generator
        prices = self.prices.tolist()
        if self._instructions is None:
            described = enumerate(self._attributes.entry(*map(int, place[2:])) for place in self._places)
            told = ((self.product(row), prices[row], entry) for row, entry in described if "instruction" in entry)
            return tuple(synthetic_goals(told, rng))
        wanted = {asin: entries for asin, _, _, entries in self._instructions.object_entries()}
        for asin, entries in wanted.items():
            check_wishes(entries, f"{self._instructions.path}, product {asin!r}")
        asked = ((row, wanted[asin]) for row, asin in enumerate(self.asins) if asin in wanted)
        return tuple(human_goals(((self.product(row), prices[row], entries) for row, entries in asked), rng))


_shelves = lru_cache(8)(Shelves)
