"The authors' command lines, word for word."
import inspect, os, subprocess, sys, types
import numpy as np, pytest
from segmenter import authors, cli
from segmenter.settings import TrainSettings

def typed(line, capsys):
    "Exit code, standard output, standard error of `python -m …`."
    module, *words = line.removeprefix('python -m ').split()
    code = authors.run(module, words)
    said = capsys.readouterr()
    return code, said.out, said.err

def parsed(line):
    module, *words = line.removeprefix('python -m ').split()
    return cli.parse(authors.MODULES[module], words, f'python -m {module}')

# --- every flag, its spelling, its default

NOTHING = inspect.Parameter.empty
FLAGS = { # module: positional arguments, and flag: (spellings, default) of the original
    'segm.train': ('', dict(log_dir=('--log-dir', NOTHING), dataset=('--dataset', NOTHING), im_size=('--im-size', None), crop_size=('--crop-size', None),
        window_size=('--window-size', None), window_stride=('--window-stride', None), backbone=('--backbone', NOTHING), decoder=('--decoder', NOTHING),
        optimizer=('--optimizer', 'sgd'), scheduler=('--scheduler', 'polynomial'), weight_decay=('--weight-decay', 0.), dropout=('--dropout', 0.),
        drop_path=('--drop-path', .1), batch_size=('--batch-size', None), epochs=('--epochs', None), learning_rate=('-lr --learning-rate', None),
        normalization=('--normalization', None), eval_freq=('--eval-freq', None), amp=('--amp --no-amp', False), resume=('--resume --no-resume', True))),
    'segm.inference': ('', dict(model_path=('--model-path', NOTHING), input_dir=('-i --input-dir', NOTHING), output_dir=('-o --output-dir', NOTHING),
        gpu=('--gpu --cpu', None))),
    'segm.eval.miou': ('model_path dataset_name', dict(im_size=('--im-size', None), multiscale=('--multiscale --singlescale', False),
        blend=('--blend --no-blend', True), window_size=('--window-size', None), window_stride=('--window-stride', None),
        window_batch_size=('--window-batch-size', 4), save_images=('--save-images --no-save-images', False),
        frac_dataset=('-frac-dataset --frac-dataset', 1.))),
    'segm.eval.accuracy': ('backbone', dict(imagenet_dir=('--imagenet-dir', NOTHING), batch_size=('-bs --batch-size', 32),
        num_workers=('-nw --num-workers', 10), gpu=('-gpu --gpu --no-gpu', True))),
    'segm.utils.logs': ('log_yml', dict(x_key=('--x-key', 'epoch'), y_key=('--y-key', 'val_mean_iou'), size=('-s --size', 'large'),
        epoch=('-ep --epoch', -1), plot=('-plot --plot --no-plot', True))),
    'segm.scripts.show_attn_map': ('model_path image_path output_dir', dict(layer_id=('--layer-id', 0), x_patch=('--x-patch', 0), y_patch=('--y-patch', 0),
        cmap=('--cmap', 'viridis'), enc=('--enc --dec', True), cls=('--cls --patch', False))),
    'segm.scripts.prepare_ade20k': ('download_dir', {}), 'segm.scripts.prepare_pcontext': ('download_dir', {}),
    'segm.scripts.prepare_cityscapes': ('download_dir', dict(username=('--username', None), password=('--password', None), nproc=('--nproc', 10)))}

def test_every_module_of_the_authors_answers(root):
    assert set(FLAGS) == set(authors.MODULES)
    files = {f.relative_to(root/'segmenter'/'_authors').with_suffix('').as_posix() for f in (root/'segmenter'/'_authors').rglob('*.py') if f.stem != '__init__'}
    assert {'segm.' + f.replace('/', '.') for f in files} == set(authors.MODULES)

def test_a_module_answers_in_its_own_name(root):
    for f in (root/'segmenter'/'_authors').rglob('*.py'):
        name = 'segm.' + f.relative_to(root/'segmenter'/'_authors').with_suffix('').as_posix().replace('/', '.')
        assert f.stem == '__init__' or f"run('{name}')" in f.read_text() and f'`python -m {name}`' in f.read_text()

