"Counting, rare-class sampling, own constants, and what training does with them and with the doctor."
import json
import numpy as np, pytest
from PIL import Image
from segmenter import training
from segmenter.classes import ClassList
from segmenter.datasets import load_dataset
from segmenter.pairs import Dataset
from segmenter.patches import SCENE_CLASSES, scene
from segmenter.statistics import ClassCounts, class_probabilities, count_classes, own_normalization, rare_class_weights
from segmenter.training import train

def folder(root, n=6, classes=SCENE_CLASSES, change=lambda k, ids: ids):
    for part in ('images', 'masks'): (root/part).mkdir(parents=True)
    for k in range(n):
        image, ids = scene(48, 64)
        Image.fromarray(np.roll(image, 3*k, 1)).save(root/f'images/{k:03}.png')
        Image.fromarray(change(k, np.roll(ids, 3*k, 1).astype(np.uint8))).save(root/f'masks/{k:03}.png')
    (root/'dataset.yaml').write_text(json.dumps(dict(classes=list(classes), settings=dict(im_size=32, crop_size=32, epochs=2, batch_size=2))))
    return root

QUICK = dict(embed_dim=32, depth=1, n_heads=1, progress=False, device='cpu')

def test_the_counts_are_those_of_a_loop(tmp_path):
    d = load_dataset(folder(tmp_path/'d', change=lambda k, ids: np.where(ids == 1, 255, ids).astype(np.uint8)), 'trainval')
    for workers in (1, 3):
        c = count_classes(d, workers)
        maps = [d.label_map(i) for i in range(6)]
        assert c.pixels.tolist() == [[int((m == k).sum()) for k in range(5)] for m in maps] and c.void.tolist() == [int((m == 255).sum()) for m in maps]
    assert c.frequency.sum() == pytest.approx(1) and c.frequency[1] == 0

def test_rare_classes_pull_their_images(tmp_path):
    counts = ClassCounts(ClassList('abc'), np.array([[100, 0, 0], [90, 10, 0], [100, 0, 0], [99, 0, 1]]), np.zeros(4, int))
    w = rare_class_weights(counts)
    assert w.sum() == pytest.approx(1) and w[3] > w[1] > w[0] == w[2]
    assert rare_class_weights(counts, 0).tolist() == [.25]*4 and rare_class_weights(counts, .4)[0] > .149
    assert rare_class_weights(counts, min_pixels=5)[3] < w[3]

def test_probabilities_are_those_of_the_formula():
    f, T = np.array([.7, .2, .1, 0]), .05
    e = np.exp((1 - f[:3])/T)
    assert np.allclose(class_probabilities(f, T), [*e/e.sum(), 0])
    with pytest.raises(ValueError, match='above 0'): class_probabilities(f, 0)
    with pytest.raises(ValueError, match='from 0 to 1'): rare_class_weights(ClassCounts(ClassList('ab'), np.ones((2, 2), int), np.zeros(2)), 1.5)

def test_own_constants_are_mean_and_deviation(tmp_path):
    d = load_dataset(folder(tmp_path/'d'), 'trainval')
    pixels = np.concatenate([d.image(i).reshape(-1, 3) for i in range(6)]).astype(float)
    own = own_normalization(d)
    assert np.allclose(own['mean'], pixels.mean(0), atol=1e-3) and np.allclose(own['std'], pixels.std(0), atol=1e-3)
    assert own_normalization(d, limit=99) == own

def test_training_with_own_constants_and_rare_classes_keeps_them(tmp_path):
    from segmenter.checkpoints import load_model
    root = folder(tmp_path/'d')
    r = train(tmp_path/'run', dataset=str(root), normalization='own', rare_class_sampling=.7, **QUICK)
    assert load_model(r.folder).config.normalization == r.model.config.normalization == own_normalization(load_dataset(root))
    again = train(tmp_path/'run', dataset=str(root), normalization='own', rare_class_sampling=.7, **QUICK)
    assert again.epochs_before == 2
    with pytest.raises(ValueError, match='rare_class_sampling was 0.7'): train(tmp_path/'run', dataset=str(root), normalization='own', **QUICK)

def test_named_constants_do_not_fit_six_bands(tmp_path):
    root = folder(tmp_path/'d')
    for f in list((root/'images').iterdir()):
        np.save(f.with_suffix('.npy'), np.ones((48, 64, 6), np.uint8))
        f.unlink()
    said = json.loads((root/'dataset.yaml').read_text())
    (root/'dataset.yaml').write_text(json.dumps(said | dict(in_chans=6)))
    with pytest.raises(ValueError, match="'deit' is for three bands"): train(tmp_path/'run', dataset=str(root), normalization='deit', **QUICK)

# --- two classes

def test_two_classes_get_the_linear_decoder_and_a_line_that_says_so(tmp_path, capsys):
    root = folder(tmp_path/'d', classes=('ground', 'car'), change=lambda k, ids: (ids == 4).astype(np.uint8))
    r = train(tmp_path/'run', dataset=str(root), **QUICK)
    said = capsys.readouterr().out
    assert r.model.config.decoder == 'linear' and 'two classes: Seg-T/16' in said and said.count('\n') == 1

