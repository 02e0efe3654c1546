import gymnasium
import pytest

from gigpo_lightning.environments.base import Task
from gigpo_lightning.pool.base import InProcessPool
from gigpo_lightning.prompts.base import NoRoomError
from gigpo_lightning.prompts.gridworld import GridworldPrompt
from gigpo_lightning.rollout import SamplingParameters, ScriptedEngine, make_pool
from gigpo_lightning.rollout.collector import Collector
from gigpo_lightning.rollout.episode import noise_seed
from gigpo_lightning.trajectory import StepTable, StopReason
from tests.prompts.word_tokenizer import GrowingTokenizer
from tests.rollout.players import gridworld_tasks, make_collector, walker


class SilentEnvironment(gymnasium.Env[str, str]):
    """Never says whether it has succeeded."""

    def reset(self, *, seed=None, options=None):
        return "start", {}

    def step(self, action):
        return "end", 1.0, True, False, {}


class Homemade(GridworldPrompt):
    """A user's own prompt, with a mistake in a method."""

    def __init__(self, method: str) -> None:
        super().__init__()
        setattr(self, method, self.fail)

    def fail(self, *arguments: object) -> None:
        raise ValueError("could not convert string to float: 'x'")


class CountdownEnvironment(gymnasium.Env[str, str]):
    """Ends after as many steps as the task says; each step pays its number."""

    def reset(self, *, seed=None, options=None):
        self.left = options["task"].payload["steps"]
        self.taken = 0
        return f"left {self.left}", {}

    def step(self, action):
        if action == "fail":
            raise RuntimeError("the bridge fell down")
        self.left -= 1
        self.taken += 1
        over = self.left == 0
        return f"left {self.left}", float(self.taken), over, False, {"success": over, "anchor": self.left % 2}


def countdown(*steps: int) -> list[Task]:
    return [Task(task_id=f"count {number}", kind="count", payload={"steps": number}) for number in steps]


def countdown_collector(*moves: str, num_slots: int = 8, workers: int = 0, **options) -> Collector:
    pool = make_pool(CountdownEnvironment(), num_slots, workers)
    return make_collector(*(moves or ("up",)), pool=pool, **{"max_steps": 10} | options)


def test_an_episode_is_recorded_turn_by_turn():
    groups, _ = countdown_collector().play(countdown(3), 1, noise_key=0, name="test")
    episode = groups[0].trajectories[0]
    assert [step.observation for step in episode.steps] == ["left 3", "left 2", "left 1"]
    assert [step.reward for step in episode.steps] == [1.0, 2.0, 3.0]
    assert [step.action for step in episode.steps] == ["up"] * 3
    assert (episode.success, episode.stop_reason) == (True, StopReason.TERMINATED)
    assert episode.final_observation == "left 0"
    assert episode.final_anchor == 0


def test_the_anchor_is_the_state_that_the_action_was_chosen_in():
    groups, _ = countdown_collector().play(countdown(3), 1, noise_key=0, name="test")
    # Without an anchor from reset, the observation is it; from then on the environment's own.
    assert [step.anchor_key for step in groups[0].trajectories[0].steps] == ["left 3", 0, 1]


def test_a_completion_is_kept_token_by_token_with_its_stop_token():
    collector = countdown_collector("up")
    groups, _ = collector.play(countdown(1), 1, noise_key=0, name="test")
    step = groups[0].trajectories[0].steps[0]
    assert step.completion_ids == (*collector.player.tokenizer.encode("up"), 0)
    assert len(step.logprobs) == 2
    assert step.prompt_ids == collector.engine.requests[0].prompt_ids


def test_the_step_limit_ends_an_episode_without_success():
    groups, _ = countdown_collector(max_steps=2).play(countdown(5), 1, noise_key=0, name="test")
    episode = groups[0].trajectories[0]
    assert (len(episode.steps), episode.success, episode.stop_reason) == (2, False, StopReason.MAX_STEPS)


def test_finished_episodes_cost_nothing():
    collector = countdown_collector()
    collector.play(countdown(1, 7), 2, noise_key=0, name="test")
    assert len(collector.engine.requests) == 2 * (1 + 7)


class NewestFirst(ScriptedEngine):
    """Answers the newest request first, one a poll: an engine on which one episode can run ahead."""

    def poll(self):
        self._queue.rotate(1)
        return super().poll()


def test_an_episode_asks_for_its_next_turn_as_soon_as_its_last_is_answered():
    engine = NewestFirst(walker(GrowingTokenizer(), "up"), completions_per_poll=1)
    collector = countdown_collector(engine=engine, admission_share=0.0)
    collector.play(countdown(4, 4, 4, 4), 1, noise_key=0, name="test")
    order = [request.request_id for request in engine.requests]
    # With a barrier, no second turn could come before every first one has been answered.
    assert order[4:7] == ["3/0/0/1", "3/0/0/2", "3/0/0/3"]


class Verbose(ScriptedEngine):
    """Writes one reply for as long as nothing else is asked for; the others at once."""

    looks = 0

    def poll_unless(self, ready):
        for request in list(self._queue):
            if request.request_id != "0/0/0/0" or len(self.requests) == 4:
                self._queue.remove(request)
                return [self._answer(request)]
        while not ready():
            self.looks += 1
            assert self.looks < 1000, "the others wait for the long reply"
        return []


class Late(InProcessPool):
    """Its answers come when the engine is at work again."""

    stepped = False

    def step(self, slot, action):
        super().step(slot, action)
        self.stepped = True

    def poll(self, *, block):
        if self.stepped and not block:
            self.stepped = False
            return []
        return super().poll(block=block)


