"The command: its flags are the authors', its help is fast, its refusals are one line."
import os, subprocess, sys, types, zipfile
from dataclasses import asdict
import numpy as np, pytest
from PIL import Image
from segmenter import cli, measuring
from segmenter.settings import TrainSettings

def typed(line, capsys):
    "Exit code, standard output, standard error."
    code = cli.main(line.split() if isinstance(line, str) else line)
    said = capsys.readouterr()
    return code, said.out, said.err

def fresh(*words):
    "A new process, as a terminal would start it."
    code = 'import sys; from segmenter.cli import main; c = main(); print("HEAVY", [m for m in ("torch", "fastai", "mmseg", "timm", "numpy", "papermill") if m in sys.modules]); sys.exit(c)'
    return subprocess.run([sys.executable, '-c', code, *words], capture_output=True, text=True)

# --- help

@pytest.mark.parametrize('words', [['--help'], [], *([verb, '--help'] for verb in cli.VERBS)])
def test_help_is_fast_and_loads_nothing_heavy(words):
    work = lambda: sum(os.times()[2:4]) # of child processes, in seconds; a busy machine does not add to it
    before = work()
    done = fresh(*words)
    assert done.returncode == 0 and done.stdout.startswith('usage: segmenter') and 'HEAVY []' in done.stdout and not done.stderr
    assert work() - before < 1

def test_the_overview_names_every_verb(capsys):
    for line in ('', '--help', 'help'):
        code, out, _ = typed(line, capsys)
        assert code == 0 and all(f'  {verb} ' in out for verb in ('train', 'evaluate', 'predict', 'doctor', 'convert', 'run', 'bench', 'env'))

def test_the_version_is_printed(capsys):
    import segmenter
    assert typed('--version', capsys)[:2] == (0, f'segmenter {segmenter.__version__}\n')

@pytest.mark.parametrize('verb, flags', [
    ('train', '--log-dir --dataset --im-size --crop-size --window-size --window-stride --backbone --decoder --optimizer --scheduler --weight-decay '
              '--dropout --drop-path --batch-size --epochs -lr --learning-rate --normalization --eval-freq --amp --no-amp --resume --no-resume '
              '--data-root --device --seed --workers --variant --pretrained --no-pretrained'),
    ('evaluate', '--im-size --multiscale --singlescale --blend --no-blend --window-size --window-stride --window-batch-size '
                 '--save-images --no-save-images -frac-dataset --frac-dataset --data-root --out --protocol --boundary --sizes --calibration '
                 '--report --no-report --resamples --block MODEL_PATH DATASET'),
    ('accuracy', '--imagenet-dir -bs --batch-size -nw --num-workers -gpu --gpu --no-gpu --weights BACKBONE'),
    ('submit', '--output-dir --split --multiscale --protocol MODEL_PATH DATASET'),
    ('predict', '--model-path -i --input-dir -o --output-dir --gpu --cpu'),
    ('doctor', '--split --json --out --data-root --limit --workers DATASET'),
    ('convert', '--to SRC OUT'),
    ('run', '-f -p --out --row --sweep --point --jobs --torchrun --dry-run --slurm NOTEBOOK'), ('runs', '--folder --where --compare --html'), ('bench', '--dataset --data-root --variant --model-path --rounds --images --gpu --json WHAT')])
def test_the_flags_are_the_authors(verb, flags, capsys):
    code, out, _ = typed(f'{verb} --help', capsys)
    assert code == 0 and set(flags.split()) <= set(out.replace(',', ' ').split())

@pytest.mark.parametrize('verb', cli.VERBS.values(), ids=cli.VERBS)
def test_every_flag_says_what_it_does(verb):
    for name, about, *_ in cli._parameters(verb): assert len(about) > 5, name
    for action in cli.verb_parser(verb)._actions: assert action.help, action.dest

@pytest.mark.parametrize('verb', cli.VERBS.values(), ids=cli.VERBS)
def test_every_help_ends_with_an_example(verb):
    last = cli.verb_parser(verb).format_help().split('for example:\n')[1].splitlines()
    assert last and all(line.startswith(f'  segmenter {verb.__name__}') for line in last)

# --- parsing