def test_who_named_a_model_keeps_it(tmp_path, capsys):
    root = folder(tmp_path/'d', classes=('ground', 'car'), change=lambda k, ids: (ids == 4).astype(np.uint8))
    r = train(tmp_path/'run', dataset=str(root), variant='Seg-T-Mask/16', **QUICK)
    assert r.model.config.decoder == 'mask_transformer' and 'consider the linear decoder' in capsys.readouterr().out
    train(tmp_path/'linear', dataset=str(root), variant='Seg-T/16', **QUICK)
    assert capsys.readouterr().out == ''

# --- the doctor before and during the first epoch

def spoil(k, ids): return np.where(ids == 4, 77, ids).astype(np.uint8)

def test_a_fault_in_the_sample_stops_before_the_first_step(tmp_path):
    root = folder(tmp_path/'d', change=spoil)
    with pytest.raises(ValueError, match=r'masks/\d+\.png: unknown ids: 77 \(\d+ pixels\); .*and \d+ more.*--no-audit') as e: train(tmp_path/'run', dataset=str(root), **QUICK)
    assert '\n' not in str(e.value) and not (tmp_path/'run/checkpoint.pth').exists()

def test_without_audit_the_same_data_fail_in_the_loader(tmp_path):
    root = folder(tmp_path/'d', change=spoil)
    with pytest.raises(ValueError, match='ids outside the 5 classes'): train(tmp_path/'run', dataset=str(root), audit=False, **QUICK)

@pytest.mark.parametrize('workers', [0, 2])
def test_a_fault_that_the_sample_missed_ends_the_first_epoch(tmp_path, monkeypatch, workers):
    monkeypatch.setattr(training, '_SAMPLE', 1)
    root = folder(tmp_path/'d', 8)
    val = load_dataset(root, 'val')
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(val.images[-1]) # of another size; not read before validation
    if len(val) == 1: pytest.fail('the sample would see it')
    with pytest.raises(ValueError, match=r'size: a label map of 64×48 pixels for an image of 9×9.*--no-audit') as e:
        train(tmp_path/'run', dataset=str(root), workers=workers, **QUICK)
    assert '\n' not in str(e.value) and (tmp_path/'run/checkpoint.pth').exists() and len(training.read_log(tmp_path/'run')) == 1

def test_a_healthy_set_trains_to_the_end_while_it_is_looked_at(tmp_path, monkeypatch):
    monkeypatch.setattr(training, '_SAMPLE', 1)
    root = folder(tmp_path/'d', 8)
    plain = train(tmp_path/'plain', dataset=str(root), audit=False, **QUICK)
    looked = train(tmp_path/'looked', dataset=str(root), **QUICK)
    assert looked.records == plain.records # the doctor moves no random number

def look(rank, root):
    "Two processes before and during a first epoch; what each of them heard."
    import json, torch
    from fastai.callback.core import CancelFitException
    torch.distributed.init_process_group('gloo', init_method=f'file://{root}/store', rank=rank, world_size=2)
    looked, audit = [], training.audit
    training.audit = lambda *args, **kwargs: looked.append(1) or audit(*args, **kwargs)
    heard = []
    for name in ('well', 'ill'):
        parts = [load_dataset(f'{root}/{name}', split) for split in ('train', 'val')]
        finding, watch = training._sampled(parts), training.Audited(parts)
        watch.after_batch()
        try: watch.after_train(); stopped = False
        except CancelFitException: stopped = True
        heard.append([finding, watch.found, stopped])
    open(f'{root}/{rank}.json', 'w').write(json.dumps([len(looked), heard]))
    torch.distributed.destroy_process_group()

@pytest.mark.slow
def test_one_process_looks_and_all_of_them_stop(tmp_path):
    import torch
    folder(tmp_path/'well'), folder(tmp_path/'ill', change=spoil)
    torch.multiprocessing.spawn(look, (str(tmp_path),), nprocs=2)
    (n, first), (none, second) = (json.loads((tmp_path/f'{rank}.json').read_text()) for rank in (0, 1))
    assert (n, none) == (4, 0) and first == second
    assert first[0] == ['', '', False] and first[1][2] and 'unknown ids: 77' in first[1][0] and 'unknown ids: 77' in first[1][1]

def test_a_second_process_opens_no_file_and_stops_with_the_first(monkeypatch):
    from fastai.callback.core import CancelFitException
    monkeypatch.setattr(training, 'rank_and_world', lambda: (1, 2))
    monkeypatch.setattr(training, 'audit', lambda *args, **kwargs: pytest.fail('the first process looks'))
    monkeypatch.setattr(training, 'from_first', lambda mine: 'b.png: unknown ids: 77')
    monkeypatch.setattr(training, 'first_alone', lambda do, others=True: do() if others else None)
    watch = training.Audited([])
    watch.after_batch()
    with pytest.raises(CancelFitException): watch.after_train()
    with pytest.raises(ValueError, match='unknown ids: 77; .*--no-audit'): training._refuse_unhealthy(training._sampled([]))
