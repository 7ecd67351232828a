"""Moving blocks between the memories of a card and its host: not offered."""
from .not_offered import not_offered

enable_offload = not_offered("enable_offload")
