"""Phantoms are raw HAM10000: the same bytes for the same seed, with lesions whose look follows their diagnosis."""

import hashlib
from collections import Counter, defaultdict

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from ctan.config import DataConfig
from ctan.datasets.ham10000.defects import DEFECTS
from ctan.datasets.ham10000.phantom import _plan, lesion_picture, write_ham10000_phantoms
from ctan.datasets.ham10000.reader import HAM10000
from ctan.errors import CaseError, ConfigError, DataError
from tests.helpers.files import digests

DATASET = HAM10000(DataConfig(dataset="ham10000"))
CLASSES = DATASET.spec.labels["diagnosis"]
REAL = {"akiec": 327, "bcc": 514, "bkl": 1099, "df": 115, "mel": 1113, "nv": 6705, "vasc": 142}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantoms")
    write_ham10000_phantoms(folder, num_train=14, num_validation=6, seed=0)
    return folder


@pytest.fixture(scope="module")
def cases(written):
    return [DATASET.read(raw) for raw in DATASET.find(written)]


def test_the_same_seed_gives_the_same_bytes_and_a_picture_depends_on_its_number_only(written, tmp_path):
    write_ham10000_phantoms(tmp_path, num_train=3, num_validation=2, seed=0)
    expected, again = digests(written), digests(tmp_path)
    assert len(again) == 5 + 5 + 1
    assert {path for path in again if again[path] != expected[path]} == {"HAM10000_metadata.csv"}


def test_the_bytes_of_the_table_and_the_pixels_of_a_mask_are_pinned(tmp_path):
    write_ham10000_phantoms(tmp_path, num_train=2, num_validation=0, seed=0, shape=(64, 80))
    mask = np.asarray(Image.open(tmp_path / "HAM10000_segmentations_lesion_tschandl/ISIC_9000001_segmentation.png"))
    rgb, _ = lesion_picture("nv", np.random.default_rng([0, 0, 0]), np.random.default_rng([0, 1, 0]), (64, 80))
    assert (tmp_path / "HAM10000_metadata.csv").read_bytes() == PINNED_TABLE
    assert hashlib.sha256(mask.tobytes()).hexdigest() == PINNED_MASK
    assert hashlib.sha256(rgb.tobytes()).hexdigest() == PINNED_PICTURE


def test_another_seed_gives_other_pictures(written, tmp_path):
    write_ham10000_phantoms(tmp_path, num_train=2, num_validation=0, seed=1)
    expected, other = digests(written), digests(tmp_path)
    assert all(other[path] != expected[path] for path in other)
    assert len(set(expected.values())) == 41


def test_files_lie_and_look_like_the_official_ones(written, cases):
    assert [case.case_id for case in cases] == [f"ISIC_{9_000_001 + n}" for n in range(20)]
    assert [len(list((written / f"HAM10000_images_part_{part}").iterdir())) for part in (1, 2)] == [10, 10]
    content = (written / "HAM10000_metadata.csv").read_bytes()
    assert content.startswith(b"lesion_id,image_id,dx,dx_type,age,sex,localization\r\nHAM_9000001,ISIC_9000001,nv,")
    assert content.count(b"\r\n") == content.count(b"\n") == 21
    for path in written.rglob("*.jpg"):
        assert path.stat().st_size < 8_000
        assert (Image.open(path).format, Image.open(path).size) == ("JPEG", (150, 112))


def test_pictures_of_the_official_size_can_be_had(tmp_path):
    write_ham10000_phantoms(tmp_path, num_train=1, num_validation=0, seed=0, shape=(450, 600))
    (raw,) = DATASET.find(tmp_path)
    large = DATASET.read(raw)
    assert large.shape == (450, 600)
    assert 0.03 < large.masks["Lesion"].mean() < 0.4


def test_a_table_that_is_there_is_never_written_over(written):
    before = digests(written)
    with pytest.raises(DataError, match=r"HAM10000_metadata\.csv: exists already"):
        write_ham10000_phantoms(written, num_train=1, num_validation=0, seed=5)
    assert digests(written) == before


def test_every_diagnosis_is_there_as_two_lesions_from_fourteen_pictures_on():
    for seed in range(5):
        lesions = defaultdict(set)
        for lesion, diagnosis in _plan(14, seed):
            lesions[diagnosis].add(lesion)
        assert {diagnosis: len(found) for diagnosis, found in lesions.items()} == dict.fromkeys(CLASSES, 2)


def test_many_pictures_have_the_frequencies_of_ham10000_and_some_share_a_lesion():
    plan = _plan(600, seed=0)
    counts = Counter(diagnosis for _, diagnosis in plan)
    for diagnosis, count in REAL.items():
        assert abs(counts[diagnosis] - 600 * count / 10_015) <= 1
    assert 600 / 1.5 < len({lesion for lesion, _ in plan}) < 600 / 1.2  # 1.34 pictures a lesion in HAM10000
    assert len(set(plan)) == len({lesion for lesion, _ in plan})  # a lesion has one diagnosis


