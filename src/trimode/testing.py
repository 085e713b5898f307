"""For the tests of those who use trimode: an engine without a model."""

from trimode.policy.calls import FakeEngine, ScriptError, in_turn

__all__ = ["FakeEngine", "ScriptError", "in_turn"]
