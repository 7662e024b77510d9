"""One portrait into a talking head, or two: smooth motion of head, mouth, lids and camera before a moving background.

Everything is a backward warp: for each pixel of the frame, where in the portrait does it come from.
The warp is a sum of fixed displacement fields around the five landmarks, each times a curve over time.
So one scene can be rendered from any edited copies of its portraits, and the copies stay aligned frame by frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from pipeline.types import Float32Array, UInt8Array

GRID_STEP_PIXELS = 4
"""Displacement fields are smooth, so one node every 4 pixels is enough and 16 times cheaper."""
BOTTOM_MARGIN_PIXELS = 14
"""How far the portrait reaches below the frame, so that no motion uncovers its lower edge."""

EYES_X_SHARES: Mapping[int, tuple[tuple[float, float], ...]] = {1: ((0.42, 0.58),), 2: ((0.25, 0.30), (0.70, 0.75))}
"""By the number of people, for each of them from the left: between what shares of the frame's width the eyes are."""


@dataclass(frozen=True)
class Portrait:
    """A picture of one person, cut out."""

    person: str
    rgb: Float32Array
    """float32 ``(H, W, 3)``, RGB in [0, 255]."""
    matte: Float32Array
    """float32 ``(H, W)`` in [0, 1]; 1 where the person is."""
    landmarks: Float32Array
    """float32 ``(5, 2)``, xy in pixels: eyes (left in the picture first), nose, corners of the mouth."""

    def resized(self, scale: float) -> Portrait:
        """The same picture ``scale`` times as large."""
        size = (round(self.matte.shape[1] * scale), round(self.matte.shape[0] * scale))
        rgb = cv2.resize(self.rgb, size, interpolation=cv2.INTER_AREA)
        matte = cv2.resize(self.matte, size, interpolation=cv2.INTER_AREA)
        landmarks = ((self.landmarks + 0.5) * scale - 0.5).astype(np.float32)
        return replace(self, rgb=rgb, matte=matte, landmarks=landmarks)


@dataclass(frozen=True)
class FaceAxes:
    """The face's own coordinates: origin between the eyes, unit vectors, and the unit of length."""

    eyes: Float32Array
    """float32 ``(2,)``, the point between the eyes, pixels."""
    right: Float32Array
    """float32 ``(2,)``, unit vector from the eye left in the picture to the other."""
    down: Float32Array
    """float32 ``(2,)``, unit vector across ``right``, towards the mouth."""
    unit: float
    """Pixels from the eyes to the mouth: about 0.35 of the height of MTCNN's box, and steady when a head turns."""

    @classmethod
    def of(cls, landmarks: Float32Array) -> FaceAxes:
        """Axes of five landmarks, float32 ``(5, 2)``."""
        eyes, mouth = landmarks[:2].mean(axis=0), landmarks[3:].mean(axis=0)
        right = (landmarks[1] - landmarks[0]) / np.linalg.norm(landmarks[1] - landmarks[0])
        down = np.array([-right[1], right[0]], np.float32)
        return cls(eyes, right, down, float(np.linalg.norm(mouth - eyes)))

    def coordinates(self, points: Float32Array) -> tuple[Float32Array, Float32Array]:
        """Position of ``points`` ``(..., 2)`` in units, along ``right`` and along ``down``."""
        offset = (points - self.eyes) / self.unit
        return (offset @ self.right).astype(np.float32), (offset @ self.down).astype(np.float32)


def _bump(u: Float32Array, v: Float32Array, at: tuple[float, float], width: float, height: float) -> Float32Array:
    return np.asarray(np.exp(-0.5 * (((u - at[0]) / width) ** 2 + ((v - at[1]) / height) ** 2)), np.float32)


