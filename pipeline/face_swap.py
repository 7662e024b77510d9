"""Fakes: a face laid over a portrait, either another person's (swap) or its own, slightly off (self-blending).

Both work on the portrait before it is animated, so a fake is aligned frame by frame with its original.
Two grades: ``easy`` is the state of 2018, with a seam, half-matched colour, a blurred face and flicker; ``hard`` is
feathered, matched and steady.
Self-blending: Shiohara and Yamasaki, "Detecting Deepfakes with Self-Blended Images", 2022.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from pipeline.talking_head import FaceAxes, Portrait
from pipeline.types import Float32Array

GradeName = Literal["easy", "hard"]


@dataclass(frozen=True)
class Grade:
    """How well a fake is made. Lengths are in face units, the distance from eyes to mouth."""

    feather: float
    """Standard deviation of the blur of the mask's edge."""
    colour_match: float
    """0 leaves the pasted face its colours, 1 gives it the mean and deviation of the face below."""
    tint: float
    """Largest error of colour that stays, in units of LAB (L from 0 to 100)."""
    resolution: float
    """Size at which the pasted face was made, over the size at which it is shown."""
    misfit: float
    """How far a self-blended face is shifted; scale and roll follow."""
    flicker: float
    """0 for a steady face, 1 for one that jumps, changes in brightness and drops out."""


GRADES: dict[GradeName, Grade] = {
    "easy": Grade(feather=0.03, colour_match=0.5, tint=9.0, resolution=0.4, misfit=0.12, flicker=1.0),
    "hard": Grade(feather=0.16, colour_match=1.0, tint=2.0, resolution=0.9, misfit=0.05, flicker=0.0),
}


@dataclass(frozen=True)
class FaceLayer:
    """A face ready to be laid over a portrait of the same size."""

    rgb: Float32Array
    """float32 ``(H, W, 3)``, RGB in [0, 255]."""
    mask: Float32Array
    """float32 ``(H, W)`` in [0, 1]."""
    centre_xy: tuple[float, float]
    """What the face turns around when it flickers, pixels."""
    unit: float
    """Pixels from eyes to mouth."""


def similarity(source: Float32Array, target: Float32Array) -> Float32Array:
    """The rotation, scale and shift that takes ``source`` nearest to ``target``, both ``(N, 2)``: float32 ``(2, 3)``.

    Least squares: Umeyama, "Least-squares estimation of transformation parameters between two point patterns", 1991.
    """
    source_mean, target_mean = source.mean(axis=0), target.mean(axis=0)
    source, target = source - source_mean, target - target_mean
    u, singular, vt = np.linalg.svd(target.T @ source)
    keep_handedness = np.array([1.0, np.sign(np.linalg.det(u @ vt))])
    linear = (u * keep_handedness) @ vt * ((singular * keep_handedness).sum() / (source**2).sum())
    return np.column_stack([linear, target_mean - linear @ source_mean]).astype(np.float32)


def face_mask(portrait: Portrait, feather: float) -> Float32Array:
    """From the brows to the chin of a portrait: float32 ``(H, W)`` in [0, 1], its edge blurred by ``feather`` units."""
    face = FaceAxes.of(portrait.landmarks)
    height, width = portrait.matte.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    u, v = face.coordinates(np.stack([x, y], axis=-1))
    nose_u = float(face.coordinates(portrait.landmarks)[0][2])
    # A superellipse: as round as a jaw, as wide at the eyes as at the cheeks.
    inside = (np.abs((u - 0.5 * nose_u) / 0.86) ** 3 + np.abs((v - 0.55) / 1.02) ** 3 < 1).astype(np.float32)
    edge_pixels = max(feather * face.unit, 0.5)
    return np.asarray(cv2.GaussianBlur(inside, (0, 0), edge_pixels) * portrait.matte, np.float32)


def match_colour(rgb: Float32Array, reference: Float32Array, mask: Float32Array, amount: float) -> Float32Array:
    """``rgb`` with ``amount`` of the way to ``reference``'s mean and deviation in LAB within ``mask`` (Reinhard 2001).

    Both pictures are float32 ``(H, W, 3)``, RGB in [0, 255], and so is the result.
    """
    lab, reference_lab = (cv2.cvtColor(picture / 255, cv2.COLOR_RGB2LAB) for picture in (rgb, reference))
    inside = mask > 0.5
    mean, deviation = lab[inside].mean(axis=0), lab[inside].std(axis=0)
    wanted_mean, wanted_deviation = reference_lab[inside].mean(axis=0), reference_lab[inside].std(axis=0)
    matched = (lab - mean) * (wanted_deviation / np.maximum(deviation, 1e-3)) + wanted_mean
    mixed = (lab + amount * (matched - lab)).astype(np.float32)
    return _rgb_of(mixed)


