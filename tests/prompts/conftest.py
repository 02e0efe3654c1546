"""The tokenizer of a real model, for tests that want one."""

import pytest
from transformers import AutoTokenizer

from modules.tokenizer import TransformersTokenizer
from tests.smollm2 import GGUF, smollm2_folder


@pytest.fixture(scope="session")
def smollm2() -> TransformersTokenizer:
    """SmolLM2's."""
    return TransformersTokenizer(AutoTokenizer.from_pretrained(str(smollm2_folder()), gguf_file=GGUF))
