"""A seeded exchange: real matching, real order flow, MDP 3.0 packets, and a known limit of predictability.

    simulator = Simulator(SimulatorConfig(seed=7))
    for block in simulator.blocks():
        send(block.incremental, block.snapshots)
    truth = simulator.truth()

What is known about its predictability. Each instrument has a hidden state s, a Markov chain on steps. In a
step the state is used twice: the mid's move m is drawn from ``moves[s]``, and each order that the noise flow
adds is a bid with probability ``bid_share[s]``. Let a be the adds of the step and b the bids among them.

Claim: P(s of step t | the whole feed up to t) depends on the feed through (m, a, b) of each step only, and
the forward recursion of `workloads.exchange.forecast` computes it exactly.

Proof. Let H be all that is visible before the step. Given H and s, the step is drawn in this order: m, from
s; when it happens, the burst state, the number of noise actions and their times, without looking at s; then,
action by action, its kind, from the number of resting orders (visible); for an add the side, from s; for
everything else (price relative to the best, size, which order is changed or cancelled, the aggressor's side,
ids, latency, packets) from the visible book and fresh random numbers. An action that finds nothing to do (it
would empty one of the two best prices) sends nothing; adds always find room. So the probability of what is
seen in the step is

    moves[s][m] * bid_share[s]^b * (1 - bid_share[s])^(a - b) * R(what is seen, H)

where R does not contain s and cancels in Bayes' rule (what is hidden in R, the burst state and the actions
without effect, is independent of s and summed out). What remains is a hidden Markov model with two
observation channels. Conversely m, a and b can be read off the feed: m is the change of the best bid; an
order that is new belongs to the noise flow unless it is the rest of an order that traded in the same event,
or the first order at an empty second-best price, which only ever answers a move, because the noise flow
never empties the two best prices. A test counts them so. QED.

The feed carries times, and steps are fixed intervals of them, so an observer knows where a step ends. The
bound is for forecasts made at the ends of steps.
"""

from workloads.exchange.simulator.config import Future, SimulatorConfig, SimulatorError, default_futures
from workloads.exchange.simulator.simulator import Block, Simulator
from workloads.exchange.simulator.truth import Truth

__all__ = ["Block", "Future", "Simulator", "SimulatorConfig", "SimulatorError", "Truth", "default_futures"]
