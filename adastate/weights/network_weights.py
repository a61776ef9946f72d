"""One network from a source of weights of any origin, under Wan's names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from adastate.weights import eight_bit, key_maps, lora_merge, lora_scale, released
from adastate.weights import geometry as geo
from adastate.weights.builtin import BUILTIN
from adastate.weights.files import StoredTensor, WeightsError, parse_header
from adastate.weights.load_report import Fit, LoadReport, compare
from adastate.weights.sources import Stored, open_source

EMA = re.compile(r"(?:^|[._])ema(?:[._]|$)")
OTHERS = re.compile(r"critic|fake_score|real_score|teacher")
"""Networks next to a student in a training checkpoint, which are taken only on request."""


@dataclass(frozen=True)
class Section:
    """The weights of a source that share a prefix. `adapter`: it has low-rank factors and no weights to add them to."""

    prefix: str
    entries: Mapping[str, StoredTensor]
    adapter: bool

    @property
    def label(self) -> str:
        """What `--key` calls it: `generator_ema`, `student.ema.net`; empty where nothing stands before the names."""
        parts = [p for p in self.prefix.rstrip(".").split(".") if p != "state_dict"]
        return ".".join([p for p in parts if p not in ("model", "base_model")] or parts[:1])

    @property
    def rank(self) -> int:
        """Lower is taken first: networks before bare adapters, averages before others, what is for training last."""
        if OTHERS.search(self.label):
            return 4
        return 2 * self.adapter + (not EMA.search(self.label))


@dataclass(frozen=True)
class NetworkWeights:
    """A network's weights, not read yet, under Wan's names, with what is known about them."""

    path: Path
    entries: Mapping[str, StoredTensor]
    report: LoadReport

    def require(self) -> NetworkWeights:
        """Itself; an error if it is not one whole network."""
        if not self.entries:
            raise WeightsError(f"{self.path} is a LoRA, not a network: give its base weights with --base")
        if not self.report.geometry:
            raise WeightsError(f"{self.path} does not give its size: {self.report.fit}")
        if not self.report.fit.whole:
            raise WeightsError(f"{self.path} is not a whole network of this kind: {self.report.fit}")
        return self


def open_weights(
    source: str | Path,
    key: str | None = None,
    base: str | Path | None = None,
    lora_alpha: float | None = None,
    heads: int | None = None,
) -> NetworkWeights:
    """Opens a source; tensors are read on demand.

    Args:
        source: .safetensors, .pt, .pth, .ckpt or .bin file; a run folder; a network's or pipeline's folder; "builtin".
        key: which of several networks ("generator", "student.net"); default: the average, if there is one.
        base: base weights of a LoRA.
        lora_alpha: its alpha; default: from the file or its folder, or the rank (`lora_scale.Scaling`).
        heads: attention heads, if the source does not give them.

    Raises:
        WeightsError: in one sentence, what was found and what was looked for.
        FileNotFoundError: there is no such source.
    """
    stored = open_source(BUILTIN.get(str(source), Path(source)))
    lora_merge.refuse_others(stored.entries, stored.path)
    found = sections(stored)
    section = _choose(found, key, stored)
    layout = _layout(section)
    raw = {layout(name): entry for name, entry in section.entries.items()}
    released.refuse(raw, stored.path)
    made, entries = lora_merge.adapters(raw)
    about = LoadReport(
        source=str(stored.path),
        origin=_origin(stored, section),
        key=section.label,
        prefix=section.prefix,
        beside=_beside(stored, found, section),
        stream=parse_header(stored.path, stored.header).get("stream", {}),
    )
    if section.adapter:
        scaling = lora_scale.scaling(stored, section.prefix, lora_alpha)
        return _over_base(stored.path, made, entries, about, base, scaling, heads)
    if base is not None:
        raise WeightsError(f"{stored.path} is a whole network, not a LoRA: leave --base out")
    packing = eight_bit.packing_in_words(stored.header)
    notes: tuple[str, ...] = (packing,) if packing else ()
    notes += released.note_of(stored.path)
    if made:
        entries, note = lora_merge.merge_adapters(entries, made, lora_scale.scaling(stored, section.prefix, lora_alpha))
        notes += (note,)
    geometry, heads_from, odd = _geometry(stored, entries, heads)
    untold = tuple(name for name in geo.TELLING if name not in entries)
    about = replace(
        about,
        size=geo.size_name(geometry) if geometry else "unknown",
        geometry=geometry,
        heads_from=heads_from or "unknown: they shape no tensor, give --heads",
        dtypes=_dtypes(entries),
        parameters=sum(entry.count for entry in entries.values()),
        fit=compare(entries, geo.shapes(geometry)) if geometry else Fit(missing=untold),
        notes=notes + odd + (geo.ti2v_note(geometry) if "size" not in stored.header else ()),
    )
    return NetworkWeights(stored.path, entries, about)


def _over_base(
    path: Path,
    made: Mapping[str, lora_merge.Adapter],
    others: Mapping[str, StoredTensor],
    about: LoadReport,
    base: str | Path | None,
    scaling: lora_scale.Scaling,
    heads: int | None,
) -> NetworkWeights:
    """A LoRA merged into its base; without one, a checkpoint without entries that says so."""
    about = replace(about, origin=f"LoRA{', ' + about.origin if about.prefix else ''}")
    if base is None:
        ranks = ", ".join(str(r) for r in sorted({a.rank for a in made.values()}))
        note = f"rank {ranks}, {len(made)} layers; it needs the weights that it changes: --base"
        return NetworkWeights(path, {}, replace(about, size="that of its base", notes=(note,)))
    if others:
        raise WeightsError(
            f"{path} is a LoRA with more than low-rank factors: {key_maps.groups(list(others))}; merge it into its "
            "base with the tool that made it, and use the merged weights"
        )
    below = open_weights(base, heads=heads).require()
    merged, note = lora_merge.merge_adapters(below.entries, made, scaling)
    report = replace(
        below.report,
        source=about.source,
        key=about.key,
        prefix=about.prefix,
        beside=about.beside,
        origin=f"LoRA over {below.path} ({below.report.origin})",
        dtypes=_dtypes(merged),
        notes=(*below.report.notes, note),
    )
    return NetworkWeights(path, merged, report)


def sections(stored: Stored) -> list[Section]:
    """The networks and adapters of a source, by the prefix of their names."""
    by_prefix: dict[str, dict[str, StoredTensor]] = {}
    rest: dict[str, StoredTensor] = {}
    for raw, entry in stored.entries.items():
        name = key_maps.unwrapped_name(raw)
        place = key_maps.split_name(name)
        if place is None:
            rest[name] = entry
            continue
        into = by_prefix.setdefault(place[0], {})
        if place[1] in into:
            raise WeightsError(f"{stored.path} holds {name} twice, once as {raw}: its wrappers are mixed up")
        into[place[1]] = entry
    found = []
    for prefix, entries in by_prefix.items():
        telling = [name for name in entries if key_maps.NETWORK.match(name) or key_maps.LORA.match(name)]
        if telling:
            # What lies among the weights and is none of them is unexpected, not somebody else's.
            stray = {name.removeprefix(prefix): entry for name, entry in rest.items() if name.startswith(prefix)}
            factors = all(key_maps.LORA.match(name) for name in telling)
            found.append(Section(prefix, entries | stray, factors))
    return found


def _choose(found: list[Section], key: str | None, stored: Stored) -> Section:
    if not found:
        seen = key_maps.groups([key_maps.unwrap(n) for n in stored.entries]) or "no tensor at all"
        raise WeightsError(
            f"{stored.path} is of unknown origin: it holds {seen}; looked for blocks.N.self_attn.q (Wan's names) or "
            "blocks.N.attn1.to_q (diffusers'), bare or behind any prefix, or their LoRA factors lora_A and lora_B"
        )
    held = ", ".join(s.label or "a network without a name" for s in found)
    if key is not None:
        exact = [s for s in found if key in (s.label, s.prefix.rstrip("."))]
        matching = exact or [s for s in found if f".{key}." in f".{s.prefix}"]
        if not matching:
            alone = ": leave --key out" if len(found) == 1 else ""
            raise WeightsError(f"{stored.path} has no network {key!r}; it holds {held}{alone}")
        found = matching
    best = [s for s in found if s.rank == min(s.rank for s in found)]
    if len(best) > 1:
        raise WeightsError(f"{stored.path} holds several networks, {held}; choose one with --key")
    return best[0]


def _layout(section: Section) -> Callable[[str], str]:
    """Gives a section's names as Wan has them; what has no such name keeps its own, and will be unexpected."""
    return (lambda name: key_maps.to_wan(name) or name) if _is_diffusers(section) else lambda name: name


