"""WebShop on one core: loading, searching, stepping, and the memory of a thousand environments.

    python benchmarks/webshop.py [PRODUCTS ATTRIBUTES] [--steps 40000] [--large 100000]

``PRODUCTS`` and ``ATTRIBUTES`` are official files; without them, a shop of a thousand products is made. The texts of
the large shop are mixed of the small one's. A random shopper searches at 26 % of its steps, as recorded rollouts of the
reference do, and clicks at the others; what it buys is scored. Times are the process's own, whatever else runs.
"""

import argparse
import logging
import random
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gigpo_lightning.environments.base import Task
from gigpo_lightning.environments.webshop import (
    Catalogue,
    ShopSettings,
    WebShopEnvironment,
    generate_catalogue,
    webshop_panel,
)
from gigpo_lightning.environments.webshop.nouns import PlainNouns
from gigpo_lightning.environments.webshop.products import searchable_text
from gigpo_lightning.retrieval import Bm25Index

SEARCHES = 0.26
NUM_RESULTS = 50
MIXED = 3
"""Texts that one of the large shop is mixed of."""
_logger = logging.getLogger(__name__)


def search_words(tasks: Sequence[Task], rng: random.Random, repeated: bool) -> str:
    """Some words of a goal, as shoppers search; with a number nobody sells, if no search may be asked twice."""
    words = rng.choice(tasks).payload["goal"].instruction.split()
    first = rng.randrange(len(words))
    query = " ".join(words[first : first + rng.randint(2, 8)])
    return query if repeated else f"{query} {rng.randrange(1 << 40)}"


def steps_per_second(
    catalogue: Catalogue, tasks: Sequence[Task], num_steps: int, repeated: bool
) -> tuple[float, float]:
    """How many steps a second, resets included, and the share of them that were searches."""
    rng = random.Random(0)
    environment = WebShopEnvironment(catalogue, nouns=PlainNouns())
    queries = [search_words(tasks, rng, repeated) for _ in range(num_steps)]
    searches = 0
    start = time.process_time()
    _, info = environment.reset(options={"task": rng.choice(tasks)})
    for steps, query in enumerate(queries):
        clicks = info["admissible_actions"]
        if searches < SEARCHES * steps or clicks[0].startswith("search"):
            action = f"search[{query}]"
            searches += 1
        else:
            action = rng.choice(clicks)
        *_, terminated, _, info = environment.step(action)
        if terminated:
            _, info = environment.reset(options={"task": rng.choice(tasks)})
    return num_steps / (time.process_time() - start), searches / num_steps


def search_times(index: Bm25Index, queries: Sequence[str]) -> tuple[float, float]:
    """The median and the 99th percentile of a search, in milliseconds."""
    times = []
    for query in queries:
        start = time.perf_counter()
        index.search(query, NUM_RESULTS)
        times.append(1000 * (time.perf_counter() - start))
    return float(np.median(times)), float(np.percentile(times, 99))


def mixed_texts(catalogue: Catalogue, number: int) -> list[str]:
    """Texts that each take a part of their words from several products'."""
    rng = random.Random(0)
    words = [searchable_text(catalogue[asin]).split() for asin in catalogue.shelves.asins]
    return [
        " ".join(word for text in rng.sample(words, MIXED) for word in rng.sample(text, len(text) // MIXED))
        for _ in range(number)
    ]


def resident_mb() -> float:
    """The most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def main() -> None:
    """Measure, and log a line each."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("products", nargs="?")
    parser.add_argument("attributes", nargs="?")
    parser.add_argument("--steps", type=int, default=40_000)
    parser.add_argument("--large", type=int, default=100_000)
    parser.add_argument("--environments", type=int, default=1000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = (arguments.products, arguments.attributes)
        if arguments.products is None:
            files = generate_catalogue(Path(folder) / "shop", ShopSettings(num_products=1000))
        start = time.process_time()
        catalogue = Catalogue.load(*files)
        _logger.info("%d products loaded in %.2f s", len(catalogue), time.process_time() - start)
        start = time.process_time()
        tasks = webshop_panel(catalogue, "train", "verl_agent").tasks
        _logger.info("%d goals made in %.2f s", len(catalogue.goals), time.process_time() - start)
        environments = [WebShopEnvironment(catalogue, nouns=PlainNouns()) for _ in range(arguments.environments)]
        for number, environment in enumerate(environments):
            environment.reset(options={"task": tasks[number % len(tasks)]})
        _logger.info("%d environments in one process: %.0f MB, this program's all", len(environments), resident_mb())
        for name, repeated in (("each search once", False), ("searches may repeat", True)):
            speed, share = steps_per_second(catalogue, tasks, arguments.steps, repeated)
            _logger.info("%.0f steps/s (%s, %.0f %% of the steps)", speed, name, 100 * share)
        rng = random.Random(1)
        queries = [search_words(tasks, rng, True) for _ in range(2000)]
        small = Bm25Index(searchable_text(catalogue[asin]) for asin in catalogue.shelves.asins)
        _logger.info("search of %d: median %.3f ms, 99th percentile %.3f ms", len(small), *search_times(small, queries))
        texts = mixed_texts(catalogue, arguments.large)
        start = time.process_time()
        large = Bm25Index(texts)
        _logger.info("index of %d texts made in %.1f s", len(large), time.process_time() - start)
        _logger.info("search of %d: median %.3f ms, 99th percentile %.3f ms", len(large), *search_times(large, queries))


if __name__ == "__main__":
    main()