def warp_fields(portrait: Portrait) -> Float32Array:
    """The displacement fields of a portrait, in pixels for a curve of 1: float32 ``(K, h, w, 2)`` on the coarse grid.

    In the order of :func:`motion_curves`: shift right, shift down, roll, lean in, yaw, pitch, jaw, smile, blink, brows.
    """
    step = GRID_STEP_PIXELS
    height, width = (-(-side // step) for side in portrait.matte.shape)
    y, x = np.mgrid[:height, :width].astype(np.float32) * step + (step - 1) / 2
    points = np.stack([x, y], axis=-1)
    face = FaceAxes.of(portrait.landmarks)
    u, v = face.coordinates(points)
    landmark_u, landmark_v = face.coordinates(portrait.landmarks)

    # The head moves whole; from the chin (v = 1.6) down to the collar (v = 3.1) the neck evens the motion out.
    fade = np.clip((3.1 - v) / 1.5, 0, 1)
    head = fade * fade * (3 - 2 * fade)
    depth = head * _bump(u, v, (landmark_u[2], landmark_v[2]), 0.75, 0.9)
    from_neck_u, from_neck_v = u, v - 2.2
    mouth = (float(landmark_u[3:].mean()), 1.0)
    jaw = _bump(u, v, (mouth[0], mouth[1] + 0.5), 0.6, 0.34)
    smile = _bump(u, v, mouth, 0.45, 0.3)
    zero = np.zeros_like(u)
    lids, brows = zero, zero
    for eye_u, eye_v in zip(landmark_u[:2], landmark_v[:2], strict=True):
        lids = lids + _bump(u, v, (eye_u, eye_v - 0.1), 0.26, 0.13)
        brows = brows + _bump(u, v, (eye_u, eye_v - 0.4), 0.4, 0.2)
    fields_uv = [
        (head, zero), (zero, head), (-head * from_neck_v, head * from_neck_u), (head * from_neck_u, head * from_neck_v),
        (depth, zero), (zero, depth), (zero, jaw), (smile * (u - mouth[0]), zero), (zero, lids), (zero, -brows),
    ]  # fmt: skip
    # Minus: content that moves right is found further left.
    fields = [-(du[..., None] * face.right + dv[..., None] * face.down) * face.unit for du, dv in fields_uv]
    return np.asarray(fields, np.float32)


def smooth_curve(rng: np.random.Generator, seconds: Float32Array, amplitude: float, max_hz: float) -> Float32Array:
    """Three slow sines of random rate and phase, float32 ``(T,)`` within plus and minus ``amplitude``."""
    hertz = rng.uniform(0.2, 1.0, (3, 1)) * max_hz
    phase = rng.uniform(0, 2 * np.pi, (3, 1))
    share = rng.dirichlet(np.ones(3))[:, None]
    waves = amplitude * share * np.sin(2 * np.pi * hertz * seconds + phase)
    return np.asarray(waves.sum(axis=0), np.float32)


def _speech(rng: np.random.Generator, seconds: Float32Array) -> Float32Array:
    """How far the jaw is open, in [0, 1]: syllables at 3 to 5 Hz in slower phrases."""
    syllable = np.sin(np.pi * rng.uniform(3, 5) * seconds + smooth_curve(rng, seconds, 2.0, 1.0)) ** 2
    phrase = np.clip(0.6 + smooth_curve(rng, seconds, 0.9, 0.6), 0, 1)
    return np.asarray(syllable * phrase, np.float32)


def _blinks(rng: np.random.Generator, seconds: Float32Array) -> Float32Array:
    """How far the lids are shut, in [0, 1]: a blink of 0.25 s every two seconds or so."""
    starts = rng.uniform(0, 2.2) + np.arange(0, seconds[-1] + 2.2, 2.2) + rng.uniform(-0.4, 0.4)
    phase = np.clip((seconds[:, None] - starts) / 0.25, 0, 1)
    return np.asarray((np.sin(np.pi * phase) ** 2).max(axis=1), np.float32)


def motion_curves(rng: np.random.Generator, seconds: Float32Array) -> Float32Array:
    """How much of each field of :func:`warp_fields` at each time, float32 ``(T, K)``; in face units and radians."""
    lively = rng.uniform(0.6, 1.0)
    curves = [
        smooth_curve(rng, seconds, 0.22 * lively, 0.7), smooth_curve(rng, seconds, 0.12 * lively, 0.7),
        smooth_curve(rng, seconds, 0.10 * lively, 0.6), smooth_curve(rng, seconds, 0.05 * lively, 0.5),
        smooth_curve(rng, seconds, 0.20 * lively, 0.8), smooth_curve(rng, seconds, 0.14 * lively, 0.8),
        rng.uniform(0.10, 0.17) * _speech(rng, seconds), smooth_curve(rng, seconds, 0.12, 1.0),
        0.17 * _blinks(rng, seconds), 0.06 * smooth_curve(rng, seconds, 1.0, 0.8),
    ]  # fmt: skip
    return np.stack(curves, axis=1).astype(np.float32)


def _paint(rng: np.random.Generator, darkest: float, brightest: float) -> list[float]:
    """A muted colour, as rooms have them: RGB."""
    return np.clip(rng.uniform(darkest, brightest) + rng.uniform(-25, 25, 3), 0, 255).tolist()  # type: ignore[no-any-return]


def _backdrop(rng: np.random.Generator, width: int, height: int) -> Float32Array:
    """An out-of-focus room, float32 ``(height, width, 3)``: a wall of two colours with things on it."""
    wall = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    column = (1 - wall) * np.array(_paint(rng, 90, 200)) + wall * np.array(_paint(rng, 40, 140))
    picture = np.repeat(column, width, axis=1).astype(np.float32)
    for _ in range(14):
        corner = rng.uniform(0, 1, 2) * (width, height)
        opposite = corner + rng.uniform(0.05, 0.3, 2) * (width, height)
        cv2.rectangle(picture, corner.astype(int).tolist(), opposite.astype(int).tolist(), _paint(rng, 20, 220), -1)
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), rng.uniform(5, 12)), np.float32)


