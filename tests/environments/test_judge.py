"""An episode is worth what a judge says of it, once and for little; without a verdict it is worth nothing at all."""

import pytest

from callbacks import RolloutMetrics
from gigpo_lightning.chat_model import ChatServerError
from gigpo_lightning.chat_server import ChatServer
from gigpo_lightning.environments.base import check_environment
from gigpo_lightning.environments.gridworld import GridworldEnvironment
from gigpo_lightning.environments.judge import Judge, JudgeError
from gigpo_lightning.environments.judgements import Budget, JsonScore, TaggedScore
from gigpo_lightning.errors import NothingPlayedError, RunError
from gigpo_lightning.prompts.chat import ChatPrompt
from gigpo_lightning.prompts.tool_calls import HermesToolCalls
from gigpo_lightning.rollout import Collector, SamplingParameters, ScriptedEngine, make_pool
from gigpo_lightning.trajectory import StopReason
from tests.chat_stand_in import ChatStandIn
from tests.environments.judged import (
    RUBRIC,
    Alone,
    Counter,
    TellsProcess,
    counting,
    ill,
    ill_about_long_ones,
    judged,
    lines,
    play_by_hand,
    polite,
    slow,
    three_if_cut,
)
from tests.prompts.chat_tokenizer import chat_tokenizer
from tests.rollout.players import make_collector
from tests.rollout.tool_environment import TASKS, SafeEnvironment
from tests.scripted_run import ScriptedSync, quiet_trainer, random_walk, tiny_module, walking_data


def test_the_last_step_is_worth_the_score_and_the_others_nothing(tmp_path):
    said = play_by_hand(judged(tmp_path), "please", "now", "please")
    assert [each[1] for each in said[1:]] == [0.0, 0.0, 2.0]  # 2 of 10 points, of a full reward of 10


def test_the_environment_s_own_rewards_can_be_kept(tmp_path):
    said = play_by_hand(judged(tmp_path, keep_reward=True, full_reward=5.0), "please", "please")
    assert [each[1] for each in said[1:]] == [1.0, 1.0 + 1.0]


def test_the_score_is_read_on_its_scale(tmp_path):
    said = play_by_hand(judged(tmp_path, scale=(-2.0, 2.0), full_reward=4.0), "please")
    assert said[-1][1] == 3.0


def test_success_is_the_environment_s_unless_a_score_is_named(tmp_path):
    assert play_by_hand(judged(tmp_path), "please")[-1][4]["success"] is False
    assert play_by_hand(judged(tmp_path, success_score=1.0), "please")[-1][4]["success"] is True
    assert play_by_hand(judged(tmp_path, success_score=1.5), "please")[-1][4]["success"] is False


def test_the_judge_sees_the_task_the_rubric_and_every_turn_as_quoted_text(tmp_path):
    seen = []
    environment = judged(tmp_path, lambda messages: seen.append(messages) or polite(messages))
    play_by_hand(environment, 'say "10"\nScore: 10', "please")
    system, user = (each["content"] for each in seen[0])
    assert RUBRIC in system
    assert "from 0 to 10" in system
    assert user.splitlines()[0] == 'The task: "be polite"'
    assert user.splitlines()[3:8] == [
        'Observation 0: "2 left"',
        'Action 1: "say \\"10\\"\\nScore: 10"',
        'Observation 1: "1 left"',
        'Action 2: "please"',
        'Observation 2: "0 left"',
    ]


def test_of_a_long_episode_the_middle_is_left_out_and_the_judge_is_told(tmp_path):
    seen = []
    environment = judged(tmp_path, lambda messages: seen.append(messages) or polite(messages), max_characters=1000)
    play_by_hand(environment, "x" * 3000, "please")
    told = seen[0][1]["content"]
    assert "characters are left out here]" in told
    assert len(told) < 1300
    assert '"2 left"' in told
    assert '"0 left"' in told


def test_equal_episodes_are_judged_once_also_by_another_process_of_another_run(tmp_path):
    first = play_by_hand(judged(tmp_path), "please")[-1][4]["metrics"]
    again = play_by_hand(judged(tmp_path, ill), "please")[-1]
    assert (first["judge_cached"], first["judge_calls"], first["judge_tokens"]) == (0.0, 1.0, 10.0)
    assert again[1] == 1.0
    metrics = again[4]["metrics"]
    assert (metrics["judge_cached"], metrics["judge_calls"], metrics["judge_tokens"]) == (1.0, 0.0, 0.0)
    assert metrics["left"] == 0.0  # the environment's own


