"The authors' files: layout, refusal of code, round trip."
import json, os, pickle, socket
from argparse import Namespace
from dataclasses import asdict
import numpy as np, pytest, torch, yaml
from segmenter.checkpoints import (config_of_variant, load_checkpoint, load_model, pick_classes, read_variant, read_weights,
                                   save_checkpoint, variant_of, write_variant)
from segmenter.mmseg_model import to_mmseg
from segmenter.model import VARIANTS, ModelConfig, Segmenter, create_model
from segmenter.sharing import save_pretrained

TINY = dict(embed_dim=32, depth=2, n_classes=4, image_size=32)

def written(folder, model):
    save_checkpoint(folder/'checkpoint.pth', model, optimizer=torch.optim.SGD(model.parameters(), lr=1e-3), lr_scheduler={}, epoch=3)
    write_variant(folder/'variant.yml', variant_of(model.config))
    return folder

@pytest.mark.parametrize('decoder', ['linear', 'mask_transformer'])
@pytest.mark.parametrize('backbone', ['vit_tiny_patch16_384', 'deit_tiny_distilled_patch16_224'])
def test_a_written_model_answers_the_same_after_loading(tmp_path, backbone, decoder):
    model = create_model(backbone=backbone, decoder=decoder, **TINY).eval()
    images = torch.randn(2, 3, 40, 56)
    for path in written(tmp_path, model), tmp_path/'checkpoint.pth':
        loaded = load_model(path)
        assert not loaded.training and loaded.config == model.config
        assert torch.equal(loaded(images), model(images))

def test_a_release_of_the_authors_loads_with_their_position_rule(tmp_path):
    model = create_model(backbone='vit_large_patch16_384', position_rule='count', dataset='cityscapes', decoder_depth=1, **TINY).eval()
    written(tmp_path, model)
    variant = read_variant(tmp_path/'variant.yml')
    del variant['segmenter'], variant['net_kwargs']['distilled']
    variant['dataset_kwargs'] = dict(dataset='cityscapes')
    text = yaml.safe_dump(variant).replace('image_size:\n  - 32\n  - 32', 'image_size: !!python/tuple\n  - 32\n  - 32')
    assert '!!python/tuple' in text
    (tmp_path/'variant.yml').write_text(text)
    loaded = load_model(tmp_path)
    assert asdict(loaded.config) == asdict(model.config)
    assert torch.equal(loaded(torch.ones(1, 3, 32, 32)), model(torch.ones(1, 3, 32, 32)))

def test_an_authors_variant_needs_no_module_of_python(tmp_path):
    written(tmp_path, create_model(backbone='vit_tiny_patch16_384', **TINY))
    assert 'python' not in (tmp_path/'variant.yml').read_text()

class Payload:
    def __init__(self, path): self.path = path
    def __reduce__(self): return os.mkdir, (str(self.path),)

@pytest.mark.parametrize('legacy', [True, False])
def test_code_in_a_checkpoint_is_refused_and_does_not_run(tmp_path, legacy):
    torch.save({'model': Payload(tmp_path/'ran')}, tmp_path/'checkpoint.pth', _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ValueError) as e: load_checkpoint(tmp_path/'checkpoint.pth')
    assert '\n' not in str(e.value) and not (tmp_path/'ran').exists()

def test_a_bare_pickle_is_refused_and_does_not_run(tmp_path):
    (tmp_path/'checkpoint.pth').write_bytes(pickle.dumps({'model': Payload(tmp_path/'ran')}))
    with pytest.raises(ValueError): load_checkpoint(tmp_path/'checkpoint.pth')
    assert not (tmp_path/'ran').exists()

@pytest.mark.parametrize('size', [0, 1, 100, 5000])
def test_a_truncated_checkpoint_is_refused_in_one_line(tmp_path, size):
    written(tmp_path, create_model(backbone='vit_tiny_patch16_384', **TINY))
    data = (tmp_path/'checkpoint.pth').read_bytes()
    (tmp_path/'checkpoint.pth').write_bytes(data[:size])
    with pytest.raises(ValueError, match='damaged or no checkpoint') as e: load_model(tmp_path)
    assert '\n' not in str(e.value)

@pytest.mark.parametrize('text', ['', '[1, 2]', 'net_kwargs: {', 'net_kwargs: !!python/object/apply:os.mkdir [ran]', 'a: 1'])
def test_a_bad_variant_is_refused_in_one_line(tmp_path, text):
    (tmp_path/'variant.yml').write_text(text)
    with pytest.raises(ValueError, match='not a variant file') as e: read_variant(tmp_path/'variant.yml')
    assert '\n' not in str(e.value)

