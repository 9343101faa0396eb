"The authors' files: layout, refusal of code, round trip."
import os, pickle
from dataclasses import asdict
import pytest, torch, yaml
from segmenter.checkpoints import (config_of_variant, load_checkpoint, load_model, read_variant, save_checkpoint, variant_of, write_variant)
from segmenter.model import Segmenter, create_model

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
