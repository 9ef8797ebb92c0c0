"""A clip and the objects annotated in it: where each is at a frame, and the same of the mirrored and reversed clip."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from data.corpora import Refused
from transforms import mirrored_box

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in 0..1 of the picture."""
Place = tuple[float, float, float]
"""Metres; of one moment all in the same coordinates."""


@dataclass(frozen=True)
class Track:
    """One object. Frames count from 0; between two labels that are near enough it moves on a straight line."""

    name: str
    boxes: dict[int, Box]
    """Frame -> box, ascending."""
    places: dict[int, Place] = field(default_factory=dict)
    """Frame -> centre, where the annotations know it."""
    size: Place | None = None
    """Metres, where they do."""


@dataclass(frozen=True)
class Scene:
    """A clip and its objects."""

    name: str
    path: str
    """Of the clip, below the data root."""
    frames: int
    fps: float
    tracks: tuple[Track, ...]
    gap: int = 1
    """Most frames between two labels of a track across which it is taken to be in sight."""
    unsure: frozenset[str] = frozenset()
    """Names not to ask about."""
    complete: bool = True
    """Every object of a labelled kind is labelled."""
    occluded: bool = False
    """Labels do not say whether an object can be seen."""

    @property
    def duration(self) -> float:
        return self.frames / self.fps

    def box(self, track: Track, frame: int) -> Box | None:
        """Where an object is at a frame; None where it is out of sight."""
        return _between(track.boxes, frame, self.gap)

    def place(self, track: Track, frame: int) -> Place | None:
        """Where it is in metres; None where that is not known."""
        return _between(track.places, frame, self.gap)

    def runs(self, track: Track) -> list[tuple[int, int]]:
        """[first, last] frames between which an object stays in sight, in order."""
        runs: list[tuple[int, int]] = []
        for frame in track.boxes:
            if runs and frame - runs[-1][1] <= self.gap:
                runs[-1] = runs[-1][0], frame
            else:
                runs.append((frame, frame))
        return runs

    def flipped(self) -> Scene:
        """As its mirrored clip would be annotated."""
        tracks = (
            replace(track, boxes={f: tuple(mirrored_box(b)) for f, b in track.boxes.items()}) for track in self.tracks
        )
        return replace(self, tracks=tuple(tracks))

    def backwards(self) -> Scene:
        """As its clip played backwards would be annotated."""
        turn = lambda labels: {self.frames - 1 - f: labels[f] for f in reversed(labels)}  # noqa: E731
        tracks = (replace(track, boxes=turn(track.boxes), places=turn(track.places)) for track in self.tracks)
        return replace(self, tracks=tuple(tracks))


def _between(labels: dict, frame: int, gap: int) -> tuple[float, ...] | None:
    """The label at a frame, or the point on the line between its neighbours if they are no more than `gap` apart."""
    if frame in labels:
        return labels[frame]
    before = max((f for f in labels if f < frame), default=None)
    after = min((f for f in labels if f > frame), default=None)
    if before is None or after is None or after - before > gap:
        return None
    share = (frame - before) / (after - before)
    return tuple((1 - share) * a + share * b for a, b in zip(labels[before], labels[after], strict=True))


def box_of(x0: float, y0: float, x1: float, y1: float, width: float, height: float) -> Box:
    """Pixels -> shares of the picture, cut at its border. Refused where nothing of it is in the picture."""
    if not all(map(math.isfinite, (x0, y0, x1, y1))) or not (x0 < x1 and y0 < y1):
        raise Refused("box", "must have x0 < x1 and y0 < y1", f"got {x0:g}, {y0:g}, {x1:g}, {y1:g}")
    left, top, right, bottom = max(x0, 0.0), max(y0, 0.0), min(x1, width), min(y1, height)
    if left >= right or top >= bottom:
        raise Refused("box", "lies off the frame", f"{x0:g}, {y0:g}, {x1:g}, {y1:g} in {width:g} x {height:g}")
    return left / width, top / height, right / width, bottom / height