@pytest.mark.parametrize('module', FLAGS)
def test_flags_spellings_and_defaults_are_the_originals(module):
    positional, flags = FLAGS[module]
    parser = cli.verb_parser(authors.MODULES[module])
    assert [a.dest for a in parser._actions if not a.option_strings] == positional.split()
    for name, (spellings, default) in flags.items():
        actions = [a for a in parser._actions if a.dest == name]
        assert set(spellings.split()) <= {s for a in actions for s in a.option_strings}, name
        for a in actions: assert a.required if default is NOTHING else not a.required and a.default == default, name

@pytest.mark.parametrize('module', FLAGS)
def test_every_flag_says_what_it_does(module):
    for action in cli.verb_parser(authors.MODULES[module])._actions: assert action.help and len(action.help) > 5, action.dest

# --- command lines

LINES = [
    'python -m segm.scripts.prepare_ade20k DIR', 'python -m segm.scripts.prepare_cityscapes DIR', 'python -m segm.scripts.prepare_pcontext DIR',
    'python -m segm.scripts.prepare_cityscapes DIR --username ada --password x --nproc 4',
    'python -m segm.inference --model-path seg_tiny_mask/checkpoint.pth -i images/ -o segmaps/',
    'python -m segm.inference --model-path seg_tiny_mask/checkpoint.pth --input-dir images/ --output-dir segmaps/ --cpu',
    'python -m segm.train --log-dir seg_tiny_mask --dataset ade20k --backbone vit_tiny_patch16_384 --decoder mask_transformer',
    'python -m segm.train --log-dir r --dataset cityscapes --backbone vit_large_patch16_384 --decoder linear --im-size 1024 --crop-size 768 --window-size 768 '
        '--window-stride 512 --optimizer sgd --scheduler polynomial --weight-decay 0 --dropout 0.0 --drop-path 0.1 --batch-size 8 --epochs 216 -lr 1e-2 '
        '--normalization vit --eval-freq 4 --amp --no-resume',
    'python -m segm.train --log-dir r --dataset pascal_context --backbone deit_base_distilled_patch16_384 --decoder linear --learning-rate 0.001 --no-amp --resume',
    'python -m segm.eval.miou seg_tiny_mask/checkpoint.pth ade20k --singlescale', 'python -m segm.eval.miou seg_tiny_mask/checkpoint.pth ade20k --multiscale',
    'python -m segm.eval.miou c.pth cityscapes --singlescale --im-size 1024 --window-size 768 --window-stride 512 --window-batch-size 2 --no-blend --save-images '
        '-frac-dataset 0.1', 'python -m segm.eval.miou c.pth ade20k --frac-dataset 0.5 --blend --no-save-images',
    'python -m segm.eval.accuracy vit_tiny_patch16_384 --imagenet-dir DIR', 'python -m segm.eval.accuracy vit_tiny_patch16_384 --imagenet-dir DIR -bs 64 -nw 4 -gpu',
    'python -m segm.eval.accuracy vit_tiny_patch16_384 --imagenet-dir DIR --batch-size 64 --num-workers 4 --no-gpu',
    'python -m segm.utils.logs logs.yml', 'python -m segm.utils.logs logs.yml --x-key epoch --y-key a/b -s tight -ep 3 -plot',
    'python -m segm.utils.logs logs.yml --size large --epoch -1 --no-plot',
    'python -m segm.scripts.show_attn_map seg_tiny_mask/checkpoint.pth image.jpg output_dir/ --layer-id 0 --x-patch 0 --y-patch 21 --enc',
    'python -m segm.scripts.show_attn_map seg_tiny_mask/checkpoint.pth image.jpg output_dir/ --layer-id 0 --dec --cls --cmap magma',
    'python -m segm.scripts.show_attn_map seg_tiny_mask/checkpoint.pth image.jpg output_dir/ --patch']

@pytest.mark.parametrize('line', LINES)
def test_a_command_line_of_the_authors_parses(line): parsed(line)

@pytest.mark.parametrize('line', [
    'segmenter train --log-dir r --dataset folder --backbone vit_tiny_patch16_384 --decoder linear --data-root D --device cpu --seed 1 --no-pretrained --workers 2',
    'segmenter evaluate CKPT DATASET --singlescale', 'segmenter evaluate CKPT DATASET --multiscale', 'segmenter predict --model-path M -i I -o O',
    'segmenter doctor DATASET', 'segmenter convert IN OUT --to authors', 'segmenter convert IN OUT --to mmseg', 'segmenter convert IN OUT --to package',
    'segmenter run train', 'segmenter env'])
