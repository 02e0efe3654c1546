"""Which scalars belong in one chart: the Custom Scalars tab of TensorBoard."""

from gigpo_lightning.figures.group_sizes import BUCKETS

Layout = dict[str, dict[str, list[str | list[str]]]]
"""Group, then chart, then the chart's kind and its tags, as ``SummaryWriter.add_custom_scalars`` takes them."""

_CHARTS: dict[str, dict[str, list[str]]] = {
    "learning": {
        "success in training": ["rollout/success_rate"],
        "success on held-out tasks": ["held_out/[^/]+/success_rate"],
        "success on held-out tasks, by kind": ["held_out/[^/]+/[^/]+/success_rate"],
        "success in training, by kind": ["rollout/[^/]+/success_rate"],
        "return of an episode": ["rollout/return", "held_out/[^/]+/return"],
        "steps of an episode": ["rollout/episode_length", "held_out/[^/]+/episode_length"],
        "share of invalid actions, and of each broken rule": [
            "rollout/invalid_action_rate",
            "held_out/[^/]+/invalid_action_rate",
            "rollout/problems/.+",
            "held_out/[^/]+/problems/.+",
        ],
        "tokens of a reply: mean, longest": ["rollout/reply_length_mean", "rollout/reply_length_max"],
        "share of replies that were cut": ["rollout/cut_reply_rate", "held_out/[^/]+/cut_reply_rate"],
        "policy loss": ["loss/policy"],
        "entropy, in nats": ["loss/entropy", "rollout/sampled_entropy"],
        "how far an update goes": ["loss/clip_fraction", "loss/approximate_kl", "loss/kl"],
        "gradient norm": ["loss/gradient_norm"],
        "learning rate": ["loss/learning_rate"],
    },
    "credit": {
        "share of groups whose returns all agree": ["rollout/uniform_group_fraction"],
        "share of steps by the size of their anchor group": [f"anchors/group_size_share/{name}" for name in BUCKETS],
        "mean size of an anchor group": ["anchors/group_size_mean"],
        "share of steps that the step level speaks of": ["anchors/nonzero_step_advantage_fraction"],
        "step level over episode level, mean |A_S| / mean |A_E|": ["anchors/step_to_episode_ratio"],
    },
    "engine": {
        "difference to the trainer's log-probabilities after a sync, in nats: mean, p99, largest": [
            "sync/mean_abs_logprob_error",
            "sync/p99_abs_logprob_error",
            "sync/max_abs_logprob_error",
        ],
        "tokens a second": ["rollout/tokens_per_second"],
        "episodes a second": ["rollout/episodes_per_second"],
        "updates between a step and its use": ["rollout/staleness_mean", "rollout/staleness_max"],
        "episodes begun again, dropped, carried over": [
            "rollout/retried_episodes",
            "rollout/dropped_episodes",
            "rollout/carried_episodes",
        ],
        "prompts that were cut": ["rollout/truncated_prompts"],
        "prompts that do not begin with the last turn's": ["rollout/rewritten_prompts"],
        "memory, in GiB": ["memory/resident_gib"],
    },
    "time": {
        "an iteration and its parts, in seconds": [
            "time/iteration",
            "time/rollout",
            "time/update",
            "time/credit",
            "sync/seconds",
        ],
        "a rollout and its parts, in seconds": ["time/rollout", "time/rollout_engine", "time/rollout_environment"],
        "credit, in seconds": ["time/credit"],
        "tokens of an update: computed, distinct": ["update/tokens", "update/distinct_tokens"],
        "tokens of one row a step, over those computed": ["update/sharing"],
    },
}


def scalar_layout() -> Layout:
    """The charts of the groups learning, credit, engine and time, over the scalars that every run logs.

    Tags are patterns: held-out splits and kinds of tasks have names of their own. TensorBoard looks for a pattern from
    the beginning of a tag on, so that each needs an end.
    """
    return {
        group: {chart: ["Multiline", [f"{tag}$" for tag in tags]] for chart, tags in charts.items()}
        for group, charts in _CHARTS.items()
    }
