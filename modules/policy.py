"""The policy network, and where it comes from.

Shape letters: S = replies of a micro-batch, R = tokens of the longest, A = tokens of all; B, T = its rows and their
length; H = width of the hidden states.
"""

import contextlib
import pickle
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, cast, runtime_checkable

import torch
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils._validators import validate_repo_id
from jaxtyping import Bool, Float
from safetensors import SafetensorError
from tokenizers import Tokenizer as WordTokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from gigpo_lightning.errors import ShapeUnknownError, check_count, check_seed
from gigpo_lightning.token_batch import Layout, TokenBatch
from modules.finite import first_not_finite
from modules.stored_weights import StoredWeights, stored_weights
from modules.token_logprobs import token_logprobs
from modules.tokenizer import TransformersTokenizer

_WIDEST = 1 << 16
PAD, UNKNOWN, END = "<pad>", "<unk>", "<end>"


class Policy(nn.Module):
    """A causal language model that says how likely its own replies are.

    Args:
        model: The language model.
        tokenizer: Its tokenizer.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: TransformersTokenizer) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer

    @property
    def blocks(self) -> list[nn.Module]:
        """The decoder blocks, in order: what a strategy shards one by one."""
        names = set(getattr(self.model, "_no_split_modules", None) or ())
        return [module for module in self.model.modules() if type(module).__name__ in names]

    @property
    def layout(self) -> Layout:
        """How its attention wants prompts and replies: a prompt once for all its replies, if it takes any mask.

        Flash attention takes sequences side by side instead. A model whose layers do not all attend to everything
        before a token, as with sliding windows, has masks of its own and is given plain rows.
        """
        config = self.model.config
        attention = str(config._attn_implementation)
        if attention.startswith("flash"):
            return "packed"
        kinds = getattr(config, "layer_types", None)
        everything = all(kind == "full_attention" for kind in kinds) if kinds else not _has_window(config)
        return "shared" if attention == "sdpa" and everything else "rows"

    def forward(
        self, tokens: TokenBatch, temperature: float = 1.0
    ) -> tuple[Float[Tensor, "S R"], Float[Tensor, "S R"]]:
        """Log-probability of every token that the policy wrote, and the entropy it was drawn with.

        Logits are made only where a written token needs them, never for the prompt, and a chunk at a time.

        Args:
            tokens: Prompts and replies.
            temperature: The temperature they were sampled at: what the engine's processed logprobs are of.

        Returns:
            Log-probabilities and entropies in nats, float32 ``(S, R)``, exactly 0 off the mask.
        """
        hidden = self._hidden(tokens)
        before = tokens.source[tokens.action_mask]
        head = cast("nn.Linear", self.model.get_output_embeddings())
        # A prompt's last state is read once for each of its replies. The gradient of indexing adds them up in whatever
        # order threads arrive; this one's order is fixed, and it is quicker.
        states = nn.functional.embedding(before, hidden.flatten(0, 1))
        logprobs, entropy = token_logprobs(
            states,
            head.weight,
            tokens.reply_ids[tokens.action_mask],
            bias=head.bias,
            temperature=temperature,
        )
        return _spread(logprobs, tokens.action_mask), _spread(entropy, tokens.action_mask)

    def _hidden(self, tokens: TokenBatch) -> Float[Tensor, "B T H"]:
        """The last layer's states."""
        backbone = self.model.base_model
        mask = tokens.attention_mask()
        # Without a mask and with places in plain order attention may take its quickest way.
        places = None if tokens.layout == "rows" else tokens.position_ids
        output = backbone(input_ids=tokens.input_ids, attention_mask=mask, position_ids=places, use_cache=False)
        return cast("Tensor", output.last_hidden_state)

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Every weight by the name that its checkpoint gives it, tied ones under each of their names.

        Each is gathered when its turn comes, and not kept: two are never whole at once for this generator's sake.
        Feeding an engine from ``named_parameters()`` would leave out ``lm_head.weight`` of tied models, and an engine
        that keeps its own packed copy would go on sampling from the old one. Sharded weights are gathered one by one,
        which all ranks have to do together.
        """
        for name, weight in self.model.state_dict().items():
            yield name, whole(weight)

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """The whole shape of each of ``named_weights``, in its order; nothing is gathered."""
        return {name: tuple(weight.shape) for name, weight in self.model.state_dict().items()}

    def save_pretrained(self, folder: str | Path, weights: dict[str, Tensor] | None = None) -> None:
        """Write a folder that ``transformers`` loads and vLLM serves.

        Args:
            folder: Made if it is not there.
            weights: What ``named_weights`` gave; default: it is asked.
        """
        weights = self._with_ties(dict(self.named_weights()) if weights is None else weights)
        self.model.save_pretrained(folder, state_dict=weights)
        self.tokenizer.tokenizer.save_pretrained(folder)

    def _with_ties(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """The same weights, tied ones as one tensor, as they are known to be written once: copies are not."""
        first: dict[int, str] = {}
        named = self.model.state_dict(keep_vars=True)  # not those with adapters, which go by other names there
        return {name: weights[first.setdefault(id(named[name]), name) if name in named else name] for name in weights}


def whole(weight: Tensor) -> Tensor:
    """A weight as it is where nothing is sharded; all ranks have to ask for it together."""
    return weight.full_tensor() if isinstance(weight, DTensor) else weight


def _has_window(config: PretrainedConfig) -> bool:
    return bool(getattr(config, "sliding_window", None)) and getattr(config, "use_sliding_window", True)


def _spread(values: Float[Tensor, " A"], action_mask: Bool[Tensor, "S R"]) -> Float[Tensor, "S R"]:
    """Put one value per written token back into rows, 0 elsewhere."""
    rows = torch.zeros(action_mask.shape, dtype=values.dtype, device=values.device)
    return rows.masked_scatter(action_mask, values)


@runtime_checkable
class PolicySource(Protocol):
    """Where a policy comes from; chosen by ``class_path``."""

    def build(self) -> Policy:
        """Make the policy, ready to be trained."""


class PretrainedPolicy:
    """A policy from a checkpoint: a local folder, or a name on the model hub.

    Args:
        model: Folder or hub name of the checkpoint.
        dtype: Type of the weights that are trained.
        attention: Attention implementation, as Transformers names it.
        gradient_checkpointing: Recompute activations in the backward pass: less memory, about a third more time.
        trust_remote_code: Run code that the checkpoint brings along. Never unless you ask for it.

    Raises:
        ValueError: If ``model`` cannot be loaded, a weight is not finite, or its tokenizer lacks an end token.
    """

    def __init__(
        self,
        model: str,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        attention: str = "sdpa",
        gradient_checkpointing: bool = False,
        trust_remote_code: bool = False,
    ) -> None:
        self.model = model
        self.dtype = dtype
        self.attention = attention
        self.gradient_checkpointing = gradient_checkpointing
        self.trust_remote_code = trust_remote_code

    def skeleton(self) -> Policy:
        """The policy without its weights, on the meta device, from what is on disk; nothing is fetched.

        Raises:
            ShapeUnknownError: If it is on the hub, and not on disk yet.
            ValueError: If it cannot be loaded.
        """
        here: dict[str, Any] = {"trust_remote_code": self.trust_remote_code, "local_files_only": True}
        try:
            config = AutoConfig.from_pretrained(self.model, **here)
            tokenizer = _load_tokenizer(self.model, **here)
        except (OSError, ValueError) as error:
            if _may_be_on_hub(self.model):
                raise ShapeUnknownError(f"{self.model} is not on this disk") from error
            why = error if Path(self.model).exists() else "there is no such folder"
            raise ValueError(
                f"model must be a checkpoint folder or a hub name that can be loaded, got {self.model!r}: {why}"
            ) from error
        # What attends quickly may be missing where a run is planned, and changes no shape.
        attention = "sdpa" if self.attention.startswith("flash") else self.attention
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(
                config, attn_implementation=attention, trust_remote_code=self.trust_remote_code
            )
        return Policy(model, TransformersTokenizer(tokenizer))

    def unloaded(self) -> tuple[Policy, StoredWeights] | None:
        """The policy on the meta device, in all but its weights as ``build`` makes it, and its weights in their files.

        None if they have to be loaded whole.
        """
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
            model = AutoModelForCausalLM.from_pretrained(self.model, **self._options)
            tokenizer = _load_tokenizer(self.model, self.trust_remote_code)
        if name := first_not_finite(model.named_parameters()):  # a safetensors file has no checksum
            raise ValueError(
                f"model must be a checkpoint of finite weights, got {self.model!r}, in which {name} is not"
            )
        return self._policy(model, tokenizer)

    @property
    def _options(self) -> dict[str, Any]:
        dtype = getattr(torch, self.dtype)
        return {"dtype": dtype, "attn_implementation": self.attention, "trust_remote_code": self.trust_remote_code}

    @contextlib.contextmanager
    def _loading(self) -> Iterator[None]:
        try:
            yield
        except (OSError, SafetensorError, pickle.UnpicklingError) as error:
            raise ValueError(
                f"model must be a checkpoint folder or a hub name that can be loaded, got {self.model!r}: {error}"
            ) from error

    def _policy(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Policy:
        if self.gradient_checkpointing:
            model.gradient_checkpointing_enable()
        ends = model.generation_config.eos_token_id
        more = () if ends is None else (ends,) if isinstance(ends, int) else tuple(ends)
        return Policy(model, TransformersTokenizer(tokenizer, more))


def _may_be_on_hub(model: str) -> bool:
    """Whether a name that is no folder could be a model's on the hub."""
    try:
        validate_repo_id(model)
    except HFValidationError:
        return False
    return not Path(model).exists()


