"A tiny site with one fault each: the check that should notice it does, and the same site without the fault is clean."
import base64, io, json
import pytest
from site_checks import DESK, PHONE, Visit, accessibility, builder, formulas, links, pictures, served, sideways

def _png():
    from PIL import Image
    made = io.BytesIO()
    Image.new('RGB', (40, 20), (90, 120, 160)).save(made, 'png')
    return base64.b64encode(made.getvalue()).decode()

def _cell(kind, source, **more): return {'cell_type': kind, 'metadata': {}, 'source': source, **({'outputs': []} if kind == 'code' else {}), **more}
def _figure(source): return _cell('code', source, outputs=[{'output_type': 'display_data', 'metadata': {}, 'data': {'image/png': _png()}}])

def tiny(folder, *cells):
    "Build a site of a front page and one chapter that holds the cells."
    good = [_cell('markdown', '# Patches\n\n> An image as a grid'), _cell('code', '#| default_exp patches'), _cell('markdown', '## One idea\n\nSee `grid` and [the start](index.ipynb): $x_i^2$.'),
            _cell('code', '#| export\ndef grid(\n    image:list, # `[H, W]`\n)->int: # Number of patches\n    "Count the patches."\n    return 1'), _figure('#| echo: false\n#| fig-cap: "One patch"\n#| fig-alt: "A grey square"\nshow()')]
    books = {'index': [_cell('markdown', '# Tiny\n\n> A book of one chapter')], '01_patches': [*good, *cells]}
    (folder/'nbs').mkdir()
    for name, made in books.items():
        (folder/'nbs'/f'{name}.ipynb').write_text(json.dumps({'cells': made, 'metadata': {}, 'nbformat': 4, 'nbformat_minor': 5}))
    (folder/'settings.ini').write_text('[DEFAULT]\nlib_name = tiny\nlib_path = tiny\nversion = 1\ndescription = A book\nbranch = main\ngit_url = https://example.org/tiny\n')
    builder().build(folder, folder/'_site')
    return folder/'_site'

def look(site, browser):
    "Check name to what it found."
    found = {'links': links(site), 'pictures': pictures(site)}
    with served(site) as base, Visit(browser, base, PHONE) as visit:
        page = visit.go('patches.html')
        page.wait_for_load_state('networkidle')
        found |= {'sideways': sideways(page), 'formulas': formulas(page), 'accessibility': accessibility(page)}
        found |= {'foreign': visit.foreign, 'console': [line for line in visit.complaints if 'ERR_FAILED' not in line]}
    return found

EVERYTHING = """
::: {.callout-note title="One thing"}
Words with a note.[^1]
:::

::: {.callout-warning}
## Mind `grid`
More words.
:::

::: {.callout-tip}
A tip.
:::

::: {.panel-tabset}
### First
One.

### Second
Two.
:::

| what | here |
|---|---|
| a row | `grid(image)` |

> A quotation.

$$\\frac{a}{b} = \\sum_i x_i$$

[^1]: The note.
"""
FOLDED = _cell('code', '#| code-fold: true\nx = {"a": 1} # a comment\nassert len(x) == 1', outputs=[
    {'output_type': 'stream', 'name': 'stdout', 'text': ['printed\n']}, {'output_type': 'error', 'ename': 'ValueError', 'evalue': 'no', 'traceback': []}])

FAULTS = {
    'a dead link': ('links', _cell('markdown', 'Go [there](nowhere.html).')),
    'a link to a chapter that is gone': ('links', _cell('markdown', 'Go [there](09_gone.ipynb).')),
    'a dead anchor': ('links', _cell('markdown', 'Go [there](index.ipynb#nowhere).')),
    'a picture without alt text': ('pictures', _figure('#| fig-cap: "Dark"\nshow()')),
    'a script of another host': ('foreign', _cell('markdown', '<script src="https://cdn.example.org/x.js"></script>')),
    'a picture of another host': ('foreign', _cell('markdown', '![a view](https://img.example.org/x.png)')),
    'a font of another host': ('foreign', _cell('markdown', '<style>@import url("https://fonts.example.org/a.css");</style>')),
    'a script that fails': ('console', _cell('markdown', '<script>throw new Error("planted")</script>')),
    'a formula left as TeX': ('formulas', _cell('markdown', '<p>The sum $\\sum x$ of it.</p>')),
    'a block too wide for a phone': ('sideways', _cell('markdown', '<div style="width: 900px">wide</div>')),
    'pale text': ('accessibility', _cell('markdown', '<p style="color: #ccc; background: #fff">hard to read</p>')),
    'a button without a name': ('accessibility', _cell('markdown', '<button></button>')),
}

def test_the_tiny_site_is_clean(tmp_path, browser):
    assert {name: wrong for name, wrong in look(tiny(tmp_path), browser).items() if wrong} == {}

def test_all_kinds_of_content_are_rendered_and_readable(tmp_path, browser):
    site = tiny(tmp_path, _cell('markdown', EVERYTHING), FOLDED)
    assert links(site) == []
    with served(site) as base:
        for theme, width in ('light', PHONE), ('dark', DESK):
            with Visit(browser, base, width, theme) as visit:
                page = visit.go('patches.html')
                assert sideways(page) + formulas(page) + accessibility(page) + visit.foreign + visit.complaints == []
    with served(site) as base, Visit(browser, base) as visit:
        page = visit.go('patches.html')
        assert page.locator('.callout .title').all_inner_texts() == ['One thing', 'Mind grid', 'Tip']
        assert not page.get_by_text('Two.').is_visible()
        page.get_by_role('tab', name='Second').click()
        assert page.get_by_text('Two.').is_visible() and not page.get_by_text('One.', exact=True).is_visible()
        assert page.locator('td a.symbol-link').get_attribute('href') == 'patches.html#grid'
        assert not page.get_by_text('a comment').is_visible()
        page.get_by_text('Code', exact=True).click()
        assert page.get_by_text('a comment').is_visible()

@pytest.mark.parametrize('fault', FAULTS)
def test_a_planted_fault_is_noticed(tmp_path, browser, fault):
    check, cell = FAULTS[fault]
    assert [name for name, wrong in look(tiny(tmp_path, cell), browser).items() if wrong] == [check]

def test_two_pages_of_one_name_are_refused(tmp_path):
    tiny(tmp_path)
    (tmp_path/'nbs'/'02_patches.ipynb').write_text((tmp_path/'nbs'/'01_patches.ipynb').read_text())
    with pytest.raises(ValueError, match='two pages would be called patches'): builder().build(tmp_path, tmp_path/'_site')
