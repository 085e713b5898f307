"""A typed step under a schema, with the mode changed by one word."""

from __future__ import annotations

from pydantic import BaseModel

import trimode as tm


class Order(BaseModel):
    item: str
    size: str


@tm.step("json", max_tokens=64)
def order(request: str) -> Order:
    """Write the order as JSON: {request}"""
    return tm.ask()


def main() -> None:
    with tm.session(tm.Engine.load()):
        fast = order.result("a large oat milk latte")
        with tm.using(mode="ar"):
            slow = order.result("a large oat milk latte")
    print(fast.value)
    print(f"{fast.plan.mode}: {fast.stats.forward_passes} passes; {slow.plan.mode}: {slow.stats.forward_passes} passes")
    assert fast.token_ids == slow.token_ids


if __name__ == "__main__":
    main()
