"""Searches per second of the passages that questions are answered from: in this process, and over HTTP.

    python benchmarks/search_qa.py [FOLDER] [--queries 1000] [--calls 200] [--server-threads 8]

``FOLDER`` holds ``corpus.jsonl.gz`` and ``questions.jsonl``; without it, both are made up. Times in this process are
CPU times; over HTTP they are the clock's, with a real ``gigpo-retriever`` process on loopback, and so need idle cores.
"""

import argparse
import itertools
import json
import random
import re
import socket
import string
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from gigpo_lightning.retrieval import Bm25Retriever, HttpRetriever, Retriever

OUT = Console()
TOP_K = 3
SERVER = "from gigpo_lightning.retrieval.server import main; main()"


def make_up(folder: Path, num_passages: int = 27_000, num_questions: int = 1000) -> None:
    """Passages of a hundred words, which come up as often as words do, and questions of ten rarer ones."""
    draw = random.Random(0)
    words = ["".join(draw.choices(string.ascii_lowercase, k=draw.randint(2, 10))) for _ in range(60_000)]
    weights = list(itertools.accumulate(1 / (1 + rank) for rank in range(len(words))))

    def text(length: int) -> str:
        return " ".join(draw.choices(words, cum_weights=weights, k=length))

    with (folder / "corpus.jsonl").open("w") as file:
        for number in range(num_passages):
            file.write(json.dumps({"id": str(number), "contents": f'"{text(3)}"\n{text(100)}'}) + "\n")
    with (folder / "questions.jsonl").open("w") as file:
        for _ in range(num_questions):
            file.write(json.dumps({"question": text(10), "golden_answers": [], "data_source": "made up"}) + "\n")


def read(folder: Path) -> tuple[str, list[dict[str, Any]]]:
    """The corpus' path, and the questions that it has been made for."""
    lines = (folder / "questions.jsonl").read_text().splitlines()
    questions = [question for question in map(json.loads, lines) if question.get("split", "test") == "test"]
    packed = folder / "corpus.jsonl.gz"
    return str(packed if packed.is_file() else folder / "corpus.jsonl"), questions


def normal(text: str) -> str:
    kept = text.lower().translate(str.maketrans("", "", string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", kept).split())


def recalls(retriever: Retriever, questions: Sequence[dict[str, Any]]) -> dict[str, float]:
    """How often a golden answer stands in one of the top passages, by data source."""
    hits = defaultdict(list)
    questions = [question for question in questions if question["golden_answers"]]
    found = retriever.search([question["question"] for question in questions], TOP_K)
    for question, passages in zip(questions, found, strict=True):
        texts = [normal(f"{passage.title} {passage.text}") for passage in passages]
        hits[question["data_source"]].append(
            any(answer in text for answer in map(normal, question["golden_answers"]) if answer for text in texts)
        )
    return {source: fmean(each) for source, each in hits.items()}


def in_process(corpus_path: str, questions: Sequence[dict[str, Any]], num_queries: int) -> None:
    """Report the index, its speed, and what it finds."""
    before, started = psutil.Process().memory_info().rss, time.process_time()
    retriever = Bm25Retriever(corpus_path)
    retriever.search(["a first search"], TOP_K)
    built, grown = time.process_time() - started, psutil.Process().memory_info().rss - before
    queries = [question["question"] for question in questions][:num_queries]
    times = []
    for _ in range(3):
        started = time.process_time()
        for query in queries:
            retriever.search([query], TOP_K)
        times.append((time.process_time() - started) / len(queries))
    OUT.print(f"read and indexed in {built:.1f} s of CPU time, {grown / 2**20:.0f} MiB")
    OUT.print(f"in process: {1 / min(times):,.0f} searches/s, {min(times) * 1e6:.0f} µs each")
    for source, recall in recalls(retriever, questions).items():
        OUT.print(f"a golden answer in the top {TOP_K} for the plain question: {source} {recall:.3f}")


@contextmanager
def serve(corpus_path: str, threads: int) -> Iterator[tuple[str, psutil.Process]]:
    """A server of the corpus in a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    retriever = "gigpo_lightning.retrieval.Bm25Retriever"
    options = ["--port", str(port), "--threads", str(threads), "--retriever", retriever]
    options += ["--retriever.corpus_path", corpus_path]
    process = subprocess.Popen([sys.executable, "-c", SERVER, *options], stderr=subprocess.DEVNULL)
    try:
        yield f"http://127.0.0.1:{port}", psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def over_http(corpus_path: str, queries: Sequence[str], num_calls: int, server_threads: int) -> Table:
    """The same queries through a server, by how many travel together and how many ask; CPU times are a search's."""
    report = Table("queries a call", "threads", "searches/s", "ms a call", "client CPU µs", "server CPU µs")
    with serve(corpus_path, server_threads) as (url, server):
        retriever = HttpRetriever(url, attempts=1000, longest_wait=0.5)
        retriever.search(["is it there"], TOP_K)
        for batch, threads in itertools.product((1, 32), (1, 8)):
            runs = []
            for _ in range(3):
                taken = itertools.cycle(queries)
                calls = [list(itertools.islice(taken, batch)) for _ in range(num_calls)]
                runs.append(_timed(retriever, calls, threads, server))
            clock, ours, theirs = map(min, zip(*runs, strict=True))
            searches = num_calls * batch
            report.add_row(
                f"{batch}",
                f"{threads}",
                f"{searches / clock:,.0f}",
                f"{clock * threads / num_calls * 1e3:.2f}",
                f"{ours / searches * 1e6:,.0f}",
                f"{theirs / searches * 1e6:,.0f}",
            )
        retriever.close()
    return report


def _timed(
    retriever: HttpRetriever, calls: Sequence[Sequence[str]], threads: int, server: psutil.Process
) -> tuple[float, float, float]:
    """Seconds of the clock, of this process' CPU time and of the server's."""
    with ThreadPoolExecutor(threads) as pool:
        before = time.perf_counter(), time.process_time(), sum(server.cpu_times()[:2])
        for _ in pool.map(lambda queries: retriever.search(queries, TOP_K), calls):
            pass
        after = time.perf_counter(), time.process_time(), sum(server.cpu_times()[:2])
    first, second, third = (end - begin for begin, end in zip(before, after, strict=True))
    return first, second, third


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--server-threads", type=int, default=8)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as made_up:
        folder = arguments.folder or Path(made_up)
        if arguments.folder is None:
            make_up(folder)
        corpus_path, questions = read(folder)
        OUT.print(f"{'real' if arguments.folder else 'made-up'} passages, {len(questions):,} questions")
        in_process(corpus_path, questions, arguments.queries)
        queries = [question["question"] for question in questions]
        OUT.print(over_http(corpus_path, queries, arguments.calls, arguments.server_threads))


if __name__ == "__main__":
    main()