def test_both_spellings_of_a_switch_work():
    read = lambda line: cli.parse(cli.train, ['--log-dir', 'r', *line.split()])
    assert read('')['resume'] is True and read('--no-resume')['resume'] is False
    assert read('')['amp'] is False and read('--amp')['amp'] is True and read('--no-amp')['amp'] is False
    read = lambda line: cli.parse(cli.evaluate, ['m', 'd', *line.split()])['multiscale']
    assert (read(''), read('--multiscale'), read('--singlescale')) == (False, True, False)
    read = lambda line: cli.parse(cli.predict, ['--model-path', 'm', '-i', 'a', '-o', 'b', *line.split()])['gpu']
    assert (read(''), read('--gpu'), read('--cpu')) == (None, True, False)
    with pytest.raises(ValueError, match='not allowed with'): read('--gpu --cpu')

def test_values_have_their_types():
    values = cli.parse(cli.train, '--log-dir r -lr 1e-2 --epochs 3 --weight-decay 0.1'.split())
    assert (values['learning_rate'], values['epochs'], values['weight_decay'], values['crop_size']) == (.01, 3, .1, None)
    values = cli.parse(cli.run, 'train -f a -f b.yaml -p seed -1 -p dataset x'.split())
    assert dict(notebook='train', profile=['a', 'b.yaml'], parameter=[['seed', '-1'], ['dataset', 'x']], out='runs').items() <= values.items()

# --- refusals

@pytest.mark.parametrize('line, message', [
    ('trian', "segmenter: unknown verb 'trian'; did you mean 'train'?"),
    ('train', 'segmenter train: the following arguments are required: --log-dir; see segmenter train --help'),
    ('train --log-dir r --epoch 3', "segmenter train: unknown flag of segmenter train '--epoch'; did you mean '--epochs'"),
    ('train --log-dir r --epochs many', "segmenter train: argument --epochs: invalid int value: 'many'; see segmenter train --help"),
    ('train --log-dir r stray', "segmenter train: segmenter train does not know what to do with 'stray'; see segmenter train --help"),
    ('predict --model-path none.pth -i . -o out', "segmenter predict: no checkpoint at 'none.pth'"),
    ('evaluate none.pth landcover', "segmenter evaluate: no checkpoint at 'none.pth'"),
    ('run none.ipynb', "segmenter run: unknown experiment 'none'"),
    ('run here/none.ipynb', "segmenter run: no experiment at 'here/none.ipynb'")])
