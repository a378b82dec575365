"""Does the gallery factor stay near 1 on photographs like the calibration's, and rise on others?

python benchmarks/gallery.py FOLDER (with lfw-a, and if they are there congress-a and utkface-a) [PEOPLE]. One photograph of each person of
LFW, each a user; all of them as they are, the first PEOPLE (1,000) degraded.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
from report import write

from aboveboard import settings
from aboveboard.biometrics.gallery import SAMPLE, Faces, Level, OwnScores
from aboveboard.biometrics.gallery import Sample as Counter
from aboveboard.biometrics.scan import Scanner
from aboveboard.evaluation.protocol import PHOTOGRAPHS, Sample, correct, read_folder, shipped_errata
from aboveboard.evaluation.run import TemplateSet, templates_of
from aboveboard.vision.packs import Models, PackFolder

cv2.setNumThreads(1)


def smaller(px: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda image: cv2.resize(
        cv2.resize(image, (px, px), interpolation=cv2.INTER_AREA), image.shape[1::-1], interpolation=cv2.INTER_CUBIC
    )


def blurred(sigma: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda image: cv2.GaussianBlur(image, (0, 0), sigma)


def saved(quality: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda image: cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)


DEGRADED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "grey": lambda image: cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR),
    "blur, sigma 2 px": blurred(2),
    "blur, sigma 4 px": blurred(4),
    "blur, sigma 6 px": blurred(6),
    "whole picture at 64 px": smaller(64),
    "whole picture at 40 px": smaller(40),
    "JPEG quality 10": saved(10),
    "JPEG quality 4": saved(4),
    "edge-preserving filter": lambda image: cv2.edgePreservingFilter(image, flags=1, sigma_s=60, sigma_r=0.6),
    "painting (stylization)": lambda image: cv2.stylization(image, sigma_s=60, sigma_r=0.6),
    "pencil drawing": lambda image: cv2.cvtColor(
        cv2.pencilSketch(image, sigma_s=60, sigma_r=0.07, shade_factor=0.05)[0], cv2.COLOR_GRAY2BGR
    ),
}


def own_scores(made: TemplateSet, members: int, has_users: bool) -> OwnScores:
    """As the template store counts them, with so many sampled faces."""
    vectors = made.features
    scales = (np.abs(vectors).max(axis=1) / 127).astype(np.float32)
    people = {person: n for n, person in enumerate(sorted({sample.subject for sample in made.samples}), 1)}
    subjects = np.array([people[sample.subject] if has_users else 0 for sample in made.samples], np.int64)
    faces = Faces(np.arange(1, len(vectors) + 1), np.rint(vectors / scales[:, None]).astype(np.int8), scales, subjects)
    counter = Counter(vectors.shape[1], Scanner().tally)
    chosen = np.random.default_rng(0).permutation(len(vectors))[:members]
    counter.choose(faces.at(chosen), lambda: [faces])
    return counter.scores(len(vectors))


def degraded(samples: Sequence[Sample], change: Callable[[np.ndarray], np.ndarray], folder: Path) -> list[Sample]:
    made = []
    for i, sample in enumerate(samples):
        path = folder / f"{i}.jpg"
        cv2.imwrite(str(path), change(cv2.imread(str(sample.path))), [cv2.IMWRITE_JPEG_QUALITY, 98])
        made.append(Sample(sample.subject, sample.name, path))
    return made


def ratio(level: Level) -> str:
    if level.lacks == "subjects":
        return "mates unknown"
    if level.ratio is None:
        return f"at most {short(level.high)}"
    return f"{short(level.ratio)} ({short(level.low)}-{short(level.high)})"


def short(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def row(name: str, made: TemplateSet, models: Models, has_users: bool = True) -> list[str]:
    own, whole = (own_scores(made, members, has_users) for members in (SAMPLE, len(made.samples)))
    factor = own.factor(models.calibration)
    levels = {level.similarity: level for level in whole.levels(models.calibration)}
    kept = f"{short(factor.value)} ({short(factor.low)}-{short(factor.high)}) at {factor.similarity}" if factor else "none"
    return [name, f"{len(made.samples):,}", str(len(made.failures_to_enrol)), kept, *(ratio(levels[at]) for at in (20, 40, 60, 70, 80))]


def first_of_each(samples: Sequence[Sample]) -> list[Sample]:
    return list({sample.subject: sample for sample in reversed(samples)}.values())[::-1]


def main(folder: Path, most: int) -> None:
    models = PackFolder(settings.load().models).load("yunet-sface")
    samples, _ = correct(read_folder(folder / "lfw-a"), shipped_errata())
    every = first_of_each(samples)
    people = every[:most]
    rows = [row("LFW, as it is", templates_of(some, models), models) for some in (every, people)]
    for name, change in DEGRADED.items():
        with TemporaryDirectory() as temporary:
            rows.append(row(f"LFW, {name}", templates_of(degraded(people, change, Path(temporary)), models), models))
        print(rows[-1], flush=True)
    if (folder / "congress-a").is_dir():
        rows.append(row("264 members of Congress, all 698 portraits", templates_of(read_folder(folder / "congress-a"), models), models))
    if (folder / "utkface-a").is_dir():
        faces = [Sample(path.name, path.name, path) for path in sorted((folder / "utkface-a").iterdir()) if path.suffix in PHOTOGRAPHS]
        rows.append(row("UTKFace, adults, as many of each label of race, no users", templates_of(faces, models), models, False))
    write(
        "gallery",
        ["gallery", "faces", "failed to enrol", "factor as kept (512 sampled)", "all pairs at 20", "at 40", "at 60", "at 70", "at 80"],
        rows,
        "Found FMR / promised FMR with 95 % intervals. LFW: one photograph of each person of folds 1-5, the people of the calibration.",
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1000)
