// What a page can do beyond being read: search, theme, the folding sidebar, copying, tabs. Without it every word is still there.
'use strict'
const one = (what, where = document) => where.querySelector(what), all = (what, where = document) => [...where.querySelectorAll(what)]
const make = (tag, more = {}) => Object.assign(document.createElement(tag), more)

// ---- Theme: the system's, until the reader chooses
one('.theme').onclick = () => {
  const dark = document.documentElement.dataset.theme ? document.documentElement.dataset.theme === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches
  document.documentElement.dataset.theme = dark ? 'light' : 'dark'
  try { localStorage.setItem('theme', dark ? 'light' : 'dark') } catch {}
}

// ---- Sidebar on a narrow page
const menu = one('.menu'), sidebar = one('#sidebar')
const unfold = open => { sidebar.classList.toggle('open', open); menu.setAttribute('aria-expanded', open) }
menu.onclick = () => unfold(!sidebar.classList.contains('open'))
addEventListener('keydown', e => { if (e.key === 'Escape' && sidebar.classList.contains('open')) { unfold(false); menu.focus() } })
const current = one('[aria-current]', sidebar)
if (current && sidebar.scrollHeight > sidebar.clientHeight) sidebar.scrollTop = current.offsetTop - sidebar.clientHeight / 3

// ---- Contents of this page: mark where the reader is
const entries = new Map(all('#toc a').map(a => [decodeURIComponent(a.hash.slice(1)), a]))
const places = [...entries.keys()].map(id => document.getElementById(id)).filter(Boolean)
const follow = () => {
  const here = places.findLast(p => p.getBoundingClientRect().top < 120)
  for (const [id, a] of entries) a.classList.toggle('here', id === here?.id)
}
if (places.length) { addEventListener('scroll', follow, {passive: true}); follow() }

// ---- Code: copy it, and reach the end of long lines with the keyboard
for (const pre of all('pre.code')) {
  const block = make('div', {className: 'block'}), copy = make('button', {className: 'copy', type: 'button', textContent: 'Copy'})
  copy.onclick = async () => {
    await navigator.clipboard.writeText(pre.textContent)
    copy.textContent = 'Copied'
    setTimeout(() => copy.textContent = 'Copy', 1500)
  }
  pre.replaceWith(block)
  block.append(pre, copy)
}
const reach = () => { for (const box of all('pre, .scroll')) if (box.scrollWidth > box.clientWidth) box.tabIndex = 0; else box.removeAttribute('tabindex') }
addEventListener('resize', reach)
for (const fold of all('details')) fold.addEventListener('toggle', reach)
reach()

// ---- Tabs: `::: {.panel-tabset}`; each heading of the first level inside names one
all('.panel-tabset').forEach((set, n) => {
  const level = one('h2, h3, h4, h5', set)?.tagName
  if (!level) return
  const bar = make('div', {className: 'tabs', role: 'tablist'}), panels = []
  for (const node of [...set.children]) {
    if (node.tagName === level) {
      const panel = make('div', {role: 'tabpanel', id: `tab-${n}-${panels.length}`})
      const tab = make('button', {type: 'button', role: 'tab', textContent: node.firstChild.textContent})
      tab.setAttribute('aria-controls', panel.id)
      tab.onclick = () => panels.forEach((p, i) => { p.hidden = p !== panel; bar.children[i].setAttribute('aria-selected', p === panel) })
      bar.append(tab); panels.push(panel); node.remove()
    } else panels.at(-1)?.append(node)
  }
  set.prepend(bar, ...panels)
  bar.firstChild?.click()
})

