"""The project's own tests, on the device that is there."""

import importlib
import warnings
from pathlib import Path
from typing import Any

from gpu_stages.lines import Recorder, installed

ROOT = Path(__file__).resolve().parents[2]
FILES = {
    "tokens": ["tests/test_batch.py", "tests/test_token_batch.py"],
    "modules": ["tests/modules"],
    "engines": ["tests/engines/test_engines.py"],
}
_TINY = {"tokens": ["tests/test_token_batch.py"], "modules": ["tests/modules/test_token_logprobs.py"]}
_MOST_NAMED = 40


def suites(part: str, shape: str, recorder: Recorder) -> None:
    """Run a part of the tests, and name what failed; the tracebacks are in the part's output."""
    missing = [name for name in ("pytest", "hypothesis") if not installed(name)]
    if missing:
        recorder.skip(f"no {', '.join(missing)}")
        return
    files = (_TINY if shape == "tiny" else {}).get(part, FILES[part])
    counts = Counts()
    options = ["-q", "-p", "no:cacheprovider", "-o", "addopts=--import-mode=importlib", f"--rootdir={ROOT}"]
    if part == "engines":
        options += ["-k", _engines(shape)]
    pytest = importlib.import_module("pytest")
    warnings.filterwarnings("ignore")
    code = pytest.main([*options, *(str(ROOT / file) for file in files)], plugins=[counts])
    recorder.line(files=files, exit_code=int(code), **counts.figures())


def _engines(shape: str) -> str:
    """Which engines' tests can run: a server needs this project to be installed, for vLLM to find its plugin."""
    if shape == "tiny":
        return "transformers and untied and (sync or stop)"
    plugins = importlib.import_module("importlib.metadata").entry_points(group="vllm.general_plugins")
    wanted = ["transformers", *(["vllm"] if installed("vllm") else [])]
    if "gigpo" in plugins.names:
        wanted.append("server")
    return " or ".join(wanted)


class Counts:
    """A plugin of pytest that counts outcomes, and keeps the names of what failed."""

    def __init__(self) -> None:
        self.outcomes: dict[str, int] = {}
        self.failed: list[str] = []

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Count a test once: at its call, or where its set-up did not let it get there."""
        if report.when == "call" or report.outcome != "passed":
            self.outcomes[report.outcome] = self.outcomes.get(report.outcome, 0) + 1
            if report.outcome == "failed":
                self.failed.append(report.nodeid)

    def pytest_collectreport(self, report: Any) -> None:
        """Count a file that cannot be imported as failed."""
        if report.outcome == "failed":
            self.outcomes["failed"] = self.outcomes.get("failed", 0) + 1
            self.failed.append(report.nodeid)

    def figures(self) -> dict[str, Any]:
        """Counts by outcome, and names."""
        return {**self.outcomes, "failed_tests": self.failed[:_MOST_NAMED]}
