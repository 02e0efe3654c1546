r"""How passages travel: Search-R1's documents and answers, as its corpora and servers write them.

A document is ``{"id": "7", "contents": "\"Title\"\ntext"}``. A server is asked with ``{"query": str | "queries": [str],
"topk": int, "return_scores": bool}`` and answers ``{"result": [[{"document": document, "score": float}]]}``, or with
documents alone where no scores are asked for.
"""

from collections.abc import Sequence
from typing import Any

from gigpo_lightning.retrieval.base import Passage
from gigpo_lightning.text import shown


def split_contents(contents: str) -> tuple[str, str]:
    r"""Take a document's contents apart into title and text.

    The title is the first line without the quotation marks around it; without a line break all is text. Differs from
    Search-R1's client, which leaves the quotation marks on.

    Example:
        >>> split_contents('"Paris"\nParis is the capital of France.')
        ('Paris', 'Paris is the capital of France.')
    """
    title, line_break, text = contents.partition("\n")
    if not line_break:
        return "", contents
    if len(title) >= 2 and title[0] == title[-1] == '"':
        title = title[1:-1]
    return title, text


def join_contents(title: str, text: str) -> str:
    """Put title and text together again; what ``split_contents`` took apart, if its title had quotation marks."""
    return f'"{title}"\n{text}' if title else text


def parse_document(document: object, *, score: float = 0.0, default_id: str = "") -> Passage:
    """Read a document: ``contents``, or ``title`` and ``text``, or a string that is its contents.

    Raises:
        ValueError: If it is none of these; the message says what is wrong with it.
    """
    if isinstance(document, str):
        document = {"contents": document}
    if not isinstance(document, dict):
        raise ValueError(f"a document must be an object with 'contents', got {shown(document)}")
    identity = document.get("id", default_id)
    if isinstance(identity, bool) or not isinstance(identity, str | int):
        raise ValueError(f"a document's 'id' must be a string or an integer, got {shown(identity)}")
    contents, title, text = (document.get(name) for name in ("contents", "title", "text"))
    if isinstance(title, str) and isinstance(text, str):
        return Passage(id=str(identity), title=title, text=text, score=score)
    if not isinstance(contents, str):
        raise ValueError(f"a document must have 'contents', a string, or 'title' and 'text', got {shown(document)}")
    title, text = split_contents(contents)
    return Passage(id=str(identity), title=title, text=text, score=score)


def parse_answer(answer: object, num_queries: int, top_k: int) -> list[list[Passage]]:
    """Read a server's answer; of more passages than were asked for, the first are kept.

    Raises:
        ValueError: If it has another form; the message says where.
    """
    result = answer.get("result") if isinstance(answer, dict) else None
    if not isinstance(result, list):
        raise ValueError(f"the answer must be an object with a list 'result', got {shown(answer)}")
    if len(result) != num_queries:
        raise ValueError(f"'result' must have a list of passages for each of {num_queries} queries, got {len(result)}")
    passages = []
    for number, found in enumerate(result):
        if not isinstance(found, list):
            raise ValueError(f"result[{number}] must be a list of passages, got {shown(found)}")
        passages.append([_parse_hit(hit, f"result[{number}][{rank}]") for rank, hit in enumerate(found[:top_k])])
    return passages


def write_answer(passages: Sequence[Sequence[Passage]], *, scores: bool) -> dict[str, Any]:
    """Write a server's answer, with or without scores."""

    def hit(passage: Passage) -> dict[str, Any]:
        document = {"id": passage.id, "contents": join_contents(passage.title, passage.text)}
        return {"document": document, "score": passage.score} if scores else document

    return {"result": [list(map(hit, found)) for found in passages]}


def _parse_hit(hit: object, where: str) -> Passage:
    document, score = hit, 0.0
    if isinstance(hit, dict) and "document" in hit:
        document, score = hit["document"], hit.get("score", 0.0)
        if isinstance(score, bool) or not isinstance(score, int | float):
            raise ValueError(f"{where}: a score must be a number, got {shown(score)}")
    try:
        return parse_document(document, score=float(score))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