def test_pictures_of_one_lesion_have_one_row_but_for_the_id_and_differ(tmp_path):
    write_ham10000_phantoms(tmp_path, num_train=40, num_validation=0, seed=0, shape=(64, 80))
    by_lesion = defaultdict(list)
    for raw in DATASET.find(tmp_path):
        by_lesion[raw.group_id].append(DATASET.read(raw))
    several = [found for found in by_lesion.values() if len(found) > 1]
    assert several
    for first, *others in several:
        for other in others:
            assert (first.labels, first.facts) == (other.labels, other.facts)
            assert not np.array_equal(first.images["rgb"], other.images["rgb"])


def test_a_lesion_is_one_piece_of_plausible_size_and_darker_than_the_skin(cases):
    for case in cases:
        mask, grey = case.masks["Lesion"], case.images["rgb"].mean(axis=0)
        assert 0.03 < mask.mean() < 0.4
        assert ndimage.label(mask)[1] == 1
        assert grey[mask].mean() < grey[~mask].mean() - 5


def features(rgb, mask):
    """Describe a lesion by colour, spread of colour, area, asymmetry and border length."""
    mask_area = mask.sum()
    rows, columns = np.nonzero(mask)
    centre_row, centre_column = np.rint(rows.mean()), np.rint(columns.mean())
    turned_rows, turned_columns = 2 * centre_row - rows, 2 * centre_column - columns
    inside = (turned_rows >= 0) & (turned_rows < mask.shape[0]) & (turned_columns >= 0)
    inside &= turned_columns < mask.shape[1]
    overlap = mask[turned_rows[inside].astype(int), turned_columns[inside].astype(int)].sum()
    border = mask_area - ndimage.binary_erosion(mask).sum()
    pixels, skin = rgb[mask].astype(float), rgb[~mask].astype(float).mean(axis=0)
    return [
        *(pixels.mean(axis=0) - skin),
        *pixels.std(axis=0),
        mask_area / mask.size,
        1 - overlap / mask_area,
        border * border / mask_area,
    ]


def test_diagnoses_can_be_learned_but_not_without_error():
    """Chance is 1/7. Shape alone says less than shape and colour, and neither says everything."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.metrics import balanced_accuracy_score

    rows, labels = [], []
    for number in range(30):
        for index, diagnosis in enumerate(CLASSES):
            lesion, view = (np.random.default_rng([7, stream, number, index]) for stream in (0, 1))
            rows.append(features(*lesion_picture(diagnosis, lesion, view, (64, 80))))
            labels.append(diagnosis)
    table, half = np.array(rows), len(rows) // 2

    def balanced_accuracy(columns):
        forest = RandomForestClassifier(100, random_state=0).fit(table[:half, columns], labels[:half])
        return balanced_accuracy_score(labels[half:], forest.predict(table[half:, columns]))

    shape_only, everything = balanced_accuracy(slice(6, None)), balanced_accuracy(slice(None))
    print(f"balanced accuracy {shape_only:.2f} by shape, {everything:.2f} by shape and colour")
    assert 1.5 / 7 < shape_only < everything - 0.1
    assert 0.5 < everything < 0.92


# Defects


def test_defects_spoil_a_picture_each_and_no_other(tmp_path):
    planted = ["image-cut-at-half", "mask-missing", "age-in-words", "row-lost"]
    write_ham10000_phantoms(tmp_path, num_train=5, num_validation=1, seed=0, defects=planted, shape=(64, 80))
    refused = {}
    for raw in DATASET.find(tmp_path):
        try:
            DATASET.read(raw)
        except CaseError as error:
            refused[raw.case_id] = error.reason
    assert list(refused) == [f"ISIC_{9_000_001 + n}" for n in range(4)]
    for reason, words in zip(refused.values(), ("truncated", "missing", "age is 'forty'", "no row"), strict=True):
        assert words in reason


def test_a_defect_that_is_not_known_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(ConfigError, match="defects: unknown scratch; known: image-missing, image-empty, ") as found:
        write_ham10000_phantoms(tmp_path, num_train=5, num_validation=1, seed=0, defects=["row-lost", "scratch"])
    assert all(name in str(found.value) for name in DEFECTS)
    with pytest.raises(ConfigError, match="2 of them, but 1 pictures"):
        write_ham10000_phantoms(tmp_path, num_train=1, num_validation=0, seed=0, defects=["row-lost", "row-twice"])
    assert not list(tmp_path.iterdir())


def test_pictures_that_are_too_small_to_read_are_not_written(tmp_path):
    with pytest.raises(ConfigError, match="48 x 36 pixels; expected 64 or more"):
        write_ham10000_phantoms(tmp_path, num_train=1, num_validation=0, seed=0, shape=(36, 48))


PINNED_TABLE = (
    b"lesion_id,image_id,dx,dx_type,age,sex,localization\r\n"
    b"HAM_9000001,ISIC_9000001,nv,histo,70,female,back\r\n"
    b"HAM_9000002,ISIC_9000002,mel,histo,85,female,upper extremity\r\n"
)
PINNED_MASK = "a2bf4a07ceebcf9228b809cfb5727a0db511fd2bfd6ce0f14648db40171cd7e1"
PINNED_PICTURE = "c4712d185b3708df264899878e0aa022f5a90f412057f47c81a5073e71e54f90"
