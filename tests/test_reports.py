"Reports: what is on the page and in the tables is what was measured."
import csv, io, json, re
from html.parser import HTMLParser
from dataclasses import replace
import numpy as np
import pytest
from PIL import Image
from segmenter.boundaries import BoundaryIoU
from segmenter.classes import ClassList
from segmenter.datasets import load_dataset
from segmenter.evaluate import evaluate
from segmenter.intervals import ImageCounts
from segmenter.metrics import ConfusionMatrix, most_confused
from segmenter.patches import SCENE_CLASSES, scene
from segmenter.reports import extremes, per_image_csv, show_contact_sheet, write_report, write_table
from segmenter.sizes import SizeBins
from segmenter.windows import PatchColours

NAMES = [*SCENE_CLASSES[:-1], '<b>field</b> & "co"', 'boat']

@pytest.fixture(scope='module')
def val(tmp_path_factory):
    root = tmp_path_factory.mktemp('scenes')
    for part in 'images', 'annotations': (root/part/'val').mkdir(parents=True)
    for i in range(5):
        image, labels = scene(40 + 4*i, 60)
        labels[:, :5] = 255
        noise = np.random.default_rng(i).normal(0, 12*i, image.shape)
        Image.fromarray(np.clip(image + noise, 0, 255).astype(np.uint8)).save(root/f'images/val/i{i}.png')
        Image.fromarray(labels.astype(np.uint8)).save(root/f'annotations/val/i{i}.png')
    (root/'classes.txt').write_text('\n'.join(NAMES))
    return load_dataset(root, 'val')

@pytest.fixture(scope='module')
def model(): return PatchColours(*scene(60, 90), NAMES, patch_size=4, window_size=32, window_stride=20, im_size=40)

@pytest.fixture(scope='module')
def meters(): return dict(boundary=BoundaryIoU(6), sizes=SizeBins(6))

@pytest.fixture(scope='module')
def found(model, val, meters): return evaluate(model, val, meters=meters.values(), progress=False)

class Page(HTMLParser):
    "Rows of cells, attributes of all tags, and what the scripts say."
    def __init__(self, text):
        super().__init__()
        self.rows, self.attributes, self.tags = [], [], []
        self.feed(text)
    def handle_starttag(self, tag, attributes):
        self.tags.append(tag); self.attributes += attributes
        if tag == 'tr': self.rows.append([])
        if tag in ('td', 'th'): self.rows[-1].append([dict(attributes).get('data-v'), ''])
    def handle_data(self, data):
        if self.rows and self.rows[-1] and self.tags[-1] not in ('script', 'style'): self.rows[-1][-1][1] += data.strip()

def test_the_page_holds_every_class_with_its_numbers(found, tmp_path):
    page = Page(write_table(found, tmp_path/'t.html').read_text())
    assert [cell[1] for cell in page.rows[0]] == ['id', 'class', 'IoU', 'Acc', 'pixels'] and len(page.rows) == 7
    for i, row in enumerate(page.rows[1:]):
        iou = found.scores.IoU[i]
        assert row[1][1] == NAMES[i] and row[2] == (['', '–'] if np.isnan(iou) else [str(round(iou, 4)), f'{iou:.2f}'])
        assert row[4][0] == str(int(found.confusion.matrix[i].sum()))

def test_the_page_needs_no_network_and_trusts_no_name(found, tmp_path):
    text = write_table(found, tmp_path/'t.html').read_text()
    page = Page(text)
    assert not {'link', 'img', 'iframe', 'b'} & set(page.tags) and not {'src', 'href'} & {name for name, _ in page.attributes}
    assert '://' not in text and '@import' not in text and 'url(' not in text and '&lt;b&gt;' in text

def test_the_page_sorts_when_its_headings_are_clicked(found, tmp_path):
    import shutil, subprocess
    if not shutil.which('node'): pytest.skip('no node to run the script of the page')
    script = re.search(r'<script>(.*)</script>', write_table(found, tmp_path/'t.html').read_text(), re.S)[1]
    stub = '''
    const rows=[['0','3'],['1',''],['2','11']].map(v=>({cells:v.map(x=>({dataset:{v:x},textContent:x}))}));let order=rows;
    const attrs={},th={cellIndex:1,dataset:{},getAttribute:k=>attrs[k]??null,setAttribute:(k,v)=>attrs[k]=v,removeAttribute:()=>{},closest(){return this}};
    const body={get rows(){return order},append(...r){order=r}};let click;
    const table={tHead:{rows:[{cells:[th]}],addEventListener:(_,f)=>click=f},tBodies:[body]};
    const document={querySelectorAll:()=>[table]};''' + script + '''
    const seen=[];for(let i=0;i<2;i++){click({target:th});seen.push(order.map(r=>r.cells[0].dataset.v).join(''))}console.log(seen.join(' '));'''
    assert subprocess.run(['node', '-e', stub], capture_output=True, text=True, check=True).stdout.strip() == '201 102'

