"""Makes torch's vectorized logarithms fast from their first call on."""

from __future__ import annotations

from functools import cache

import torch


@cache
def touch_constants() -> None:
    """Call functions once with their special values, so that the constants for these are in memory.

    With AVX-512, the functions of Sleef that torch calls replace results for special values, e.g. log1p(−0), by masked
    loads of constants. If no lane of a vector needs the constant and its page has never been read, the processor
    neither loads the page nor faults. It only loses hundreds of cycles, in every call: `log1p` in float32 and `log` in
    float64 are then slower by a factor of 3 to 10.
    """
    special = [0.0, -0.0, 1.0, -1.0, torch.inf, -torch.inf, torch.nan, 1e30, -1e30, 100.0, -100.0, 1e-42]
    for dtype in (torch.float32, torch.float64):
        values = torch.tensor(special, dtype=dtype, device="cpu").repeat(8)  # whole vectors of up to 16 lanes
        for function in (torch.log, torch.log1p, torch.expm1, lambda x: x.pow(x)):
            function(values)