def test_a_command_line_of_ours_parses(line):
    _, verb, *words = line.split()
    cli.parse(cli.VERBS[verb], words)

def test_values_arrive_where_they_belong():
    values = parsed(LINES[7])
    assert (values['crop_size'], values['learning_rate'], values['amp'], values['resume'], values['pretrained']) == (768, .01, True, False, True)
    assert parsed(LINES[11])['frac_dataset'] == .1 and parsed(LINES[11])['blend'] is False
    assert parsed(LINES[-2])['enc'] is False and parsed(LINES[-2])['cls'] is True and parsed(LINES[-1])['cls'] is False

# --- what they do

def test_training_gets_every_setting_and_starts_from_imagenet(monkeypatch, capsys):
    given, result = {}, types.SimpleNamespace(records=[], best=0., folder='r')
    monkeypatch.setitem(sys.modules, 'segmenter.training', types.SimpleNamespace(train=lambda log_dir, **kw: given.update(kw, log_dir=log_dir) or result))
    assert typed(LINES[6] + ' --seed 3', capsys)[0] == 0
    assert set(given) == {'log_dir', 'audit', *TrainSettings.__dataclass_fields__}
    assert given['pretrained'] is True and given['seed'] == 3 and given['variant'] is None and given['log_dir'] == 'seg_tiny_mask'

