"One page that needs nothing else."
import re
from dataclasses import replace
import numpy as np, pytest
from PIL import Image
from segmenter import cli
from segmenter.browser import write_page
from segmenter.classes import ClassList
from segmenter.pairs import Dataset
from segmenter.patches import SCENE_CLASSES, scene

@pytest.fixture
def data(tmp_path):
    (tmp_path/'images').mkdir(), (tmp_path/'labels').mkdir()
    for k in range(3):
        image, ids = scene(40, 60)
        Image.fromarray(image).save(tmp_path/f'images/{k}.png')
        Image.fromarray(np.where(ids == 4, 2 if k else 4, ids).astype(np.uint8)).save(tmp_path/f'labels/{k}.png')
    (tmp_path/'classes.txt').write_text('\n'.join(SCENE_CLASSES))
    return Dataset('mine', 'train', sorted((tmp_path/'images').iterdir()), sorted((tmp_path/'labels').iterdir()), ClassList(SCENE_CLASSES))

def test_the_page_fetches_nothing_and_shows_all(data, tmp_path):
    page = write_page(data, tmp_path/'p.html').read_text(encoding='utf-8')
    assert page.count('<figure') == 3 and not re.search(r'https?:|//cdn|@import|<link|src="(?!data:)|url\(', page)
    assert 'car <small>1,' in page and 'sky <small>3,' in page and page.count('alt="') == 6

def test_names_cannot_break_the_page(data, tmp_path):
    evil = replace(data, name='<script>x</script>', classes=ClassList(['<b>', '"q"', '&', 'd', "e'"]))
    page = write_page(evil, tmp_path/'p.html').read_text(encoding='utf-8')
    assert page.count('<script>') == 1 and '<b>' not in page and '&lt;b&gt;' in page

def test_the_filter_works_in_a_browser(data, tmp_path, browser):
    page = browser.new_page()
    page.goto(write_page(data, tmp_path/'p.html').as_uri())
    page.get_by_role('button', name='car').click()
    assert page.locator('figure:visible').count() == 1 and page.locator('output').inner_text() == '1 of 3 images'
    page.get_by_role('button', name='car').click()
    assert page.locator('figure:visible').count() == 3
    page.close()

def test_a_split_without_labels_and_a_limit(data, tmp_path):
    page = write_page(replace(data, labels=None), tmp_path/'p.html', limit=2).read_text(encoding='utf-8')
    assert page.count('<figure') == 2 and '2 of 3 images' in page

def test_the_command_writes_a_page_and_names_what_is_missing(data, tmp_path, capsys):
    for part in ('images', 'labels'): (tmp_path/'d').mkdir(exist_ok=True), (tmp_path/part).rename(tmp_path/'d'/part)
    (tmp_path/'classes.txt').rename(tmp_path/'d/classes.txt')
    (tmp_path/'d/labels/1.png').unlink()
    assert cli.main(['browse', str(tmp_path/'d'), '--out', str(tmp_path/'p.html')]) == 0
    page = (tmp_path/'p.html').read_text(encoding='utf-8')
    assert 'no label map' in page or page.count('<figure') == 2
    assert cli.main(['browse', str(tmp_path/'d'), '--out', str(tmp_path/'no/p.html')]) == 2
    assert 'choose another place' in capsys.readouterr().err