// ---- Search: every section's words, loaded at the first use; all words of the question must be in a section
const dialog = one('#search'), input = one('input', dialog), list = one('ol', dialog), status = one('.status', dialog)
const fold = text => text.toLowerCase().normalize('NFD').replace(/[\u0300-\u036f]/g, '')
let rows = null
function load() {
  if (rows) return Promise.resolve()
  return new Promise((done, fail) => document.head.append(make('script', {src: 'search-index.js', onerror: fail, onload: () => {
    rows = SEARCH.map(([page, url, heading, text, symbol]) => ({page, url, heading, text, symbol, low: {page: fold(page), heading: fold(heading), text: fold(text)}}))
    done()
  }})))
}
function score(row, words) { // 0 when a word is missing; a name beats a heading, a heading the text
  let sum = 0
  for (const w of words) {
    const {page, heading, text} = row.low
    let s = 0
    if (heading === w || heading.endsWith('.' + w)) s += row.symbol ? 60 : 40
    else if (heading.startsWith(w)) s += 20
    else if (heading.includes(w)) s += 10
    if (page === w) s += heading ? 6 : 45
    else if (page.includes(w)) s += heading ? 3 : 25
    s += Math.min(text.split(w).length - 1, 4)
    if (!s) return 0
    sum += s
  }
  return sum
}
function marked(text, words) { // the text with the words in <mark>
  const made = make('span'), low = fold(text)
  if (low.length !== text.length) { made.textContent = text; return made }
  for (let i = 0; i < text.length;) {
    const hits = words.map(w => [low.indexOf(w, i), w.length]).filter(([at]) => at >= 0).sort((a, b) => a[0] - b[0] || b[1] - a[1])
    const [at, size] = hits[0] ?? [text.length, 0]
    made.append(text.slice(i, at))
    if (size) made.append(make('mark', {textContent: text.slice(at, at + size)}))
    i = at + size
  }
  return made
}
function excerpt(row, words) {
  const at = Math.max(0, Math.min(...words.map(w => row.low.text.indexOf(w)).map(i => i < 0 ? Infinity : i), row.text.length) - 50)
  const begin = at && at < row.text.length ? row.text.indexOf(' ', at) + 1 : 0
  return (begin ? '… ' : '') + row.text.slice(begin, begin + 150) + (row.text.length > begin + 150 ? ' …' : '')
}
function show() {
  const words = fold(input.value).split(/\s+/).filter(Boolean)
  const found = !words.length ? [] : rows.map(row => [score(row, words), row]).filter(([s]) => s).sort((a, b) => b[0] - a[0])
  list.replaceChildren(...found.slice(0, 20).map(([, row]) => {
    const item = make('li'), a = make('a', {href: row.url}), title = make('strong')
    title.append(marked(row.heading || row.page, words))
    a.append(title)
    if (row.heading) a.append(make('span', {className: 'where', textContent: ` · ${row.page}`}))
    const words_ = make('small'); words_.append(marked(excerpt(row, words), words)); a.append(words_)
    a.onclick = () => dialog.close()
    item.append(a)
    return item
  }))
  status.textContent = !words.length ? '' : !found.length ? 'Nothing found. Fewer or shorter words may help.' : found.length > 20 ? `The best 20 of ${found.length} places` : ''
}
async function search() {
  if (dialog.open) return
  dialog.showModal()
  input.select()
  try { await load(); show() } catch { status.textContent = 'The search index is missing.' }
}
one('.find').onclick = search
input.oninput = () => rows && show()
dialog.onclick = e => { if (e.target === dialog) dialog.close() }
addEventListener('keydown', e => {
  const typing = /INPUT|TEXTAREA|SELECT/.test(document.activeElement?.tagName)
  if ((e.key === '/' && !typing) || (e.key === 'k' && (e.metaKey || e.ctrlKey))) { e.preventDefault(); search() }
  if (!dialog.open) return
  const links = all('a', list), at = links.indexOf(document.activeElement)
  if (e.key === 'ArrowDown') { e.preventDefault(); links[Math.min(at + 1, links.length - 1)]?.focus() }
  if (e.key === 'ArrowUp') { e.preventDefault(); (at > 0 ? links[at - 1] : input).focus() }
  if (e.key === 'Enter' && document.activeElement === input) links[0]?.click()
})