def test_an_episode_goes_on_while_another_s_long_reply_is_written():
    engine = Verbose(walker(GrowingTokenizer(), "up"))
    player = make_collector(engine=engine, pool=Late(CountdownEnvironment(), 2), max_steps=10, admission_share=0.0)
    player.play(countdown(1, 3), 1, noise_key=0, name="test")
    assert [request.request_id for request in engine.requests[2:]] == ["1/0/0/1", "1/0/0/2"]


def test_an_engine_that_gathers_its_own_batches_is_asked_at_once():
    class Copies(ScriptedEngine):
        replicas = ()

    assert countdown_collector(engine=Copies(walker(GrowingTokenizer(), "up"))).admission_share == 0.0
    assert countdown_collector().admission_share == 0.4


def test_more_episodes_than_slots_are_all_played_in_order():
    tasks = countdown(1, 2, 3, 4, 5)
    groups, progress = countdown_collector(num_slots=2).play(tasks, 3, noise_key=0, name="test")
    assert [group.task_id for group in groups] == [task.task_id for task in tasks]
    assert [[len(t.steps) for t in group.trajectories] for group in groups] == [[n] * 3 for n in range(1, 6)]
    assert (progress.finished, progress.steps) == (15, 45)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_scheduling_changes_no_episode(workers: int):
    tasks = gridworld_tasks(4)
    alone = make_collector("up", "left", "down", num_slots=1).play(tasks, 2, noise_key=0, name="test")[0]
    collector = make_collector("up", "left", "down", num_slots=5, workers=workers)
    together = collector.play(tasks, 2, noise_key=0, name="test")[0]
    collector.pool.close()
    actions = [[(s.observation, s.action, s.reward) for t in g.trajectories for s in t.steps] for g in alone]
    assert actions == [[(s.observation, s.action, s.reward) for t in g.trajectories for s in t.steps] for g in together]


def test_groups_become_a_table_of_credit():
    groups, _ = countdown_collector().play(countdown(2, 3), 2, noise_key=0, name="test")
    table = StepTable.from_groups(groups)
    assert table.episode_group_id.tolist() == [0] * 4 + [1] * 6
    assert table.trajectory_id.tolist() == [0, 0, 1, 1, 2, 2, 2, 3, 3, 3]
    assert table.step_index.tolist() == [0, 1, 0, 1, 0, 1, 2, 0, 1, 2]


def test_the_noise_of_a_reply_does_not_depend_on_what_else_is_played():
    collectors = [countdown_collector(), countdown_collector()]
    collectors[0].play(countdown(3), 1, noise_key=5, name="test")
    collectors[1].play(countdown(6, 3), 2, noise_key=5, name="test")
    seeds = [{r.request_id: r.seed for r in collector.engine.requests} for collector in collectors]
    assert [seeds[0][f"0/0/0/{i}"] for i in range(3)] == [seeds[1][f"1/0/0/{i}"] for i in range(3)]


def test_every_reply_has_noise_of_its_own():
    parts = [(s, e, t, i, k) for s in (0, 1) for e in (0, 1) for t in ("a", "b") for i in (0, 1) for k in (0, 1)]
    assert len({noise_seed(*each) for each in parts}) == len(parts)


def test_an_environment_that_raises_ends_the_rollout_with_its_own_words():
    with pytest.raises(RuntimeError, match=r"(?s)task 'count 3'.*the bridge fell down"):
        countdown_collector("up", "fail").play(countdown(3), 1, noise_key=0, name="test")


def test_no_step_is_refused():
    with pytest.raises(ValueError, match="max_steps must be >= 1, got 0"):
        countdown_collector(max_steps=0)


def test_a_prompt_longer_than_the_context_names_the_task_and_the_room():
    collector = countdown_collector()
    collector.player.max_prompt_tokens = 0
    with pytest.raises(NoRoomError, match=r"task 'count 3': .*less sampling.max_tokens 4 leaves 0; the prompt's max_"):
        collector.play(countdown(3), 1, noise_key=0, name="test")


@pytest.mark.parametrize(("method", "what"), [("encode", "write a turn"), ("parse", "read a reply")])
def test_any_other_error_of_a_prompt_is_called_what_it_is(method, what):
    collector = countdown_collector()
    collector.player.prompt = Homemade(method)
    message = f"the prompt {__name__}.Homemade could not {what} of task 'count 3': could not convert"
    with pytest.raises(ValueError, match=message) as error:
        collector.play(countdown(3), 1, noise_key=0, name="test")
    assert not isinstance(error.value, NoRoomError)


def test_episodes_whose_environment_says_whether_they_succeeded_are_counted():
    _, progress = countdown_collector().play(countdown(3, 2), 2, noise_key=0, name="test")
    assert (progress.finished, progress.judged) == (4, 4)
    silent = make_collector("up", pool=make_pool(SilentEnvironment(), 4, 0))
    _, progress = silent.play(countdown(3, 2), 2, noise_key=0, name="test")
    assert (progress.finished, progress.judged) == (4, 0)


def test_a_reply_that_leaves_no_room_for_a_prompt_is_refused():
    collector = countdown_collector()
    with pytest.raises(ValueError, match="max_tokens must leave room"):
        Collector(
            engine=collector.engine,
            pool=collector.pool,
            prompt=collector.player.prompt,
            tokenizer=collector.player.tokenizer,
            sampling=SamplingParameters(max_tokens=collector.engine.max_model_len),
            max_steps=1,
            seed=0,
        )
