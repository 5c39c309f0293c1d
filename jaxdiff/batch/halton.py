"""Points that fill a box evenly: Halton's sequence, its digits permuted at random."""

import numpy as np


def halton(count: int, dimension: int, rng: np.random.Generator | None) -> np.ndarray:
    """The first points of Halton's sequence in the unit cube, ``[count, dimension]``, float64.

    Coordinate j of point i is the radical inverse of i in the j-th prime: its digits mirrored at the point. In higher dimensions these are
    correlated; a random permutation of the digits of each place undoes that and keeps the points as even.

    Args:
        count: how many.
        dimension: of the cube.
        rng: draws the permutations; None leaves the digits as they are, so that the first point is 0.

    References:
        Halton, Numer. Math. 2 (1960) 84-90; Owen, A randomized Halton algorithm in R (2017), arXiv:1706.02808.

    Example:
        >>> halton(4, 2, None).round(4).tolist()
        [[0.0, 0.0], [0.5, 0.3333], [0.25, 0.6667], [0.75, 0.1111]]
    """
    return np.stack([_radical_inverse(count, base, rng) for base in _primes(dimension)], axis=1) if dimension else np.zeros((count, 0))


def _radical_inverse(count: int, base: int, rng: np.random.Generator | None) -> np.ndarray:
    rest, value, weight = np.arange(count), np.zeros(count), 1.0 / base
    # Places beyond the last digit of every index are zeros, which a permutation changes too: down to rounding.
    while rest.any() or (rng is not None and weight > 2.0**-53):
        digits = rest % base
        value += weight * (digits if rng is None else rng.permutation(base)[digits])
        rest, weight = rest // base, weight / base
    return np.minimum(value, np.nextafter(1.0, 0.0))


def _primes(count: int) -> list[int]:
    found: list[int] = []
    candidate = 2
    while len(found) < count:
        if all(candidate % prime for prime in found if prime * prime <= candidate):
            found.append(candidate)
        candidate += 1
    return found