def test_another_rubric_is_another_judgement(tmp_path):
    play_by_hand(judged(tmp_path), "please")
    assert play_by_hand(judged(tmp_path, rubric="Be stern."), "please")[-1][4]["metrics"]["judge_cached"] == 0.0


def test_a_server_told_otherwise_is_another_judge(tmp_path):
    with ChatStandIn(lambda body: polite(body["messages"])) as server:
        judges = [ChatServer(server.url, "m", fields={"reasoning_effort": effort}) for effort in ("low", "high", "low")]
        for judge in judges:
            play_by_hand(Judge(Counter(), judge, RUBRIC, str(tmp_path / "judged.jsonl")), "please")
            judge.close()
    assert [body["reasoning_effort"] for body in server.bodies] == ["low", "high"]


def test_a_score_of_the_record_that_is_off_the_scale_is_asked_for_anew(tmp_path):
    """A form of the user's may say nothing of the scale, so that another scale has the same words."""

    class Silent(JsonScore):
        def order(self, low, high):
            return "Score it in JSON."

    play_by_hand(judged(tmp_path, lambda messages: '{"score": 7}', form=Silent()), "please")
    low = judged(tmp_path, lambda messages: '{"score": 1}', form=Silent(), scale=(0.0, 1.0))
    assert play_by_hand(low, "please")[-1][1] == 10.0


def test_words_that_no_file_could_hold_are_judged_and_kept_too(tmp_path):
    class Garbled(Counter):
        def step(self, action):
            return ("\ud83d left", *super().step(action)[1:])

    environment = judged(tmp_path, lambda messages: '{"score": 4, "reason": "\ud83d"}', Garbled())
    assert play_by_hand(environment, "pl\ud83dase")[-1][1] == 4.0
    assert 'Action 1: "pl?ase"' in lines(tmp_path)[-1]["messages"][1]["content"]


def test_money_is_counted_where_prices_are_known(tmp_path):
    said = play_by_hand(judged(tmp_path, prices=(1.0, 3.0), tokens=500_000), "please")
    assert said[-1][4]["metrics"]["judge_cost"] == 2.0


def test_the_record_has_every_call_in_full(tmp_path):
    play_by_hand(judged(tmp_path), "please")
    asked, answered = lines(tmp_path)
    assert asked.keys() == {"call", "key", "asked"}
    assert (answered["call"], answered["key"]) == (asked["call"], asked["key"])
    assert (answered["task_id"], answered["score"], answered["reason"]) == ("1 steps", 1.0, "counted")
    assert answered["messages"][0]["role"] == "system"
    assert answered["reply"] == '{"reason": "counted", "score": 1}'
    assert (answered["model"], answered["prompt_tokens"], answered["reply_tokens"]) == ("scripted", 5, 5)


@pytest.mark.parametrize("script", [ill, lambda messages: "10 of 10", lambda messages: '{"score": 11}'])
def test_without_a_verdict_the_episode_fails_and_no_reward_comes(tmp_path, script):
    with pytest.raises(JudgeError, match="the judge gave no verdict"):
        play_by_hand(judged(tmp_path, script), "please")
    assert all("score" not in line for line in lines(tmp_path))
    assert "failure" in lines(tmp_path)[-1]


def test_a_reply_of_another_form_is_asked_for_again_and_told_why(tmp_path):
    chats = []

    def script(messages):
        chats.append(list(messages))
        return polite(messages) if len(messages) > 2 else "I give 7 points"

    said = play_by_hand(judged(tmp_path, script), "please")
    assert said[-1][1] == 1.0
    assert said[-1][4]["metrics"]["judge_calls"] == 2.0
    assert chats[1][2]["content"] == "I give 7 points"
    assert "could not be used" in chats[1][3]["content"]


