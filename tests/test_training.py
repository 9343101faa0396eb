"A run: its files, its end, its refusals."
import json
import numpy as np, pytest, torch
from fastai.callback.core import Callback
from PIL import Image
from segmenter.checkpoints import load_checkpoint, load_model, read_variant
from segmenter.training import TrainSettings, train
from small_sets import make_stripes

@pytest.fixture(scope='module')
def tree(tmp_path_factory): return make_stripes(tmp_path_factory.mktemp('stripes'), 6, 2)

def asked(tree, **other):
    return dict(dataset=str(tree), backbone='vit_tiny_patch16_384', patch_size=8, embed_dim=32, depth=1, crop_size=32, im_size=48, batch_size=4,
                decoder_depth=1, epochs=2, learning_rate=.01, eval_freq=1, device='cpu', progress=False) | other

def test_a_checkpoint_has_the_authors_keys_shapes_and_types(tree, tmp_path):
    result = train(tmp_path/'run', **asked(tree))
    file = load_checkpoint(tmp_path/'run'/'checkpoint.pth')
    assert list(file) == ['model', 'optimizer', 'n_cls', 'lr_scheduler', 'epoch', 'segmenter_state']
    assert {key: type(value) for key, value in file.items() if key != 'model'} == dict(optimizer=dict, n_cls=int, lr_scheduler=dict, epoch=int, segmenter_state=dict)
    assert file['n_cls'] == 3 and file['epoch'] == 1
    D, K, P, N = 32, 3, 8, 16
    block = {'norm1.weight': [D], 'norm1.bias': [D], 'attn.qkv.weight': [3*D, D], 'attn.qkv.bias': [3*D], 'attn.proj.weight': [D, D], 'attn.proj.bias': [D],
             'norm2.weight': [D], 'norm2.bias': [D], 'mlp.fc1.weight': [4*D, D], 'mlp.fc1.bias': [4*D], 'mlp.fc2.weight': [D, 4*D], 'mlp.fc2.bias': [D]}
    expected = {'encoder.cls_token': [1, 1, D], 'encoder.pos_embed': [1, N + 1, D], 'encoder.patch_embed.proj.weight': [D, 3, P, P],
                'encoder.patch_embed.proj.bias': [D], **{f'encoder.blocks.0.{k}': v for k, v in block.items()}, 'encoder.norm.weight': [D], 'encoder.norm.bias': [D],
                'encoder.head.weight': [1000, D], 'encoder.head.bias': [1000], 'decoder.cls_emb': [1, K, D], 'decoder.proj_patch': [D, D], 'decoder.proj_classes': [D, D],
                'decoder.proj_dec.weight': [D, D], 'decoder.proj_dec.bias': [D], **{f'decoder.blocks.0.{k}': v for k, v in block.items()},
                'decoder.decoder_norm.weight': [D], 'decoder.decoder_norm.bias': [D], 'decoder.mask_norm.weight': [K], 'decoder.mask_norm.bias': [K]}
    assert {key: list(value.shape) for key, value in file['model'].items()} == expected
    assert all(value.dtype == torch.float32 for value in file['model'].values())
    groups = file['optimizer']['param_groups']
    assert len(groups) == 1 and groups[0]['nesterov'] and groups[0]['momentum'] == .9 and groups[0]['weight_decay'] == 0
    head = [i for i, key in enumerate(dict(result.model.named_parameters())) if key.startswith('encoder.head')]
    assert head and not set(head) & set(file['optimizer']['state']) and len(file['optimizer']['state']) == len(expected) - len(head)
    schedule = file['lr_scheduler']
    assert set(schedule) == {'step_size', 'iter_warmup', 'iter_max', 'power', 'min_lr', 'base_lrs', 'last_epoch', '_step_count', '_get_lr_called_within_step', '_last_lr'}
    assert schedule['iter_max'] == schedule['last_epoch'] == 4 and schedule['_last_lr'] == [1e-5] and schedule['base_lrs'] == [.01]

def test_a_variant_has_the_authors_groups_and_keys(tree, tmp_path):
    train(tmp_path/'run', **asked(tree, epochs=1))
    variant = read_variant(tmp_path/'run'/'variant.yml')
    assert set(variant) - {'segmenter'} == {'algorithm_kwargs', 'amp', 'dataset_kwargs', 'inference_kwargs', 'log_dir', 'net_kwargs', 'optimizer_kwargs', 'resume', 'version', 'world_batch_size'}
    assert set(variant['net_kwargs']) == {'backbone', 'd_model', 'decoder', 'distilled', 'drop_path_rate', 'dropout', 'image_size', 'n_cls', 'n_heads', 'n_layers', 'normalization', 'patch_size'}
    assert set(variant['optimizer_kwargs']) == {'clip_grad', 'epochs', 'iter_max', 'iter_warmup', 'lr', 'min_lr', 'momentum', 'opt', 'poly_power', 'poly_step_size', 'sched', 'weight_decay'}
    assert str(tmp_path) not in (tmp_path/'run'/'variant.yml').read_text().replace(str(tree), '')

