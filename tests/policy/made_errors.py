"""One error of every class, made as the code makes it. No test framework: worker processes import this too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, Final

from trimode.engine import errors as below
from trimode.engine.connectors import NothingConnected
from trimode.engine.errors import TrimodeError
from trimode.engine.result import Stats
from trimode.integrations.cli import fetch
from trimode.integrations.mcp import errors as mcp
from trimode.integrations.server import keys, process, refusals, settings
from trimode.integrations.server.wire.decisions import BadDecision
from trimode.integrations.training import errors as training
from trimode.integrations.workload import refusals as workload
from trimode.kernels.checks import TensorRefused
from trimode.kernels.native.build import NativeUnavailable
from trimode.kernels.ops import TritonUnavailable
from trimode.policy import errors as above
from trimode.policy import remote
from trimode.policy.calls.fake_engine import ScriptError

STATS: Final = Stats(
    prompt_tokens=3, cached_tokens=0, prefill_passes=1, output_tokens=2, forward_passes=2, drafted=0, accepted=0,
    corrected=2, forced=0, repaired=0, prefill_seconds=0.1, seconds=0.2,
)  # fmt: skip
_OF_SERVER: Final = (
    refusals.ServerError, refusals.BadParameter, refusals.MissingParameter, refusals.UnknownParameter,
    refusals.UnsupportedParameter, refusals.BadBody, refusals.WrongContentType, refusals.BodyTooLarge,
    refusals.BodyTooSlow, refusals.NoKey, refusals.UnknownModel, refusals.UnknownPath, refusals.WrongMethod,
    refusals.TooManyWaiting, refusals.ShuttingDown, refusals.ReplicasLost, refusals.ReplayDiffers,
    refusals.OutOfTime, refusals.CallerLeft,
)  # fmt: skip
_OF_COMMANDS: Final = (
    training.TrainingError, training.DataError, workload.PriceRefused, workload.RunRefused, workload.RouteRefused,
    workload.StoreRefused,
)  # fmt: skip
_AT_START: Final = (keys.KeyFileRefused, process.NotListening, settings.SettingsRefused)
ATTEMPT: Final = above.Attempt(seed=1, temperature=0.5, text="{", violation="cut", audit_id="c0ffee", stats=STATS)


def _with_result(error: Any) -> Any:
    """A result may hold what no other process can have."""
    error.result = Lock()
    return error


def _noted() -> Exception:
    error = above.SchemaError("a schema that cannot be used")
    error.add_note("seen while the step was defined")
    return error


MADE: Final[dict[type[Exception], Callable[[], Exception]]] = {
    TrimodeError: lambda: TrimodeError("nothing to replay"),
    below.CheckpointError: lambda: below.CheckpointError("config.json: no such file"),
    below.RequestError: lambda: below.RequestError("dtype='x': expected one of float32"),
    below.ModeUnavailable: lambda: below.ModeUnavailable("diffusion", "LlamaForCausalLM", ["ar", "linear_spec"]),
    below.PromptTooLong: lambda: below.PromptTooLong(900, 200, 1024),
    below.KvMemoryExceeded: lambda: below.KvMemoryExceeded(2_000_000, 1_000_000),
    below.DeviceMemoryExceeded: lambda: below.DeviceMemoryExceeded("cuda:0", 10, {"weights": 8, "graphs": 4}),
    below.RowsDisagree: lambda: below.RowsDisagree("native", "1e-7 in row 3"),
    below.QueueFull: lambda: below.QueueFull(1024, 1, 1024),
    below.WeightsReleased: lambda: below.WeightsReleased("export", "int8"),
    below.CallCancelled: lambda: below.CallCancelled("the engine was closed"),
    below.EngineStopped: lambda: below.EngineStopped(ZeroDivisionError("division by zero")),
    below.NonFiniteLogits: lambda: below.NonFiniteLogits(7, "block 3", "torch.float32"),
    above.SchemaError: _noted,
    fetch.FetchError: lambda: fetch.FetchError("not fetched"),
    fetch.NotReachable: lambda: fetch.NotReachable("pip could not download it"),
    fetch.WrongContent: lambda: fetch.WrongContent("another digest"),
    fetch.NoSpace: lambda: fetch.NoSpace("too little room"),
    above.SchemaRefused: lambda: above.SchemaRefused("refused", "/a", "not", "leave it out").elsewhere("/b/a", "look"),
    above.MalformedSchema: lambda: above.MalformedSchema("/type", "type", "$.type", "expected a string"),
    above.UnsupportedKeyword: lambda: above.UnsupportedKeyword("/not", "not", "leave it out", checkable=False),
    above.UnsatisfiableSchema: lambda: above.UnsatisfiableSchema("", "enum", "give it a value"),
    above.SchemaTooComplex: lambda: above.SchemaTooComplex("/a", "maxItems", "lower it"),
    above.MalformedGrammar: lambda: above.MalformedGrammar("regex", "unbalanced parenthesis"),
    above.UnsupportedSyntax: lambda: above.UnsupportedSyntax("regex", "(?=", "leave it out"),
    above.BudgetTooSmall: lambda: above.BudgetTooSmall(30, 20),
    above.OutputRefused: lambda: _with_result(above.OutputRefused("refused")),
    above.SchemaViolation: lambda: _with_result(above.SchemaViolation('{"a":1}', "a: expected a string")),
    above.CheckFailed: lambda: _with_result(above.CheckFailed("{", "cut", [ATTEMPT, ATTEMPT])),
    above.GrammarRuntimeError: lambda: above.GrammarRuntimeError("the lexer is exhausted"),
    above.AuditError: lambda: above.AuditError("an audit file that cannot be used"),
    above.AuditFileRefused: lambda: above.AuditFileRefused(Path("/dev/full"), "this is a character device"),
    above.TrailsNotMerged: lambda: above.TrailsNotMerged(Path("a.jsonl"), "line 2: chain broken"),
    above.AuditWriteFailed: lambda: _with_result(
        above.AuditWriteFailed([Path("a.jsonl"), Path("b.jsonl")], "No space left on device", "c0ffee")
    ),
    above.BudgetExceeded: lambda: above.BudgetExceeded("tokens", 90, 100, "plan"),
    above.ToolError: lambda: above.ToolError("tool 'look' is a description without a function"),
    above.UnknownTool: lambda: above.UnknownTool("look", ["see"]),
    above.InvalidArguments: lambda: above.InvalidArguments("look", {"days": "many"}, "days: expected an integer"),
    above.PolicyError: lambda: above.PolicyError("unknown mode 'fast'", ["kinds", "json", "mode"]),
    above.StepError: lambda: above.StepError("a step was called outside a session"),
    ScriptError: lambda: ScriptError("give in_turn() more answers"),
    NothingConnected: lambda: NothingConnected("nothing provides 'remote'"),
    remote.RemoteError: lambda: remote.RemoteError("ngram", "not served"),
    remote.ServerUnreachable: lambda: remote.ServerUnreachable("ngram", "connection refused"),
    remote.ServerTimeout: lambda: remote.ServerTimeout("ngram", "first", 120.0),
    remote.ServerFailed: lambda: remote.ServerFailed("ngram", 500, "out of memory"),
    remote.ServerBusy: lambda: remote.ServerBusy("ngram", 429, 3.0),
    remote.CallRefused: lambda: remote.CallRefused("ngram", 400, "no such field"),
    remote.AnswerGarbled: lambda: remote.AnswerGarbled("ngram", "not JSON"),
    remote.StreamBroken: lambda: remote.StreamBroken("ngram", "the connection was lost", "It is"),
    remote.CircuitOpen: lambda: remote.CircuitOpen("ngram", 5, 3.5),
    remote.EveryPoolFailed: lambda: remote.EveryPoolFailed({}),
    remote.ConstraintNotHeld: lambda: remote.ConstraintNotHeld("ngram", "json", "Hello!"),
    remote.ScoresNotGiven: lambda: remote.ScoresNotGiven("ngram", "sglang", "no endpoint for it is known"),
    remote.OutputCut: lambda: remote.OutputCut("ngram", 16, '{"n":'),
    remote.NotReported: lambda: remote.NotReported("drafted"),
    NativeUnavailable: lambda: NativeUnavailable("no C++ compiler"),
    TritonUnavailable: lambda: TritonUnavailable("no CUDA device"),
    TensorRefused: lambda: TensorRefused("expected fp32"),
    **{kind: partial(kind, "not served", "messages", 3) for kind in _OF_SERVER},
    **{kind: partial(kind, "not started") for kind in _AT_START},
    **{kind: partial(kind, "cannot be used") for kind in _OF_COMMANDS},
    workload.LogRefused: lambda: workload.LogRefused(Path("calls.jsonl"), 3, "not JSON"),
    mcp.McpError: lambda: mcp.McpError("files", "not started"),
    mcp.McpToolFailed: lambda: mcp.McpToolFailed("files", "read", "no such file"),
    mcp.McpTimeout: lambda: mcp.McpTimeout("files", "no answer in 5 s"),
    mcp.McpDisconnected: lambda: mcp.McpDisconnected("files", "went away"),
    mcp.McpNamesCollide: lambda: mcp.McpNamesCollide({"read": ["files", "mail"]}),
    BadDecision: lambda: BadDecision("questions: none", "questions"),
}


def classes(base: type[Exception]) -> Iterator[type[Exception]]:
    """`base` and every class of ours below it."""
    yield base
    for kind in base.__subclasses__():
        yield from classes(kind)


def fail(name: str) -> None:
    """Raises the error of the class of that name."""
    raise next(make for kind, make in MADE.items() if kind.__name__ == name)()


def content(error: BaseException) -> dict[str, object]:
    """What a caller may read of an error, but for a result, which stays in its process."""
    said = {key: value for key, value in vars(error).items() if key != "result"}
    return {**said, "text": str(error), "class": type(error), "args": error.args}
