"""What a cache keeps and when it is used."""
from dataclasses import dataclass, fields

from ..utils.exception import ConfigError


@dataclass
class CacheConfig:
    """method: "attention_cache" or "dit_block_cache". blocks_count: calls of `apply` in one step (both, where guidance calls the model twice),
    steps_count: steps of one video; the cache counts both and starts anew behind them.

    Steps from step_start on are computed every step_interval steps and answered from the cache in between; "attention_cache" does so up to
    step_end, which is included. "dit_block_cache": blocks block_start .. block_end - 1 of a step are left out together. Steps and blocks
    count from 0."""

    method: str
    blocks_count: int
    steps_count: int
    step_start: int = 0
    step_interval: int = 1
    step_end: int = 10000
    block_start: int = 0
    block_end: int = 10000

    @property
    def idle(self) -> bool:
        """Whether these numbers never leave anything out."""
        no_steps = self.step_start >= self.steps_count or self.step_end == self.step_start or self.step_interval == 1
        return no_steps or self.block_start >= self.blocks_count or self.block_end == self.block_start

    def check(self) -> None:
        """Raises ConfigError for numbers that do not fit."""
        for field in fields(self)[1:]:
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise ConfigError(f"[cache] The '{field.name}' in config must be a whole number, but got {value!r}.")
        for name, least in (("blocks_count", 1), ("steps_count", 1), ("step_start", 0), ("step_interval", 1), ("block_start", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"[cache] The '{name}' in config must {'> 0' if least else '>= 0'}, but got {getattr(self, name)}.")
        for end, start in (("step_end", "step_start"), ("block_end", "block_start")):
            if getattr(self, end) < getattr(self, start):
                raise ConfigError(f"[cache] The '{end}' must >= '{start}', but got {getattr(self, end)} and {getattr(self, start)}.")
        if self.method == "dit_block_cache" and self.block_end > self.blocks_count:
            raise ConfigError(f"[cache] The 'block_end' must <= 'blocks_count', but got {self.block_end} and {self.blocks_count}.")
