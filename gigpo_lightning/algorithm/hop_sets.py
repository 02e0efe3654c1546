"""Which nodes of a graph can be reached from each in exactly k steps.

Shape letters: E = edges, V = nodes, W = words of 64 bits that hold a node each, of one graph.
"""

import numpy as np
from jaxtyping import Float64, Int64, UInt64
from numpy import ndarray


class HopSets:
    """A set of nodes for each node, of some graphs that have no edge between them; at first the node itself.

    A set is a row of bits, one for each node of the same graph. A step farther it is the union of what the successors
    had: a few operations on whole words for each edge.

    Args:
        source: Node that each edge starts from, ``(E,)``; nodes are numbered from 0 without gaps.
        target: Node that it leads to, ``(E,)``.
        graph: Graph of each edge, dense from 0, ``(E,)``.
    """

    def __init__(self, source: Int64[ndarray, " E"], target: Int64[ndarray, " E"], graph: Int64[ndarray, " E"]) -> None:
        num_nodes = int(max(source.max(), target.max())) + 1
        self._graph = np.empty(num_nodes, dtype=np.int64)
        self._graph[source] = self._graph[target] = graph
        order = np.argsort(self._graph, kind="stable")
        begins = np.searchsorted(self._graph[order], np.arange(int(graph.max()) + 1))
        place = np.empty(num_nodes, dtype=np.int64)
        place[order] = np.arange(num_nodes) - begins[self._graph[order]]
        self._word, self._shift = place // 64, (place % 64).astype(np.uint64)
        self._sets = np.zeros((num_nodes, int(self._word.max()) + 1), dtype=np.uint64)
        self._sets[np.arange(num_nodes), self._word] = np.uint64(1) << self._shift
        edges = np.unique(source * num_nodes + target)
        sources, self._successors = edges // num_nodes, edges % num_nodes
        self._first = np.flatnonzero(np.r_[True, np.diff(sources) != 0])
        self._sources = sources[self._first]
        self.settled = False
        """Whether a step farther changes no set any more."""

    def advance(self) -> None:
        """Go one step farther."""
        farther = np.zeros_like(self._sets)
        farther[self._sources] = np.bitwise_or.reduceat(self._sets[self._successors], self._first, axis=0)
        self.settled = np.array_equal(farther, self._sets)
        self._sets = farther

    def digits(self, numbers: Int64[ndarray, " V"]) -> UInt64[ndarray, "digits graphs W"]:
        """The nodes that have each binary digit of a number >= 0, a set for each graph: what ``counts`` asks for."""
        found = np.zeros((int(numbers.max()).bit_length(), int(self._graph.max()) + 1, self._sets.shape[1]), np.uint64)
        for digit, members in enumerate(found):
            nodes = np.flatnonzero(numbers >> digit & 1)
            np.bitwise_or.at(members, (self._graph[nodes], self._word[nodes]), np.uint64(1) << self._shift[nodes])
        return found

    def counts(self, digits: UInt64[ndarray, "digits graphs W"]) -> Int64[ndarray, " V"]:
        """The sum of a whole number over the members of each set, ``(V,)``, by its binary digits."""
        total = np.zeros(len(self._sets), dtype=np.int64)
        for digit, members in enumerate(digits):
            total += np.bitwise_count(self._sets & members[self._graph]).sum(axis=1, dtype=np.int64) << digit
        return total

    def sums(self, numbers: Float64[ndarray, " V"]) -> Float64[ndarray, " V"]:
        """The sum of a number over the members of each set, ``(V,)``; quick where few nodes have any but 0."""
        nodes = np.flatnonzero(numbers)
        nodes = nodes[np.argsort(self._graph[nodes], kind="stable")]
        graphs = self._graph[nodes]
        rank = np.arange(len(nodes)) - np.searchsorted(graphs, graphs)
        shape = int(self._graph.max()) + 1, int(rank.max(initial=-1)) + 1
        word, shift = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.uint64)
        weight = np.zeros(shape)
        word[graphs, rank], shift[graphs, rank], weight[graphs, rank] = (
            self._word[nodes],
            self._shift[nodes],
            numbers[nodes],
        )
        held = self._sets[np.arange(len(numbers))[:, None], word[self._graph]] >> shift[self._graph] & np.uint64(1)
        total: Float64[ndarray, " V"] = (held * weight[self._graph]).sum(axis=1)
        return total
