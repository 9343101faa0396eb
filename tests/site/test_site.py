"The built site as a reader meets it: on a desk and on a phone, by day and by night, with the network off."
import html, json, re
import pytest
from site_checks import DESK, PHONE, ROOT, Visit, accessibility, builder, coloured, formulas, links, pages, pictures, search, sideways, sources, tags

def test_every_link_and_anchor_resolves(site): assert links(site) == []
def test_every_picture_has_alt_text(site):
    assert pictures(site) == []
    assert sum(tag == 'figure' for path in pages(site) for tag, *_ in tags(path)) > 30
def test_source_links_point_at_the_definition(site): assert sources(site) == []

def test_every_notebook_has_a_page_in_the_sidebar(site):
    listed = {a['href'] for tag, a, article in tags(site/'index.html') if tag == 'a' and not article and 'href' in a}
    for path in (ROOT/'nbs').rglob('*.ipynb'):
        if '.ipynb_checkpoints' not in path.parts: assert f'{builder().page_name(path)}.html' in listed, path

def test_every_page_has_its_title_its_description_and_one_h1(site):
    for path in pages(site):
        text = path.read_text(encoding='utf-8')
        assert len(re.findall('<h1', text)) == 1, path.name
        assert re.search(r'<title>[^<]+</title>', text) and re.search(r'name="description" content="[^"]+"', text), path.name

def test_no_directive_and_no_hidden_cell_is_shown(site):
    paths = [*(ROOT/'nbs').glob('*.ipynb'), *(ROOT/'nbs'/'tutorials').glob('*.ipynb')]
    sources = [''.join(cell['source']) for path in paths for cell in json.loads(path.read_text(encoding='utf-8'))['cells']]
    is_hidden = lambda source: bool(re.search(r'^#\|\s*hide\s*$', source, re.M))
    shown = {line.strip() for source in sources if not is_hidden(source) for line in source.splitlines()}
    hidden = {line.strip() for source in sources if is_hidden(source) for line in source.splitlines() if len(line) > 40}
    hidden = {line for line in hidden if not any(line in other for other in shown)}
    assert hidden
    for path in pages(site):
        words = html.unescape(re.sub('<.*?>', '', path.read_text(encoding='utf-8')))
        assert '#|' not in words, path.name
        if path.stem == 'paper_to_code': continue # it quotes the check that guards each row, hidden or not
        assert not [line for line in hidden if line in words], path.name

def test_public_definitions_have_a_card_with_units(site):
    text = (site/'mask_transformer.html').read_text(encoding='utf-8')
    assert 'id="class_masks"' in text and re.search(r'<th scope="row"><code>patches</code></th><td class="type"><code>Tensor</code></td>'
        r'<td class="details">Decoded patch tokens, <code>\[B, N, D\]</code>', text)
    assert re.search(r'<em>returns</em></th><td class="type"><code>Tensor</code></td>.{0,40}Agreement', text)

def test_symbols_in_backticks_are_links(site):
    text = (site/'model.html').read_text(encoding='utf-8')
    assert re.search(r'<a class="symbol-link" href="\w+\.html#\w+"><code>', text)

def test_machines_find_every_page(site):
    text = (site/'llms.txt').read_text(encoding='utf-8')
    for path in pages(site):
        if path.stem != '404': assert f']({path.stem}.html.md)' in text and (site/f'{path.stem}.html.md').stat().st_size
    assert len(re.findall(r'\]\(([\w.-]+)\)', text)) == len(pages(site)) - 1

# ---- In a browser

def test_on_a_desk_by_day(site, browser, base):
    "Every page: nothing foreign, nothing wrong in the console, no sideways scroll, formulas drawn, axe content (its contrast where not only the theme colours)."
    wrong = []
    with Visit(browser, base, DESK, 'light') as visit:
        for path in pages(site):
            page = visit.go(path.name)
            wrong += sideways(page) + formulas(page) + accessibility(page, contrast=coloured(path))
    assert wrong + visit.foreign + visit.complaints == []

def test_on_a_phone_by_night(site, browser, base):
    "Every page again, narrow and dark."
    wrong = []
    with Visit(browser, base, PHONE, 'dark') as visit:
        for path in pages(site): wrong += sideways(visit.go(path.name))
    assert wrong + visit.foreign + visit.complaints == []

