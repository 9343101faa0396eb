"""What is looked for on the pages of a built site. Each check returns a list of what is wrong, empty for a good site.

`links`, `pictures` read the files; the others look at a page in a browser that reaches this machine only.
"""
import html.parser, importlib.util, re, sys, threading
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parents[2]
PHONE, DESK = {'width': 390, 'height': 844}, {'width': 1440, 'height': 900}

def builder():
    "`docs/site.py`, under a name that is not the standard library's."
    if 'site_builder' not in sys.modules:
        spec = importlib.util.spec_from_file_location('site_builder', ROOT/'docs'/'site.py')
        sys.modules['site_builder'] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules['site_builder'])
    return sys.modules['site_builder']

# ---- In the files

class Tags(html.parser.HTMLParser):
    "Every tag with its attributes, and whether it stands in the article."
    def __init__(self, text):
        super().__init__()
        self.tags, self.article = [], False
        self.feed(text)
    def handle_starttag(self, tag, attrs):
        if tag == 'article': self.article = True
        self.tags.append((tag, dict(attrs), self.article))
    def handle_endtag(self, tag):
        if tag == 'article': self.article = False

@lru_cache(maxsize=None)
def tags(path): return Tags(path.read_text(encoding='utf-8')).tags
def pages(site): return sorted(site.glob('*.html'))

def links(site):
    "Links and pictures that lead nowhere, and anchors given twice."
    ids, wrong = {}, []
    for path in pages(site):
        given = [a['id'] for _, a, _ in tags(path) if 'id' in a]
        ids[path.name] = set(given)
        wrong += [f'{path.name}: id {i!r} twice' for i in ids[path.name] if given.count(i) > 1]
    for path in pages(site):
        for tag, a, _ in tags(path):
            for target in filter(None, (a.get('href'), a.get('src'))):
                url = urlsplit(target)
                if url.scheme or url.netloc: continue
                file = unquote(url.path) or path.name
                if not (site/file).is_file(): wrong.append(f'{path.name}: {target} leads nowhere')
                elif url.fragment and unquote(url.fragment) not in ids.get(file, ()): wrong.append(f'{path.name}: {target} has no such place')
    return wrong

def pictures(site):
    "Pictures of the text without a description."
    return [f'{path.name}: {a.get("src")} has no alt text' for path in pages(site) for tag, a, article in tags(path)
            if tag == 'img' and article and not (a.get('alt') or '').strip()]

def sources(site):
    "Links to a definition's source that do not point at its line in this checkout."
    wrong = []
    for path in pages(site):
        for tag, a, _ in tags(path):
            if 'source' not in (a.get('class') or '').split(): continue
            file, line = re.search(r'/blob/[^/]+/(.+)#L(\d+)$', a['href']).groups()
            name, text = a['aria-label'].split()[-1].split('.')[-1], (ROOT/file).read_text(encoding='utf-8').splitlines()[int(line) - 1]
            if not re.match(rf'\s*(async def|def|class) {name}\b', text): wrong.append(f'{path.name}: {name} is not at {file}:{line}')
    return wrong

# ---- In a browser

def chromium():
    "Path of a Chromium, or None."
    import shutil
    return next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)

@contextmanager
def served(site):
    "The site on this machine; its address."
    at = builder().server(site)
    threading.Thread(target=at.serve_forever, daemon=True).start()
    try: yield f'http://127.0.0.1:{at.server_port}/'
    finally: at.shutdown(); at.server_close()

class Visit:
    "A browser window on a site: other hosts are out of reach and noted, as is what the console complains about."
    def __init__(self, browser, base, viewport=DESK, theme='light'):
        self.context = browser.new_context(viewport=viewport, color_scheme=theme, service_workers='block')
        self.base, self.theme, self.foreign, self.complaints = base, theme, [], []
        self.context.route('**/*', self._route)
        self.page = self.context.new_page()
        self.page.on('console', lambda m: self.complaints.append(f'{self.page.url}: {m.text}') if m.type == 'error' else None)
        self.page.on('pageerror', lambda e: self.complaints.append(f'{self.page.url}: {e}'))
    def _route(self, route):
        url = route.request.url
        if url.startswith((self.base, 'data:')): return route.continue_()
        self.foreign.append(f'{self.page.url} asks for {url}')
        route.abort()
    def __enter__(self): return self
    def __exit__(self, *_): self.context.close()
    def go(self, name):
        self.page.goto(self.base + name)
        return self.page

def sideways(page):
    "Whether the page scrolls sideways, and what sticks out."
    return page.evaluate('''() => {
        const width = document.documentElement.clientWidth
        if (document.documentElement.scrollWidth <= width) return []
        const inBox = e => { for (let p = e.parentElement; p; p = p.parentElement) if (getComputedStyle(p).overflowX !== 'visible') return true }
        const out = [...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > width + 1 && !inBox(e))
        return [`${location.pathname} is ${document.documentElement.scrollWidth} wide at ${width}: ` +
                out.slice(0, 3).map(e => e.outerHTML.slice(0, 80)).join(' | ')] }''')

def formulas(page):
    "Formulas left as TeX, or drawn with no size."
    return page.evaluate(r'''() => {
        const text = document.querySelector('article').cloneNode(true)
        text.querySelectorAll('pre, code, math, script').forEach(e => e.remove())
        const left = text.textContent.match(/\$[^$\n]{1,80}\$|\\(frac|mathrm|sum|top|begin)\b/g) ?? []
        const flat = [...document.querySelectorAll('article math')].filter(m => m.getBoundingClientRect().height < 5 || m.querySelector('merror'))
        return [...left.map(t => `${location.pathname}: ${t} is not drawn`), ...flat.map(m => `${location.pathname}: no size: ${m.textContent}`)] }''')

@lru_cache
def axe_source():
    import axe_playwright_python
    return (Path(axe_playwright_python.__file__).parent/'axe.min.js').read_text(encoding='utf-8')

def accessibility(page, contrast=True):
    "Serious and critical violations that axe-core finds; `contrast=False` leaves out its one slow rule and the words of the code blocks."
    if not page.evaluate('() => !!window.axe'): page.evaluate(axe_source() + '\n;0')
    found = page.evaluate('''async contrast => (await axe.run(contrast ? document : {exclude: ['pre.code > code']}, {resultTypes: ['violations'], rules: {'color-contrast': {enabled: contrast}}})).violations
        .filter(v => ['serious', 'critical'].includes(v.impact)).map(v => `${v.id}: ${v.nodes.length} times, first ${v.nodes[0].html.slice(0, 120)}: ${v.nodes[0].failureSummary.slice(0, 200)}`)''', contrast)
    return [f'{page.url}: {line}' for line in found]

def coloured(path):
    "Whether a page's text brings colours of its own; all other colours are the theme's."
    return any(article and (tag == 'style' or 'style' in a or 'bgcolor' in a) for tag, a, article in tags(path))

def search(page, words):
    "Addresses found for words, best first."
    page.keyboard.press('/')
    page.locator('#search input').fill(words)
    page.wait_for_function('() => document.querySelector("#search ol").children.length || document.querySelector("#search .status").textContent')
    found = page.eval_on_selector_all('#search ol a', 'all => all.map(a => a.getAttribute("href"))')
    page.keyboard.press('Escape')
    return found