def _load_tokenizer(model: str, trust_remote_code: bool, local_files_only: bool = False) -> PreTrainedTokenizerBase:
    """Load a checkpoint's tokenizer by the class that it names.

    AutoTokenizer goes by the architecture for some models: a Qwen2 with any other tokenizer would get Qwen's rules on
    the wrong vocabulary, and encode everything as nothing. A generic class means that tokenizer.json says it all.
    """
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code, "local_files_only": local_files_only}
    named = get_tokenizer_config(model, **options).get("tokenizer_class")
    generic = named in ("TokenizersBackend", "PreTrainedTokenizerFast")
    loader = PreTrainedTokenizerFast if generic else AutoTokenizer
    tokenizer = loader.from_pretrained(model, **options)
    return cast("PreTrainedTokenizerBase", tokenizer)


class TinyPolicy:
    """A small Qwen2 with random weights and a word-level tokenizer, for CPUs, tests and demonstrations.

    Args:
        vocabulary: Functions that list the words and markers that it reads and writes.
        hidden_size: Width of the residual stream.
        num_layers: Number of decoder blocks.
        num_heads: Number of attention heads; vLLM on CPUs wants them at least 32 wide.
        intermediate_size: Width of the feed-forward layers.
        max_length: Longest prompt plus reply, in tokens.
        tie_embeddings: Whether the output layer is the input embedding.
        seed: Seed of the weights.

    Raises:
        ValueError: If a number is out of its range.
    """

    def __init__(
        self,
        vocabulary: list[Callable[[], Sequence[str]]],
        hidden_size: int = 64,
        num_layers: int = 2,
        num_heads: int = 2,
        intermediate_size: int = 128,
        max_length: int = 512,
        tie_embeddings: bool = True,
        seed: int = 0,
    ) -> None:
        for name, size in {
            "hidden_size": hidden_size,
            "num_layers": num_layers,
            "num_heads": num_heads,
            "intermediate_size": intermediate_size,
        }.items():
            check_count(name, size, 1, _WIDEST)
        check_count("max_length", max_length, 2, why="a token of the prompt, and one of the reply")
        check_seed(seed)
        if hidden_size % (2 * num_heads):
            raise ValueError(
                f"hidden_size must be a multiple of twice num_heads {num_heads}, got {hidden_size}: rotary embeddings "
                "turn pairs of a head's dimensions"
            )
        self.words = tuple(dict.fromkeys(word for list_words in vocabulary for word in list_words()))
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.intermediate_size = intermediate_size
        self.max_length = max_length
        self.tie_embeddings = tie_embeddings
        self.seed = seed

    def skeleton(self) -> Policy:
        """The policy without its weights, on the meta device."""
        with torch.device("meta"):
            return self._make()

    def unloaded(self) -> tuple[Policy, StoredWeights]:
        """The policy on the meta device, and its weights, which are few."""
        return self.skeleton(), iter(self.build().model.state_dict().items())

    def build(self) -> Policy:
        """Make the model and its tokenizer."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return self._make()

    def _make(self) -> Policy:
        tokenizer = word_tokenizer(self.words)
        config = Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_layers,
            num_attention_heads=self.num_heads,
            num_key_value_heads=self.num_heads,
            intermediate_size=self.intermediate_size,
            max_position_embeddings=self.max_length,
            tie_word_embeddings=self.tie_embeddings,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
        )
        return Policy(Qwen2ForCausalLM(config), TransformersTokenizer(tokenizer))


def word_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """Make a tokenizer with one token a word, split at white space, so that commands decode exactly."""
    vocabulary = {word: index for index, word in enumerate((PAD, UNKNOWN, END, *words))}
    backend = WordTokenizer(WordLevel(vocabulary, unk_token=UNKNOWN))
    backend.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token=PAD, unk_token=UNKNOWN, eos_token=END, clean_up_tokenization_spaces=False
    )
