"""The tables for benchmarks/README.md, from the lines of a folder."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpu_stages.lines import read_file
from gpu_stages.stages import STAGES

Line = dict[str, Any]
Column = str | Callable[[Line], Any]


@dataclass(frozen=True, kw_only=True)
class Table:
    """What of a stage's lines becomes a table.

    Attributes:
        title: Above it.
        stage: Whose lines.
        needs: A line without this figure has no row.
        values: Nor has one with other values.
        columns: Their titles, and the figure of a line or what is made of it.
    """

    title: str
    stage: str
    needs: str
    values: Mapping[str, Any] = field(default_factory=dict)
    columns: Mapping[str, Column]

    def rows(self, lines: list[Line]) -> list[list[str]]:
        """Cells as text."""
        chosen = [line for line in lines if line["stage"] == self.stage and self.needs in line]
        chosen = [line for line in chosen if all(line.get(name) == value for name, value in self.values.items())]
        return [
            [shown(line.get(column) if isinstance(column, str) else column(line)) for column in self.columns.values()]
            for line in chosen
        ]


def _ratio(above: str, below: str) -> Column:
    return lambda line: line[above] / line[below] if line.get(above) and line.get(below) else None


def _percent(name: str) -> Column:
    return lambda line: None if line.get(name) is None else f"{line[name]:.2%}"


def _of_metrics(name: str) -> Column:
    return lambda line: line.get("metrics", {}).get(name)


def _outcome(line: Line) -> str:
    return " ".join(str(line[name]) for name in ("out_of_memory", "failed", "skipped") if line.get(name))


_TAILS: dict[str, Column] = {
    "tokens": "tokens_compared",
    "mean, nats": "mean",
    "p99": "p99",
    "largest": "max",
    "beyond .18": _percent("share_beyond_clip"),
}
_RATES: dict[str, Column] = {"tokens/s": "tokens_per_second", "MFU": _percent("mfu")}

TABLES = (
    Table(
        title="The project's tests on this device",
        stage="tests",
        needs="exit_code",
        columns={"tests": lambda line: " ".join(line["files"]), "passed": "passed", "failed": "failed"},
    ),
    Table(
        title="Engines' tests on this device",
        stage="engine_tests",
        needs="exit_code",
        columns={"tests": lambda line: " ".join(line["files"]), "passed": "passed", "failed": "failed"},
    ),
    Table(
        title="fsdp2 on one device",
        stage="sharded",
        needs="backend",
        columns={"part": "part", "backend": "backend", "epochs": "iteration", "updates": "updates", "s": "run_seconds"},
    ),
    Table(
        title="Memory of an update, predicted against measured",
        stage="memory",
        needs="budget",
        columns={
            "tokens of a micro-batch, at most": "budget",
            "of the largest": "largest_micro_batch",
            "predicted, GiB": "predicted_gib",
            "measured, GiB": "peak_gib",
            "measured / predicted": _ratio("peak_gib", "predicted_gib"),
            "reserved, GiB": "reserved_gib",
            **_RATES,
            "": _outcome,
        },
    ),
    Table(
        title="Attention, forward and backward",
        stage="attention",
        needs="way",
        columns={
            "length": "length",
            "way": "way",
            "tokens/s": "tokens_per_second",
            "MFU of the rows' work": _percent("mfu_of_rows"),
            "GiB": "peak_gib",
            "off from rows, nats": "off_from_rows",
            "": _outcome,
        },
    ),
    Table(
        title="Update",
        stage="update",
        needs="budget",
        columns={
            "strategy": "strategy",
            "attention": "attention",
            **_RATES,
            "s": "update_seconds",
            "GiB": "peak_gib",
        },
    ),
    Table(
        title="Where an update's time goes",
        stage="update",
        needs="longest",
        columns={
            "strategy": "strategy",
            "operations, ms": lambda line: ", ".join(
                f"{each['name']} {each['ms']:.1f}" for each in line["longest"][:8]
            ),
        },
    ),
    Table(
        title="Engine: start",
        stage="engine",
        needs="start_seconds",
        columns={
            "s": "start_seconds",
            "runner": "model_runner",
            "tokens in the cache": "cache_tokens",
            "free after it, GiB": "free_gib",
        },
    ),
    Table(
        title="Engine: sync and its proof",
        stage="engine",
        needs="sync_seconds",
        values={"what": "sync"},
        columns={
            "sync": "number",
            "s": "sync_seconds",
            "loading alone, s": "load_seconds",
            "log-probabilities apart by, nats": "max_abs_logprob_error",
            "all measures": lambda line: ", ".join(f"{name} {shown(value)}" for name, value in measures(line).items()),
        },
    ),
    Table(
        title="Engine: sleep and wake",
        stage="engine",
        needs="sleep_seconds",
        columns={
            "sleep, s": "sleep_seconds",
            "wake, s": "wake_seconds",
            "sync, s": "sync_seconds",
            "free before, GiB": "free_before",
            "asleep": "free_asleep",
            "awake": "free_awake",
        },
    ),
    Table(
        title="Engine against trainer: probes",
        stage="engine",
        needs="share_beyond_clip",
        columns={"weights": "weights", **_TAILS},
    ),
    Table(
        title="Engine: decoding",
        stage="decode",
        needs="decode_seconds",
        columns={
            "runner": "runner",
            "graphs": "graphs",
            "seeds": "seeded",
            "tokens/s": "tokens_per_second",
            **_TAILS,
        },
    ),
    Table(
        title="Two epochs, end to end",
        stage="end_to_end",
        needs="epoch",
        columns={
            "engine": "engine",
            "epoch": "epoch",
            "iteration, s": _of_metrics("time/iteration"),
            "rollout, s": _of_metrics("time/rollout"),
            "update, s": _of_metrics("time/update"),
            "sync, s": _of_metrics("sync/seconds"),
            "clip fraction": _of_metrics("loss/clip_fraction"),
            "GiB": "peak_gib",
        },
    ),
    Table(
        title="ALFWorld scenes, after imitation and after GiGPO",
        stage="real_run",
        needs="success",
        columns={
            "model": "model",
            "games": "split",
            "number": "games",
            "version": "version",
            "success": _percent("success"),
            "s since the start": "since_start",
        },
    ),
)

_NOT_MEASURES = {
    "what",
    "number",
    "sync_seconds",
    "load_seconds",
    "at",
    "stage",
    "part",
    "shape",
    "arguments",
    "device",
    "python",
}


def measures(line: Line) -> Line:
    """What the sync's callback has measured."""
    return {name: value for name, value in line.items() if name not in _NOT_MEASURES and name != "versions"}


