"""CacheAgent against caches written down as tables of steps and blocks, and in a small transformer."""
import itertools

import pytest
import torch
from mindiesd import CacheAgent, CacheConfig
from mindiesd.utils import ConfigError, ModelExecError, ParametersInvalid
from torch import nn

BLOCKS, STEPS = 4, 7


def calls_of(agent, videos=2):
    """What each (step, block) of some videos is answered with, where the function answers with its own step and block."""
    return [[[agent.apply(lambda s, b: (s, b), step, block) for block in range(BLOCKS)] for step in range(STEPS)] for _ in range(videos)]


@pytest.mark.parametrize(("start", "end", "interval"), [*itertools.product((0, 1, 3), (3, 5, 6, 9), (2, 3)), (2, 2, 3), (7, 9, 2), (1, 5, 1)])
def test_attention_of_earlier_steps(start, end, interval):
    config = CacheConfig("attention_cache", BLOCKS, STEPS, step_start=start, step_interval=interval, step_end=end)
    answered_by, last = [], 0
    for step in range(STEPS):
        kept = start < step <= end and (step - start) % interval and start < STEPS and start != end and interval > 1
        last = last if kept else step
        answered_by.append(last)
    for video in calls_of(CacheAgent(config)):
        assert video == [[(answered_by[step], block) for block in range(BLOCKS)] for step in range(STEPS)]


def by_hand(hidden, encoder, config, two):
    """[(hidden, encoder)] after every block; a block adds to each what its step and place are."""
    states, begun, added = [], None, (0, 0)
    for step in range(STEPS):
        for block in range(BLOCKS):
            skips = step >= config.step_start and (step - config.step_start) % config.step_interval
            inside = config.block_start <= block < config.block_end
            before = (hidden, encoder)
            if skips and inside:
                if block == config.block_start:
                    hidden, encoder = hidden + added[0], encoder + (added[1] if two else 0)
            else:
                hidden, encoder = hidden * 0.5 + step + 0.1 * block, encoder - step if two else encoder
                begun = before if block == config.block_start and not skips else begun
                if block == config.block_end - 1 and not skips and step >= config.step_start:
                    added = (hidden - begun[0], encoder - begun[1])
            states.append((hidden, encoder))
    return states


@pytest.mark.parametrize("two", [False, True])
@pytest.mark.parametrize(("start", "interval", "first", "last"), [(0, 2, 1, 3), (1, 3, 0, 4), (2, 2, 2, 3), (4, 2, 1, 4)])
def test_ranges_of_blocks(two, start, interval, first, last):
    config = CacheConfig("dit_block_cache", BLOCKS, STEPS, start, interval, block_start=first, block_end=last)
    agent = CacheAgent(config)

    def block_of(step, block):
        def one(hidden, encoder=None, *, temb):
            assert temb == 1
            return (hidden * 0.5 + step + 0.1 * block, encoder - step) if two else hidden * 0.5 + step + 0.1 * block
        return one

    for seed in (1.0, 2.0):  # a second video begins anew
        hidden, encoder, states = torch.tensor(seed), torch.tensor(-seed), []
        wanted = by_hand(hidden, encoder, config, two)
        for step in range(STEPS):
            for block in range(BLOCKS):
                given = {"encoder_hidden_states": encoder} if two else {}
                result = agent.apply(block_of(step, block), hidden_states=hidden, temb=1, **given)
                hidden, encoder = result if two else (result, encoder)
                states.append((hidden, encoder))
        torch.testing.assert_close(torch.tensor(states), torch.tensor(wanted))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn, self.cache, self.computed = nn.MultiheadAttention(16, 2, batch_first=True), None, 0

    def attend(self, x):
        self.computed += 1
        return self.attn(x, x, x)[0]

    def forward(self, hidden_states):
        return hidden_states + (self.attend(hidden_states) if self.cache is None else self.cache.apply(self.attend, hidden_states))


@torch.no_grad()
def test_a_transformer_with_a_cache_computes_less_and_nearly_the_same():
    blocks = nn.ModuleList(Block() for _ in range(3)).eval()

    def video():
        x, outputs = torch.randn(1, 8, 16, generator=torch.Generator().manual_seed(0)), []
        for _ in range(8):
            h = x
            for block in blocks:
                h = block(h)
            x = x + 0.02 * h
        return x

    exact = video()
    agent = CacheAgent(CacheConfig("attention_cache", len(blocks), 8, step_start=1, step_interval=2, step_end=7))
    for block in blocks:
        block.cache, block.computed = agent, 0
    for _ in range(2):
        cached = video()
        assert 0 < (cached - exact).norm() / exact.norm() < 0.05
    assert [block.computed for block in blocks] == [2 * 5] * 3  # steps 0, 1, 3, 5, 7 of both videos