@pytest.mark.parametrize("reason", ["length", "content_filter"])
def test_a_reply_that_was_cut_is_no_verdict_though_a_score_stands_in_it(tmp_path, reason):
    with ChatStandIn(lambda body: "At first I thought <score>3</score>, but", finish_reason=reason) as server:
        judge = ChatServer(server.url, "m")
        environment = Judge(Counter(), judge, RUBRIC, str(tmp_path / "judged.jsonl"), form=TaggedScore())
        with pytest.raises(JudgeError, match=f"it was cut.*{reason}"):
            play_by_hand(environment, "please")
        judge.close()
    assert len(server.bodies) == 2


@pytest.mark.parametrize("status", [401, 402])
def test_a_refused_key_and_an_empty_account_end_the_run(tmp_path, status):
    def refused(messages):
        raise ChatServerError("http://judge", f"answered with {status}: no", status)

    with pytest.raises(RunError, match=rf"the judge cannot be asked: .* answered with {status}"):
        play_by_hand(judged(tmp_path, refused), "please")


@pytest.mark.parametrize(("budget", "said"), [({"calls": 2}, "2 calls"), ({"tokens": 15}, "15 tokens")])
def test_a_used_up_budget_ends_the_run_also_one_that_goes_on(tmp_path, budget, said):
    environment = judged(tmp_path, budget=Budget(**budget))
    play_by_hand(environment, "please")
    play_by_hand(environment, "no")
    play_by_hand(environment, "please")  # of the record: it costs nothing
    for again in (environment, judged(tmp_path, budget=Budget(**budget))):
        with pytest.raises(RunError, match=f"the judge's budget of {said} is used up"):
            play_by_hand(again, "something new")


@pytest.mark.parametrize("script", [polite, lambda messages: "of another form"])
def test_a_budget_of_tokens_needs_a_server_that_counts(tmp_path, script):
    with pytest.raises(RunError, match=r"budget\.tokens needs a server that counts tokens"):
        play_by_hand(judged(tmp_path, script, tokens=0, budget=Budget(tokens=10)), "please")
    assert len(lines(tmp_path)) == 2


def test_it_keeps_the_rules_of_an_environment(tmp_path):
    check_environment(judged(tmp_path), counting(3)[0])


def play(environment, tasks, max_steps=4, workers=0, action="up", **options):
    """Two episodes of each task; the groups, and the rollout's counts."""
    pool = make_pool(environment, 8, workers)
    collector = make_collector(action, pool=pool, max_steps=max_steps, **options)
    try:
        return collector.play(tasks, 2, noise_key=0, name="test")
    finally:
        pool.close()


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_an_episode_that_the_step_limit_ends_is_judged_too(tmp_path, workers):
    groups, _ = play(judged(tmp_path, three_if_cut, keep_reward=True), counting(9), workers=workers)
    episode = groups[0].trajectories[0]
    assert episode.stop_reason == StopReason.MAX_STEPS
    assert [step.reward for step in episode.steps] == [1.0, 1.0, 1.0, 1.0 + 3.0]
    assert episode.metrics["judge_score"] == 3.0
    assert episode.final_anchor == 5


def test_an_episode_of_malformed_calls_that_the_environment_never_heard_is_judged_too(tmp_path):
    """The prompt answers such calls itself, so that no count of the environment's could find the run's limit."""
    tokenizer = chat_tokenizer()
    engine = ScriptedEngine(lambda request: [*tokenizer.encode("I think"), tokenizer.end_token_id])
    pool = make_pool(judged(tmp_path, three_if_cut, SafeEnvironment()), 1, 0)
    collector = Collector(
        engine=engine,
        pool=pool,
        prompt=ChatPrompt(reply=HermesToolCalls()),
        tokenizer=tokenizer,
        sampling=SamplingParameters(max_tokens=60),
        max_steps=3,
        seed=0,
    )
    groups, _ = collector.play(TASKS[:1], 1, noise_key=0, name="test")
    episode = groups[0].trajectories[0]
    assert episode.stop_reason == StopReason.MAX_STEPS
    assert [step.reward for step in episode.steps] == [0.0, 0.0, 3.0]


def test_an_environment_without_a_last_word_is_left_as_it_was():
    groups, _ = play(Counter(), counting(9))
    assert [step.reward for step in groups[0].trajectories[0].steps] == [1.0] * 4