def test_the_log_has_the_authors_keys(tree, tmp_path):
    train(tmp_path/'run', **asked(tree, epochs=3, eval_freq=2))
    rows = [json.loads(line) for line in (tmp_path/'run'/'log.txt').read_text().splitlines()]
    scores = {'val_pixel_accuracy', 'val_mean_accuracy', 'val_mean_iou'}
    assert [set(row) & scores == scores for row in rows] == [True, False, True]
    assert all(set(row) - scores == {'train_loss', 'train_learning_rate', 'epoch', 'num_updates'} for row in rows)
    assert [row['num_updates'] for row in rows] == [2, 4, 6]

def test_the_same_seed_gives_the_same_run_with_any_number_of_workers(tree, tmp_path):
    runs = [train(tmp_path/str(i), **asked(tree, seed=seed, workers=workers)) for i, (seed, workers) in enumerate([(1, 0), (1, 2), (2, 0)])]
    curves = [[row['loss'] for row in r.curve] for r in runs]
    assert curves[0] == curves[1] != curves[2]
    assert runs[0].records == runs[1].records

def test_a_run_learns_the_stripes_and_its_checkpoint_answers_as_the_model(tree, tmp_path):
    result = train(tmp_path/'run', **asked(tree, epochs=30, optimizer='adamw', learning_rate=3e-3, eval_freq=30, scale_range=(1., 1.), photometric=False))
    assert result.best > 60
    images = torch.randn(1, 3, 48, 48)
    assert torch.equal(load_model(tmp_path/'run')(images), result.model(images))
    assert load_model(tmp_path/'run').config.classes == ['low', 'middle', 'high']

@pytest.mark.parametrize('wrong, error, says', [
    (dict(crop_size=30), ValueError, 'no multiple of the patch size 8'), (dict(backbone='vit_tny_patch16_384'), KeyError, 'vit_tiny_patch16_384'),
    (dict(backbone=None, variant='Seg-T-Msk/16'), KeyError, 'Seg-T-Mask/16'), (dict(decoder='maskformer'), KeyError, 'mask_transformer'),
    (dict(dataset='ade2k'), KeyError, 'ade20k'), (dict(optimizer='sgdd'), KeyError, 'sgd'), (dict(scheduler='cosin'), KeyError, 'cosine'),
    (dict(epochs=0), ValueError, 'at least 1'), (dict(device='cpu', amp=True), ValueError, 'needs a GPU'),
    (dict(dataset='ade20k', data_root='/nowhere'), FileNotFoundError, 'nowhere')])
def test_what_cannot_work_is_refused_in_one_line_and_nothing_is_written(tree, tmp_path, wrong, error, says):
    with pytest.raises(error, match=says) as e: train(tmp_path/'run', **asked(tree, **wrong))
    assert '\n' not in str(e.value)
    assert not (tmp_path/'run'/'checkpoint.pth').exists()

def test_a_label_outside_the_list_stops_the_run_and_names_file_value_and_count(tree, tmp_path):
    import shutil
    bad = tmp_path/'bad'
    shutil.copytree(tree, bad)
    labels = np.zeros((48, 48), np.uint8)
    labels[:2, :3] = 7
    Image.fromarray(labels).save(bad/'annotations'/'train'/'3.png')
    with pytest.raises(ValueError, match=r'3\.png.*7.*6'): train(tmp_path/'run', **asked(bad))

def test_a_loss_that_is_no_number_ends_the_run_with_one_line_and_keeps_the_last_checkpoint(tree, tmp_path):
    train(tmp_path/'run', **asked(tree, epochs=1))
    class Spoil(Callback):
        def before_batch(self): torch.nn.init.constant_(self.model.segmenter.decoder.mask_norm.weight, float('inf'))
    with pytest.raises(FloatingPointError, match='^the loss is nan at iteration 0 .epoch 0') as e: train(tmp_path/'hot', cbs=Spoil(), **asked(tree))
    assert '\n' not in str(e.value) and not (tmp_path/'hot'/'checkpoint.pth').exists()

def test_an_unknown_setting_is_refused(tmp_path):
    with pytest.raises(KeyError, match='learning_rate'): train(tmp_path, learnin_rate=1.)
    assert TrainSettings().recipe == 'paper' and TrainSettings().optimizer is None

