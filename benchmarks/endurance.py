"""Ten thousand episodes in one process: does anything grow?

    python benchmarks/endurance.py [--config configs/alfworld/tiny_cpu.yaml] [--episodes 10000]

Plays rollout after rollout on the config's engine and environment, with worker processes, and notes after each the
resident memory of the trainer's process and of the workers, their open files, and the files in the temporary folder.
"""

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from callbacks import WeightSync
from gigpo_lightning.cli import build_cli, share_the_machine
from gigpo_lightning.rollout import Collector, make_pool
from gigpo_lightning.rollout.tasks import epoch_tasks

OUT = Console(width=110)


def footprint(pool: Any) -> tuple[float, float, int, int]:
    """Resident memory of this process and of the workers in GiB, open files of all, and temporary files."""
    me, workers = psutil.Process(), [psutil.Process(process.pid) for process in pool.processes]
    open_files = sum(process.num_fds() for process in (me, *workers))
    temporary = sum(1 for path in Path(tempfile.gettempdir()).rglob("*") if path.is_file())
    resident = [process.memory_info().rss / (1 << 30) for process in (me, *workers)]
    return resident[0], sum(resident[1:]), open_files, temporary


def main() -> None:
    """Play, and print a table of every thousand episodes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/alfworld/tiny_cpu.yaml")
    parser.add_argument("--episodes", type=int, default=10000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="endurance-") as folder:
        os.environ["TMPDIR"], tempfile.tempdir = folder, None  # nobody else's files are counted
        share_the_machine()
        cli: Any = build_cli(["--config", arguments.config], run=False)
        data, module = cli.datamodule, cli.model
        data.prepare_data()
        module.configure_model()
        WeightSync().sync(module, data.player.engine)
        panel = data.player.tasks.panel(data.player.train_split)
        pool = make_pool(
            data.player.environment, data.player.tasks_per_epoch * data.player.group_size, data.player.workers
        )
        collector = Collector(
            engine=data.player.engine,
            pool=pool,
            prompt=data.player.prompt,
            tokenizer=module.policy.tokenizer,
            sampling=data.player.sampling,
            max_steps=data.player.max_steps,
            seed=0,
        )
        report = Table("episodes", "trainer GiB", "workers GiB", "open files", "temporary files")
        played = epoch = steps = 0
        rows: list[tuple[float, float, int, int]] = []
        while played < arguments.episodes:
            tasks = epoch_tasks(panel, data.player.tasks_per_epoch, epoch, 0)
            _, progress = collector.play(tasks, data.player.group_size, noise_key=epoch, name=f"rollout {epoch}")
            data.player.engine.load_weights(module.policy.named_weights(), module.policy_version)
            played, epoch, steps = played + progress.finished, epoch + 1, steps + progress.steps
            if played // 1000 > len(rows):
                rows.append(footprint(pool))
                main_gib, workers_gib, open_files, temporary = rows[-1]
                report.add_row(f"{played:,}", f"{main_gib:.3f}", f"{workers_gib:.3f}", f"{open_files}", f"{temporary}")
        pool.close()
        OUT.print(report)
        growth = [max(row[column] for row in rows) / rows[0][column] - 1 for column in (0, 1)]
        OUT.print(
            f"{played:,} episodes, {steps:,} steps: after the first thousand the trainer grew by {growth[0]:.1%}, the "
            f"workers by {growth[1]:.1%}, open files by {rows[-1][2] - rows[0][2]}, temporary files by "
            f"{rows[-1][3] - rows[0][3]}"
        )


if __name__ == "__main__":
    main()
