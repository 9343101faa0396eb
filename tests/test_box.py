"The model in the box: the files that are shipped, the name they go by, and how they are made."
import json
import pytest, torch
from segmenter.box import boxed_image, in_box, put_in_box
from segmenter.checkpoints import load_model, save_checkpoint, variant_of, write_variant
from segmenter.guards import file_digest
from segmenter.model import create_model
from segmenter.sharing import save_pretrained

def test_the_box_is_small_and_says_where_it_comes_from(root):
    facts, file = in_box()['landcover'], root/'segmenter'/'weights'/'landcover.safetensors'
    assert file.stat().st_size <= 4e6 and facts['sha256'] == file_digest(file)
    assert facts['dataset'] == 'landcover' and facts['split'] == 'val' and facts['mIoU'] > 20 and len(facts['commit']) == 40
    assert {'run_id', 'profile', 'seed', 'protocol', 'data_hash', 'checkpoint_sha256'} <= facts.keys()

def test_every_boxed_model_loads_by_its_name_and_answers():
    for name, facts in in_box().items():
        model = load_model(name)
        assert not model.training and sum(p.numel() for p in model.parameters()) == facts['parameters']
        with torch.no_grad(): assert model(torch.randn(1, 3, 64, 64)).shape == (1, model.config.n_classes, 64, 64)
        assert model.config.palette and len(model.config.classes) == model.config.n_classes

def test_every_boxed_model_has_a_picture_that_it_segments():
    from segmenter.predict import predict
    for name in in_box(): assert len(set(predict(load_model(name), boxed_image(name)).label_map.flat)) > 3

def test_a_typing_error_meets_the_name_that_was_meant():
    for wrong in 'landcove', 'Landcover', 'land-cover', 'landcoverr':
        with pytest.raises(FileNotFoundError, match="did you mean 'landcover'"): load_model(wrong)
    with pytest.raises(FileNotFoundError, match='expected a folder with checkpoint.pth'): load_model('seg_base_mask')

def test_a_model_of_ones_own_under_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path/'landcover').mkdir() # data, and no model in it
    assert load_model('landcover').config.n_classes == 17
    (tmp_path/'landcover').rmdir()
    save_pretrained(create_model(backbone='vit_tiny_patch16_384', embed_dim=24, depth=1, n_heads=2, n_classes=3, image_size=32), tmp_path/'landcover')
    assert load_model('landcover').config.n_classes == 3

def test_a_changed_file_in_a_box_is_refused(tmp_path, root):
    for suffix in '.json', '.safetensors': (tmp_path/f'land{suffix}').write_bytes((root/'segmenter'/'weights'/f'landcover{suffix}').read_bytes())
    assert load_model(tmp_path/'land.safetensors').config.n_classes == 17
    data = bytearray((tmp_path/'land.safetensors').read_bytes())
    data[-1] ^= 1
    (tmp_path/'land.safetensors').write_bytes(data)
    with pytest.raises(ValueError, match='sha256 differs'): load_model(tmp_path/'land.safetensors')
    (tmp_path/'land.json').unlink()
    with pytest.raises(FileNotFoundError, match='no land.json'): load_model(tmp_path/'land.safetensors')

def _run(folder, model, status='done'):
    "A folder as a finished run leaves it."
    save_checkpoint(folder/'best.pth', model, optimizer=torch.optim.SGD(model.parameters(), lr=0.), lr_scheduler={}, epoch=0)
    write_variant(folder/'variant.yml', variant_of(model.config))
    (folder/'params.json').write_text(json.dumps(dict(seed=7)))
    (folder/'metrics.json').write_text(json.dumps(dict(status=status, run_id='a-run', profile='demo', dataset='landcover', split='val')))

def test_a_run_goes_into_a_box_and_comes_out_the_same(tmp_path):
    model = load_model('landcover')
    _run(tmp_path, model)
    path = put_in_box(tmp_path, 'mine', tmp_path/'box', limit=1)
    about, again = json.loads(path.with_suffix('.json').read_text()), load_model(path)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values())) and again.config == model.config
    assert about['provenance']['seed'] == 7 and about['provenance']['n_images'] == 1 and about['provenance']['checkpoint_sha256'] == file_digest(tmp_path/'best.pth')
    assert str(tmp_path) not in path.with_suffix('.json').read_text()

def test_a_run_that_is_not_done_or_too_large_stays_out(tmp_path):
    _run(tmp_path, load_model('landcover'), 'failed')
    with pytest.raises(ValueError, match="is 'failed' and not done"): put_in_box(tmp_path, 'mine', tmp_path/'box')
    _run(tmp_path, create_model('Seg-T-Mask/16', n_classes=17, image_size=64))
    with pytest.raises(ValueError, match='too many for the package'): put_in_box(tmp_path, 'mine', tmp_path/'box')
    assert not (tmp_path/'box').exists()

def test_the_command_takes_the_name(tmp_path, capsys):
    from PIL import Image
    from segmenter.cli import main
    Image.new('RGB', (96, 80), (20, 40, 90)).save(tmp_path/'sea.png')
    assert main(['predict', '--model-path', 'landcover', '-i', str(tmp_path/'sea.png'), '-o', str(tmp_path/'out')]) == 0
    assert (tmp_path/'out'/'sea.png').is_file()
