"""What the sample consists of: its settings, the scenes to stage, and the videos to make of each."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby, permutations
from typing import Any, Literal

import numpy as np

from pipeline.face_swap import GradeName
from pipeline.talking_head import Portrait

FPS = 30
FRAME_SIZES = ((480, 360), (640, 360), (360, 480))
FRAME_SIZE_SHARES = (0.6, 0.25, 0.15)
WIDE_FRAME_SIZE = (640, 360)
"""That of all videos with two people."""
TEST_REAL, TEST_FAKE = 4, 6
ORIGINAL_CRF = 23

Kind = Literal["real", "swap", "self_blend"]
Edit = Literal["none", "shifted", "cropped"]
Recipe = tuple[Kind, Edit]
MISALIGNED: tuple[Edit, ...] = ("shifted", "cropped")
FACES: Mapping[int, tuple[str, ...]] = {1: ("only",), 2: ("left", "right")}
"""What the faces of a video are called, by how many there are."""


@dataclass(frozen=True)
class SampleSettings:
    """What decides the sample's content."""

    grade: GradeName
    seed: int
    real: int
    """Real videos in the train folder; the test folder has its own."""
    fake: int
    """Aligned fake videos in the train folder."""
    seconds: float
    people: int = 1
    """In each video."""
    crf: tuple[int, ...] = (ORIGINAL_CRF,)
    """Quality levels of x264 at which fakes are encoded, by turns; originals are at ``ORIGINAL_CRF``."""
    misaligned: bool = False
    """Whether each original gets two more fakes that don't show what it shows when it does, where it does."""

    @property
    def num_frames(self) -> int:
        return max(1, round(self.seconds * FPS))

    @property
    def num_videos(self) -> dict[str, int]:
        """By folder."""
        misaligned = len(MISALIGNED) * self.real if self.misaligned else 0
        return {"train": self.real + self.fake + misaligned, "test": TEST_REAL + TEST_FAKE}

    def as_json(self) -> dict[str, Any]:
        """As ``sample.json`` has them."""
        return {**asdict(self), "crf": list(self.crf)}


@dataclass(frozen=True)
class Clip:
    """One video to write."""

    name: str
    kind: Kind
    donor: Portrait
    """Whose face a swap puts on."""
    seat: int
    """Of the person whose face a fake changes, counted from the left."""
    crf: int
    edit: Edit
    """What is done to the whole picture of a misaligned fake, beside the changed face."""


@dataclass(frozen=True)
class Take:
    """One scene, and the videos made of it: the original and its fakes.

    But for one face they are frame by frame the same, unless a fake is misaligned.
    """

    folder: str
    seed: tuple[int, ...]
    portraits: tuple[Portrait, ...]
    """Those who are seen, from left to right."""
    group: str
    """Of all takes that share people; their names, or with two people in a video those of their team."""
    size: tuple[int, int]
    """Width and height, pixels."""
    clips: tuple[Clip, ...]


def fake_kind(fake_number: int, num_real: int) -> Kind:
    """Swaps and self-blends by turns, over the originals and over the fakes of one original."""
    return "self_blend" if (fake_number % num_real + fake_number // num_real) % 2 else "swap"


def teams_of(people: Sequence[str], num_together: int) -> list[tuple[str, ...]]:
    """People who are seen with each other and with nobody else: as many teams as there can be, the last the largest.

    No team shares a person with another, so it makes a group that a split can hold out.
    """
    num_teams = max(1, len(people) // num_together)
    teams = [tuple(people[i * num_together : (i + 1) * num_together]) for i in range(num_teams)]
    return [*teams[:-1], (*teams[-1], *people[num_teams * num_together :])]


def plan(settings: SampleSettings, portraits: list[Portrait]) -> list[Take]:
    """Every take of the sample, those of the train folder first; the real video is a train take's first clip."""
    rng = np.random.default_rng(settings.seed)
    looks = {person: list(those) for person, those in groupby(portraits, key=lambda portrait: portrait.person)}
    teams = teams_of(list(looks), settings.people)
    letters, used = np.array(list(string.ascii_lowercase)), set[str]()

    def new_name() -> str:
        name = "".join(rng.choice(letters, 10)) + ".mp4"
        if name in used:
            return new_name()
        used.add(name)
        return name

    def take(folder: str, number: int, recipes: list[Recipe]) -> Take:
        team, visit = teams[number % len(teams)], number // len(teams)
        seatings = list(permutations(team, settings.people))
        seating, num_rounds = seatings[visit % len(seatings)], visit // len(seatings)
        seated = tuple(looks[person][num_rounds % len(looks[person])] for person in seating)

        def clip(turn: int, kind: Kind, edit: Edit) -> Clip:
            name, seat = new_name(), (turn + num_rounds) % len(seated)
            others = [other for other in portraits if other.person != seated[seat].person]
            donor = others[rng.integers(len(others))]
            # Rounds and visits are counted in, or the kind of a fake would tell who is changed, and at what quality.
            crf = ORIGINAL_CRF if kind == "real" else settings.crf[(turn + visit) % len(settings.crf)]
            return Clip(name, kind, donor, seat, crf, edit)

        first_turn = -1 if recipes[0][0] == "real" else 0
        clips = tuple(clip(turn, *recipe) for turn, recipe in enumerate(recipes, first_turn))
        size = FRAME_SIZES[rng.choice(len(FRAME_SIZES), p=FRAME_SIZE_SHARES)]
        size = size if settings.people == 1 else WIDE_FRAME_SIZE
        return Take(folder, (settings.seed, int(folder == "test"), number), seated, "+".join(team), size, clips)

    recipes_of: list[list[Recipe]] = [[("real", "none")] for _ in range(settings.real)]
    for i in range(settings.fake):
        recipes_of[i % settings.real].append((fake_kind(i, settings.real), "none"))
    for number, recipes in enumerate(recipes_of):
        for edit in MISALIGNED if settings.misaligned else ():
            num_fakes = len(recipes) - 1
            recipes.append((fake_kind(num_fakes * settings.real + number, settings.real), edit))
    train = [take("train", number, recipes) for number, recipes in enumerate(recipes_of)]
    # One clip a take: no fake can be told by comparing it with its original. The names are random, so say nothing.
    test_kinds: list[Kind] = ["real" for _ in range(TEST_REAL)]
    test_kinds += [fake_kind(i, TEST_FAKE) for i in range(TEST_FAKE)]
    return train + [take("test", number, [(kind, "none")]) for number, kind in enumerate(test_kinds)]