def test_a_refusal_is_one_line_and_exit_code_two(line, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = typed(line, capsys)
    assert code == 2 and err.startswith(message) and err.count('\n') == 1 and not out
    assert not list(tmp_path.iterdir())

def test_exit_codes_tell_a_refusal_a_bug_and_an_interruption_apart(capsys, monkeypatch):
    def raising(error):
        def verb(): "A verb."; raise error
        verb.__name__ = 'env'
        monkeypatch.setitem(cli.VERBS, 'env', verb)
        return typed('env', capsys)
    code, _, err = raising(ValueError('two\n   lines'))
    assert code == 2 and err == 'segmenter env: two lines\n'
    assert raising(PermissionError(13, 'Permission denied', '/x'))[2] == 'segmenter env: Permission denied: /x\n'
    assert raising(KeyboardInterrupt())[0] == 130
    with pytest.raises(ZeroDivisionError): raising(ZeroDivisionError())
    assert raising(NotImplementedError('not yet'))[::2] == (2, 'segmenter env: not yet\n')
    raising(ValueError('x'))
    with pytest.raises(ValueError, match='x'): cli.main(['--debug', 'env'])

# --- the verbs at work

def test_train_hands_every_flag_to_the_training(monkeypatch):
    given, result = {}, types.SimpleNamespace(records=[], best=0., folder='r')
    monkeypatch.setitem(sys.modules, 'segmenter.training', types.SimpleNamespace(train=lambda log_dir, **kw: given.update(kw, log_dir=log_dir) or result))
    assert cli.main('train --log-dir r --backbone b -lr 0.5 --no-resume --workers 2'.split()) == 0
    assert given['learning_rate'] == .5 and given['resume'] is False and given['workers'] == 2 and given['window_stride'] is None
    assert set(given) == {'log_dir', 'audit', *TrainSettings.__dataclass_fields__}

def test_every_setting_of_a_training_is_a_flag_with_its_default():
    values = cli.parse(cli.train, ['--log-dir', 'r'])
    assert values == dict(log_dir='r', audit=True, lr_find=False, **asdict(TrainSettings()))
    assert cli.parse(cli.train, '--log-dir r --scale-range 0.9 1.1'.split())['scale_range'] == (.9, 1.1)

@pytest.fixture
def tiny(tmp_path, monkeypatch):
    "A checkpoint's path, and a narrow random model in its place."
    from segmenter import create_model
    model = create_model(backbone='vit_tiny_patch16_384', n_classes=2, image_size=32, embed_dim=64, depth=1, n_heads=1, decoder='linear',
                         classes=['grass', 'sky']).eval()
    for module in (cli, measuring): monkeypatch.setattr(module, '_load', lambda path, gpu=None: model)
    (tmp_path/'run').mkdir()
    (tmp_path/'run'/'checkpoint.pth').write_bytes(b'')
    return tmp_path/'run'/'checkpoint.pth'

def picture(path, labels=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 2 if labels else 256, (40, 50) if labels else (40, 50, 3), np.uint8)
    Image.fromarray(pixels).save(path)

def test_predict_writes_label_maps_and_overlays(tiny, tmp_path, capsys):
    picture(tmp_path/'photos'/'a.png')
    code, out, err = typed(['predict', '--model-path', str(tiny), '-i', str(tmp_path/'photos'), '-o', str(tmp_path/'out')], capsys)
    assert code == 0 and '1 images segmented' in out
    assert {p.name for p in (tmp_path/'out').iterdir()} == {'a.png', 'a_overlay.jpg'}
    assert np.array(Image.open(tmp_path/'out'/'a.png')).shape == (40, 50)

def test_predict_reports_an_unreadable_image_and_does_the_others(tiny, tmp_path, capsys):
    picture(tmp_path/'photos'/'good.png')
    (tmp_path/'photos'/'bad.jpg').write_bytes(b'no picture')
    code, out, err = typed(['predict', '--model-path', str(tiny), '-i', str(tmp_path/'photos'), '-o', str(tmp_path/'out')], capsys)
    assert code == 1 and (tmp_path/'out'/'good.png').exists() and not (tmp_path/'out'/'bad.png').exists()
    assert [line for line in err.splitlines() if line.startswith('segmenter predict:') and 'bad.jpg' in line]

def test_predict_writes_what_its_flags_ask_for(tiny, tmp_path, capsys):
    for place in ('photos/a.png', 'photos/sea/b.png'): picture(tmp_path/place)
    line = ['predict', '--model-path', str(tiny), '-i', str(tmp_path/'photos'), '-o', str(tmp_path/'out'), '--recursive', '--no-overlay', '--palette',
            '--statistics', '--confidence', '--bits', '16', '--probabilities', '--im-size', 'native', '--multiscale']
    code, out, err = typed(line, capsys)
    names = {p.relative_to(tmp_path/'out').as_posix() for p in (tmp_path/'out').rglob('*.*')}
    assert code == 0 and names == {f'{stem}{end}' for stem in ('a', 'sea/b') for end in ('.png', '_palette.png', '.json', '_confidence.png', '_probabilities.npy')}, err
    code, out, err = typed(line, capsys)
    assert code == 0 and '0 images segmented, 2 were done before' in out
    assert '2 images segmented' in typed([*line, '--overwrite'], capsys)[1]

def test_predict_takes_one_large_image(tiny, tmp_path, capsys):
    image = np.random.default_rng(0).integers(0, 256, (70, 50, 3), np.uint8)
    np.save(tmp_path/'x.npy', image)
    code, out, err = typed(['predict', '--model-path', str(tiny), '-i', str(tmp_path/'x.npy'), '-o', str(tmp_path/'out'), '--large'], capsys)
    assert code == 0 and np.load(tmp_path/'out'/'x.npy').shape == (70, 50), err
    code, _, err = typed(['predict', '--model-path', str(tiny), '-i', str(tmp_path/'x.npy'), '-o', str(tmp_path), '--large'], capsys)
    assert code == 2 and 'is the image itself' in err and np.array_equal(np.load(tmp_path/'x.npy'), image)

@pytest.mark.parametrize('flags, message', [('--no-labels --no-overlay', 'nothing to write'), ('--bits 12', 'give 8 or 16'), ('--im-size big', 'invalid size'),
                                            ('--large --precision bf16', 'leave --precision'), ('--precision fp8', 'invalid choice')])
def test_predict_refuses_requests_that_make_no_sense(flags, message, tiny, tmp_path, capsys):
    code, _, err = typed(f'predict --model-path {tiny} -i {tmp_path} -o {tmp_path}/out {flags}', capsys)
    assert code == 2 and message in err and err.count('\n') == 1

def test_half_precision_without_a_gpu_is_refused_before_anything_is_loaded_or_written(tiny, data, tmp_path, capsys):
    picture(tmp_path/'photos'/'a.png')
    for line in (f'predict --model-path {tiny} -i {tmp_path}/photos -o {tmp_path}/out --cpu', f'evaluate {tiny} {data} --cpu'):
        code, _, err = typed(f'{line} --precision bf16', capsys)
        assert code == 2 and '--precision bf16 needs a GPU' in err and err.count('\n') == 1
    assert not list((tmp_path/'out').glob('*'))

@pytest.mark.parametrize('line, message', [('-i none -o out', "no image or folder of images at 'none'"), ('-i empty -o out', "no image in 'empty'"),
                                           ('-i photos -o taken/out', 'cannot write to')])
def test_predict_refuses_before_it_loads(line, message, tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cli, '_load', lambda *_: pytest.fail('loaded'))
    monkeypatch.chdir(tmp_path)
    picture(tmp_path/'photos'/'a.png')
    (tmp_path/'empty').mkdir()
    (tmp_path/'taken').write_text('a file')
    code, _, err = typed(f'predict --model-path {tiny} {line}', capsys)
    assert code == 2 and err.startswith(f'segmenter predict: {message}') and err.count('\n') == 1 and not (tmp_path/'out').exists()

def test_evaluate_writes_the_scores_beside_the_checkpoint(tiny, tmp_path, capsys):
    for split in ('train', 'val'):
        picture(tmp_path/'data'/'images'/split/'a.png')
        picture(tmp_path/'data'/'annotations'/split/'a.png', labels=True)
    (tmp_path/'data'/'classes.txt').write_text('grass\nsky\n')
    code, out, err = typed(['evaluate', str(tiny), str(tmp_path/'data'), '--window-size', '32', '--window-stride', '16'], capsys)
    assert code == 0, err
    assert out.startswith('protocol: short side 32, window 32, stride 16') and '\nmIoU ' in out and (tiny.parent/'scores_ss.yml').exists()

@pytest.fixture
def data(tmp_path):
    "A folder with four validation images of two sizes' worth of nothing."
    for split, names in dict(train='a', val='abcd').items():
        for name in names:
            picture(tmp_path/'data'/'images'/split/f'{name}.png')
            picture(tmp_path/'data'/'annotations'/split/f'{name}.png', labels=True)
    (tmp_path/'data'/'classes.txt').write_text('grass\nsky\n')
    return tmp_path/'data'

def test_evaluate_saves_image_prediction_and_truth_and_zips_them(tiny, data, capsys):
    line = ['evaluate', str(tiny), str(data), '--save-images', '--frac-dataset', '0.5']
    for _ in range(2): # a folder of an earlier run is replaced
        code, out, err = typed(line, capsys)
        assert code == 0 and '2 images' in out, err
    names = {f.relative_to(tiny.parent/'images').as_posix() for f in (tiny.parent/'images').rglob('*.png')}
    assert names == {f'{part}/{name}.png' for part in ('input', 'pred', 'gt') for name in 'ac'}
    assert (np.array(Image.open(tiny.parent/'images/input/a.png')) == np.array(Image.open(data/'images/val/a.png'))).all()
    assert {n for n in zipfile.ZipFile(tiny.parent/'images.zip').namelist() if n.endswith('.png')} == {f'images/{n}' for n in names}

def test_evaluate_without_blend_saves_the_colours_of_the_classes(tiny, data, capsys):
    assert typed(['evaluate', str(tiny), str(data), '--save-images', '--no-blend'], capsys)[0] == 0
    from segmenter.classes import colour, default_palette
    truth = np.array(Image.open(data/'annotations/val/b.png'))
    assert (np.array(Image.open(tiny.parent/'images/gt/b.png')) == colour(truth, default_palette(2))).all()

def test_evaluate_never_deletes_pictures_that_are_not_its_own(tiny, data, capsys):
    picture(tiny.parent/'images'/'holiday.png')
    code, _, err = typed(['evaluate', str(tiny), str(data), '--save-images'], capsys)
    assert code == 2 and 'holiday.png' in err and (tiny.parent/'images'/'holiday.png').exists()

@pytest.mark.parametrize('share', ['0', '-0.5', '1.5'])
def test_a_share_of_the_data_set_is_above_0_and_up_to_1(share, tiny, capsys):
    code, _, err = typed(['evaluate', str(tiny), 'landcover', '-frac-dataset', share], capsys)
    assert code == 2 and f'--frac-dataset {float(share)}' in err

def test_cityscapes_pictures_are_sorted_by_city(tmp_path):
    from segmenter.classes import ClassList
    found = types.SimpleNamespace(image=np.zeros((2, 2, 3), np.uint8), label_map=np.zeros((2, 2), np.uint8))
    data = types.SimpleNamespace(name='cityscapes', images=[tmp_path/'leftImg8bit/val/ulm/ulm_0_leftImg8bit.png'], classes=ClassList('ab'),
                                 label_map=lambda i: found.label_map)
    measuring._saver(tmp_path/'images', data, True)(0, found)
    assert (tmp_path/'images/ulm/pred/ulm_0_leftImg8bit.png').exists()

def test_convert_hands_over_what_was_typed(tmp_path, monkeypatch, capsys):
    given = []
    monkeypatch.setitem(sys.modules, 'segmenter.convert', types.SimpleNamespace(convert=lambda *a: given.append(a) or 'done'))
    (tmp_path/'c.pth').write_bytes(b'')
    assert typed(['convert', str(tmp_path/'c.pth'), 'out', '--to', 'mmseg'], capsys)[0] == 0 and given == [(str(tmp_path/'c.pth'), 'out', 'mmseg')]
    code, _, err = typed('convert none.pth out --to mmseg', capsys)
    assert code == 2 and err.startswith("segmenter convert: no checkpoint at 'none.pth'; give ") and 'landcover-mask' in err and err.count('\n') == 1
    code, _, err = typed('convert a b --to onnx', capsys)
    assert code == 2 and "invalid choice: 'onnx'" in err and err.count('\n') == 1

@pytest.mark.parametrize('to, names', [('authors', {'checkpoint.pth', 'variant.yml'}), ('mmseg', {'segmenter.pth', 'segmenter.py'}),
                                       ('package', {'model.safetensors', 'config.json', 'README.md'})])
def test_convert_writes_every_layout(to, names, tmp_path, capsys):
    import torch
    from segmenter import create_model
    from segmenter.checkpoints import save_checkpoint, variant_of, write_variant
    model = create_model(backbone='vit_tiny_patch16_384', n_classes=3, image_size=32, embed_dim=64, depth=1, n_heads=1, decoder='mask_transformer')
    (tmp_path/'run').mkdir()
    save_checkpoint(tmp_path/'run'/'checkpoint.pth', model, optimizer=torch.optim.SGD(model.parameters(), .1), lr_scheduler={}, epoch=0)
    write_variant(tmp_path/'run'/'variant.yml', variant_of(model.config))
    code, out, err = typed(['convert', str(tmp_path/'run'), str(tmp_path/'out'), '--to', to], capsys)
    assert code == 0 and str(tmp_path/'out') in out and {f.name for f in (tmp_path/'out').iterdir()} == names, err

def test_env_is_worth_pasting_into_a_bug_report(capsys):
    code, out, _ = typed('env', capsys)
    assert code == 0 and all(name in out for name in ('python 3', 'torch ', 'timm ', 'mmsegmentation ', 'gpu '))

def test_a_checkpoint_on_disk_is_loaded_and_predicts(tmp_path, capsys):
    import torch
    from segmenter import create_model
    from segmenter.checkpoints import save_checkpoint, variant_of, write_variant
    model = create_model(backbone='vit_tiny_patch16_384', n_classes=3, image_size=32, embed_dim=64, depth=1, n_heads=1, decoder='mask_transformer')
    (tmp_path/'run').mkdir()
    save_checkpoint(tmp_path/'run'/'checkpoint.pth', model, optimizer=torch.optim.SGD(model.parameters(), .1), lr_scheduler={}, epoch=0)
    write_variant(tmp_path/'run'/'variant.yml', variant_of(model.config))
    picture(tmp_path/'a.png')
    code, out, err = typed(['predict', '--model-path', str(tmp_path/'run'), '-i', str(tmp_path/'a.png'), '-o', str(tmp_path/'out'), '--cpu'], capsys)
    assert code == 0, err
    assert np.array(Image.open(tmp_path/'out'/'a.png')).max() < 3