def test_a_checkpoint_without_its_variant_says_what_is_missing(tmp_path):
    written(tmp_path, create_model(backbone='vit_tiny_patch16_384', **TINY))
    (tmp_path/'variant.yml').unlink()
    with pytest.raises(FileNotFoundError, match='no variant.yml'): load_model(tmp_path)

def test_a_failed_save_keeps_the_old_checkpoint(tmp_path):
    model = create_model(backbone='vit_tiny_patch16_384', **TINY)
    written(tmp_path, model)
    before = (tmp_path/'checkpoint.pth').read_bytes()
    with pytest.raises(Exception): save_checkpoint(tmp_path/'checkpoint.pth', model, optimizer=torch.optim.SGD(model.parameters(), lr=1), lr_scheduler=lambda: 0, epoch=4)
    assert (tmp_path/'checkpoint.pth').read_bytes() == before
    assert sorted(f.name for f in tmp_path.iterdir()) == ['checkpoint.pth', 'variant.yml']

# Releases as the authors published them: block style, a tuple under Python's tag, and no group of ours

RELEASES = { # Folder: backbone, decoder, blocks of the decoder, data set, K, crop, window, stride
    'ade20k/seg_tiny_mask': ('vit_tiny_patch16_384', 'mask_transformer', 2, 'ade20k', 150, 512, 512, 512),
    'ade20k/seg_base_patch8': ('vit_base_patch8_384', 'linear', None, 'ade20k', 150, 512, 512, 512),
    'ade20k/seg_large_mask_640': ('vit_large_patch16_384', 'mask_transformer', 2, 'ade20k', 150, 640, 640, 640),
    'ade20k/seg_base_deit_linear': ('deit_base_distilled_patch16_384', 'linear', None, 'ade20k', 150, 512, 512, 512),
    'pascal_context/seg_large_mask': ('vit_large_patch16_384', 'mask_transformer', 2, 'pascal_context', 60, 480, 480, 320),
    'cityscapes/seg_large_mask': ('vit_large_patch16_384', 'mask_transformer', 1, 'cityscapes', 19, 768, 768, 512)}

def release(folder, name, narrow=True, **changes):
    "A release folder of random weights, `variant.yml` spelled as theirs; `narrow` for a quick one."
    backbone, decoder, M, dataset, K, crop, window, stride = RELEASES[name]
    small = dict(embed_dim=64, depth=2, n_heads=1) if narrow else {}
    more = {} if M is None else dict(decoder_depth=M)
    torch.manual_seed(0)
    model = create_model(backbone=backbone, decoder=decoder, n_classes=K, image_size=crop, position_rule='count', dataset=dataset,
                         im_size=crop, window_size=window, window_stride=stride, **small, **more).eval()
    c = model.config
    head = dict(name='linear', n_cls=K) if M is None else dict(drop_path_rate=0., dropout=.1, n_cls=K, n_layers=M, name='mask_transformer')
    net = dict(backbone=backbone, d_model=c.embed_dim, decoder=head, drop_path_rate=.1, dropout=0., image_size=(crop, crop), n_cls=K,
               n_heads=c.n_heads, n_layers=c.depth, normalization=c.normalization, patch_size=c.patch_size)
    if 'large' not in backbone: net['distilled'] = c.distilled
    variant = dict(algorithm_kwargs=dict(batch_size=8, eval_freq=2, num_epochs=64, start_epoch=0), amp=False, log_dir=name.split('/')[1],
                   dataset_kwargs=dict(batch_size=8, crop_size=crop, dataset=dataset, image_size=crop, normalization=c.normalization, num_workers=10, split='train'),
                   inference_kwargs=dict(im_size=crop, window_size=window, window_stride=stride), net_kwargs=net, resume=True, version='normal', world_batch_size=8,
                   optimizer_kwargs=dict(clip_grad=None, epochs=64, iter_max=161728, iter_warmup=0., lr=.001, min_lr=1e-5, momentum=.9, opt='sgd',
                                         poly_power=.9, poly_step_size=1, sched='polynomial', weight_decay=0.))
    text = yaml.dump(variant)
    assert '!!python/tuple' in text
    (folder/'variant.yml').write_text(text)
    torch.save(dict(model=model.state_dict(), n_cls=K, epoch=63, lr_scheduler=dict(step_size=1, last_epoch=161728)) | changes, folder/'checkpoint.pth')
    return model

