"""`adastate plan`: the cost of a run before it starts. `cost` counts arithmetic and `memory` bytes, with formulas."""
