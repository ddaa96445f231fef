"""One content under two ids: found by hashes of files, image and dose, near copies by what images look like."""

import io
import time

import numpy as np
import pytest
from PIL import Image

from ctan.cases import CT, SPLIT_TRAIN, SPLIT_VALIDATION, DataSpec
from ctan.datasets import get_dataset
from ctan.intake.content import array_sha256, looks
from ctan.tasks import DoseRegression
from ctan.validation.copies import candidates, find_copies

PICTURES = get_dataset("ham10000").spec
VOLUMES = DataSpec(
    dataset="toy",
    spatial_dims=3,
    image=CT,
    tasks=(DoseRegression("dose"),),
    structures=("PTV",),
    targets={"PTV": 60.0},
    has_dose=True,
)
LABEL = next(iter(PICTURES.labels))


def row(case_id, **changes):
    found = {"case_id": case_id, "group_id": case_id, "split": SPLIT_TRAIN, "fold": 0, "looks": ""}
    return found | {f"{what}sha256": f"{what} {case_id}" for what in ("", "image_", "dose_")} | changes


def picture(seed):
    """Return a smooth random picture (3, H, W)."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (9, 12, 3), np.uint8))
    return np.moveaxis(np.asarray(coarse.resize((200, 150), Image.Resampling.BICUBIC)), -1, 0)


def altered(image, how):
    pillow = Image.fromarray(np.moveaxis(image, 0, -1))
    if how == "compressed":
        stream = io.BytesIO()
        pillow.save(stream, "JPEG", quality=60)
        pillow = Image.open(stream)
    elif how == "resized":
        pillow = pillow.resize((120, 90))
    elif how == "brighter":
        pillow = pillow.point(lambda value: min(255, int(value * 1.1 + 5)))
    else:
        noise = np.random.default_rng(0).normal(0, 4, (150, 200, 3))
        pillow = Image.fromarray(np.clip(np.asarray(pillow) + noise, 0, 255).astype(np.uint8))
    return np.moveaxis(np.asarray(pillow), -1, 0)


@pytest.mark.parametrize(("column", "what"), [("sha256", "files"), ("image_sha256", "image"), ("dose_sha256", "dose")])
def test_one_content_in_two_groups_is_an_error_across_sides_and_a_warning_on_one(column, what):
    """One patient under two ids passed, in training and in validation."""
    rows = [row("a", **{column: "x"}), row("b", **{column: "x"}), row("c", **{column: "x"}, fold=1), row("d")]
    found = find_copies(rows, VOLUMES)
    assert found.across == {"a": "c", "b": "c", "c": "a"}
    assert {(pair.first, pair.second, pair.finding) for pair in found.pairs} == {
        ("a", "c", "error"),
        ("b", "c", "error"),
    }
    assert all(pair.what == what for pair in found.pairs)
    found = find_copies(rows[:2], VOLUMES)
    assert not found.across
    assert found.remarks == (f"1 pair: two groups on one side hold the same {what}",)
    same_group = [row("a", **{column: "x"}), row("b", **{column: "x"}, group_id="a")]
    assert not find_copies(same_group, VOLUMES).pairs


def test_one_image_with_two_labels_is_an_error_also_within_a_group():
    rows = [
        row("a", image_sha256="x", **{f"label_{LABEL}": "mel"}),
        row("b", image_sha256="x", group_id="a", **{f"label_{LABEL}": "nv"}),
        row("c", image_sha256="x", group_id="a", **{f"label_{LABEL}": None}),
        row("d", **{f"label_{LABEL}": "nv"}),
    ]
    found = find_copies(rows, PICTURES)
    assert found.contradicting == {"a": "b", "b": "a"}
    assert [(pair.first, pair.second, pair.finding) for pair in found.pairs] == [("a", "b", "error")]
    assert found.pairs[0].reason == f"one image has two values of {LABEL}"


@pytest.mark.parametrize("how", ["compressed", "resized", "brighter", "noisy"])
def test_near_copies_are_reported_and_other_pictures_are_not(how):
    rows = [row(f"p{seed}", looks=looks(picture(seed), PICTURES)) for seed in range(200)]
    copies = [row(f"q{seed}", looks=looks(altered(picture(seed), how), PICTURES), fold=1) for seed in range(0, 200, 20)]
    found = find_copies(rows + copies, PICTURES)
    assert {(pair.first, pair.second) for pair in found.pairs} == {(f"p{n}", f"q{n}") for n in range(0, 200, 20)}
    assert {pair.finding for pair in found.pairs} == {"report"}
    assert found.remarks == ("10 pairs: images of two groups, on different sides, look alike",)


def test_a_volume_looks_alike_when_it_is_noisy_or_shifted_and_nothing_looks_like_a_blank_one():
    rng = np.random.default_rng(1)
    body = np.zeros((60, 50, 40), np.float32)
    body[10:50, 8:40, 3:38] = 900 + 60 * rng.standard_normal((8, 8, 7)).repeat(5, 0).repeat(4, 1).repeat(5, 2)
    body = body.clip(0, 4095)
    noisy = np.clip(np.roll(body, 2, axis=0) + rng.normal(0, 5, body.shape) * (np.roll(body, 2, axis=0) > 0), 0, 4095)
    first, second = (np.frombuffer(bytes.fromhex(looks(image, VOLUMES)), np.uint8) for image in (body, noisy))
    assert first.size == 338
    assert np.bitwise_count(first ^ second).sum() < 0.03 * 2700
    assert looks(np.zeros((60, 50, 40), np.uint16), VOLUMES) == ""
    assert looks(np.zeros((60, 50, 4), np.uint16), VOLUMES) == ""


def test_equal_values_of_another_type_or_shape_are_another_content():
    values = np.arange(6, dtype=np.int16)
    hashes = {array_sha256(a) for a in (values, values.astype(np.int32), values.reshape(2, 3), values.reshape(3, 2))}
    assert len(hashes) == 4
    assert array_sha256(np.asfortranarray(values.reshape(2, 3))) == array_sha256(values.reshape(2, 3))


def test_the_time_grows_with_the_cases_not_with_their_square():
    """Also where a tenth of them is one blank picture."""
    rng = np.random.default_rng(2)
    times = []
    for count in (5_000, 20_000):
        bits = rng.integers(0, 256, (count, 33), np.uint8)
        bits[: count // 10] = bits[0]
        started = time.process_time()
        found = candidates(bits)
        times.append(time.process_time() - started)
        assert np.count_nonzero(found.max(axis=1) >= count // 10) < 50  # by chance
        assert len(found) <= 32 * 16 * count // 10
    assert times[1] < 8 * times[0] + 1  # 16 times, were it the square


def test_a_phantom_under_two_ids_stops_at_validation(tmp_path):
    """From raw files to the reason in quarantine and on the page."""
    from ctan.intake.ingest import ingest
    from ctan.seals import seal_folder
    from ctan.settings import load_config
    from ctan.store.manifest import MANIFEST_FILE, QUARANTINE_FILE, read_manifest, write_manifest
    from ctan.validation import validate

    dataset = get_dataset("ham10000")
    dataset.write_phantoms(tmp_path / "raw", 8, 2, 0)
    config = load_config("smoke", {"data.dataset": "ham10000", "validation.max_quarantined_share": 1.0})
    ingest(str(tmp_path / "raw"), tmp_path / "in", config, 0)
    manifest = read_manifest(tmp_path / "in" / MANIFEST_FILE)
    rows = manifest.to_pylist()
    train = next(one for one in rows if one["split"] == SPLIT_TRAIN)
    other = next(one for one in rows if one["split"] == SPLIT_VALIDATION)
    same = [name for name in train if name.startswith(("image_sha256", "label_", "voxels_"))]
    other |= {name: train[name] for name in same}
    write_manifest(rows, tmp_path / "in" / MANIFEST_FILE, manifest.schema)
    seal_folder(tmp_path / "in")
    validate(tmp_path / "in", tmp_path / "out", tmp_path / "page.html", config)
    reasons = {one["case_id"]: one["reason"] for one in read_manifest(tmp_path / "out" / QUARANTINE_FILE).to_pylist()}
    assert reasons.keys() >= {train["case_id"], other["case_id"]}
    assert f"found case {train['case_id']}" in reasons[other["case_id"]]
    assert "two groups on different sides hold the same image" in (tmp_path / "page.html").read_text()