@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs): raise AssertionError('the network was asked')
    monkeypatch.setattr(socket.socket, 'connect', refuse)
    monkeypatch.setattr(socket, 'getaddrinfo', refuse)

@pytest.mark.parametrize('name', RELEASES)
def test_every_release_loads_strictly_offline_and_in_eval_mode(tmp_path, no_network, name):
    model = release(tmp_path, name)
    for path in tmp_path, tmp_path/'checkpoint.pth':
        loaded = load_model(path)
        c = loaded.config
        assert not loaded.training and not any(m.training for m in loaded.modules())
        assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in model.state_dict().items())
        assert (c.position_rule, c.position_interpolation, c.norm_eps) == ('count', 'bilinear', 1e-5)
        assert (c.image_size, c.im_size, c.window_size, c.window_stride, c.decoder_depth) == (
            model.config.image_size, model.config.im_size, model.config.window_size, model.config.window_stride, model.config.decoder_depth)
        with torch.no_grad(): assert torch.equal(loaded(torch.ones(1, 3, 80, 48)), model(torch.ones(1, 3, 80, 48)))

@pytest.mark.parametrize('name,third', [('ade20k/seg_tiny_mask', 'sky'), ('pascal_context/seg_large_mask', 'bag'), ('cityscapes/seg_large_mask', 'building')])
def test_a_release_has_the_names_and_colours_of_its_data_set(tmp_path, name, third):
    from segmenter.classes import class_list
    release(tmp_path, name)
    c = load_model(tmp_path).config
    known = class_list(c.dataset)
    assert c.classes[2] == third and c.classes == list(known.names) and c.palette == known.palette.tolist()

def test_a_release_keeps_the_classes_asked_for_by_name(tmp_path):
    model = release(tmp_path, 'ade20k/seg_tiny_mask')
    part = load_model(tmp_path, classes=['sky', 'wall', 'bed'])
    assert part.config.classes == ['sky', 'wall', 'bed'] and part.config.n_classes == 3 and not part.training
    for key, axis in ('decoder.cls_emb', 1), ('decoder.mask_norm.weight', 0), ('decoder.mask_norm.bias', 0):
        assert torch.equal(part.state_dict()[key], model.state_dict()[key].index_select(axis, torch.tensor([2, 0, 7])))
    assert part.config.palette == [load_model(tmp_path).config.palette[k] for k in (2, 0, 7)]

def test_the_logits_of_a_linear_model_stay_when_classes_go(tmp_path):
    release(tmp_path, 'ade20k/seg_base_deit_linear')
    image = torch.ones(1, 3, 64, 64)
    with torch.no_grad(): part, full = load_model(tmp_path, classes=['bed', 'sky'])(image), load_model(tmp_path)(image)
    assert torch.allclose(part, full[:, [7, 2]], atol=1e-6)

def test_new_classes_are_named_and_refused_unless_told(tmp_path):
    model = release(tmp_path, 'cityscapes/seg_large_mask')
    with pytest.raises(ValueError, match='does not know snow, ice; it knows road, sidewalk') as e: load_model(tmp_path, classes=['road', 'snow', 'ice'])
    assert '\n' not in str(e.value)
    wide = load_model(tmp_path, classes=['snow', 'road'], new_classes=True)
    assert torch.equal(wide.decoder.cls_emb[:, 1], model.decoder.cls_emb[:, 0]) and wide.decoder.mask_norm.weight[0] == 1
    with pytest.raises(ValueError, match='named twice'): load_model(tmp_path, classes=['road', 'road'])

def test_picked_classes_survive_saving(tmp_path):
    model = create_model(backbone='vit_tiny_patch16_384', **TINY, classes=list('abcd'), palette=[[k]*3 for k in range(4)])
    part = pick_classes(model, ['d', 'a']).eval()
    save_pretrained(part, tmp_path/'part')
    assert load_model(tmp_path/'part').config.palette == [[3]*3, [0]*3]
    assert torch.equal(load_model(tmp_path/'part')(torch.ones(1, 3, 32, 32)), part(torch.ones(1, 3, 32, 32)))

@pytest.mark.parametrize('more', [{}, dict(dataset='camvid'), dict(palette=[[k, k, k] for k in range(1, 12)])])
def test_picked_classes_keep_the_colours_they_were_drawn_in(more):
    from segmenter.classes import class_list
    from segmenter.predict import class_list_of
    camvid = class_list('camvid')
    model = create_model(backbone='vit_tiny_patch16_384', **TINY | dict(n_classes=11), classes=list(camvid.names), **more)
    before = {name: rgb for name, rgb in zip(camvid.names, class_list_of(model).palette.tolist())}
    for names in ['road', 'sky'], ['van', 'road', 'tram'], list(reversed(camvid.names)):
        after = class_list_of(pick_classes(model, names, new_classes=True))
        assert list(after.names) == names
        assert all(rgb == before[name] for name, rgb in zip(names, after.palette.tolist()) if name in before)
        assert len({*map(tuple, after.palette.tolist())}) == len(names)

