# SPDX-License-Identifier: Apache-2.0
"""T5's relative position buckets, and their expansion to the table by position difference that the kernels read."""
from functools import cache

import torch

BUCKETS, MAX_DISTANCE = 32, 128


@cache
def bucket(difference, bidirectional, buckets=BUCKETS, max_distance=MAX_DISTANCE):
    """The bucket of a key at query position + difference.

    Half of the buckets hold one distance each, the others distances on a logarithmic scale up to max_distance, and the
    last one all beyond. Bidirectional: the keys ahead have half of all buckets; else they share bucket 0. In integers:
    the logarithmic step of distance n is the largest k with n >= exact * (max_distance / exact)^(k / steps).
    """
    first, distance = 0, max(0, -difference)
    if bidirectional:
        buckets //= 2
        first, distance = (buckets if difference > 0 else 0), abs(difference)
    exact = buckets // 2
    if distance < exact:
        return first + distance
    steps = buckets - exact
    reached = (k for k in range(1, steps) if distance ** steps * exact ** k >= exact ** steps * max_distance ** k)
    return first + exact + max(reached, default=0)


def relative_shape(bidirectional, max_distance=MAX_DISTANCE):
    """Width and center of the table: differences -max_distance .. 0, or to max_distance; those beyond are clamped."""
    return dict(relative_width=max_distance * (2 if bidirectional else 1) + 1, relative_center=max_distance)


def relative_table(weight, bidirectional, max_distance=MAX_DISTANCE):
    """weight [buckets, heads], as checkpoints have it -> [heads, relative_width]."""
    shape = relative_shape(bidirectional, max_distance)
    differences = range(-shape["relative_center"], shape["relative_width"] - shape["relative_center"])
    return weight[torch.tensor([bucket(d, bidirectional, len(weight), max_distance) for d in differences])].T.contiguous()