def test_configurations_that_do_not_fit():
    good = dict(method="dit_block_cache", blocks_count=4, steps_count=5, block_end=4)
    CacheAgent(CacheConfig(**good))
    cases = {"not supported": dict(method="cache"), "'steps_count' in config must > 0": dict(steps_count=0),
             "'blocks_count' in config must > 0": dict(blocks_count=0), "'step_start' in config must >= 0": dict(step_start=-1),
             "'step_interval' in config must > 0": dict(step_interval=0), "'step_end' must >= 'step_start'": dict(step_start=3, step_end=2),
             "'block_start' in config must >= 0": dict(block_start=-1), "'block_end' must >= 'block_start'": dict(block_start=3, block_end=2),
             "'block_end' must <= 'blocks_count'": dict(block_end=5)}
    for message, wrong in cases.items():
        with pytest.raises(ConfigError, match=rf"^\[MIE06E000002\].*{message}"):
            CacheAgent(CacheConfig(**{**good, **wrong}))


def test_calls_that_do_not_fit():
    agent = CacheAgent(CacheConfig("dit_block_cache", 2, 4, step_interval=2, block_end=2))
    with pytest.raises(ParametersInvalid, match="must be callable"):
        agent.apply("")
    with pytest.raises(ParametersInvalid, match="Cannot find 'hidden_states'"):
        agent.apply(lambda x: x, 1)
    with pytest.raises(ParametersInvalid, match="'hidden_states' is None"):
        agent.apply(lambda x: x, hidden_states=None)
    with pytest.raises(ModelExecError, match="must be 1 or 2, but got 3"):
        agent.apply(lambda x: (x, x, x), hidden_states=1)
    agent.apply(lambda x: x, hidden_states=1)
    with pytest.raises(ModelExecError, match="is None"):
        agent.apply(lambda x: None, hidden_states=1)
    agent.apply(lambda x: x, hidden_states=1)  # an error begins a new video
    with pytest.raises(ParametersInvalid, match="'encoder_hidden_states' is required"):
        agent.apply(lambda x: (x, x), hidden_states=1)


@pytest.mark.parametrize("method", ["attention_cache", "dit_block_cache"])
def test_a_video_that_ends_early_leaves_nothing_to_the_next(method):
    """By an exception in the middle of a step that is kept, by reset(), and by other shapes."""
    def video(agent, size, steps=6):
        states = []
        for step in range(steps):
            hidden = torch.full((size,), 10.0 * size + step)
            for block in range(3):
                hidden = agent.apply(lambda hidden_states, _block=block: hidden_states * 2 + _block, hidden_states=hidden)
                states.append(hidden)
        return states

    def stop(hidden_states):
        raise KeyboardInterrupt

    def fresh():
        return CacheAgent(CacheConfig(method, 3, 6, step_interval=2, block_end=3))

    wanted = video(fresh(), 4)
    agent = fresh()
    video(agent, 3, steps=2)
    agent.apply(lambda hidden_states: hidden_states, hidden_states=torch.ones(3))
    with pytest.raises(KeyboardInterrupt):
        agent.apply(stop, hidden_states=torch.ones(3))
    assert all(map(torch.equal, video(agent, 4), wanted))
    video(agent, 4, steps=1)
    agent.apply(lambda hidden_states: hidden_states, hidden_states=torch.zeros(4))
    agent.reset()
    assert all(map(torch.equal, video(agent, 4), wanted))
    video(agent, 3, steps=3)
    assert all(map(torch.equal, video(agent, 4), wanted))


def test_types_that_do_not_fit():
    for wrong in (dict(steps_count=2.5), dict(blocks_count="2"), dict(step_interval=True), dict(block_end=None), dict(method=[])):
        with pytest.raises(ConfigError, match="whole number|not supported"):
            CacheAgent(CacheConfig(**{**dict(method="attention_cache", blocks_count=4, steps_count=5), **wrong}))
    with pytest.raises(ConfigError, match="must be a CacheConfig, got dict"):
        CacheAgent({"method": "attention_cache"})
