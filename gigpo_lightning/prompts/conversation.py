"""A prompt that grows: every turn begins with the tokens of all turns before."""

from gigpo_lightning.prompts.base import EncodedPrompt, NoRoomError, Tokenizer, TurnView, WholeReply
from gigpo_lightning.prompts.text import ACT, NOW, TASK
from gigpo_lightning.prompts.world_text import as_text


class CompactConversationPrompt(WholeReply):
    """Word by word what was shown and written so far, and what the environment says now; the reply is the action.

        <task> … <now> … <act> reply <now> … <act> reply <now> … <act>

    Earlier turns are repeated as the tokens that the engine was given and wrote, never as text that is encoded again:
    the policy is asked about exactly what it has seen. Where there is no room for that, the conversation begins anew
    with the present observation. For policies with a vocabulary of their own.
    """

    markers = (TASK, NOW, ACT)

    def encode(self, view: TurnView, tokenizer: Tokenizer, max_tokens: int) -> EncodedPrompt:
        """Write the turn in at most ``max_tokens`` tokens.

        Raises:
            NoRoomError: If the task and the present observation alone are longer.
            ValueError: If earlier turns are known in words alone, as an expert's demonstrations are.
        """
        view = as_text(view, tokenizer, self)
        if view.history and not view.turns:
            raise ValueError(
                "a conversation must have the tokens of its earlier turns (TurnView.turns), got words alone"
            )
        now = tokenizer.encode(f"{NOW} {view.observation} {ACT}")
        if view.turns:
            last = view.turns[-1]
            grown = (*last.prompt_ids, *last.completion_ids, *now)
            if len(grown) <= max_tokens:
                return EncodedPrompt(ids=grown)
        task = tokenizer.encode(f"{TASK} {view.instruction}") if view.instruction else []
        if len(task) + len(now) > max_tokens:
            raise NoRoomError(f"max_tokens must be >= {len(task) + len(now)} for this turn, got {max_tokens}")
        return EncodedPrompt(ids=(*task, *now), truncated=bool(view.turns))