def test_rows_of_images_are_their_own_scores(found, val):
    rows = list(csv.DictReader(io.StringIO(per_image_csv(found, val))))
    assert [row['image'] for row in rows] == [f'i{i}.png' for i in range(5)]
    for i, row in enumerate(rows):
        alone = evaluate(PatchColours(*scene(60, 90), NAMES, patch_size=4, window_size=32, window_stride=20, im_size=40),
                         replace(val, images=[val.images[i]], labels=[val.labels[i]]), progress=False)
        assert float(row['mIoU']) == pytest.approx(alone.scores.mIoU, abs=1e-4) and float(row['aAcc']) == pytest.approx(alone.scores.aAcc, abs=1e-4)

def test_the_ends_of_the_list_are_the_ends_and_no_image_is_at_both(found):
    scores = found.images.per_image()['mIoU']
    for n in (1, 2, 3, 50):
        best, worst = extremes(found, n)
        assert not set(best) & set(worst) and best[0] == scores.argmax() and worst[0] == scores.argmin()
        assert len(best) == len(worst) == min(n, 2)

def test_an_image_without_labels_is_at_no_end(found):
    counts = ImageCounts(6)
    counts.add(7, ConfusionMatrix(6))
    for i in (8, 9): counts.add(i, ConfusionMatrix(6).update([0, 1], [0, i - 8]))
    assert extremes(replace(found, images=counts), 2) == ([9], [8])

def test_the_most_confused_pairs_are_those_of_a_loop(found):
    m = found.confusion.matrix.numpy()
    pairs = sorted(((int(m[t, p]), -t, -p) for t in range(6) for p in range(6) if t != p and m[t, p]), reverse=True)
    assert [(t, p, n) for t, p, n, *_ in most_confused(found.confusion, 100)] == [(-t, -p, n) for n, t, p in pairs]
    assert most_confused(ConfusionMatrix(3)) == []

def test_a_report_has_its_files_and_says_what_was_measured(found, val, model, meters, tmp_path):
    import matplotlib
    matplotlib.use('Agg')
    paths = write_report(found, tmp_path, val, model=model, measured=meters, n_resamples=50, block=2, n=1)
    assert {p.name for p in paths} == {p.name for p in tmp_path.iterdir()} == {f'{stem}_ss.{end}' for stem, end in (
        ('per_image', 'csv'), ('measures', 'json'), ('confused', 'csv'), ('counts', 'npz'), ('per_class', 'html'), ('per_class', 'png'),
        ('confusion', 'png'), ('confused', 'png'), ('interval', 'png'), ('contact_sheet', 'png'))}
    said = json.loads((tmp_path/'measures_ss.json').read_text(), parse_constant=pytest.fail)
    assert said['interval']['low'] <= found.scores.mIoU <= said['interval']['high'] and said['interval']['block'] == 2
    assert said['boundary_mIoU'] == pytest.approx(meters['boundary'].compute().mIoU, abs=1e-3) and said['sizes']['small']['objects'] > 0
    assert ImageCounts.load(tmp_path/'counts_ss.npz').parts().sum() == found.images.parts().sum()
    assert 'IoU small' in (tmp_path/'per_class_ss.html').read_text()

def test_a_report_of_one_image_or_of_a_perfect_model_is_written_too(found, val, model, tmp_path):
    one = evaluate(model, val, limit=1, progress=False)
    perfect = ConfusionMatrix(6).update([0, 1], [0, 1])
    one = replace(one, confusion=perfect, scores=perfect.compute())
    assert not {'interval_ss.png', 'confused_ss.png'} & {p.name for p in write_report(one, tmp_path, val, model=model)}

def test_names_that_break_a_csv_are_quoted(found, val, tmp_path):
    strange = replace(found, classes=ClassList(['a,b', 'c"d', *NAMES[2:]]))
    write_report(strange, tmp_path, val, n_resamples=10)
    rows = list(csv.reader(open(tmp_path/'confused_ss.csv')))
    assert all(len(row) == 5 for row in rows)

def test_the_contact_sheet_has_four_pictures_a_row(found, val, model):
    import matplotlib
    matplotlib.use('Agg')
    assert len(show_contact_sheet(model, val, found, n=2).axes) == 16
