"""A program of dspy, compiled by an optimizer; the field that it has to fill is one of three words at every call."""

from __future__ import annotations

from typing import Literal

import dspy

import trimode as tm
from trimode.integrations.frameworks.dspy import trimode_lm


class Route(dspy.Signature):
    """Say what is asked for."""

    request: str = dspy.InputField()
    topic: Literal["weather", "flight", "hotel"] = dspy.OutputField()


class Desk(dspy.Module):
    """A program of one predictor, whose name is the step's."""

    def __init__(self) -> None:
        super().__init__()
        self.route = dspy.Predict(Route)

    def forward(self, request: str) -> dspy.Prediction:
        return self.route(request=request)


SAID = {"Is it raining?": "weather", "A plane to Rome": "flight", "A room, please": "hotel", "Two nights": "hotel"}


def main() -> None:
    engine = tm.Engine.load()
    lm = trimode_lm(engine, settings={"mode": "linear_spec"}, temperature=0, max_tokens=60)
    dspy.configure(lm=lm, adapter=dspy.JSONAdapter())
    examples = [dspy.Example(request=one, topic=topic).with_inputs("request") for one, topic in SAID.items()]
    optimizer = dspy.BootstrapFewShot(metric=lambda one, found, _=None: one.topic == found.topic)
    with tm.session(engine, trace="file:audit.jsonl"):
        optimizer.compile(Desk(), trainset=examples).save("desk.json")
        desk = Desk()
        desk.load("desk.json")
        print(desk(request="A hotel with a pool").topic, len(desk.route.demos), "demonstrations")
    facts = lm.history[-1]["response"].provider_data["trimode"]
    print(facts["step"], facts["kind"], facts["guarantee"])


if __name__ == "__main__":
    main()