MODERN = dict(optimizer='muon', learning_rate=.004, weight_decay=.05, layer_decay=.8, ema=.9, accumulate=2, clip_grad=1., label_smoothing=.1,
              flips='both', warmup=2, epochs=3)

def test_a_run_of_today_continues_bit_for_bit(tree, tmp_path):
    class PowerCut(Callback):
        def before_epoch(self):
            if self.epoch == 2: raise RuntimeError('power cut')
    whole = train(tmp_path/'whole', **asked(tree, **MODERN))
    with pytest.raises(RuntimeError, match='power cut'): train(tmp_path/'broken', cbs=PowerCut(), **asked(tree, **MODERN))
    again = train(tmp_path/'broken', **asked(tree, **MODERN))
    assert again.epochs_before == 2 and again.records == whole.records
    one, two = (load_checkpoint(tmp_path/name/'checkpoint.pth') for name in ('whole', 'broken'))
    for part in (lambda f: f['model'], lambda f: f['segmenter_state']['trained']):
        assert all(torch.equal(a, b) for a, b in zip(part(one).values(), part(two).values()))
    assert one['segmenter_state']['averaged'] == two['segmenter_state']['averaged'] == dict(t=6)
    assert not torch.equal(one['model']['decoder.proj_patch'], one['segmenter_state']['trained']['decoder.proj_patch'])

def test_the_average_is_what_is_judged_kept_and_returned(tree, tmp_path):
    from segmenter.datasets import load_dataset
    from segmenter.evaluate import evaluate
    result = train(tmp_path/'run', **asked(tree, ema=.9, optimizer='adamw', learning_rate=3e-3, epochs=2))
    model = load_model(tmp_path/'run')
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), result.model.parameters()))
    found = evaluate(model, load_dataset(str(tree), 'val'), progress=False).scores.mIoU
    assert round(found, 2) == result.records[-1]['val_mean_iou']

def test_a_batch_in_parts_takes_the_steps_of_the_whole(tree, tmp_path):
    still = dict(drop_path=0., decoder='linear', epochs=2, class_balance=.5, label_smoothing=.1)
    whole, parts = (train(tmp_path/str(n), **asked(tree, accumulate=n, **still)) for n in (1, 3))
    np.testing.assert_allclose([r['loss'] for r in parts.curve], [r['loss'] for r in whole.curve], atol=1e-6, rtol=0)
    for a, b in zip(parts.model.parameters(), whole.model.parameters()): torch.testing.assert_close(a, b, atol=1e-6, rtol=0)

class Spoiled(Callback):
    "A weight becomes infinite in one epoch, once."
    def __init__(self, epoch): self.at, self.times = epoch, 1
    def before_batch(self):
        if self.training and self.times and self.kept.first_epoch + self.epoch == self.at:
            self.times -= 1
            torch.nn.init.constant_(self.model.segmenter.decoder.mask_norm.weight, float('inf'))

@pytest.mark.parametrize('epoch', [0, 1])
def test_a_rollback_goes_on_from_the_last_checkpoint_at_half_the_rate(tree, tmp_path, capsys, epoch):
    result = train(tmp_path/'run', cbs=Spoiled(epoch), **asked(tree, rollback=1))
    said = capsys.readouterr().out
    assert f'(epoch {epoch}' in said and 'images ' in said and '.png' in said and 'rollback 1 of 1' in said and said.count('\n') == 1
    assert [r['epoch'] for r in result.records] == [0, 1] and result.curve[-1]['learning_rate'] == 1e-5
    assert load_checkpoint(tmp_path/'run'/'checkpoint.pth')['lr_scheduler']['base_lrs'] == [.005]
    assert train(tmp_path/'run', **asked(tree, rollback=1)).epochs_before == 2

def test_more_rollbacks_than_allowed_end_the_run(tree, tmp_path):
    spoiled = Spoiled(1)
    spoiled.times = 3
    with pytest.raises(FloatingPointError, match='^the loss is nan'): train(tmp_path/'run', cbs=spoiled, **asked(tree, rollback=2))

def test_a_run_without_progress_stops_and_stays_stopped(tree, tmp_path):
    calm = asked(tree, epochs=9, patience=2, learning_rate=1e-5)
    result = train(tmp_path/'run', **calm)
    assert 3 <= len(result.records) < 9
    again = train(tmp_path/'run', **calm)
    assert again.records == result.records and again.epochs_before == len(result.records)

