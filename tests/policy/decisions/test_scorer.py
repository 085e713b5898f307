"""Log-probabilities of a result's tokens, and scopes of cached prefixes, as calls see them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import trimode as tm
from trimode.engine.result import Mode
from trimode.policy.calls.engine import Engine
from trimode.testing import FakeEngine

ASK = [{"role": "user", "content": "There are 5 boxes with 20 apples each. How many apples are there?"}]


@pytest.mark.parametrize("mode", ["ar", "linear_spec", "quadratic_spec", "diffusion"])
def test_a_result_says_what_it_takes(reference: Engine, mode: Mode) -> None:
    result = reference.generate(messages=ASK, mode=mode, max_tokens=20, temperature=0.7, seed=3)
    found = reference.token_logprobs(result.prompt_ids, result.token_ids, top=5)
    assert found.stats.cached_tokens == len(result.prompt_ids) - 1
    assert len(found.logprobs) == len(result.token_ids)
    for token, logprob, best in zip(result.token_ids, found.logprobs, found.top, strict=True):
        assert len(best) == 5
        assert dict(best).get(token, logprob) == logprob <= best[0][1]
    again = asyncio.run(reference.atoken_logprobs(list(result.prompt_ids), list(result.token_ids), top=5))
    assert (again.logprobs, again.top) == (found.logprobs, found.top)


def test_results_of_every_kind_have_their_prompt(reference: Engine) -> None:
    assert reference.generate(prompt_ids=[1, 2, 3], max_tokens=1).prompt_ids == (1, 2, 3)
    assert reference.infill("He has 15 x 4 =", " dollars.", max_tokens=3).prompt_ids
    assert reference.generate(prompt_ids=[4, 5], step="choice", schema={"enum": ["a", "b"]}).prompt_ids == (4, 5)


@pytest.mark.parametrize(
    ("prompt", "tokens", "top"), [("ab", [1], 0), ([1], "ab", 0), ([], [1], 0), ([1], [], 0), ([1], [1], 21)]
)
def test_what_cannot_be_scored_is_refused(prompt: Any, tokens: Any, top: int) -> None:
    with pytest.raises(tm.RequestError):
        FakeEngine().token_logprobs(prompt, tokens, top)


def test_to_a_fake_engine_every_token_is_certain() -> None:
    found = asyncio.run(FakeEngine().atoken_logprobs([1], [2, 3], top=2))
    assert (found.logprobs, found.top) == ((0.0, 0.0), (((2, 0.0),), ((3, 0.0),)))


def test_prefixes_are_shared_within_a_scope_only(fresh: Engine) -> None:
    seen = []
    for scope in ("a", "a", "b", None, None):
        result = fresh.generate(messages=ASK, max_tokens=2, cache_scope=scope)
        seen.append(result.stats.cached_tokens > 0)
    assert seen == [False, True, False, False, True]
    asked = [tm.DecisionQuestion.predicate("Is it late?")]
    assert fresh.choice(["a", "b"], messages=ASK, cache_scope="c").stats.cached_tokens == 0
    assert fresh.decide(ASK, asked, cache_scope="d").stats.cached_tokens == 0
    assert fresh.decide(ASK, asked, cache_scope="d").stats.cached_tokens > 0
    assert fresh.infill("He has 15 x 4 =", " dollars.", cache_scope="e").stats.cached_tokens == 0
    assert fresh.token_logprobs([1, 2], [3], cache_scope="f").stats.cached_tokens == 0


@pytest.mark.parametrize("scope", [3, b"a", ["a"]])
def test_a_scope_is_a_text(scope: Any) -> None:
    with pytest.raises(tm.RequestError, match="cache_scope"):
        FakeEngine().generate("x", cache_scope=scope)
