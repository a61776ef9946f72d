"""Flights over an endless land, seen from a camera that can be steered: a world that looks like video.

`voyage` says all that is true of a flight, `camera_path` turns actions into poses, `voxel_render` makes any picture of
it from voyage and pose alone. `lattice`, `biomes`, `terrain`, `atmosphere`, `landmarks`, `veils` and `lens` are what it
is made of; `flight_prompts` tells it in words; `contact_sheet` shows it.

A unit of length is about the width of a tree's crown; angles are radians; x points east, y north, z up; headings are
clockwise from north.
"""
