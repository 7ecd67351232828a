"""TimestepManager with the parameter names of MindIE SD."""
from typing import Optional

import aerogel

from ..utils.exception import invalid_arguments


class TimestepManager(aerogel.TimestepManager):
    """The current sampling step, shared with `aerogel.TimestepManager`: 0 .. max-1, held per thread and asyncio task."""

    @classmethod
    @invalid_arguments
    def set_timestep_idx(cls, cur_timestep: Optional[int]) -> None:
        """cur_timestep: 0 .. max-1, or None for "unknown". Raises ParametersInvalid when out of range."""
        aerogel.TimestepManager.set_timestep_idx(cur_timestep)

    @classmethod
    def get_timestep_idx(cls) -> Optional[int]:
        """The current step, or None."""
        return aerogel.TimestepManager.get_timestep_idx()

    @classmethod
    @invalid_arguments
    def set_timestep_idx_max(cls, t_idx: Optional[int]) -> None:
        """t_idx: the number of sampling steps, or None for no limit. Raises ParametersInvalid when it is below 1 or the current step."""
        aerogel.TimestepManager.set_timestep_idx_max(t_idx)

    @classmethod
    def get_timestep_idx_max(cls) -> Optional[int]:
        """The number of sampling steps, or None."""
        return aerogel.TimestepManager.get_timestep_idx_max()
