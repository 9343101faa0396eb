"Fixtures that several test files use."
import os, shutil
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

@pytest.fixture(scope='session')
def browser():
    "Debian's Chromium, one for all tests. Without one they skip, unless SEGMENTER_REQUIRE_BROWSER=1 says that they must not."
    found = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
    missing = '' if found else 'no Chromium on PATH: apt-get install chromium'
    try: import axe_playwright_python, playwright.sync_api
    except ImportError as e: missing = f"{e}: pip install -e '.[dev]'"
    if missing and os.environ.get('SEGMENTER_REQUIRE_BROWSER') == '1': pytest.fail(missing)
    if missing: pytest.skip(missing)
    with playwright.sync_api.sync_playwright() as p:
        opened = p.chromium.launch(executable_path=found, args=['--no-sandbox', '--disable-dev-shm-usage'])
        yield opened
        opened.close()
