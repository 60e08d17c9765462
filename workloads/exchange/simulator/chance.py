"""Random numbers for compiled code: seeded streams that no other draw disturbs.

SplitMix64 (Steele, Lea, Flood 2014): a stream is one uint64. The market and the gateway draw from streams of
their own, so that another packet size leaves every order as it was.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"
# Compiled: Numba infers the types.

import math

import numpy as np
from numba import njit

HIDDEN, FLOW, WIRE = np.int64(0), np.int64(1), np.int64(2)
STREAMS = 3

_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def streams(seed: int) -> np.ndarray:
    """The streams of a seed, uint64[3]."""
    return np.random.SeedSequence(seed).generate_state(STREAMS, np.uint64)


@njit(nogil=True, cache=True)
def uniform(random, stream):
    """In [0, 1)."""
    random[stream] += _STEP
    z = random[stream]
    z = (z ^ (z >> np.uint64(30))) * _MIX_1
    z = (z ^ (z >> np.uint64(27))) * _MIX_2
    z = z ^ (z >> np.uint64(31))
    return np.int64(z >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@njit(nogil=True, cache=True)
def below(random, stream, n):
    """An integer in 0 .. n-1."""
    return np.int64(uniform(random, stream) * n)


@njit(nogil=True, cache=True)
def exponential(random, stream, mean):
    """Rounded down to an integer."""
    return np.int64(-math.log(1.0 - uniform(random, stream)) * mean)


@njit(nogil=True, cache=True)
def geometric(random, stream, success):
    """Failures before the first success."""
    return np.int64(math.log(1.0 - uniform(random, stream)) / math.log(1.0 - success))


@njit(nogil=True, cache=True)
def poisson(random, stream, mean):
    """Knuth's product of uniforms, in parts of at most 30 so that nothing underflows."""
    n = 0
    while mean > 0.0:
        part = min(mean, 30.0)
        mean -= part
        limit = math.exp(-part)
        product = uniform(random, stream)
        while product > limit:
            n += 1
            product *= uniform(random, stream)
    return n


@njit(nogil=True, cache=True)
def choice(random, stream, cumulative):
    """Index into cumulative probabilities."""
    u = uniform(random, stream)
    k = 0
    while k < len(cumulative) - 1 and u >= cumulative[k]:
        k += 1
    return k
