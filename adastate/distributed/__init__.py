"""DeepSpeed ZeRO for several networks in one run: one engine for each that trains, the frozen ones beside them.

Written against DeepSpeed 0.19.8 and Lightning 2.6. This is the only package that knows DeepSpeed; a config names the
strategy by its class path, adastate.distributed.ZeroStrategy (conf/strategy/).
"""

from adastate.distributed.zero_strategy import ZeroStrategy

__all__ = ["ZeroStrategy"]