@pytest.mark.parametrize('theme', ['light', 'dark'])
@pytest.mark.parametrize('name, viewport', [('index.html', PHONE), ('linear_decoder.html', DESK), ('model.html', PHONE), ('404.html', PHONE)])
def test_axe_is_content_with_every_colour(browser, base, name, viewport, theme):
    "A sample of pages whole, code colours too."
    with Visit(browser, base, viewport, theme) as visit: assert accessibility(visit.go(name)) == []

@pytest.mark.parametrize('theme', ['light', 'dark'])
def test_axe_is_content_with_the_search_open(browser, base, theme):
    with Visit(browser, base, theme=theme) as visit:
        page = visit.go('index.html')
        search(page, 'token')
        page.keyboard.press('/')
        assert page.locator('#search').is_visible() and accessibility(page) == []

def test_formulas_are_mathml(browser, base):
    with Visit(browser, base) as visit:
        page = visit.go('metrics.html')
        assert page.locator('article math').count() >= 5 and page.locator('article math mfrac').count() >= 2
        assert page.locator('math mfrac').first.bounding_box()['height'] > 20
        assert page.evaluate('async () => { await document.fonts.ready; return [...document.fonts].some(f => f.status === "loaded") }')

SEARCHES = {'class_masks': 'mask_transformer.html#class_masks', 'sliding window': 'windows.html', 'confusion matrix': 'metrics.html',
            'position': 'patches.html', 'land cover': 'land_cover.html'}
@pytest.mark.parametrize('words', SEARCHES)
def test_the_search_finds(browser, base, words):
    with Visit(browser, base) as visit:
        found = search(visit.go('index.html'), words)
        assert any(url.startswith(SEARCHES[words]) for url in found[:5]), found
        assert visit.foreign + visit.complaints == []

def test_the_search_is_reached_and_left_by_keyboard(browser, base):
    with Visit(browser, base) as visit:
        page = visit.go('index.html')
        page.keyboard.press('/')
        page.keyboard.type('class_masks')
        page.wait_for_selector('#search ol a')
        page.keyboard.press('ArrowDown')
        assert page.evaluate('document.activeElement.getAttribute("href")') == 'mask_transformer.html#class_masks'
        page.keyboard.press('Enter')
        page.wait_for_url('**/mask_transformer.html#class_masks')

def test_words_that_are_nowhere_are_said_to_be_nowhere(browser, base):
    with Visit(browser, base) as visit: assert search(visit.go('index.html'), 'xylophone') == []

def test_the_theme_is_switched_and_remembered(browser, base):
    paper = 'getComputedStyle(document.body).backgroundColor'
    with Visit(browser, base, theme='light') as visit:
        page = visit.go('index.html')
        day = page.evaluate(paper)
        page.locator('.theme').click()
        night = page.evaluate(paper)
        visit.go('model.html')
        assert day != night == page.evaluate(paper)

def test_the_chapters_fold_on_a_phone(browser, base):
    with Visit(browser, base, PHONE) as visit:
        page = visit.go('model.html')
        chapters = page.locator('#sidebar')
        assert not chapters.is_visible()
        page.locator('.menu').click()
        assert chapters.is_visible() and page.locator('.menu').get_attribute('aria-expanded') == 'true' and sideways(page) == []
        chapters.get_by_role('link', name='Patches').click()
        page.wait_for_url('**/patches.html')

def test_a_lost_reader_is_met_anywhere(browser, base):
    with Visit(browser, base) as visit:
        page = visit.go('no/such/page')
        assert page.locator('h1').inner_text() == 'Not found' and page.evaluate('getComputedStyle(document.querySelector(".bar")).position') == 'sticky'
        page.get_by_role('link', name='front page').click()
        page.wait_for_url('**/index.html')

def test_the_site_works_from_a_folder(site, browser):
    with Visit(browser, site.as_uri() + '/') as visit:
        page = visit.go('index.html')
        assert 'mask_transformer.html#class_masks' in search(page, 'class_masks') and visit.foreign + visit.complaints == []

def test_without_scripts_every_word_is_there(browser, base):
    context = browser.new_context(java_script_enabled=False, viewport=PHONE)
    page = context.new_page()
    page.goto(base + 'model.html')
    assert page.locator('#sidebar').is_visible() and page.locator('article h2').count() > 3 and not page.locator('.find').is_visible()
    context.close()
