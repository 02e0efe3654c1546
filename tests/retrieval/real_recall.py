"""How often a golden answer of a real question stands in one of the top three passages; prints it by data source."""

import json
import re
import string
import sys
from collections import defaultdict
from pathlib import Path
from statistics import fmean

from gigpo_lightning.retrieval import Bm25Retriever


def normal(text: str) -> str:
    kept = text.lower().translate(str.maketrans("", "", string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", kept).split())


def main(folder: Path) -> None:
    questions = [json.loads(line) for line in (folder / "questions.jsonl").read_text().splitlines()]
    questions = [each for each in questions if each["data_source"] in ("nq", "hotpotqa") and each["split"] == "test"]
    retriever = Bm25Retriever(str(folder / "corpus.jsonl.gz"))
    hits = defaultdict(list)
    found = retriever.search([each["question"] for each in questions], 3)
    for question, passages in zip(questions, found, strict=True):
        answers = [normal(answer) for answer in question["golden_answers"]]
        texts = [normal(f"{passage.title} {passage.text}") for passage in passages]
        hits[question["data_source"]].append(any(answer in text for answer in answers for text in texts))
    sys.stdout.write(json.dumps({source: fmean(each) for source, each in hits.items()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
