"Every profile fits its template, says what to expect, and builds the model the paper counted."
import dataclasses, re
import pytest, torch, timm
from segmenter.classes import ClassList
from segmenter.datasets import SETTINGS
from segmenter.encoder import BACKBONES, find_backbone
from segmenter.experiments import _find, _shipped, check_parameters, find_template, load_profile, read_parameters, run_id
from segmenter.model import VARIANTS, count_parameters
from segmenter.settings import TrainSettings
from segmenter.planning import _filled, _model

PROFILES = list(_shipped('profiles', '**/*.yaml'))
ROWS = [name for name in PROFILES if '/' in name]
N_CLASSES = dict(ade20k=150, pascal_context=60, cityscapes=19, camvid=11, landcover=17)
SPEC = { # Parameters of the authors' code, ImageNet head included
    'readme/seg-t-mask16': 6_906_388, 'readme/seg-s-mask16': 26_418_964, 'readme/seg-b-mask16': 103_266_580, 'readme/seg-b8': 89_235_838,
    'readme/seg-l-mask16-640': 334_259_476, 'readme/seg-b-deit16': 88_089_446, 'readme/seg-b-deit-mask16': 104_037_116,
    'readme/pascal-context_seg-l-mask16': 333_450_336, 'readme/cityscapes_seg-l-mask16': 322_249_742}

@pytest.fixture(scope='module')
def declared(): return read_parameters(find_template('train'))

def settings_of(dials):
    "What the template makes of its dials."
    fields = {f.name: f.default for f in dataclasses.fields(TrainSettings)}
    given = {n: None if fields[n] is None and dials[n] in (0, '') else dials[n] for n in fields if n in dials}
    return TrainSettings(**given | dict(scale_range=(dials['scale_min'], dials['scale_max']), backbone=None if dials['variant'] else dials['backbone']))

class Data:
    "A data set without images."
    def __init__(self, name):
        k = N_CLASSES[name]
        self.name, self.in_chans, self.classes, self.settings = name, 3, ClassList([f'class {i}' for i in range(k)]), SETTINGS[name]

def built(dials):
    "The model of a profile at full size, without memory."
    t, data = settings_of(dials), Data(dials['dataset'])
    t = _filled(t, data.settings, 20_210)
    with torch.device('meta'): return t, _model(t, data)

def decoder_by_hand(dials, D, K):
    "Numbers in a decoder, from the table of its tensors."
    if dials['decoder'] == 'linear': return K*D + K
    block = 2*2*D + (3*D*D + 3*D) + (D*D + D) + (4*D*D + 4*D) + (4*D*D + D)
    return K*D + 2*D*D + (D*D + D) + dials['decoder_depth']*block + 2*D + 2*K

def encoder_by_hand(dials):
    "Numbers in an encoder of the paper, from the table of its tensors, with or without the ImageNet head."
    name = dials['backbone'].split('.')[0]
    b, head = BACKBONES[name], dials['backbone'] == name
    D, L, P = dials['embed_dim'] or b.embed_dim, dials['depth'] or b.depth, dials['patch_size'] or b.patch_size
    T = 1 + b.distilled
    block = 2*2*D + (3*D*D + 3*D) + (D*D + D) + (4*D*D + 4*D) + (4*D*D + D)
    return T*D + (T + (dials['crop_size']//P)**2)*D + 3*P*P*D + D + L*block + 2*D + T*head*(1000*D + 1000)

@pytest.mark.parametrize('name', PROFILES)
def test_a_profile_fits_its_template_and_builds_its_model_at_full_size(name, declared):
    dials = check_parameters(load_profile(name), declared)
    assert dials['profile'] == name
    t, model = built(dials)
    D, K = model.config.embed_dim, N_CLASSES[dials['dataset']]
    assert t.crop_size % model.config.patch_size == 0 and t.window_size % model.config.patch_size == 0 and t.window_stride <= t.window_size
    if dials['variant']: assert VARIANTS[dials['variant']] == (dials['backbone'], dials['decoder'])
    assert count_parameters(model.decoder) == decoder_by_hand(dials, D, K)
    if dials['backbone'].split('.')[0] in BACKBONES and not dials['n_heads'] or name == 'demo': assert count_parameters(model.encoder) == encoder_by_hand(dials)
    elif dials['backbone'] not in BACKBONES:
        with torch.device('meta'): bare = timm.create_model(find_backbone(dials['backbone']).weights, num_classes=0, img_size=(t.crop_size,)*2, patch_size=t.patch_size or find_backbone(dials['backbone']).patch_size, global_pool='')
        assert count_parameters(model.encoder) == count_parameters(bare)
    assert count_parameters(model) == SPEC.get(name, count_parameters(model))

def test_the_released_models_are_all_there_by_count():
    assert set(SPEC) == {name for name in PROFILES if name.startswith('readme/')} and len(SPEC) == 9
    assert len([name for name in PROFILES if name.startswith('mmsegmentation/')]) == 5

@pytest.mark.parametrize('name, want', [
    ('readme/seg-t-mask16', (512, 512, 512, 512, 8, 64, 1e-3)), ('readme/seg-l-mask16-640', (640, 640, 640, 640, 8, 64, 1e-3)),
    ('readme/pascal-context_seg-l-mask16', (520, 480, 480, 320, 16, 256, 1e-3)), ('readme/cityscapes_seg-l-mask16', (1024, 768, 768, 512, 8, 216, 1e-2)),
    ('mmsegmentation/seg-l-mask16-640', (640, 640, 640, 608, 8, 64, 1e-3))])
def test_the_protocol_is_the_published_one(name, want, declared):
    t, model = built(check_parameters(load_profile(name), declared))
    assert (t.im_size, t.crop_size, t.window_size, t.window_stride, t.batch_size, t.epochs, t.learning_rate) == want
    assert (t.optimizer, t.weight_decay, t.drop_path, t.dropout, t.layer_decay, t.warmup, t.clip_grad, t.ema) == ('sgd', 0, .1, 0, 1, 0, 0, 0)
    assert model.config.norm_eps == (None if name.startswith('mmseg') else 1e-5)

def test_cityscapes_has_one_decoder_layer(declared):
    assert len(built(check_parameters(load_profile('readme/cityscapes_seg-l-mask16'), declared))[1].decoder.blocks) == 1

@pytest.mark.parametrize('name', ROWS)
def test_a_row_begins_with_what_to_expect_its_source_hardware_and_time(name):
    head = [line for line in _find('profile', name, 'profiles', '**/*.yaml').read_text().splitlines() if line.startswith('#')]
    assert len(head) >= 3 and head[1].startswith('# Expected: ') and head[2].startswith('# Hardware and time: ')
    if re.search(r'\d+\.\d+ mIoU', head[1]): assert 'Source: ' in head[1]

def test_every_row_gets_a_folder_of_its_own(declared):
    names = [run_id(check_parameters(load_profile(name), declared), check_parameters(load_profile(name), declared), 'train') for name in PROFILES]
    assert len(set(names)) == len(names)

def test_a_slip_in_the_name_of_a_row_is_met_with_the_nearest():
    with pytest.raises(KeyError, match="did you mean 'readme/seg-t-mask16'"): load_profile('readme/seg-t-mask-16')
    with pytest.raises(FileNotFoundError, match='readme/…'): load_profile('elsewhere/seg.yaml')
