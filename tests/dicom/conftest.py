"""What the tests of DICOM files share: the key that reading needs, and an empty folder of a patient."""

import pytest

from tests.helpers.dicom import KEY


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("CTAN_DEID_KEY", KEY)


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "raw" / "Doe_John"
    path.mkdir(parents=True)
    return path