def report(folder: Path) -> str:
    """Markdown of all tables that have a row, for every shape and device that the folder has lines of."""
    texts = []
    for (shape, device), lines in sorted(by_machine(folder).items()):
        versions = ", ".join(f"{name} {number}" for name, number in lines[-1]["versions"].items())
        texts.append(f"### {shape} on {device}\n\n{versions}, Python {lines[-1]['python']}\n")
        for table in TABLES:
            rows = table.rows(lines)
            if rows:
                texts.append(f"**{table.title}**\n\n{markdown(list(table.columns), rows)}")
        texts.append(f"**Parts**\n\n{markdown(['part', 'outcome', 's', ''], list(_outcomes(lines)))}")
    return "\n".join(texts)


def by_machine(folder: Path) -> dict[tuple[str, str], list[Line]]:
    """The lines of the last run of each part, for each shape and device, in the order of the stages."""
    found: dict[tuple[str, str], list[Line]] = {}
    for stage in STAGES.values():
        for part in stage.parts:
            runs: dict[tuple[str, str], list[Line]] = {}
            begun: list[Line] = []
            for line in read_file(folder / f"{stage.name}.{part}.jsonl"):
                begun.append(line)
                runs[line["shape"], line["device"]] = begun
                if "outcome" in line:
                    begun = []
            for key, lines in runs.items():
                found.setdefault(key, []).extend(lines)
    return found


def _outcomes(lines: list[Line]) -> Iterator[list[str]]:
    reasons: dict[str, list[str]] = {}
    for line in lines:
        name = f"{line['stage']}.{line['part']}"
        if _outcome(line) and line["stage"] not in {"memory", "attention"}:
            reasons.setdefault(name, []).append(_outcome(line))
        if "outcome" in line:
            why = [*reasons.get(name, []), *line.get("last_lines", [])[-1:], *filter(None, [line.get("reason")])]
            yield [name, line["outcome"], shown(line.get("seconds")), "; ".join(why)]


def markdown(titles: list[str], rows: list[list[str]]) -> str:
    """A table."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |\n" for line in lines)


def shown(value: Any) -> str:
    """A cell: whole numbers with separators, others with three digits that count."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, int) or (isinstance(value, float) and abs(value) >= 1000):
        return f"{value:,.0f}"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