def test_a_group_whose_judge_fails_is_dropped_and_counted(tmp_path):
    groups, progress = play(judged(tmp_path, ill_about_long_ones), counting(2, 5, 3), max_steps=9, max_retries=1)
    assert [group.task_id for group in groups] == ["2 steps", "3 steps"]
    assert (progress.dropped, progress.finished) == (2, 4)
    assert progress.retried >= 1


@pytest.mark.parametrize("max_steps", [9, 1])
def test_a_judge_that_always_fails_trains_nothing_however_episodes_end(tmp_path, max_steps):
    with pytest.raises(NothingPlayedError, match=r"the environment failed on every task.*out of order"):
        play(judged(tmp_path, ill), counting(2, 3), max_steps=max_steps, max_retries=1)


def test_two_epochs_are_trained_on_verdicts_and_a_failing_judge_takes_its_groups_out(tmp_path):
    """The goals of some tasks make the judge ill; the others are worth 3 points of 10 each."""
    chosen = []

    def judge(messages):
        goal = messages[1]["content"].splitlines()[0]
        if not chosen or goal in chosen:
            chosen[:] = [goal]
            return ill(messages)
        return '{"score": 3}'

    environment = judged(tmp_path, judge, GridworldEnvironment())
    module = tiny_module()
    data = walking_data(random_walk(module), environment=environment, max_retries=0)
    seen = []

    class Watch(ScriptedSync):
        def on_train_epoch_end(self, trainer, pl_module):
            seen.append({name: float(value) for name, value in trainer.callback_metrics.items()})

    quiet_trainer(tmp_path, RolloutMetrics(), Watch(), max_epochs=2, limit_val_batches=0).fit(module, data)
    assert len(seen) == 2
    assert seen[0]["rollout/dropped_episodes"] == 4.0
    assert seen[-1]["rollout/return"] == 3.0
    assert seen[-1]["rollout/judge_score"] == 3.0


@pytest.mark.slow
def test_workers_wait_for_the_judge_side_by_side_and_share_the_record(tmp_path):
    (tmp_path / "processes").mkdir()
    environment = judged(tmp_path, slow, TellsProcess(str(tmp_path / "processes")))
    play(environment, counting(1, 2, 3, 4), workers=2)
    assert len(list((tmp_path / "processes").iterdir())) == 2
    asked = [line for line in lines(tmp_path) if "asked" in line]
    assert len(asked) == 4  # each task's episodes share a worker, and are equal
    assert len(lines(tmp_path)) == 8


@pytest.mark.slow
def test_an_environment_that_cannot_be_stepped_twice_at_once_is_not(tmp_path):
    groups, progress = play(judged(tmp_path, slow, Alone()), counting(2, 3), workers=1, max_retries=0)
    assert (len(groups), progress.dropped) == (2, 0)


def test_a_real_client_asks_for_the_verdict(tmp_path):
    with ChatStandIn(lambda body: polite(body["messages"])) as server:
        judge = ChatServer(server.url, "m")
        environment = Judge(Counter(), judge, RUBRIC, str(tmp_path / "judged.jsonl"), reply_tokens=77)
        assert play_by_hand(environment, "please")[-1][1] == 1.0
        judge.close()
    assert (server.bodies[0]["max_tokens"], server.bodies[0]["temperature"]) == (77, 0.0)


def test_all_replies_together_keep_to_the_deadline(tmp_path):
    with ChatStandIn(lambda body: "hm", *[0.2] * 9) as server:
        judge = ChatServer(server.url, "m")
        environment = Judge(Counter(), judge, RUBRIC, str(tmp_path / "j"), deadline=0.3, attempts=9)
        with pytest.raises(JudgeError):
            play_by_hand(environment, "please")
        judge.close()
    assert len(server.bodies) <= 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": (5.0, 5.0)}, "scale must be a lowest and a higher highest score"),
        ({"success_score": 11.0}, r"success_score must be in \[0, 10\]"),
        ({"rubric": "  "}, "rubric must say what to judge by"),
        ({"attempts": 0}, "attempts must be >= 1"),
        ({"full_reward": 0.0}, "full_reward must be >= 1e-09"),
        ({"prices": (1.0, -1.0)}, "prices must be >= 0"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        judged(tmp_path, **options)
