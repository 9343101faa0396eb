import os, time
import pytest
import site_checks

@pytest.fixture(scope='session')
def site(tmp_path_factory):
    "The site as `make docs` builds it."
    out, start = tmp_path_factory.mktemp('site')/'_site', time.perf_counter()
    site_checks.builder().build(out=out)
    assert time.perf_counter() - start < 180
    return out

@pytest.fixture(scope='session')
def base(site):
    with site_checks.served(site) as address: yield address

@pytest.fixture(scope='session')
def browser():
    "Debian's Chromium. Without one the tests skip, unless SEGMENTER_REQUIRE_BROWSER=1 says that they must not."
    missing = 'no Chromium on PATH: apt-get install chromium' if not site_checks.chromium() else ''
    try: import axe_playwright_python, playwright.sync_api
    except ImportError as e: missing = f"{e}: pip install -e '.[dev]'"
    if missing and os.environ.get('SEGMENTER_REQUIRE_BROWSER') == '1': pytest.fail(missing)
    if missing: pytest.skip(missing)
    with playwright.sync_api.sync_playwright() as p:
        opened = p.chromium.launch(executable_path=site_checks.chromium(), args=['--no-sandbox', '--disable-dev-shm-usage'])
        yield opened
        opened.close()
