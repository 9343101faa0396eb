"The strips at the top of the chapters are those that docs/strip.py draws, and every chapter's link leads to one."
import importlib.util, re
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parents[1]
spec = importlib.util.spec_from_file_location('strip', ROOT/'docs'/'strip.py')
strip = importlib.util.module_from_spec(spec)
spec.loader.exec_module(strip)

@pytest.mark.parametrize('name', strip.LIT)
def test_a_stored_strip_is_the_one_that_is_drawn(name):
    assert (ROOT/'docs'/'images'/f'where_{name}.svg').read_text(encoding='utf-8') == strip.strip(name)

def test_every_strip_that_a_chapter_shows_exists():
    shown = {m for path in (ROOT/'nbs').glob('*.ipynb') for m in re.findall(r'images/where_(\w+)\.svg', path.read_text(encoding='utf-8'))}
    assert shown and shown <= set(strip.LIT)