def _lights(rng: np.random.Generator, width: int, height: int) -> Float32Array:
    """What passes in front of the wall: soft discs of light to add, float32 ``(height, width, 3)``."""
    picture = np.zeros((height, width, 3), np.float32)
    for _ in range(10):
        centre = (rng.uniform(0, 1, 2) * (width, height)).astype(int).tolist()
        cv2.circle(picture, centre, int(rng.uniform(0.03, 0.1) * height), _paint(rng, 10, 45), -1)
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), 4), np.float32)


def _shifted(picture: Float32Array, x: float, y: float, width: int, height: int) -> Float32Array:
    matrix = np.array([[1, 0, x], [0, 1, y]], np.float32)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    moved = cv2.warpAffine(picture, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REFLECT)
    return np.asarray(moved, np.float32)


@dataclass(frozen=True)
class Figure:
    """One person in one frame."""

    seat: int
    """Which of the scene's portraits, counted from the left."""
    map_xy: tuple[Float32Array, Float32Array]
    """For each pixel of the frame its place in the portrait: two float32 ``(H, W)``."""
    alpha: Float32Array
    """float32 ``(H, W, 3)`` in [0, 1]: the person's share, thrice because numpy is slow to broadcast channels."""
    rest: Float32Array
    """``1 - alpha``: what is seen of all that is behind."""

    def before(self, behind: Float32Array, portrait_rgb: Float32Array) -> Float32Array:
        """The picture ``behind``, float32 ``(H, W, 3)``, with this person in it."""
        person = cv2.remap(portrait_rgb, *self.map_xy, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return np.asarray(person * self.alpha + behind * self.rest, np.float32)


@dataclass(frozen=True)
class View:
    """How one frame of a scene is made out of any copies of the scene's portraits."""

    figures: tuple[Figure, ...]
    """The one furthest from the camera first."""
    wall: Float32Array
    """float32 ``(H, W, 3)``: the background."""
    light: Float32Array
    """float32 ``(H, W, 3)``, a factor."""
    noise: Float32Array
    """float32 ``(H, W, 3)``, added last."""

    def render(self, portraits_rgb: Sequence[Float32Array]) -> UInt8Array:
        """The frame, uint8 ``(H, W, 3)``, for portraits of the scene's sizes, float32 RGB, from left to right."""
        picture = self.wall
        for figure in self.figures:
            picture = figure.before(picture, portraits_rgb[figure.seat])
        return np.asarray(np.clip(picture * self.light + self.noise + 0.5, 0, 255), np.uint8)


@dataclass(frozen=True)
class Scene:
    """One take: the portraits at their sizes in the frame, from left to right, and the size of the frame in pixels."""

    portraits: tuple[Portrait, ...]
    width: int
    height: int

    @classmethod
    def staged(cls, portraits: Sequence[Portrait], width: int, height: int, rng: np.random.Generator) -> Scene:
        """A scene with faces at a random size, MTCNN's box being about 0.33 to 0.44 of the frame's height.

        Two people are about as far from the camera as each other.
        """
        share = rng.uniform(0.115, 0.155)
        nearness = [1.0] if len(portraits) == 1 else rng.uniform(0.94, 1.06, len(portraits)).tolist()
        units = [FaceAxes.of(portrait.landmarks).unit for portrait in portraits]
        scales = [share * near * height / unit for near, unit in zip(nearness, units, strict=True)]
        resized = tuple(portrait.resized(scale) for portrait, scale in zip(portraits, scales, strict=True))
        return cls(resized, width, height)

    def views(self, rng: np.random.Generator, num_frames: int, fps: int) -> Iterator[View]:
        """The take, frame by frame; the same ``rng`` state gives the same take."""
        width, height = self.width, self.height
        seconds = (np.arange(num_frames) / fps).astype(np.float32)
        fields = [warp_fields(portrait) for portrait in self.portraits]
        motions = [motion_curves(rng, seconds) for _ in self.portraits]
        starts = [self._camera_start(seat, rng) for seat in range(len(self.portraits))]
        # The camera is held by hand, and the bodies sway a little.
        camera_x, camera_y = smooth_curve(rng, seconds, 9.0, 0.8), smooth_curve(rng, seconds, 5.0, 0.8)
        shifts_x = [camera_x + smooth_curve(rng, seconds, 5.0, 0.4) for _ in self.portraits]
        pan = rng.uniform(-12, 12)
        margin = 48
        backdrop = _backdrop(rng, width + 2 * margin, height + 2 * margin)
        lights = _lights(rng, 2 * width, height + 2 * margin)
        drift, drift_start = rng.uniform(20, 60) * rng.choice([-1, 1]), rng.uniform(0.3, 0.7) * width
        dimmer, swing = 1 + smooth_curve(rng, seconds, 0.10, 0.6), smooth_curve(rng, seconds, 0.12, 0.5)
        across = np.repeat(np.linspace(-1, 1, width, dtype=np.float32)[None, :, None], 3, axis=2)
        warmth = rng.uniform(0.94, 1.06, 3).astype(np.float32)
        grain = rng.standard_normal((height + 64, width + 64, 3), np.float32) * np.float32(rng.uniform(1.5, 4.0))
        for t in range(num_frames):
            figures = []
            for seat in self._back_to_front():
                left, top = starts[seat]
                corner_xy = (left + float(shifts_x[seat][t]), top + float(camera_y[t]))
                figures.append(self._figure(seat, np.tensordot(motions[seat][t], fields[seat], axes=1), corner_xy))
            wall_x = margin + 0.5 * float(camera_x[t]) + pan * float(seconds[t])
            wall = _shifted(backdrop, wall_x, margin + 0.5 * float(camera_y[t]), width, height)
            wall += _shifted(lights, drift_start + drift * float(seconds[t]), margin, width, height)
            light = np.broadcast_to((dimmer[t] + swing[t] * across) * warmth, (height, width, 3))
            grain_x, grain_y = rng.integers(0, 64, 2)
            noise = grain[grain_y : grain_y + height, grain_x : grain_x + width]
            yield View(tuple(figures), wall, light, noise)

    def _figure(self, seat: int, displacement: Float32Array, corner_xy: tuple[float, float]) -> Figure:
        """A person warped by ``displacement``, on the coarse grid; the frame's upper left shows ``corner_xy``."""
        width, height, step = self.width, self.height, GRID_STEP_PIXELS
        x0, y0 = corner_xy
        to_grid = np.array([[1, 0, x0 + 0.5], [0, 1, y0 + 0.5]]) / step - np.array([0, 0, 0.5])
        displacement = cv2.warpAffine(
            displacement, to_grid, (width, height),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE,
        )  # fmt: skip
        x, y = np.arange(width, dtype=np.float32)[None, :], np.arange(height, dtype=np.float32)[:, None]
        map_xy = (x + x0 + displacement[..., 0], y + y0 + displacement[..., 1])
        matte = cv2.remap(self.portraits[seat].matte, *map_xy, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
        alpha = cv2.merge([matte, matte, matte])
        return Figure(seat, map_xy, alpha, 1 - alpha)

    def _back_to_front(self) -> list[int]:
        """Seats, the person with the smallest face first: it is the furthest from the camera."""
        units = [FaceAxes.of(portrait.landmarks).unit for portrait in self.portraits]
        return sorted(range(len(units)), key=units.__getitem__)

    def _camera_start(self, seat: int, rng: np.random.Generator) -> tuple[float, float]:
        """The portrait's pixel at the frame's upper left corner: face in its place, no edge of the body in sight."""
        portrait = self.portraits[seat]
        face = FaceAxes.of(portrait.landmarks)
        left = float(face.eyes[0]) - rng.uniform(*EYES_X_SHARES[len(self.portraits)][seat]) * self.width
        top = float(face.eyes[1]) - rng.uniform(0.39, 0.46) * self.height
        return left, min(top, portrait.matte.shape[0] - BOTTOM_MARGIN_PIXELS - self.height)
