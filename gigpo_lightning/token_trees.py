"""Prompts and replies as trees of tokens: sequences of a task that begin alike have their beginning in common.

Agents come back to the same state with the same history, conversations grow, and all episodes of a task begin alike. A
tree has every distinct beginning once, so that an update computes it once.

Sorted by their tokens, sequences stand in the tree's depth-first order, and each adds what it does not share with the
one before it: ``P Q a b``, ``P Q c`` and ``P Q c d`` make the tree ``P Q a b c d``, in which they share 0, 2 and 3
tokens. Work is linear in the sequences' tokens; no Python loop goes over single tokens.
"""

import sys
from array import array
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

Pair = tuple[Sequence[int], Sequence[int]]
"""Token ids of a prompt and of its reply."""
_REPEATED = 1 / 16  # of a tree's tokens: what may be repeated so that parts are quick


@dataclass(frozen=True, slots=True, kw_only=True)
class RowRules:
    """How a policy's attention wants sequences to lie in rows.

    Attributes:
        shared: Whether it takes trees that branch. Otherwise each sequence lies by itself, whole.
        one_row: Whether all trees of a micro-batch lie side by side in one row without filling. Otherwise they lie in
            rows that are filled up to one length, none longer than twice its longest sequence, as is best where
            attention computes a row's square.
        quick: Sizes up to which trees are quicker than large ones. A tree is cut to the first at which few tokens are
            repeated for that.
    """

    shared: bool = True
    one_row: bool = False
    quick: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenTree:
    """Sequences in depth-first order.

    Attributes:
        pairs: Positions of the sequences among the pairs that they are of.
        lengths: Tokens of each, prompt and reply.
        shared: Tokens that each has in common with the one before it; 0 for the first.
    """

    pairs: tuple[int, ...]
    lengths: tuple[int, ...]
    shared: tuple[int, ...]

    @property
    def num_tokens(self) -> int:
        """Tokens of the tree, each once."""
        return sum(self.lengths) - sum(self.shared)

    @property
    def branches(self) -> bool:
        """Whether it is more than one path from the root."""
        return self.num_tokens > max(self.lengths)

    def part(self, first: int, last: int) -> "TokenTree":
        """The sequences from one up to another, as a tree of their own, which repeats the path that they need."""
        return TokenTree(
            pairs=self.pairs[first:last],
            lengths=self.lengths[first:last],
            shared=(0, *self.shared[first + 1 : last]),
        )


def token_trees(pairs: Sequence[Pair], tasks: Sequence[Hashable] | None = None) -> list[TokenTree]:
    """Build the trees of some prompts and replies.

    Tokens of all trees together are the distinct beginnings of sequences, (task, prefix).

    Args:
        pairs: Prompts and their replies.
        tasks: Of each pair; sequences of different tasks share nothing. Default: one task.

    Returns:
        One tree for each first token of each task: tasks in the order in which they first appear, the trees of one in
        that of their tokens.

    Example:
        >>> [tree.pairs for tree in token_trees([([1, 2], [3]), ([5], [6]), ([1, 2], [4])])]
        [(0, 2), (1,)]
    """
    tasks = [None] * len(pairs) if tasks is None else tasks
    numbers: dict[Hashable, int] = {}
    owners = [numbers.setdefault(task, len(numbers)) for task in tasks]
    sequences = [_tokens(pair) for pair in pairs]
    # Big-endian numbers of one width compare as bytes do: one fast comparison of strings for each two sequences.
    keys = [sequence.astype(">u4").tobytes() for sequence in sequences]
    order = sorted(range(len(pairs)), key=lambda index: (owners[index], keys[index]))
    shared = [0] * len(order)
    for place, (one, other) in enumerate(pairwise(order), start=1):
        if owners[one] == owners[other]:
            shared[place] = common_prefix(sequences[one], sequences[other])
    begins = [place for place, length in enumerate(shared) if not length]
    return [
        TokenTree(
            pairs=tuple(order[first:last]),
            lengths=tuple(len(sequences[index]) for index in order[first:last]),
            shared=tuple(shared[first:last]),
        )
        for first, last in pairwise([*begins, len(order)])
    ]


def plan_micro_batches(
    trees: Iterable[TokenTree],
    token_budget: int,
    rules: RowRules = RowRules(),
) -> list[list[list[TokenTree]]]:
    """Share trees out to micro-batches and rows, so that rows times longest row stays within the budget.

    A tree that is too large is cut where the fewest tokens are repeated, as each part repeats the path that it needs. A
    sequence longer than the budget gets a micro-batch of its own, with those that it begins with: it is never cut.

    Returns:
        Of each micro-batch, the trees of each row.

    Raises:
        ValueError: If ``token_budget`` is not positive.

    Example:
        >>> trees = token_trees([([1, 2], [3]), ([1, 2], [4]), ([5], [6, 7, 8, 9])])
        >>> [[[tree.pairs for tree in row] for row in part] for part in plan_micro_batches(trees, token_budget=6)]
        [[[(2,)]], [[(0, 1)]]]
    """
    if token_budget < 1:
        raise ValueError(f"token_budget must be >= 1, got {token_budget}")
    parts = sorted(cut(trees, token_budget, rules), key=lambda part: (part.num_tokens, part.pairs))
    if rules.one_row:
        return _side_by_side(parts, token_budget)
    return (_packed_rows if any(part.branches for part in parts) else _rows)(parts, token_budget)


