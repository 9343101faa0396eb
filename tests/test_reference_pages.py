"What the reference pages and the tutorials tell a reader to type, and the numbers they quote."
import configparser, json, re, shlex, sys
from pathlib import Path
import pytest, torch, yaml
from segmenter.cli import VERBS, main
from segmenter.flags import parse

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT/'docs'))
import pages

def prose():
    "Name and text of every reference page and of every tutorial's prose."
    for path in sorted((ROOT/'docs'/'reference').glob('*.md')): yield path.stem, path.read_text(encoding='utf-8')
    for path in sorted((ROOT/'nbs'/'tutorials').glob('*.ipynb')):
        cells = json.loads(path.read_text(encoding='utf-8'))['cells']
        yield path.stem, '\n'.join(''.join(c['source']) for c in cells if c['cell_type'] == 'markdown')

def commands(text):
    "The `segmenter …` lines of its shell blocks, launchers and comments taken off."
    for block in re.findall(r'```sh\n(.*?)```', text, re.S):
        for line in block.replace('\\\n', ' ').splitlines():
            if found := re.search(r'\bsegmenter (?!\.)[a-z].*', line.split(' #')[0]): yield found[0]

LINES = [(name, line) for name, text in prose() for line in commands(text)]

@pytest.mark.parametrize('name,line', LINES, ids=lambda v: v[:60])
def test_every_line_a_reader_may_type_is_understood(name, line):
    words = [word for word in shlex.split(line)[1:] if word not in ('…', '...')]
    while '--with' in words: at = words.index('--with'); words = words[:at] + words[at + 2:]
    assert words[0] in VERBS, f'{name}: {line}'
    parse(VERBS[words[0]], words[1:])

def test_flags_named_in_the_tables_exist():
    known = {flag for verb in VERBS.values() for flag in pages._commands()[2](verb)._option_string_actions}
    text = (ROOT/'docs'/'reference'/'from_mmsegmentation.md').read_text(encoding='utf-8')
    ours = [cell for line in text.splitlines() if line.startswith('| ') for cell in line.strip('| ').split(' | ')[-1:]]
    named = {flag for cell in ours for code in re.findall(r'`([^`]+)`', cell) if 'torchrun' not in code for flag in re.findall(r'(?<!\S)--[a-z-]+', code)}
    assert len(named) > 15 and named <= known, named - known

def test_a_model_goes_to_mmsegmentation_and_back_by_the_lines_of_the_page(tmp_path, monkeypatch):
    from segmenter.checkpoints import load_model
    from segmenter.convert import convert
    monkeypatch.chdir(tmp_path)
    convert('landcover-mask', 'made', 'mmseg')
    Path('segmenter_vit-t_mask.pth').write_bytes(Path('made/segmenter.pth').read_bytes())
    lines = [line for name, line in LINES if name == 'from_mmsegmentation' and 'convert' in line and 'tiny' in line]
    assert len(lines) == 2 and [main(shlex.split(line)[1:]) or 0 for line in lines] == [0, 0]
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad(): answers = [load_model(path)(images) for path in ('landcover-mask', 'tiny', 'tiny-again')]
    assert torch.equal(answers[0], answers[1]) and torch.equal(answers[0], answers[2])

def test_numbers_of_the_differences_are_read_from_the_report():
    text = next(page.markdown for page in pages.pages(ROOT) if page.name == 'differences')
    assert '{{' not in text and text.count('*Measured*') > 12 and 'million' in pages.measured(ROOT, 'parameters')
    with pytest.raises(ValueError, match="nothing called 'nonsense'"): pages.measured(ROOT, 'nonsense')

def test_a_hand_typed_percentage_is_no_measurement():
    source = (ROOT/'docs'/'reference'/'differences.md').read_text(encoding='utf-8')
    assert re.findall(r'\d[\d.]* ?(?:%|points|mIoU)', source) == []

def test_licences_of_weights_are_those_timm_states():
    import timm
    text = (ROOT/'docs'/'reference'/'licences.md').read_text(encoding='utf-8')
    said = {'AugReg and DeiT': ['vit_tiny_patch16_384.augreg_in21k_ft_in1k', 'deit_base_distilled_patch16_384.fb_in1k'], 'DINOv3': ['vit_small_patch16_dinov3.lvd1689m'],
            'SigLIP 2': ['vit_base_patch16_siglip_512.v2_webli'], 'EVA-02': ['eva02_base_patch14_224.mim_in22k']}
    for row, names in said.items():
        line = next(line for line in text.splitlines() if line.startswith(f'| {row}'))
        for name in names: assert f'`{timm.get_pretrained_cfg(name).license}`' in line

def test_version_and_title_agree_wherever_one_is_told_to_cite():
    facts = configparser.ConfigParser(delimiters=['='])
    facts.read(ROOT/'settings.ini', encoding='utf-8')
    cff, page = yaml.safe_load((ROOT/'CITATION.cff').read_text()), (ROOT/'docs'/'reference'/'citing.md').read_text(encoding='utf-8')
    assert cff['version'] == facts['DEFAULT']['version'] and f"version = {{{cff['version']}}}" in page
    assert f"title   = {{{cff['title']}}}" in page and cff['preferred-citation']['title'] in page and cff['repository-code'] == facts['DEFAULT']['git_url']

def test_the_overview_is_drawn_from_the_model():
    import overview
    model, part, view = overview.window()
    layers, patches, classes, agree, labels = overview.look(model, view)
    assert len(layers) == model.config.depth + 1 and part.shape == (64, 64, 3) and labels.shape == (64, 64)
    assert agree.shape == (17, 16, 16) and agree.abs().max() <= 1 + 1e-6 and torch.equal(patches @ classes.T > 0, agree.reshape(17, -1).T > 0)
    for name in overview.INKS: assert all((ROOT/'docs'/'images'/f'{name}.{kind}').stat().st_size < 200_000 for kind in ('png', 'svg'))

# ---- Parts of one's own

def test_an_added_loss_is_one_of_the_whole_batch():
    from segmenter.region_losses import LOSSES, find_loss
    from segmenter.steps import accumulate
    LOSSES['spread'] = lambda masks, target, ignore_index: masks.softmax(1).std()
    try:
        torch.manual_seed(0)
        model, images, labels = torch.nn.Conv2d(3, 4, 8, 8), torch.randn(4, 3, 32, 32), torch.zeros(4, 32, 32, dtype=torch.long)
        grads = []
        for parts in 1, 3:
            model.zero_grad()
            accumulate(model, find_loss('spread'), images, labels, parts, weight=None)
            grads.append(model.weight.grad.clone())
        torch.testing.assert_close(*grads)
    finally: del LOSSES['spread']

def test_with_runs_files_in_their_order_and_leaves_the_rest(tmp_path, capsys):
    for i, name in enumerate('ab'): (tmp_path/f'{name}.py').write_text(f'print("file {i}")')
    assert main(['--with', str(tmp_path/'a.py'), '--with', str(tmp_path/'b.py'), '--version']) == 0
    assert capsys.readouterr().out.splitlines()[:2] == ['file 0', 'file 1']
    assert main(['env', '--with']) == 2 and 'name a Python file' in capsys.readouterr().err

def test_a_named_data_set_of_ones_own_wins_over_a_folder_of_that_name(tmp_path, monkeypatch):
    from segmenter.datasets import DATASETS, load_dataset
    monkeypatch.chdir(tmp_path)
    Path('mine').mkdir()
    monkeypatch.setitem(DATASETS, 'mine', lambda split, data_root: (split, data_root))
    assert load_dataset('mine', 'val', 'here') == ('val', 'here')
