"""A run as text for a terminal and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .figures import Figures, Run, ratios
from .gates import Gate

#: Of the bench beside other gateways: said with the figures, because their names cannot.
NOTES = (
    "Seconds, bytes, and messages or bytes per second. zmq, v1 and legacy are protocols. What is called",
    "client is the measuring client by itself, on the bytes that this server sent it. Memory, growth,",
    "descriptors and processor time are the server process's own; beside them stand those of our relays,",
    "which do in their sandboxes part of what other gateways do in the server: figures, and no gates.",
)


def text(run: Run, gates: Sequence[Gate], notes: Sequence[str]) -> Iterator[str]:
    """Lines: `notes`, all figures, ratios, gates, and in the end what was missed."""
    yield from notes
    for name, figures in _named(run).items():
        yield f"\n{name}"
        for figure, values in figures.items():
            yield (
                f"  {figure:34} median {values.median:11.6g}  p95 {values.p95:11.6g}  "
                f"min {values.min:11.6g}  max {values.max:11.6g}  n {values.n}"
            )
    yield "\nthis gateway's medians / the others'"
    for figure, others in ratios(run).items():
        yield f"  {figure:34} " + "  ".join(f"{name} {ratio:.4g}" for name, ratio in others.items())
    yield ""
    yield from map(str, gates)
    missed = sum(not gate.ok for gate in gates)
    yield f"\n{missed} of {len(gates)} gates missed" if missed else f"\nall {len(gates)} gates hold"


def as_json(
    run: Run,
    gates: Sequence[Gate],
    values: Mapping[str, Mapping[str, Sequence[float]]],
    notes: Sequence[str],
) -> dict[str, Any]:
    """Everything; `values` are those of the single rounds."""
    return {
        "notes": " ".join(notes),
        "figures": {
            name: {figure: one._asdict() for figure, one in figures.items()}
            for name, figures in _named(run).items()
        },
        "ratios": ratios(run),
        "gates": [
            {
                "gate": gate.name,
                "value": gate.value,
                "rule": gate.rule,
                "bound": gate.bound,
                "unit": gate.unit,
                "ok": gate.ok,
            }
            for gate in gates
        ],
        "values": values,
    }


def _named(run: Run) -> dict[str, Figures]:
    return {"bare kernel": run.bare, "this gateway": run.ours, **run.peers}