def _is_diffusers(section: Section) -> bool:
    return sum(".attn1." in n for n in section.entries) > sum(".self_attn." in n for n in section.entries)


def _geometry(
    stored: Stored, entries: Mapping[str, StoredTensor], heads: int | None
) -> tuple[geo.Geometry, str, tuple[str, ...]]:
    """(geometry, where the heads come from, what is odd about it)."""
    if own := parse_header(stored.path, stored.header).get("size"):
        return *geo.complete(geo.geometry_as_json(asdict(geo.size_of(own))), heads), ()
    shown = geo.infer(entries)
    if not shown:
        return {}, "", ()
    beside = geo.from_config(stored.config)
    other = [f"{k} {beside[k]}, not {shown[k]}" for k in geo.SHAPING if beside.get(k, shown[k]) != shown[k]]
    if other:
        # It may lie there by chance, or tell that the weights are not all here.
        note = f"config.json beside it describes another network ({', '.join(other)}) and is not used"
        return *geo.complete(shown, heads), (note,)
    return *geo.complete({**beside, **shown}, heads), ()


def _origin(stored: Stored, section: Section) -> str:
    if "lightning" in stored.header:
        return "a Lightning checkpoint"
    if _is_diffusers(section):
        return "diffusers' layout"
    if "size" in stored.header and not section.prefix:
        return "adastate's own file"
    return "a released student" if section.prefix else "Wan2.1's names"


def _beside(stored: Stored, found: list[Section], section: Section) -> tuple[str, ...]:
    others = [f"{s.label or 'a network'} ({len(s.entries)})" for s in found if s is not section]
    prefixes = tuple(s.prefix for s in found)
    if "" not in prefixes:
        rest = [n for n in map(key_maps.unwrapped_name, stored.entries) if not n.startswith(prefixes)]
        others += [key_maps.groups(rest)] if rest else []
    return tuple(others)


def _dtypes(entries: Mapping[str, StoredTensor]) -> dict[str, int]:
    count: dict[str, int] = {}
    for entry in entries.values():
        name = str(entry.dtype).removeprefix("torch.")
        count[name] = count.get(name, 0) + 1
    return count
