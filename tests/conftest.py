"Fixtures that several test files use."
import os
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parents[1]

@pytest.fixture(scope='session')
def root(): return ROOT

@pytest.fixture(scope='session')
def shared_data():
    "Data that lie beside the repository on some machines; tests that use them skip where they are absent."
    folder = ROOT.parent/'shared'/'data'
    if folder.is_dir(): return folder
    if os.environ.get('SEGMENTER_REQUIRE_SHARED'): pytest.fail(f'SEGMENTER_REQUIRE_SHARED is set, and there is no {folder}')
    pytest.skip('no shared data beside the repository')
