"""The callback that counts held-out episodes, each once, and prints at the end what training gained."""

import json
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torchmetrics import MeanMetric

from callbacks.showing import show_figure
from callbacks.watching import show_first
from gigpo_lightning.averages import batch_means
from gigpo_lightning.confidence import paired_bootstrap
from gigpo_lightning.disk import whole_lines
from gigpo_lightning.errors import check_count
from gigpo_lightning.figures import (
    EvaluatedEpisode,
    as_lines,
    changes_by_kind,
    draw_outcomes,
    outcomes_by_kind,
    with_total,
)
from gigpo_lightning.ranks import gather, interleave
from gigpo_lightning.rollout.player import HeldOutGroups
from gigpo_lightning.rollout.replies import ReplyCounts
from gigpo_lightning.text import as_rate, count
from gigpo_lightning.trajectory import Trajectory
from gigpo_lightning.where_to_look import where_to_look

_logger = logging.getLogger(__name__)
_MOST = 0.5  # share of invalid replies that the log's line has


class HeldOutEvaluation(Callback):
    """Logs ``held_out/<split>/…`` and writes every held-out episode as one line of ``evaluations.jsonl``.

    The evaluation before the first update is Lightning's sanity check: set ``trainer.num_sanity_val_steps: -1``. When
    the fit ends, the first and the last evaluation of each split are compared, game by game.

    ``success_rate`` counts every task once, so that large kinds weigh more; ``<kind>/success_rate`` is each kind's own,
    and ``success_rate_kind_mean`` their plain mean, as papers print it for several question sets. Published search
    results are neither: the reference code averages over batches, and a kind whose last items fall into the next batch
    has these few weigh as much as all others. Compare with ``success_rate_batch_mean`` and
    ``<kind>/success_rate_batch_mean``, and believe the others.

    The replies' lengths, the share that was cut, their entropy and ``problems/…``, the share that broke each rule, are
    logged as those of the rollout are.

    A figure, ``held_out/<split>/outcomes``, counts by kind how episodes ended and which games were won in the first
    evaluation and in this one. The run's folder keeps the first and the latest in ``figures/``. Where no logger shows
    figures the log has the same in lines.

    Args:
        file_name: Name of the record in the run's folder.
        batch_mean_size: Also log what the reference code's mean over batches of so many tasks, in the panel's order,
            would be; its search script has 512. Default: no.
        enabled: Count and write anything at all; ``trainer.limit_val_batches: 0`` leaves the evaluations out.

    Raises:
        ValueError: If ``batch_mean_size`` is not positive.
    """

    def __init__(
        self, file_name: str = "evaluations.jsonl", batch_mean_size: int | None = None, enabled: bool = True
    ) -> None:
        if batch_mean_size is not None:
            check_count("batch_mean_size", batch_mean_size)
        self.file_name = file_name
        self.batch_mean_size = batch_mean_size
        self.enabled = enabled
        # split -> evaluations, each the policy's version and the success rate of every task over its repeats
        self.evaluations: dict[str, list[tuple[int, dict[str, float]]]] = defaultdict(list)
        self._metrics: dict[str, MeanMetric] = {}

    def state_dict(self) -> dict[str, Any]:
        """The evaluations, so that the last line of a resumed run compares with the first of all."""
        return {"evaluations": dict(self.evaluations)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the evaluations."""
        self.evaluations = defaultdict(list, state_dict["evaluations"])

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Have the evaluation before the first update left out: it is in the checkpoint."""
        kept = checkpoint.get("callbacks", {}).get(self.state_key, {})
        if kept.get("evaluations"):
            trainer.num_sanity_val_steps = 0

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count anew."""
        self._metrics = {}

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *args: Any, **kwargs: Any
    ) -> None:
        """Count the episodes and write them down."""
        if isinstance(outputs, HeldOutGroups) and self.enabled:
            self._count(trainer, outputs)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log what was counted."""
        values = {name: float(metric.compute()) for name, metric in self._metrics.items()}
        if trainer.sanity_checking:  # in which Lightning drops what is logged
            for logger in trainer.loggers:
                logger.log_metrics(values, step=trainer.global_step)
                logger.save()  # a run that is killed and goes on does not evaluate again what came first
        else:
            pl_module.log_dict(values, sync_dist=True)
        for name, value in values.items():
            if name.endswith("/success_rate") and name.count("/") == 2:
                show_first(trainer, f"held_out_{name.split('/')[1]}", value)
                invalid = values.get(name.replace("success_rate", "invalid_action_rate"), 0.0)
                told = f", invalid {as_rate(invalid)}" if invalid >= _MOST else ""
                _logger.info(
                    "%s %s at version %d%s", name, as_rate(value), getattr(pl_module, "policy_version", 0), told
                )

    on_test_epoch_start = on_validation_epoch_start
    on_test_batch_end = on_validation_batch_end
    on_test_epoch_end = on_validation_epoch_end

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what training was worth."""
        for line in self.summary(trainer):
            _logger.info(line)

    def summary(self, trainer: Trainer) -> list[str]:
        """The first against the last evaluation of each split, and where to look further."""
        lines = []
        for split, evaluations in self.evaluations.items():
            (old, first), (new, last) = evaluations[0], evaluations[-1]
            if len(evaluations) < 2:
                success = sum(first.values()) / len(first)
                said = f"{as_rate(success)} at version {old}; no other to compare with"
                lines.append(f"held-out success on {split}: {said}")
                continue
            games = sorted(first.keys() & last.keys())
            before, after = ([evaluation[game] for game in games] for evaluation in (first, last))
            gain, low, high = paired_bootstrap(before, after)
            lines.append(
                f"held-out success on {split}: {as_rate(sum(before) / len(games))} before (version {old}), "
                f"{as_rate(sum(after) / len(games))} after (version {new})"
            )
            interval = f"[{as_rate(low, sign=True)}, {as_rate(high, sign=True)}]"
            lines.append(
                f"gain on {split}: {as_rate(gain, sign=True)} {interval}, 95 % paired bootstrap over "
                f"{count(len(games), 'game')}"
            )
        if trainer.log_dir is not None:
            lines.append(f"run folder: {trainer.log_dir}")
            boards = [each.log_dir for each in trainer.loggers if isinstance(each, TensorBoardLogger)]
            lines += where_to_look(Path(trainer.log_dir), boards)
        return lines

    def _count(self, trainer: Trainer, episodes: HeldOutGroups) -> None:
        """Count the episodes of all ranks, which have shared the games out among them; one writes them down."""
        ours = [[self._line(trainer, episodes, each) for each in group.trajectories] for group in episodes.groups]
        lines = [line for group in interleave(gather(ours)) for line in group]
        success: dict[str, list[bool]] = defaultdict(list)
        kinds: dict[str, str] = {}
        prefix = f"held_out/{episodes.split}"
        for line in lines:
            won = float(line["success"])
            figures = {"success_rate": won, "return": line["return"], "episode_length": float(line["steps"])}
            figures["invalid_action_rate"] = line["invalid_actions"] / max(1, line["steps"])
            for name, value in (line["metrics"] | figures | {f"{line['kind']}/success_rate": won}).items():
                self._update(f"{prefix}/{name}", value)
            success[line["task_id"]].append(line["success"])
            kinds[line["task_id"]] = line["kind"]
        for name, value in ReplyCounts.total(gather(ReplyCounts.of(episodes.groups))).metrics().items():
            self._update(f"{prefix}/{name.removeprefix('rollout/')}", value)
        rates = {task: sum(wins) / len(wins) for task, wins in success.items()}
        self._average(prefix, list(kinds.values()), list(rates.values()))
        self.evaluations[episodes.split].append((episodes.policy_version, rates))
        log_dir = trainer.log_dir  # asked on every rank: it is broadcast
        if trainer.is_global_zero:
            self._show(trainer, log_dir, episodes, lines, kinds)
        if log_dir is not None and trainer.is_global_zero:
            with whole_lines(Path(log_dir) / self.file_name) as record:
                record.writelines(json.dumps(line) + "\n" for line in lines)

    def _show(
        self,
        trainer: Trainer,
        log_dir: str | None,
        episodes: HeldOutGroups,
        lines: Sequence[dict[str, Any]],
        kinds: Mapping[str, str],
    ) -> None:
        """How the episodes ended, by kind, and what has changed since the first evaluation."""
        (first, before), (_, after) = (self.evaluations[episodes.split][number] for number in (0, -1))
        counted = [each.name for each in fields(EvaluatedEpisode)]
        ends = outcomes_by_kind([EvaluatedEpisode(**{name: line[name] for name in counted}) for line in lines])
        again = len(self.evaluations[episodes.split]) > 1
        changes = changes_by_kind(before, after, kinds) if again else {}
        title = f"held-out {episodes.split} at version {episodes.policy_version}, {count(len(lines), 'episode')}"
        title += f"; the first evaluation was at version {first}" if again else ""
        figure, moment = draw_outcomes(ends, changes, title), f"version_{episodes.policy_version}"
        if not show_figure(trainer, log_dir, f"held_out/{episodes.split}/outcomes", moment, figure):
            for line in (title, *as_lines(with_total(ends)), *as_lines(with_total(changes))):
                _logger.info(line)

    def _average(self, prefix: str, kinds: Sequence[str], rates: Sequence[float]) -> None:
        """Count each kind as one, whatever its size; and each batch, if asked for."""
        for (rate,) in batch_means(kinds, rates, len(rates)).values():
            self._update(f"{prefix}/success_rate_kind_mean", rate)
        if self.batch_mean_size is None:
            return
        for kind, means in batch_means(kinds, rates, self.batch_mean_size).items():
            for mean in means:
                self._update(f"{prefix}/{kind}/success_rate_batch_mean", mean)
            self._update(f"{prefix}/success_rate_batch_mean", sum(means) / len(means))

    def _line(self, trainer: Trainer, episodes: HeldOutGroups, trajectory: Trajectory) -> dict[str, Any]:
        return {
            "split": episodes.split,
            "epoch": trainer.current_epoch,
            "policy_version": episodes.policy_version,
            "temperature": episodes.temperature,
            "task_id": trajectory.task_id,
            "kind": trajectory.kind,
            "repeat": trajectory.episode_index,
            "success": trajectory.success,
            "return": trajectory.episode_return,
            "steps": len(trajectory.steps),
            "invalid_actions": sum(not step.valid_action for step in trajectory.steps),
            "stop_reason": str(trajectory.stop_reason),
            "metrics": dict(trajectory.metrics),
        }

    def _update(self, name: str, value: float) -> None:
        metric = self._metrics.setdefault(name, MeanMetric(sync_on_compute=False))
        metric.update(torch.tensor(value, dtype=torch.float64))
