"""A tokenizer of bytes and pairs with a chat template, as Qwen's is, made in a moment."""

from functools import lru_cache

from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from modules.tokenizer import TransformersTokenizer

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
WRITTEN = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
CORPUS = (
    "you are at row 2 column 1 . the goal is at row 0 . walls none",
    '{"name": "search", "arguments": {"query": "who wrote it"}}',
    "go to the cabinet 1 and take the mug 2 from the fridge 1",
)

_TOOLS = (
    "{% if tools %}<|im_start|>system\n"
    "{% if messages[0].role == 'system' %}{{ messages[0].content }}\n{% endif %}"
    "Call one of <tools>{% for tool in tools %}\n{{ tool | tojson }}{% endfor %}\n</tools><|im_end|>\n"
    "{% elif messages[0].role == 'system' %}<|im_start|>system\n{{ messages[0].content }}<|im_end|>\n{% endif %}"
)
_OTHERS = (
    "{% if m.role == 'tool' %}<|im_start|>user\n<tool_response>\n{{ m.content }}\n</tool_response><|im_end|>\n"
    "{% elif m.role == 'user' %}<|im_start|>user\n{{ m.content }}<|im_end|>\n"
)
_END = "{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
KEEPING = (
    _TOOLS
    + "{% for m in messages %}"
    + _OTHERS
    + "{% elif m.role == 'assistant' %}<|im_start|>assistant\n{{ m.content }}<|im_end|>\n"
    + _END
    + "{% endif %}"
)
"""Writes every message as it is."""
STRIPPING = (
    _TOOLS
    + "{% for m in messages %}"
    + _OTHERS
    + "{% elif m.role == 'assistant' %}<|im_start|>assistant\n"
    + "{{ m.content.split('</think>')[-1].lstrip('\\n') }}<|im_end|>\n"
    + _END
    + "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
"""Leaves the thinking of earlier replies out, and writes an empty one for a reply that is not to think."""
TRIMMING = KEEPING.replace("m.content }}", "m.content | trim }}")
"""Trims every message."""
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + KEEPING
"""Takes no system's message."""
CHOOSY = "{% if messages | length > 2 %}{{ raise_exception('too long') }}{% endif %}" + KEEPING
"""Takes a single turn."""
CALLS_IN_ENTRIES = (
    _TOOLS
    + "{% for m in messages %}{% if m.role == 'user' %}<|im_start|>{{ m.content }}<|im_end|>"
    + "{% elif m.tool_calls is defined %}[TOOL_CALLS] [{% for call in m.tool_calls %}{{ call.function | tojson }}"
    + "{% endfor %}]<|im_end|>"
    + "{% elif m.role == 'tool' and messages[loop.index0 - 1].tool_calls is not defined %}"
    + "{{ raise_exception('a result without a call') }}"
    + "{% elif m.role == 'tool' %}[TOOL_RESULTS]{{ m.tool_call_id }} {{ m.content }}[/TOOL_RESULTS]"
    + "{% elif m.role == 'assistant' %}{{ m.content }}<|im_end|>{% endif %}{% endfor %}"
)
"""Takes a tool's result only after calls that are a message's own entry, as Mistral's templates do."""


@lru_cache
def chat_tokenizer(template: str = KEEPING) -> TransformersTokenizer:
    """The tokenizer with one of the templates."""
    backend = Tokenizer(BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(CORPUS, BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False))
    backend.add_special_tokens([AddedToken(each, special=True, normalized=False) for each in SPECIAL])
    backend.add_tokens([AddedToken(each, special=False, normalized=False) for each in WRITTEN])
    made = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    made.chat_template = template
    return TransformersTokenizer(made)
