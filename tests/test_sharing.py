"Packages: whole, checked, remapped by name, and hostile ones refused in one line without running anything."
import json, pickle, re
import numpy as np, pytest, torch
from safetensors.torch import save_file
from segmenter.checkpoints import load_model, read_weights
from segmenter.model import create_model
from segmenter.convert import convert
from segmenter.sharing import from_pretrained, model_facts, save_pretrained

NARROW = dict(backbone='vit_tiny_patch16_384', embed_dim=32, depth=1, n_heads=2, n_classes=3, image_size=32, classes=['sky', 'road', 'car'],
              palette=[[1, 2, 3], [4, 5, 6], [7, 8, 9]])

@pytest.fixture
def model():
    torch.manual_seed(0)
    return create_model(**NARROW).eval()

@pytest.fixture
def package(model, tmp_path):
    return save_pretrained(model, tmp_path/'street', metrics={'mIoU (SS)': 38.1}, licence='mit', provenance=dict(run='a|b', commit='c0ffee'),
                           picture=np.zeros((40, 3000, 3), np.uint8))

def one_line(e): return '\n' not in str(e.value)

def test_there_and_back_is_the_same_model(model, package):
    for load in from_pretrained, load_model:
        again = load(package)
        assert again.config == model.config and not again.training
        assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())

def test_the_configuration_says_all_that_another_program_needs(package):
    about = json.loads((package/'config.json').read_text(encoding='utf-8'))
    assert about['classes'] == NARROW['classes'] and about['palette'] == NARROW['palette'] and about['normalization']['mean'] == [.5]*3
    assert about['protocol'] == dict(im_size=32, window_size=32, window_stride=32) and about['licence'] == 'mit' and len(about['sha256']) == 64
    assert about['metrics'] == {'mIoU (SS)': 38.1} and about['provenance']['commit'] == 'c0ffee'

def test_the_card_begins_with_metadata_and_shows_what_was_stated(package):
    import yaml
    from PIL import Image
    card = (package/'README.md').read_text(encoding='utf-8')
    about = yaml.safe_load(card.split('---')[1])
    assert about['license'] == 'mit' and about['pipeline_tag'] == 'image-segmentation'
    for part in '| mIoU (SS) | 38.1 |', 'a\\|b', 'sky, road, car', '(picture.jpg)', 'Licence of the weights: mit': assert part in card
    assert max(Image.open(package/'picture.jpg').size) <= 1024

def test_nothing_is_invented_on_a_card(model, tmp_path):
    card = (save_pretrained(model, tmp_path/'bare')/'README.md').read_text(encoding='utf-8')
    assert 'Not measured.' in card and 'not stated; ask' in card and 'picture.jpg' not in card

def test_a_package_appears_whole_or_not_at_all(model, tmp_path):
    with pytest.raises(Exception): save_pretrained(model, tmp_path/'new', picture=tmp_path/'absent.jpg')
    assert list(tmp_path.iterdir()) == []
    (tmp_path/'there').mkdir()
    with pytest.raises(ValueError, match='exists already'): save_pretrained(model, tmp_path/'there')

def test_another_list_of_classes_takes_its_rows_by_name(model, package):
    part = from_pretrained(package, classes=['car', 'sky'])
    assert torch.equal(part.decoder.cls_emb, model.decoder.cls_emb[:, [2, 0]]) and part.config.palette == [[7, 8, 9], [1, 2, 3]]
    with pytest.raises(ValueError, match='does not know tree'): from_pretrained(package, classes=['car', 'tree'])
    assert from_pretrained(package, classes=['car', 'tree'], new_classes=True).config.n_classes == 2

# The Hub, played

def test_an_address_is_asked_of_the_hub_for_three_files(package, monkeypatch):
    import huggingface_hub
    asked = []
    monkeypatch.setattr(huggingface_hub, 'snapshot_download', lambda address, **how: asked.append((address, how)) or str(package))
    assert from_pretrained('some-body/street.v1', revision='v2').config.classes == NARROW['classes']
    assert asked == [('some-body/street.v1', dict(revision='v2', allow_patterns=['model.safetensors', 'config.json', 'README.md']))]

def test_a_folder_on_this_disk_comes_before_the_hub(package, monkeypatch, tmp_path):
    import huggingface_hub
    monkeypatch.setattr(huggingface_hub, 'snapshot_download', lambda *a, **k: pytest.fail('the Hub was asked'))
    monkeypatch.chdir(tmp_path.parent)
    assert from_pretrained(f'{tmp_path.name}/street').config.n_classes == 3
    with pytest.raises(FileNotFoundError, match="or 'owner/name'"): from_pretrained('/no/such/place')

def test_a_hub_that_fails_is_one_line(monkeypatch):
    import huggingface_hub
    def fail(*_, **__): raise OSError('no\nnetwork')
    monkeypatch.setattr(huggingface_hub, 'snapshot_download', fail)
    with pytest.raises(ValueError, match='no folder here, and the Hugging Face Hub does not give it') as e: from_pretrained('some/body')
    assert one_line(e)

# Wrong and hostile files

class Bomb:
    def __reduce__(self): return (pytest.fail, ('code in a checkpoint was run',))

def test_a_pickle_with_code_is_refused_and_not_run(tmp_path):
    torch.save(dict(model=Bomb()), tmp_path/'checkpoint.pth')
    (tmp_path/'raw.pth').write_bytes(pickle.dumps(Bomb(), protocol=2))
    for name in 'checkpoint.pth', 'raw.pth':
        with pytest.raises(ValueError, match='wants to run code') as e: read_weights(tmp_path/name)
        assert one_line(e)

def test_a_pickle_under_the_name_of_safetensors_is_refused(package):
    (package/'model.safetensors').write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError) as e: from_pretrained(package)
    assert one_line(e)