# Files that are not what they should be: one line each, and nothing of them runs

def one_line(error): return '\n' not in str(error.value) and len(str(error.value)) < 400

def test_wrapped_and_compiled_state_dicts_are_read(tmp_path):
    model = release(tmp_path, 'ade20k/seg_tiny_mask')
    for prefix in 'module.', '_orig_mod.', 'module._orig_mod.', '_orig_mod.module.':
        torch.save({'model': {prefix + k: v for k, v in model.state_dict().items()}}, tmp_path/'checkpoint.pth')
        assert torch.equal(load_model(tmp_path).decoder.cls_emb, model.decoder.cls_emb)
    torch.save(model.state_dict(), tmp_path/'bare.pth')
    assert torch.equal(load_model(tmp_path/'bare.pth').decoder.cls_emb, model.decoder.cls_emb)
    with pytest.raises(ValueError, match='bare state dict') as e: load_checkpoint(tmp_path/'bare.pth')
    assert one_line(e)

@pytest.mark.parametrize('kind', ['timm', 'deit', 'dino', 'augreg', 'mmseg backbone', 'safetensors'])
def test_a_backbone_is_named_as_one(tmp_path, kind):
    from safetensors.torch import save_file
    model = release(tmp_path, 'ade20k/seg_tiny_mask')
    weights, path = model.encoder.state_dict(), tmp_path/'checkpoint.pth'
    if kind == 'augreg': np.savez(path := tmp_path/'vit.npz', **{'embedding/kernel': np.zeros((16, 16, 3, 8))})
    elif kind == 'safetensors': save_file(weights, path := tmp_path/'model.safetensors')
    elif kind == 'mmseg backbone': torch.save({k.removeprefix('backbone.'): v for k, v in to_mmseg(model.state_dict(), model.config).items() if k.startswith('backbone.')}, path)
    else: torch.save({'timm': weights, 'deit': {'model': weights}, 'dino': {'teacher': {f'backbone.{k}': v for k, v in weights.items()}}}[kind], path)
    with pytest.raises(ValueError, match='encoder alone, without a decoder; train from it with `--weights`') as e: load_model(path)
    assert one_line(e)

@pytest.mark.parametrize('text', ['<!DOCTYPE html><html>404 not found</html>', 'version https://git-lfs.github.com/spec/v1\noid sha256:0'])
def test_text_in_the_place_of_weights_is_quoted(tmp_path, text):
    release(tmp_path, 'ade20k/seg_tiny_mask')
    (tmp_path/'checkpoint.pth').write_text(text)
    with pytest.raises(ValueError, match='is text that begins') as e: load_model(tmp_path)
    assert one_line(e)

@pytest.mark.parametrize('content', [b'', b'\0', b'\x80', b'PK', b'\x93NUMPY', os.urandom(3000)], ids=['empty', 'zero', 'pickle', 'zip', 'npy', 'noise'])
def test_noise_is_refused_in_one_line(tmp_path, content):
    for name in 'x.pth', 'x.safetensors':
        (tmp_path/name).write_bytes(content)
        with pytest.raises(ValueError) as e: load_model(tmp_path/name)
        assert one_line(e)

def test_other_content_is_no_model(tmp_path):
    for content in {'a': 1}, [1, 2], torch.zeros(3), {'model': {'fc.weight': torch.zeros(3)}}, {'state_dict': {'backbone.stem.weight': torch.zeros(1), 'decode_head.x': torch.zeros(1)}}:
        torch.save(content, tmp_path/'x.pth')
        with pytest.raises(ValueError, match='no model that is known here') as e: load_model(tmp_path/'x.pth')
        assert one_line(e)

def test_a_class_count_that_disagrees_is_named(tmp_path):
    release(tmp_path, 'ade20k/seg_tiny_mask')
    text = (tmp_path/'variant.yml').read_text().replace('n_cls: 150', 'n_cls: 60')
    (tmp_path/'variant.yml').write_text(text)
    with pytest.raises(ValueError, match='it has 150 classes and not 60') as e: load_model(tmp_path)
    assert one_line(e)

