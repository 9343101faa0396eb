import time
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
