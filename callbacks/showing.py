"""Where a run's figures and texts go: to every logger that can show them, and as files into the run's folder."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Trainer
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imsave

from callbacks.watching import logger_method
from gigpo_lightning.disk import whole_file
from gigpo_lightning.figures import Transcript

LATEST = 3
"""So many of a kind's files are kept beside the first."""

_NUMBER = re.compile(r"(\d+)\.\w+$")


def show_figure(trainer: Trainer, log_dir: str | None, tag: str, moment: str, figure: Figure) -> bool:
    """Show a figure, by the first rank alone.

    Args:
        trainer: Its loggers get the figure: by ``add_image`` of their experiment, or by their own ``log_image``.
        log_dir: The run's folder, which gets ``figures/<tag>/<moment>.png``; without one there is no file.
        tag: What is drawn, such as ``rollout/group``.
        moment: When, ending with a number, such as ``epoch_10``.
        figure: The figure; it is not used again.

    Returns:
        Whether a logger shows it.
    """
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    if log_dir is not None:
        path = Path(log_dir) / "figures" / tag / f"{moment}.png"
        _keep(path, lambda partial: imsave(partial, pixels, format="png"))
    is_shown = False
    for logger in trainer.loggers:
        if (add_image := logger_method(logger, "add_image")) is not None:
            add_image(tag, pixels, trainer.global_step, dataformats="HWC")
        elif (log_image := logger_method(logger, "log_image")) is not None:
            log_image(key=tag, images=[pixels], step=trainer.global_step)
        else:
            continue
        is_shown = True
    return is_shown


def show_transcripts(
    trainer: Trainer, log_dir: str | None, tag: str, moment: str, transcripts: Mapping[str, Transcript]
) -> None:
    """Show episodes to read, by the first rank alone.

    Args:
        trainer: Its loggers get each episode: as Markdown by ``add_text`` of their experiment, or as a table of its
            steps by their own ``log_table`` or ``log_text``.
        log_dir: The run's folder, which gets all of them in ``transcripts/<tag>/<moment>.md``; without one there is
            no file.
        tag: What played, such as ``held_out/valid_seen``; the names of the episodes follow it.
        moment: When, ending with a number, such as ``epoch_10``.
        transcripts: The episodes by their names, such as ``best``.
    """
    if log_dir is not None and transcripts:
        text = "\n\n".join(f"# {tag}/{name}, {moment}\n\n{each.markdown}" for name, each in transcripts.items())
        path = Path(log_dir) / "transcripts" / tag / f"{moment}.md"
        _keep(path, lambda partial: partial.write_text(f"{text}\n"))
    for logger in trainer.loggers:
        add_text = logger_method(logger, "add_text")
        log_table = logger_method(logger, "log_table") or logger_method(logger, "log_text")
        for name, each in transcripts.items():
            if add_text is not None:
                add_text(f"{tag}/{name}", each.markdown, trainer.global_step)
            elif log_table is not None:
                log_table(key=f"{tag}/{name}", columns=each.columns, data=each.rows, step=trainer.global_step)


def _keep(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file, and remove all others of its folder but the first and the latest."""
    with whole_file(path) as partial:
        write(partial)
    numbered = {each: int(found[1]) for each in path.parent.iterdir() if (found := _NUMBER.search(each.name))}
    for old in sorted(numbered, key=numbered.__getitem__)[1:-LATEST]:
        old.unlink(missing_ok=True)
