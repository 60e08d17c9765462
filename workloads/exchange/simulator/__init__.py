"""A seeded exchange: real matching, real order flow, MDP 3.0 packets, and a known limit of predictability.

simulator = Simulator(SimulatorConfig(seed=7))
for block in simulator.blocks():
    send(block.incremental, block.snapshots)
truth = simulator.truth()
"""

from workloads.exchange.simulator.config import Future, SimulatorConfig, SimulatorError, default_futures
from workloads.exchange.simulator.simulator import Block, Simulator
from workloads.exchange.simulator.truth import Truth

__all__ = ["Block", "Future", "Simulator", "SimulatorConfig", "SimulatorError", "Truth", "default_futures"]
