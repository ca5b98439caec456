"""Rollouts from one prepared session, as a trainer wants them: reset, step, reward, a line of JSON each.

    python examples/rollouts/rollouts.py [POLICY [FILE.jsonl]]

What takes long is done once: the orders are read in a session that is then forked for each rollout. The truth
stays here: what a session holds, its code can read. In the place of a model there are four scripts, of which
one is right, one is wrong, one mends its code and one never comes to an end. A model of your own stands where
they are asked: it is given `rollout.messages`, and its tokens and their log-probabilities are kept with
`step(reply, token_ids=ids, logprobs=logprobs)`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import anyio

from rlm_wasm import Policy, Rollout, RolloutEnvironment, Sandbox, Trajectory, write_jsonl

ORDERS = "\n".join(f"{name},{7 * at % 51}" for at, name in enumerate(["ann", "bob", "cleo", "dan"] * 50))
PREPARE = """
import collections
spent = collections.Counter()
for line in orders.splitlines():
    name, amount = line.split(",")
    spent[name] += int(amount)
"""
QUESTION = "Who spent most? Answer with the name alone."
SCRIPTS = {
    "right": ["```repl\nFINAL(max(spent, key=spent.get))\n```"],
    "wrong": ["```repl\nprint(spent)\n```", "FINAL(nobody)"],
    "mends": [
        "```repl\nFINAL(spent.most_common(1)[0[0])\n```",
        "```repl\nFINAL(spent.most_common(1)[0][0])\n```",
    ],
    "never": ["```repl\nprint(len(orders))\n```"],
}


def scripted(replies: list[str]) -> Iterator[str]:
    """Yield a script's replies, the last one again and again."""
    yield from replies
    while True:
        yield replies[-1]


async def main(policy: Policy) -> list[Trajectory]:
    """Do one rollout for each script, all from the same prepared state."""
    made = []
    async with Sandbox(policy) as sandbox, sandbox.session() as session:
        await session.load("orders", ORDERS)
        (await session.exec(PREPARE)).raise_for_outcome()
        truth = (await session.exec("max(spent, key=spent.get)")).value

        def reward(rollout: Rollout) -> float:
            """One for the right name, less for each turn but the first."""
            right = rollout.declared and rollout.answer == truth
            return round(float(right) - 0.1 * (len(rollout.turns) - 1), 3)

        environment = await RolloutEnvironment.of(session, ["orders", "spent"], reward=reward)
        for name, replies in SCRIPTS.items():
            model = scripted(replies)
            async with await environment.reset(QUESTION) as rollout:
                while not rollout.done and len(rollout.turns) < 4:
                    await rollout.step(next(model))
                made.append(await rollout.finish(model=name))
    return made


if __name__ == "__main__":
    trajectories = anyio.run(main, Policy.builtin(sys.argv[1] if len(sys.argv) > 1 else "strict"))
    for each in trajectories:
        print(f"{each.info['model']}: {each.answer!a}, {len(each.turns)} turns, reward {each.reward:.1f}")
    if len(sys.argv) > 2:
        write_jsonl(sys.argv[2], trajectories)