@pytest.mark.parametrize('keep', [4, 100, -1])
def test_truncated_weights_are_refused(package, keep):
    file = package/'model.safetensors'
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ValueError, match='damaged') as e: from_pretrained(package)
    assert one_line(e)

@pytest.mark.parametrize('about,said', [(dict(architectures=['SegformerForSemanticSegmentation'], model_type='segformer'), 'describes SegformerForSemanticSegmentation and no Segmenter'),
                                        (dict(model_type='beit'), 'describes beit and no Segmenter'), ([1], 'describes no Segmenter'), (dict(architectures='x'), 'describes no Segmenter')])
def test_a_configuration_of_another_architecture_is_refused(package, about, said):
    (package/'config.json').write_text(json.dumps(about))
    with pytest.raises(ValueError, match=said) as e: from_pretrained(package)
    assert one_line(e)

def test_a_configuration_of_another_backbone_is_refused(package):
    about = json.loads((package/'config.json').read_text())
    about['config'] |= dict(backbone='deit_tiny_distilled_patch16_224', distilled=None, normalization='')
    (package/'config.json').write_text(json.dumps(about))
    with pytest.raises(ValueError, match='does not hold the model it is described as') as e: from_pretrained(package)
    assert one_line(e)

def test_a_configuration_of_another_width_names_the_tensor(package):
    about = json.loads((package/'config.json').read_text())
    about['config'] |= dict(embed_dim=64, variant='')
    (package/'config.json').write_text(json.dumps(about))
    with pytest.raises(ValueError, match=r'is \(32,\) in the file and \(64,\) in the model') as e: from_pretrained(package)
    assert one_line(e)

def test_weights_of_another_library_are_refused(package):
    save_file({'segformer.encoder.block.0.weight': torch.zeros(2)}, package/'model.safetensors')
    with pytest.raises(ValueError, match='no model that is known here') as e: from_pretrained(package)
    assert one_line(e)

def test_a_folder_of_something_else_is_named_as_such(tmp_path):
    (tmp_path/'notes.txt').write_text('hello')
    with pytest.raises(FileNotFoundError, match='no model.safetensors'): from_pretrained(tmp_path)

@pytest.mark.parametrize('lost', ['format_version', 'sha256', 'config'])
def test_a_description_with_a_hole_is_named_as_such(package, lost):
    about = json.loads((package/'config.json').read_text())
    del about[lost]
    (package/'config.json').write_text(json.dumps(about))
    with pytest.raises(ValueError, match=f"it has no '{lost}'") as e: from_pretrained(package)
    assert one_line(e)

@pytest.mark.parametrize('change,said', [(dict(backbone_kwargs=dict(pretrained=True)), 'would open another file'), (dict(backbone_kwargs=dict(checkpoint_path='x.pth')), 'would open another file'),
                                         (dict(depth=10**9), 'is described as 10000000'), (dict(image_size=None), 'does not make one'), (dict(backbone=5), 'does not make one'),
                                         (dict(backbone='hf_hub:some/body'), 'unknown backbone'), ([1], 'described by names and values')])
def test_a_description_that_means_harm_is_refused_before_anything_is_built(package, change, said):
    about = json.loads((package/'config.json').read_text())
    about['config'] = about['config'] | change if isinstance(change, dict) else change
    (package/'config.json').write_text(json.dumps(about))
    with pytest.raises((ValueError, KeyError), match=said) as e: from_pretrained(package)
    assert one_line(e)

def test_a_json_that_never_ends_is_one_line(package):
    (package/'config.json').write_text('['*100_000)
    with pytest.raises(ValueError, match='is no JSON') as e: from_pretrained(package)
    assert one_line(e)

# What programs wrote down

def test_what_an_evaluation_and_a_run_left_goes_on_the_card(model, tmp_path):
    from segmenter.checkpoints import variant_of, write_variant
    run = tmp_path/'run'
    run.mkdir()
    torch.save(dict(model=model.state_dict()), run/'checkpoint.pth')
    write_variant(run/'variant.yml', variant_of(model.config))
    assert model_facts(run) == {}
    for end, mIoU in ('ss', 38.123), ('ms', 38.9): (run/f'eval_{end}.json').write_text(json.dumps(dict(mIoU=mIoU, dataset='ade20k', split='val', n_images=2000)))
    (run/'metrics.json').write_text(json.dumps(dict(run_id='r1', commit='c0ffee', versions=dict(torch='2'), status='done')))
    facts = model_facts(run)
    assert list(facts['metrics'].values()) == [38.12, 38.9] and facts['provenance'] == dict(run_id='r1', commit='c0ffee')
    card = (convert(run, tmp_path/'out', licence='mit').out/'README.md').read_text()
    assert '| mIoU, multi scale (ade20k val, 2000 images) | 38.9 |' in card and 'Licence of the weights: mit' in card and 'c0ffee' in card

def test_what_a_package_says_goes_along_with_it(package, tmp_path):
    before = model_facts(package)
    again = convert(package, tmp_path/'again').out
    assert {k: v for k, v in model_facts(again).items() if k != 'picture'} == {k: v for k, v in before.items() if k != 'picture'}
    assert before['licence'] == 'mit' and (again/'picture.jpg').is_file() and (again/'README.md').read_text() == (package/'README.md').read_text()

def test_records_that_are_damaged_are_not_believed(model, tmp_path):
    torch.save(dict(model=model.state_dict()), tmp_path/'checkpoint.pth')
    (tmp_path/'eval_ss.json').write_text('{"mIoU": ')
    (tmp_path/'metrics.json').write_text('[1]')
    assert model_facts(tmp_path/'checkpoint.pth') == {}
