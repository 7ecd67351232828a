"""The current step, held per thread and task, and the policy of what happens in which step."""
import asyncio
import copy
import pickle
import threading

import aerogel
import pytest
import torch
from aerogel import TimestepManager, TimestepPolicyConfig, timestep_callback


@pytest.fixture(autouse=True)
def unset():
    yield
    TimestepManager.set_timestep_idx(None)
    TimestepManager.set_timestep_idx_max(None)


def test_steps_out_of_range_are_refused():
    TimestepManager.set_timestep_idx_max(4)
    TimestepManager.set_timestep_idx(3)
    assert (TimestepManager.get_timestep_idx(), TimestepManager.get_timestep_idx_max()) == (3, 4)
    for wrong in (4, -1, 2.0, True, "1"):
        with pytest.raises(ValueError, match="timestep_idx must be"):
            TimestepManager.set_timestep_idx(wrong)
    assert TimestepManager.get_timestep_idx() == 3
    with pytest.raises(ValueError, match="must be larger, got 3"):
        TimestepManager.set_timestep_idx_max(3)
    with pytest.raises(ValueError, match="at least 1"):
        TimestepManager.set_timestep_idx_max(0)


def test_threads_and_tasks_do_not_see_each_other():
    TimestepManager.set_timestep_idx(1)
    seen = []
    thread = threading.Thread(target=lambda: (seen.append(TimestepManager.get_timestep_idx()), TimestepManager.set_timestep_idx(9)))
    thread.start(), thread.join()
    assert seen == [None] and TimestepManager.get_timestep_idx() == 1

    async def task(step):
        TimestepManager.set_timestep_idx(step)
        await asyncio.sleep(0)
        return TimestepManager.get_timestep_idx()

    async def both():
        return await asyncio.gather(task(2), task(3))

    assert asyncio.run(both()) == [2, 3] and TimestepManager.get_timestep_idx() == 1


def test_policy():
    policy = TimestepPolicyConfig()
    assert policy.get_strategy(None) == policy.get_strategy(5) == "dynamic"
    policy.register(range(2, 4), "static", "linear").register([7], "static", "w8a8_static_linear").register(0, "W4A8")
    assert [policy.get_strategy(s) for s in (0, 1, 2, 3, 4, 7)] == ["dynamic", "dynamic", "static", "static", "dynamic", "static"]
    assert policy.get_strategy(0, "w4a4_linear") == "W4A8" and policy.get_strategy(1, "w4a4_linear") == "W4A4"
    assert policy.get_strategy(3, "fa") == "MXFP4"
    for call in (lambda: policy.register(0, "fast", "fa"), lambda: policy.register(0, "static", "attention"),
                 lambda: policy.register([-1], "static", "linear"), lambda: TimestepPolicyConfig(default_strategy="never")):
        with pytest.raises(ValueError, match=r"\[timestep\]"):
            call()


def test_callback_follows_a_pipeline():
    callback, seen = timestep_callback(3), [TimestepManager.get_timestep_idx()]
    for step in range(3):
        assert callback(None, step, None, {"latents": 1}) == {"latents": 1}
        seen.append(TimestepManager.get_timestep_idx())
    assert seen == [0, 1, 2, 2]
    again = timestep_callback(2, then=lambda pipe, step, timestep, kwargs: {"step": step})
    assert again(None, 0, None, {}) == {"step": 0} and TimestepManager.get_timestep_idx() == 1


def test_gradients_follow_a_policy_without_ranges():
    torch.manual_seed(0)
    layer = aerogel.QuantizedLinear.from_linear(torch.nn.Linear(64, 24), "W4A4_DYNAMIC")
    x = torch.randn(5, 64)
    before = layer(x)
    layer.timestep_policy = aerogel.TimestepPolicyConfig(w4a4_default_strategy="W4A8")
    assert not torch.equal(layer(x), before)
    assert torch.equal(layer(x.clone().requires_grad_()), layer(x))


class Doubled(TimestepPolicyConfig):
    """A policy with code of its own, and attributes."""

    def get_strategy(self, step, target="w8a8_static_linear"):
        return "W4A8" if target == "w4a4_linear" and step == 1 else super().get_strategy(step, target)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))])
@pytest.mark.parametrize("kind", [TimestepPolicyConfig, Doubled])
def test_copies_are_equal_and_apart(kind, copied):
    policy = kind("static", fa_default_strategy="FP8").register([3, 1], "W4A8").register(2, "FLOAT", "fa")
    policy.note = ["kept"]
    twin = copied(policy)
    assert type(twin) is kind and twin == policy and twin.text == policy.text and twin.note == ["kept"]
    assert repr(twin) == f"{kind.__name__}(default_strategy='static', w4a4_default_strategy='W4A4', fa_default_strategy='FP8')"
    twin.register(9, "dynamic", "linear")
    assert twin != policy and policy.get_strategy(9) == "static" and twin.text != policy.text


def test_equality_is_of_one_class_and_policies_change():
    assert TimestepPolicyConfig() == TimestepPolicyConfig() != TimestepPolicyConfig("static")
    assert Doubled() != TimestepPolicyConfig() and TimestepPolicyConfig() != "dynamic"
    with pytest.raises(TypeError, match="unhashable"):
        hash(TimestepPolicyConfig())
    policy = TimestepPolicyConfig()
    policy.default_strategy = "static"
    assert policy == TimestepPolicyConfig("static") and policy.text.startswith("w8a8_static_linear=static;")
    with pytest.raises(ValueError, match="strategy of w8a8_static_linear must be one of dynamic, static, got 'never'"):
        policy.default_strategy = "never"
    assert policy.register(range(3), "dynamic", "linear") == TimestepPolicyConfig("static").register([2, 0, 1], "dynamic", "linear")
    assert TimestepPolicyConfig.static_from(3) == policy and type(Doubled.static_from(3)) is Doubled


@pytest.mark.parametrize("wrong", [[1.0], True, [True], [2, "3"], 2**40, [2**31], -1, [0, -2]])
def test_steps_are_whole_numbers(wrong):
    policy = TimestepPolicyConfig()
    with pytest.raises(ValueError, match=r"^\[timestep\] steps? must be"):
        policy.register(wrong, "W4A8")
    assert policy == TimestepPolicyConfig()


def test_a_get_strategy_of_its_own_is_asked():
    torch.manual_seed(0)
    layer, x = aerogel.QuantizedLinear.from_linear(torch.nn.Linear(64, 24), "W4A4_DYNAMIC"), torch.randn(5, 64)
    layer.timestep_policy, outputs = Doubled(), []
    for step in range(3):
        TimestepManager.set_timestep_idx(step)
        outputs.append(layer(x))
    layer.timestep_policy = TimestepPolicyConfig(w4a4_default_strategy="W4A8")
    assert torch.equal(outputs[0], outputs[2]) and not torch.equal(*outputs[:2]) and torch.equal(outputs[1], layer(x))


def test_an_inherited_get_strategy_is_asked_too():
    class Words:
        def get_strategy(self, step, target="w8a8_static_linear"):
            return "W4A8" if target == "w4a4_linear" else super().get_strategy(step, target)

    class Mixed(Words, TimestepPolicyConfig):
        pass

    class Later(Mixed):
        def __init__(self):
            self.table = {}  # before the core's part is there
            super().__init__()

    assert Mixed().in_step(1).get_strategy(1, "w4a4_linear") == "W4A8" and Later().in_step(1).get_strategy(1, "w4a4_linear") == "W4A8"