@pytest.mark.parametrize('lost', ['backbone', 'decoder', 'n_cls', 'image_size'])
def test_an_incomplete_variant_is_refused_in_one_line(tmp_path, lost):
    release(tmp_path, 'ade20k/seg_tiny_mask')
    variant = read_variant(tmp_path/'variant.yml')
    del variant['net_kwargs'][lost]
    (tmp_path/'variant.yml').write_text(yaml.safe_dump(variant))
    with pytest.raises(ValueError, match=lost) as e: load_model(tmp_path)
    assert one_line(e)

def test_an_empty_folder_says_what_belongs_in_it(tmp_path):
    with pytest.raises(FileNotFoundError, match='no checkpoint.pth or model.safetensors .* it holds nothing'): load_model(tmp_path)

def test_a_training_checkpoint_of_mmsegmentation_loads_though_it_holds_logs(tmp_path):
    from mmengine.logging import HistoryBuffer
    model = release(tmp_path, 'ade20k/seg_tiny_mask')
    meta = dict(epoch=1, iter=160000, seed=3, dataset_meta=dict(classes=tuple(f'c{k}' for k in range(150)), palette=[[k]*3 for k in range(150)]))
    logs = {'train/loss': HistoryBuffer([1., .5], [1, 1])}
    torch.save(dict(meta=meta, state_dict=to_mmseg(model.state_dict(), model.config), message_hub=dict(log_scalars=logs, runtime_info=dict(loss=np.float64(.5)))), tmp_path/'iter.pth')
    loaded = load_model(tmp_path/'iter.pth')
    assert loaded.config.classes[3] == 'c3' and loaded.config.norm_eps == 1e-6
    assert torch.equal(loaded.decoder.proj_patch, model.decoder.proj_patch)

def test_the_command_line_in_a_checkpoint_is_harmless_and_a_function_is_not(tmp_path):
    model = create_model(backbone='vit_tiny_patch16_384', **TINY)
    torch.save({'model': model.state_dict(), 'args': Namespace(lr=1e-3)}, tmp_path/'args.pth')
    assert read_weights(tmp_path/'args.pth').kind == 'segmenter'
    torch.save({'model': model.state_dict(), 'args': os.getcwd}, tmp_path/'code.pth')
    with pytest.raises(ValueError, match='wants to run code'): read_weights(tmp_path/'code.pth')

# Packages

def test_a_package_is_whole_and_checked(tmp_path):
    model = create_model('Seg-T-Mask/16', n_classes=4, image_size=64, depth=1, embed_dim=64, classes=list('abcd')).eval()
    save_pretrained(model, tmp_path/'out')
    about = json.loads((tmp_path/'out'/'config.json').read_text())
    assert ModelConfig(**about['config']) == model.config and len(about['sha256']) == 64 and about['format_version'] == 1
    assert 'a, b, c, d' in (tmp_path/'out'/'README.md').read_text()
    for path in tmp_path/'out', tmp_path/'out'/'model.safetensors': assert load_model(path).config == model.config
    with pytest.raises(ValueError, match='exists already'): save_pretrained(model, tmp_path/'out')

@pytest.mark.parametrize('change,text', [(dict(format_version=2), 'format 2'), (dict(sha256='0'*64), 'sha256 differs'), (dict(format='x'), 'no Segmenter package'),
                                         (dict(config=dict(variant='Seg-T/16', from_the_future=1)), 'newer version')])
def test_a_package_that_was_changed_is_refused(tmp_path, change, text):
    save_pretrained(create_model(backbone='vit_tiny_patch16_384', **TINY), tmp_path/'out')
    file = tmp_path/'out'/'config.json'
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ValueError, match=text) as e: load_model(tmp_path/'out')
    assert one_line(e)
    file.unlink()
    with pytest.raises(FileNotFoundError, match='no config.json'): load_model(tmp_path/'out')

@pytest.mark.slow
@pytest.mark.parametrize('name,parameters', [('ade20k/seg_tiny_mask', 6_906_388), ('ade20k/seg_base_patch8', 89_235_838),
                                             ('ade20k/seg_large_mask_640', 334_259_476), ('cityscapes/seg_large_mask', 322_249_742)])
def test_full_size_releases_load_and_run(tmp_path, no_network, name, parameters):
    model = release(tmp_path, name, narrow=False)
    loaded = load_model(tmp_path)
    assert sum(p.numel() for p in loaded.parameters()) == parameters
    assert loaded.config.variant in VARIANTS
    image = torch.randn(1, 3, 256 if 'patch8' in name else 640, 256)
    with torch.no_grad(): assert torch.equal(loaded(image), model(image))