def test_the_variable_DATASET_says_where_data_lie(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv('DATASET', raising=False)
    assert 'environment variable DATASET' in typed(LINES[6], capsys)[2]
    monkeypatch.setenv('DATASET', str(tmp_path/'data'))
    code, _, err = typed(LINES[6], capsys)
    assert code == 2 and str(tmp_path/'data'/'ade20k') in err and err.startswith('python -m segm.train: ')

@pytest.fixture
def release(tmp_path, monkeypatch):
    "A folder with a checkpoint of random weights, and ADE20K with one image under DATASET."
    import torch
    from PIL import Image
    from segmenter import create_model
    from segmenter.checkpoints import save_checkpoint, variant_of, write_variant
    model = create_model(backbone='vit_tiny_patch16_384', n_classes=150, image_size=64, embed_dim=64, depth=1, n_heads=1, decoder='linear', dataset='ade20k')
    (tmp_path/'seg').mkdir()
    save_checkpoint(tmp_path/'seg/checkpoint.pth', model, optimizer=torch.optim.SGD(model.parameters(), .1), lr_scheduler={}, epoch=0)
    write_variant(tmp_path/'seg/variant.yml', variant_of(model.config, dataset_kwargs=dict(crop_size=64)))
    root = tmp_path/'ade20k/ADEChallengeData2016'
    for part, array in dict(images=np.full((32, 48, 3), 99, np.uint8), annotations=np.full((32, 48), 1, np.uint8)).items():
        (root/part/'validation').mkdir(parents=True)
        Image.fromarray(array).save(root/part/'validation'/('x.jpg' if part == 'images' else 'x.png'))
    monkeypatch.setenv('DATASET', str(tmp_path))
    return tmp_path/'seg'

def test_the_evaluation_says_its_sizes_and_uses_them(release, monkeypatch, capsys):
    from segmenter import datasets
    from dataclasses import replace
    monkeypatch.setitem(datasets.SETTINGS, 'ade20k', replace(datasets.SETTINGS['ade20k'], im_size=40))
    code, out, err = typed(f'segm.eval.miou {release}/checkpoint.pth ade20k --cpu', capsys)
    assert code == 0 and out.startswith('im_size 40, window_size 64, window_stride 32\n'), err
    assert "'im_size': 40" in str(__import__('json').loads((release/'eval_ss.json').read_text())['protocol'])
    assert (release/'scores_ss.yml').exists()

def test_inference_leaves_images_at_their_size(release, tmp_path, monkeypatch, capsys):
    import segmenter.photo_folders as folders
    seen, predict_folder = {}, folders.predict_folder
    monkeypatch.setattr(folders, 'predict_folder', lambda *a, **kw: seen.update(kw) or predict_folder(*a, **kw))
    images = tmp_path/'ade20k/ADEChallengeData2016/images/validation'
    code, _, err = typed(f'segm.inference --model-path {release}/checkpoint.pth -i {images} -o {tmp_path}/out --cpu', capsys)
    assert code == 0 and seen['im_size'] == 0 and (tmp_path/'out/x.png').exists() and (tmp_path/'out/x_overlay.jpg').exists(), err

def test_the_authors_lines_train_evaluate_and_predict(release, tmp_path, capsys):
    root = tmp_path/'ade20k/ADEChallengeData2016'
    for part in ('images', 'annotations'):
        (root/part/'training').mkdir()
        for f in (root/part/'validation').iterdir():
            for name in 'ab': (root/part/'training'/f'{name}{f.suffix}').write_bytes(f.read_bytes())
    small = '--im-size 32 --crop-size 32 --window-size 32 --window-stride 32 --batch-size 2 --epochs 1 --device cpu --no-pretrained'
    code, out, err = typed(f'segm.train --log-dir {tmp_path}/run --dataset ade20k --backbone vit_tiny_patch16_384 --decoder mask_transformer {small}', capsys)
    assert code == 0 and '1 epochs' in out, err
    assert {'checkpoint.pth', 'variant.yml', 'log.txt'} <= {f.name for f in (tmp_path/'run').iterdir()}
    code, out, err = typed(f'segm.eval.miou {tmp_path}/run/checkpoint.pth ade20k --singlescale --im-size 32 --window-stride 16 --save-images --cpu', capsys)
    assert code == 0 and (tmp_path/'run/images/pred/x.jpg').exists() and (tmp_path/'run/images.zip').exists(), err
    code, out, err = typed(f'segm.inference --model-path {tmp_path}/run/checkpoint.pth -i {root}/images/validation -o {tmp_path}/seen --cpu', capsys)
    assert code == 0 and (tmp_path/'seen/x.png').exists(), err

@pytest.mark.parametrize('line', [line for line in LINES if any(word in line for word in ('accuracy', 'logs', 'attn')) or 'prepare' in line and 'password' not in line])
def test_every_program_of_the_authors_calls_the_verb(line, capsys, monkeypatch):
    verb, seen = next(v for word, v in dict(accuracy='accuracy', logs='logs', attn='attention', prepare='prepare').items() if word in line), []
    monkeypatch.setattr(cli, verb, lambda *a, **kw: seen.append((a, kw)) or 0)
    assert typed(line, capsys) == (0, '', '') and len(seen) == 1

def test_a_password_is_refused_with_the_way_out(capsys):
    code, _, err = typed(LINES[3], capsys)
    assert code == 2 and 'password' in err and 'in a browser' in err and err.count('\n') == 1

@pytest.mark.parametrize('line, message', [
    ('segm.train --log-dir r', 'python -m segm.train: the following arguments are required: --dataset, --backbone, --decoder'),
    ('segm.eval.miou none.pth ade20k', "python -m segm.eval.miou: no checkpoint at 'none.pth'"),
    ('segm.utils.logs l.yml --ykey x', "python -m segm.utils.logs: unknown flag of python -m segm.utils.logs '--ykey'; did you mean '--y-key'")])
def test_a_refusal_is_one_line(line, message, capsys):
    code, out, err = typed(line, capsys)
    assert code == 2 and err.startswith(message) and err.count('\n') == 1

@pytest.mark.parametrize('module', authors.MODULES)
def test_python_m_works_in_this_environment(module, tmp_path):
    code = f'import runpy, sys; sys.argv = ["x", "--help"]\ntry: runpy.run_module({module!r}, run_name="__main__")\nexcept SystemExit as e: print("CODE", e.code, "torch" in sys.modules)'
    done = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.startswith(f'usage: python -m {module} ') and done.stdout.endswith('CODE 0 False\n'), done.stderr

def test_help_comes_in_less_than_a_second(tmp_path):
    work = lambda: sum(os.times()[2:4]) # of child processes, in seconds; a busy machine does not add to it
    before = work()
    subprocess.run([sys.executable, '-m', 'segm.train', '--help'], cwd=tmp_path, check=True, capture_output=True)
    assert work() - before < 1

def test_python_m_ends_with_the_exit_code(tmp_path):
    done = subprocess.run([sys.executable, '-m', 'segm.scripts.prepare_cityscapes', 'd', '--password', 'x'], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith('python -m segm.scripts.prepare_cityscapes: ')

def test_importing_a_module_does_nothing(capsys):
    import segm.train, segm.scripts.prepare_ade20k
    assert capsys.readouterr() == ('', '')
