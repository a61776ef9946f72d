"""`adastate plan`: what a run takes, before it runs. `cost` counts arithmetic and `memory` bytes, by formulas."""
