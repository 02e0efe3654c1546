"""A policy from a checkpoint."""

import contextlib
import pickle
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, cast

import torch
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils._validators import validate_repo_id
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from gigpo_lightning.errors import ShapeUnknownError
from modules.compilation import check_compiler
from modules.finite import first_not_finite
from modules.model_folder import check_model, why_not
from modules.policy import Policy
from modules.stored_weights import StoredWeights, stored_weights
from modules.tokenizer import TransformersTokenizer


class PretrainedPolicy:
    """A policy from a checkpoint: a local folder, or a name on the model hub.

    Args:
        model: Folder or hub name of the checkpoint.
        gguf_file: Name of a GGUF file in that folder or repository; its weights are dequantized to ``dtype``, trained,
            and exported as any others. Needs the extra ``gguf``.
        dtype: Type of the weights that are trained.
        attention: Attention implementation, as Transformers names it; default: what suits the model and its device.
        gradient_checkpointing: Recompute activations in the backward pass: less memory, about a third more time.
        compile: Compile the model's blocks with ``torch.compile`` when they are first called: half a minute at the
            start, then fewer passes over memory in each update. Needs a C++ compiler.
        trust_remote_code: Run code that the checkpoint brings along. Never unless you ask for it.

    Raises:
        ImportError: If a GGUF file is to be read, and what reads it is not installed.
        ValueError: If ``model`` cannot be loaded, a weight is not finite, its tokenizer lacks an end token, or nothing
            can compile it.
    """

    def __init__(
        self,
        model: str,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        attention: str | None = None,
        gradient_checkpointing: bool = False,
        trust_remote_code: bool = False,
        gguf_file: str | None = None,
        compile: bool = False,
    ) -> None:
        missing = [name for name in ("gguf", "accelerate") if find_spec(name) is None] if gguf_file else []
        if missing:
            raise ImportError(
                f"gguf_file needs the package {missing[0]}, which is not installed. Install the extra 'gguf'"
            )
        if compile:
            check_compiler("compile")
        self.model = model
        self.dtype = dtype
        self.attention = attention
        self.gradient_checkpointing = gradient_checkpointing
        self.trust_remote_code = trust_remote_code
        self.gguf_file = gguf_file
        self.compile = compile

    def skeleton(self) -> Policy:
        """The policy without its weights, on the meta device, from what is on disk; nothing is fetched.

        Raises:
            ShapeUnknownError: If it is on the hub, and not on disk yet.
            ValueError: If it cannot be loaded.
        """
        check_model(self.model)
        here: dict[str, Any] = {"trust_remote_code": self.trust_remote_code, "local_files_only": True}
        self._check_gguf()
        try:
            config = AutoConfig.from_pretrained(self.model, gguf_file=self.gguf_file, **here)
            tokenizer = _load_tokenizer(self.model, gguf_file=self.gguf_file, **here)
        except (OSError, ValueError) as error:
            if _may_be_on_hub(self.model):
                raise ShapeUnknownError(f"{self.model} is not on this disk") from error
            raise ValueError(why_not(self.model, error)) from error
        # What attends quickly may be missing where a run is planned, and changes no shape.
        attention = "sdpa" if str(self.attention).startswith("flash") else self.attention
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(
                config, attn_implementation=attention, trust_remote_code=self.trust_remote_code
            )
        return Policy(model, TransformersTokenizer(tokenizer), self.attention)

    def unloaded(self) -> tuple[Policy, StoredWeights] | None:
        """The policy on the meta device, in all but its weights as ``build`` makes it, and its weights in their files.

        None if they have to be loaded whole.
        """
        if self.gguf_file is not None:
            return None
        with self._loading():
            config = AutoConfig.from_pretrained(self.model, trust_remote_code=self.trust_remote_code)
            with torch.device("meta"):
                model = AutoModelForCausalLM.from_config(config, **self._options).eval()
            with contextlib.suppress(OSError):  # not every checkpoint has one
                model.generation_config = GenerationConfig.from_pretrained(self.model)
            weights = stored_weights(self.model, model)
            tokenizer = _load_tokenizer(self.model, self.trust_remote_code)
        return None if weights is None else (self._policy(model, tokenizer), weights)

    def build(self) -> Policy:
        """Load the checkpoint and its tokenizer."""
        with self._loading():
            self._check_gguf()
            model = AutoModelForCausalLM.from_pretrained(self.model, gguf_file=self.gguf_file, **self._options)
            tokenizer = _load_tokenizer(self.model, self.trust_remote_code, gguf_file=self.gguf_file)
        if self.gguf_file is not None:
            _forget_quantization(model)
        if name := first_not_finite(model.named_parameters()):  # a safetensors file has no checksum
            raise ValueError(
                f"model must be a checkpoint of finite weights, got {self.model!r}, in which {name} is not"
            )
        return self._policy(model, tokenizer)

    @property
    def _options(self) -> dict[str, Any]:
        dtype = getattr(torch, self.dtype)
        return {"dtype": dtype, "attn_implementation": self.attention, "trust_remote_code": self.trust_remote_code}

    def _check_gguf(self) -> None:
        """Refuse a file that is not there: Transformers would look for it on the hub."""
        folder = Path(self.model)
        if self.gguf_file is not None and folder.is_dir() and not (folder / self.gguf_file).is_file():
            raise ValueError(f"gguf_file must be a file in {self.model!r}, got {self.gguf_file!r}")

    @contextlib.contextmanager
    def _loading(self) -> Iterator[None]:
        check_model(self.model)
        try:
            yield
        except (OSError, SafetensorError, pickle.UnpicklingError) as error:
            raise ValueError(why_not(self.model, error, _may_be_on_hub(self.model))) from error

    def _policy(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Policy:
        if self.gradient_checkpointing:
            model.gradient_checkpointing_enable()
        ends = model.generation_config.eos_token_id
        more = () if ends is None else (ends,) if isinstance(ends, int) else tuple(ends)
        return Policy(model, TransformersTokenizer(tokenizer, more), self.attention, compiled=self.compile)


def _may_be_on_hub(model: str) -> bool:
    """Whether a name that is no folder could be a model's on the hub."""
    try:
        validate_repo_id(model)
    except HFValidationError:
        return False
    return not Path(model).exists()


def _forget_quantization(model: PreTrainedModel) -> None:
    """Take away the marks of a file that was quantized: the weights are not, and could not be saved with them."""
    cast("Any", model).hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config


def _load_tokenizer(
    model: str, trust_remote_code: bool, local_files_only: bool = False, gguf_file: str | None = None
) -> PreTrainedTokenizerBase:
    """Load a checkpoint's tokenizer by the class that it names.

    AutoTokenizer goes by the architecture for some models: a Qwen2 with any other tokenizer would get Qwen's rules on
    the wrong vocabulary, and encode everything as nothing. A generic class means that tokenizer.json says it all.
    """
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code, "local_files_only": local_files_only}
    if gguf_file is not None:
        return cast("PreTrainedTokenizerBase", AutoTokenizer.from_pretrained(model, gguf_file=gguf_file, **options))
    named = get_tokenizer_config(model, **options).get("tokenizer_class")
    generic = named in ("TokenizersBackend", "PreTrainedTokenizerFast")
    loader = PreTrainedTokenizerFast if generic else AutoTokenizer
    tokenizer = loader.from_pretrained(model, **options)
    return cast("PreTrainedTokenizerBase", tokenizer)
