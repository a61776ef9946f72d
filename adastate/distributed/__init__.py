"""DeepSpeed ZeRO for several networks in one run: one engine per trained network, with the frozen ones beside them.

Written for DeepSpeed 0.19.8 and Lightning 2.6. Only this package depends on DeepSpeed; a config names the strategy by
its class path, adastate.distributed.ZeroStrategy (conf/strategy/).
"""

from adastate.distributed.zero_strategy import ZeroStrategy

__all__ = ["ZeroStrategy"]