def in_rows(trees: Iterable[TokenTree], rules: RowRules) -> list[list[TokenTree]]:
    """Lay all trees into the rows of one batch, of whatever size."""
    parts = sorted(cut(trees, sys.maxsize, rules), key=lambda part: (part.num_tokens, part.pairs))
    return [parts] if rules.one_row else [[part] for part in parts]


def cut(trees: Iterable[TokenTree], token_budget: int, rules: RowRules) -> Iterator[TokenTree]:
    """Cut trees into parts that fit: single sequences where nothing is shared.

    Where attention computes the squares of all rows, and with a mask at twice the cost, a part is at most twice as long
    as the longest sequence of its tree: that cost stays a small part of what is saved.
    """
    for tree in trees:
        limit = token_budget if rules.one_row else min(token_budget, 2 * max(tree.lengths))
        if not rules.shared:
            yield from (tree.part(place, place + 1) for place in range(len(tree.pairs)))
            continue
        for size in rules.quick:
            parts = list(_parts(tree, min(limit, size)))
            if sum(part.num_tokens for part in parts) <= (1 + _REPEATED) * tree.num_tokens:
                break
        else:
            parts = list(_parts(tree, limit))
        yield from parts


def _rows(trees: Sequence[TokenTree], token_budget: int) -> list[list[list[TokenTree]]]:
    """Give each tree a row, beside rows of like length; trees come by their size."""
    plan: list[list[list[TokenTree]]] = []
    for tree in trees:
        if plan and (len(plan[-1]) + 1) * tree.num_tokens <= token_budget:
            plan[-1].append([tree])
        else:
            plan.append([[tree]])
    return plan


def _packed_rows(trees: Sequence[TokenTree], token_budget: int) -> list[list[list[TokenTree]]]:
    """Give each tree a row, or the smallest gap of a larger tree's row that it fits into: less is filled up."""
    plan: list[list[list[TokenTree]]] = []
    length = 0  # of the rows of the last micro-batch
    gaps: list[tuple[int, int, int]] = []  # tokens left, micro-batch and row, the smallest gap first
    for tree in reversed(trees):
        size = tree.num_tokens
        place = bisect_left(gaps, (size, 0, 0))
        if place < len(gaps):
            left, part, row = gaps.pop(place)
            plan[part][row].append(tree)
        else:
            if not plan or (len(plan[-1]) + 1) * length > token_budget:
                plan.append([])
                length = size
            plan[-1].append([tree])
            left, part, row = length, len(plan) - 1, len(plan[-1]) - 1
        if left > size:
            insort(gaps, (left - size, part, row))
    return plan


def _side_by_side(trees: Sequence[TokenTree], token_budget: int) -> list[list[list[TokenTree]]]:
    """Lay trees into one row a micro-batch, without filling; trees come by their size."""
    plan: list[list[list[TokenTree]]] = []
    tokens = 0
    for tree in trees:
        tokens += tree.num_tokens
        if plan and tokens <= token_budget:
            plan[-1][0].append(tree)
        else:
            plan.append([[tree]])
            tokens = tree.num_tokens
    return plan


def _parts(tree: TokenTree, limit: int) -> Iterator[TokenTree]:
    """Cut a tree that is too large where the fewest tokens are repeated, and then into the fewest parts.

    ``best[n]`` is what the first n sequences repeat, and in how many parts. The last part of n begins at one of a
    window of places; as n grows the window's first place only moves on, so a queue of the best candidates is enough.
    """
    if tree.num_tokens <= limit:
        yield tree
        return
    ends = [0, *accumulate(length - shared for length, shared in zip(tree.lengths, tree.shared, strict=True))]
    best, begins = [(0, 0)], [0]
    window: deque[tuple[tuple[int, int], int]] = deque()  # cost of a part that begins there, and its first sequence
    for last, (length, shared) in enumerate(zip(tree.lengths, tree.shared, strict=True)):
        cost = (best[last][0] + shared, best[last][1] + 1)
        while window and window[-1][0] > cost:
            window.pop()
        window.append((cost, last))
        while _size(tree, ends, window[0][1], last) > max(limit, length):
            window.popleft()
        best.append(window[0][0])
        begins.append(window[0][1])
    bounds = [len(tree.pairs)]
    while bounds[-1]:
        bounds.append(begins[bounds[-1]])
    for last, first in reversed(list(pairwise(bounds))):
        yield tree.part(first, last)


def _size(tree: TokenTree, ends: Sequence[int], first: int, last: int) -> int:
    """Tokens of a part, from its first to its last sequence; ``ends`` are the tree's tokens before each."""
    return tree.lengths[first] + ends[last + 1] - ends[first + 1]


def common_prefix(one: NDArray[np.uint32], other: NDArray[np.uint32]) -> int:
    """Number of tokens that two sequences begin with alike."""
    length = min(len(one), len(other))
    differ = one[:length] != other[:length]
    first = int(differ.argmax()) if length else 0
    return first if length and differ[first] else length


def _tokens(pair: Pair) -> NDArray[np.uint32]:
    """A prompt and its reply."""
    prompt, reply = pair
    if not prompt:
        raise ValueError(f"a prompt must have a token at least, got none for the reply {reply!r}")
    return np.frombuffer(array("I", (*prompt, *reply)), dtype=np.uint32)
