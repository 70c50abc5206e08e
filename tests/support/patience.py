"""How long tests wait for what has to come: long, since a machine may have all processors busy meanwhile."""

from __future__ import annotations

#: Seconds. What does come is not waited for any longer.
PATIENCE = 20.0
