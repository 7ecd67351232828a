"""Compilation for Ascend cards: not offered."""
from .not_offered import not_offered

MindieSDBackend = not_offered("MindieSDBackend")
CompilationConfig = not_offered("CompilationConfig")