def swapped_face(target: Portrait, donor: Portrait, grade: Grade, rng: np.random.Generator) -> FaceLayer:
    """The donor's face, laid on the target's landmarks."""
    return _layer(target, donor, similarity(donor.landmarks, target.landmarks), grade, rng)


def self_blended_face(target: Portrait, grade: Grade, rng: np.random.Generator) -> FaceLayer:
    """The target's own face, a little off in place, size and colour."""
    direction = rng.uniform(0, 2 * np.pi)
    face = FaceAxes.of(target.landmarks)
    shift_xy = grade.misfit * face.unit * np.array([np.cos(direction), np.sin(direction)])
    scale = 1 + rng.choice([-1, 1]) * rng.uniform(0.5, 1.0) * grade.misfit
    roll_degrees = rng.uniform(-40, 40) * grade.misfit
    matrix = cv2.getRotationMatrix2D(target.landmarks[2].tolist(), roll_degrees, scale)
    matrix[:, 2] += shift_xy
    return _layer(target, target, matrix.astype(np.float32), grade, rng)


def _layer(
    target: Portrait, source: Portrait, matrix: Float32Array, grade: Grade, rng: np.random.Generator
) -> FaceLayer:
    height, width = target.matte.shape
    rgb = cv2.warpAffine(source.rgb, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
    mask = face_mask(target, grade.feather)
    mask = mask * cv2.warpAffine(source.matte, matrix, (width, height))
    rgb = match_colour(rgb, target.rgb, mask, grade.colour_match)
    rgb = _tinted(rgb, (rng.choice([-1, 1], 3) * rng.uniform(0.6, 1.0, 3) * grade.tint).astype(np.float32))
    small = cv2.resize(rgb, None, fx=grade.resolution, fy=grade.resolution, interpolation=cv2.INTER_AREA)
    rgb = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    centre_x, centre_y = target.landmarks[2].tolist()
    return FaceLayer(rgb, mask, (centre_x, centre_y), FaceAxes.of(target.landmarks).unit)


def _tinted(rgb: Float32Array, lab_shift: Float32Array) -> Float32Array:
    return _rgb_of(cv2.cvtColor(rgb / 255, cv2.COLOR_RGB2LAB) + lab_shift)


def _rgb_of(lab: Float32Array) -> Float32Array:
    return np.asarray(np.clip(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB), 0, 1) * 255, np.float32)


@dataclass(frozen=True)
class Flicker:
    """How a pasted face strays from its place over time; T frames."""

    shift_xy: Float32Array
    """float32 ``(T, 2)``, face units."""
    scale: Float32Array
    """float32 ``(T,)``."""
    gain: Float32Array
    """float32 ``(T,)``, brightness."""
    opacity: Float32Array
    """float32 ``(T,)`` in [0, 1]; low where the swap fails for some frames."""

    @classmethod
    def of(cls, amount: float, num_frames: int, rng: np.random.Generator) -> Flicker:
        """Independent from frame to frame, and every second or so the face is all but gone for three frames."""
        failing = np.convolve(rng.random(num_frames) < 0.03, np.ones(3), "full")[:num_frames] > 0
        return cls(
            shift_xy=(amount * 0.03 * rng.standard_normal((num_frames, 2))).astype(np.float32),
            scale=(1 + amount * 0.02 * rng.standard_normal(num_frames)).astype(np.float32),
            gain=(1 + amount * 0.05 * rng.standard_normal(num_frames)).astype(np.float32),
            opacity=np.where(failing, 1 - 0.75 * amount, 1.0).astype(np.float32),
        )


def paste(portrait_rgb: Float32Array, layer: FaceLayer, flicker: Flicker, t: int) -> Float32Array:
    """Frame ``t`` of the fake portrait, float32 ``(H, W, 3)``; ``portrait_rgb`` stays as it is."""
    matrix = cv2.getRotationMatrix2D(layer.centre_xy, 0.0, float(flicker.scale[t]))
    matrix[:, 2] += flicker.shift_xy[t] * layer.unit
    size = layer.mask.shape[::-1]
    rgb = cv2.warpAffine(layer.rgb, matrix, size, borderMode=cv2.BORDER_REPLICATE) * flicker.gain[t]
    mask = cv2.warpAffine(layer.mask, matrix, size) * flicker.opacity[t]
    return np.asarray(portrait_rgb + (rgb - portrait_rgb) * cv2.merge([mask, mask, mask]), np.float32)
