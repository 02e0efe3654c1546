"""Whether a tokenizer knows the markers that a compact prompt is made of."""

from collections.abc import Callable

from gigpo_lightning.prompts.base import Marked, Prompt


def check_markers(prompt: Prompt, is_unknown: Callable[[str], bool]) -> None:
    """Refuse a tokenizer that has no token for a marker of the prompt; one that is not ``Marked`` needs none.

    Raises:
        ValueError: If a marker is unknown; the message names all such markers.
    """
    unknown = [marker for marker in (prompt.markers if isinstance(prompt, Marked) else ()) if is_unknown(marker)]
    if unknown:
        raise ValueError(
            f"the policy's tokenizer must know every marker of {type(prompt).__name__}, but does not know "
            f"{', '.join(unknown)}; use the checkpoint that was made for this prompt, or another prompt"
        )