def test_a_frozen_encoder_keeps_its_weights_until_it_is_its_turn(tree, tmp_path):
    class Watch(Callback):
        seen = []
        def before_step(self):
            encoder = self.model.segmenter.encoder
            self.seen.append((self.epoch, all(p.grad is None for p in encoder.parameters()), encoder.training))
    train(tmp_path/'run', cbs=Watch(), **asked(tree, freeze=1, optimizer='adamw', weight_decay=.1))
    assert Watch.seen == [(0, True, False)]*2 + [(1, False, True)]*2

def test_samples_and_a_table_lie_beside_the_log(tree, tmp_path):
    train(tmp_path/'run', **asked(tree, eval_freq=2, epochs=3))
    assert Image.open(tmp_path/'run'/'samples.jpg').size == (3*48 + 8, 2*48 + 4)
    head, *rows = (tmp_path/'run'/'log.csv').read_text().splitlines()
    assert head.split(',')[0] == 'epoch' and len(rows) == 3 and rows[1].endswith(',,')
    train(tmp_path/'bare', **asked(tree, samples=0, epochs=1))
    assert not (tmp_path/'bare'/'samples.jpg').exists()

def test_memory_that_runs_out_changes_nothing_but_the_parts(tree, tmp_path, monkeypatch, capsys):
    from segmenter.learner import MaskModel
    still = asked(tree, drop_path=0., decoder='linear')
    whole = train(tmp_path/'whole', **still)
    forward = MaskModel.forward
    def small(self, images):
        if self.training and len(images) > 1: raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 1 GiB')
        return forward(self, images)
    monkeypatch.setattr(MaskModel, 'forward', small)
    parts = train(tmp_path/'parts', **still)
    assert 'computed in 4 parts' in capsys.readouterr().out
    np.testing.assert_allclose([r['loss'] for r in parts.curve], [r['loss'] for r in whole.curve], atol=1e-6, rtol=0)
    for a, b in zip(parts.model.parameters(), whole.model.parameters()): torch.testing.assert_close(a, b, atol=1e-6, rtol=0)

def test_checkpointed_gradients_take_the_same_steps(tree, tmp_path):
    runs = [train(tmp_path/str(yes), **asked(tree, grad_checkpointing=yes)) for yes in (False, True)]
    np.testing.assert_allclose(*[[r['loss'] for r in run.curve] for run in runs], atol=1e-6, rtol=0)

def test_a_recipe_fills_only_what_was_not_given(tree, tmp_path):
    from segmenter.training import plan
    t = plan(TrainSettings(**{k: v for k, v in asked(tree, recipe='modern', epochs=40).items() if k not in ('progress', 'learning_rate')})).settings
    assert (t.optimizer, t.learning_rate, t.layer_decay, t.ema, t.clip_grad, t.warmup, t.epochs) == ('adamw', 1e-3, 1., .9998, 1., 4, 40)
    paper = plan(TrainSettings(**{k: v for k, v in asked(tree).items() if k != 'progress'})).settings
    assert (paper.optimizer, paper.layer_decay, paper.ema, paper.clip_grad, paper.warmup, paper.weight_decay) == ('sgd', 1., 0., 0., 0, 0.)

def test_a_run_from_before_a_dial_existed_continues(tree, tmp_path):
    train(tmp_path/'run', **asked(tree, epochs=1))
    path = tmp_path/'run'/'checkpoint.pth'
    file = torch.load(path, weights_only=True)
    for key in ('flips', 'ema', 'layer_decay', 'accumulate', 'recipe', 'dice', 'freeze', 'clip_grad'): del file['segmenter_state']['setup'][key]
    for key in ('position', 'curve', 'records', 'generators'): del file['segmenter_state'][key] # nor was there a place for the middle of an epoch
    torch.save(file, path)
    (tmp_path/'run'/'digests.json').unlink()
    assert train(tmp_path/'run', **asked(tree, epochs=1)).epochs_before == 1

@pytest.mark.parametrize('wrong, says', [(dict(accumulate=9), 'cannot be computed in 9 parts'), (dict(ema=1.), 'ema 1: expected less than 1'), (dict(label_smoothing=2.), 'label_smoothing 2.0: expected 0 to 1'),
    (dict(clip_grad=-1.), 'clip_grad -1'), (dict(layer_decay=0.), 'a layer decay is a factor'), (dict(recipe='moden'), 'modern'), (dict(flips='up'), 'kind of flip'),
    (dict(patience=-1), 'patience -1'), (dict(dice=-1.), 'dice -1')])
def test_a_dial_out_of_range_is_refused(tree, tmp_path, wrong, says):
    with pytest.raises((ValueError, KeyError), match=says): train(tmp_path/'run', **asked(tree, **wrong))
    assert not (tmp_path/'run'/'checkpoint.pth').exists()
