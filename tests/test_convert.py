"Conversion, with mmsegmentation's own program on the other side: same weights, same logits, both ways, and back to the bit."
import warnings
import pytest, torch
from segmenter.checkpoints import load_model, save_checkpoint, variant_of, write_variant
from segmenter.classes import import_mmseg
from segmenter.convert import convert
from segmenter.mmseg_model import config_of_mmseg, from_mmseg, mmseg_config, mmseg_names, to_mmseg
from segmenter.model import ModelConfig, Segmenter, create_model
from segmenter.sharing import save_pretrained

VIT = 'vit_tiny_patch16_384'
AUTHORS, MMSEG = dict(norm_eps=1e-5, position_interpolation='bilinear'), dict(norm_eps=1e-6, position_interpolation='bicubic')

def made(decoder='mask_transformer', settings=AUTHORS, image_size=512, **kwargs):
    kwargs = dict(backbone=VIT, embed_dim=64, depth=2, n_heads=2, n_classes=7) | kwargs
    torch.manual_seed(0)
    model = create_model(decoder=decoder, image_size=image_size, position_rule='count', **settings, **kwargs).eval()
    if decoder != 'linear': torch.nn.init.normal_(model.decoder.cls_emb) # Classes apart, as trained ones are: else the last LayerNorm magnifies rounding
    for name, p in model.named_parameters():
        if p.ndim == 1: torch.nn.init.normal_(p, mean=float('norm' in name and name.endswith('weight')), std=.1)
    return model

def same(a, b): return a.keys() == b.keys() and all(torch.equal(value, b[key]) for key, value in a.items())

@pytest.fixture(scope='module')
def mmseg():
    "mmsegmentation's own way from a configuration to a model."
    import_mmseg('models')
    from mmengine.registry import DefaultScope
    from mmseg.registry import MODELS
    def build(config):
        with DefaultScope.overwrite_default_scope('mmseg'), warnings.catch_warnings(action='ignore'): return MODELS.build(config).eval()
    return build

@torch.no_grad()
def agree(theirs, ours, size):
    "In single precision to 1e-5; in double precision, where rounding is out of the way, to 1e-11."
    images = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))
    distance = lambda images: (theirs._forward(images) - ours.masks(images)).abs().max().item()
    single = distance(images)
    double = distance(images.double()) if theirs.double() and ours.double() else None
    theirs.float(), ours.float()
    return single < 1e-5 and double < 1e-11, (single, double)

SIZES = [(512, (128, 176)), (640, (208, 144)), (64, (100, 77)), *[pytest.param(side, (side, side), marks=pytest.mark.slow) for side in (512, 640)]]

@pytest.mark.parametrize('crop,size', SIZES)
@pytest.mark.parametrize('settings', [AUTHORS, MMSEG], ids=['authors', 'mmseg'])
@pytest.mark.parametrize('decoder', ['linear', 'mask_transformer'])
def test_mmsegmentation_gives_our_logits_with_our_weights(mmseg, decoder, settings, crop, size):
    ours = made(decoder, settings, crop)
    theirs = mmseg(mmseg_config(ours.config))
    theirs.load_state_dict(to_mmseg(ours.state_dict(), ours.config), strict=True)
    good, gaps = agree(theirs, ours, size)
    assert good, gaps

@pytest.mark.parametrize('crop,size', SIZES)
@pytest.mark.parametrize('decoder', ['linear', 'mask_transformer'])
def test_we_give_mmsegmentations_logits_with_its_weights(mmseg, tmp_path, decoder, crop, size):
    torch.manual_seed(3)
    config = mmseg_config(made(decoder, MMSEG, crop).config)
    theirs = mmseg(config)
    theirs.init_weights()
    for p in theirs.parameters(): torch.nn.init.normal_(p, mean=float(p.mean() > .5), std=.05)
    torch.save(dict(state_dict=theirs.state_dict(), meta=dict(cfg=f'model = {config!r}')), tmp_path/'iter_160000.pth')
    good, gaps = agree(theirs, load_model(tmp_path/'iter_160000.pth'), size)
    assert good, gaps

def test_a_file_without_configuration_has_mmsegmentations_defaults():
    model = made(settings=MMSEG, image_size=640, n_heads=1, decoder_depth=1)
    config = config_of_mmseg(dict(state_dict=to_mmseg(model.state_dict(), model.config)))
    assert (config.norm_eps, config.position_interpolation, config.position_rule) == (1e-6, 'bicubic', 'count')
    assert (config.image_size, config.window_size, config.window_stride) == ([640, 640], 640, 608)
    assert (config.depth, config.decoder_depth, config.n_heads, config.n_classes, config.normalization) == (2, 1, 1, 7, 'vit')

@pytest.mark.parametrize('variant', ['Seg-T-Mask/16', 'Seg-S/16', 'Seg-B-Mask/16', 'Seg-L-Mask/16', 'Seg-B/8'])
def test_the_variant_is_found_from_the_shapes(variant):
    with torch.device('meta'): model = create_model(variant, image_size=512)
    config = config_of_mmseg(dict(state_dict=to_mmseg(model.state_dict(), model.config)))
    assert config.variant == variant and config.n_heads == model.config.n_heads

def test_a_configuration_with_code_is_read_and_not_run(tmp_path):
    model = made(image_size=64)
    text = f"import os\nos.mkdir({str(tmp_path/'ran')!r})\nmodel = dict(backbone=dict(norm_cfg=dict(eps=1e-5), drop_path_rate=os.mkdir('x')))"
    config = config_of_mmseg(dict(state_dict=to_mmseg(model.state_dict(), model.config), meta=dict(cfg=text)))
    assert config.norm_eps == 1e-5 and not (tmp_path/'ran').exists()

def test_names_are_one_to_one_and_shapes_turn_as_described():
    for decoder in 'linear', 'mask_transformer':
        model = made(decoder, image_size=64)
        names = mmseg_names(model.config)
        assert len(set(names.values())) == len(names) == len([k for k in model.state_dict() if not k.startswith('encoder.head')])
        back = from_mmseg(to_mmseg(model.state_dict(), model.config), model.config)
        assert all(torch.equal(back[k], model.state_dict()[k]) for k in names) and not back['encoder.head.weight'].any()

def test_a_file_without_patch_bias_has_a_bias_of_zero():
    model = made(image_size=64)
    weights = to_mmseg(model.state_dict(), model.config)
    del weights['backbone.patch_embed.projection.bias']
    assert not from_mmseg(weights, model.config)['encoder.patch_embed.proj.bias'].any()

@pytest.mark.parametrize('decoder,settings', [('linear', MMSEG), ('mask_transformer', AUTHORS)], ids=['linear', 'mask'])
def test_every_pair_of_layouts_keeps_every_bit(tmp_path, decoder, settings):
    model, image = made(decoder, settings, image_size=64, depth=1, decoder_depth=1), torch.randn(1, 3, 80, 100)
    save_pretrained(model, tmp_path/'0')
    for n, to in enumerate(('authors', 'mmseg', 'package', 'mmseg', 'authors', 'package')):
        loaded = load_model(convert(tmp_path/str(n), tmp_path/str(n + 1), to).out)
        assert same(loaded.state_dict(), model.state_dict()) and loaded.config == model.config
        assert torch.equal(loaded(image), model(image))

def test_a_release_of_the_authors_goes_to_mmsegmentation_and_back(tmp_path):
    model = made(image_size=64)
    save_checkpoint(tmp_path/'checkpoint.pth', model, optimizer=torch.optim.SGD(model.parameters(), lr=1e-3), lr_scheduler={}, epoch=3)
    variant = variant_of(model.config)
    del variant['segmenter']
    write_variant(tmp_path/'variant.yml', variant)
    convert(tmp_path, tmp_path/'there', 'mmseg')
    done = convert(tmp_path/'there'/'segmenter.pth', tmp_path/'back', 'authors')
    assert done.files == ['checkpoint.pth', 'variant.yml'] and not done.notes
    assert same(torch.load(tmp_path/'back'/'checkpoint.pth', weights_only=True)['model'], model.state_dict())

def test_what_the_authors_code_has_built_in_is_noted(tmp_path):
    save_pretrained(made(settings=MMSEG, image_size=64), tmp_path/'start')
    done = convert(tmp_path/'start', tmp_path/'out', 'authors')
    assert [note.split()[4] for note in done.notes] == ['norm_eps', 'position_interpolation'] and 'note: ' in str(done)

def test_mmsegmentations_own_loader_reads_the_folder_and_segments_a_picture(tmp_path, mmseg):
    import cv2, numpy as np
    from mmseg.apis import inference_model, init_model
    model = made(image_size=64, classes=list('abcdefg'), palette=[[k, 0, 0] for k in range(7)])
    save_pretrained(model, tmp_path/'start')
    convert(tmp_path/'start', tmp_path/'out', 'mmseg')
    cv2.imwrite(str(tmp_path/'photo.png'), np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8))
    with warnings.catch_warnings(action='ignore'):
        theirs = init_model(str(tmp_path/'out'/'segmenter.py'), str(tmp_path/'out'/'segmenter.pth'), device='cpu')
        answer = inference_model(theirs, str(tmp_path/'photo.png'))
    assert same(theirs.state_dict(), to_mmseg(model.state_dict(), model.config))
    assert tuple(theirs.dataset_meta['classes']) == tuple('abcdefg') and agree(theirs, model, (96, 80))[0]
    from segmenter.predict import predict
    share = (answer.pred_sem_seg.data[0].numpy() == predict(model, tmp_path/'photo.png').label_map).mean()
    assert share > .99

@pytest.mark.parametrize('kwargs,text', [(dict(backbone='deit_tiny_distilled_patch16_224'), 'dist_token'),
                                         (dict(position_interpolation='bicubic_antialias'), 'cannot resample')])
def test_what_mmsegmentation_cannot_hold_is_refused_and_nothing_is_left(tmp_path, kwargs, text):
    save_pretrained(create_model(**dict(backbone=VIT, embed_dim=64, depth=1, n_classes=3, image_size=64) | kwargs), tmp_path/'start')
    with pytest.raises(ValueError, match=text) as e: convert(tmp_path/'start', tmp_path/'out', 'mmseg')
    assert '\n' not in str(e.value) and [p.name for p in tmp_path.iterdir()] == ['start']

def test_a_timm_transformer_beyond_the_paper_stays_out_of_the_authors_layout(tmp_path):
    save_pretrained(create_model(backbone='vit_small_patch14_dinov2', embed_dim=64, depth=1, n_classes=3, image_size=56), tmp_path/'start')
    with pytest.raises(ValueError, match='backbones of the paper only'): convert(tmp_path/'start', tmp_path/'out', 'authors')
    assert convert(tmp_path/'start', tmp_path/'out', 'package').files == ['README.md', 'config.json', 'model.safetensors']

@pytest.mark.slow
@pytest.mark.parametrize('variant,crop', [('Seg-T-Mask/16', 512), ('Seg-S-Mask/16', 512), ('Seg-S/16', 512), ('Seg-B-Mask/16', 512), ('Seg-L-Mask/16', 640)])
@pytest.mark.parametrize('settings', [AUTHORS, MMSEG], ids=['authors', 'mmseg'])
def test_the_papers_sizes_agree_with_mmsegmentation(mmseg, variant, crop, settings):
    torch.manual_seed(0)
    ours = Segmenter(ModelConfig(variant, image_size=crop, position_rule='count', **settings)).eval()
    weights = to_mmseg(ours.state_dict(), ours.config)
    theirs = mmseg(mmseg_config(ours.config))
    theirs.load_state_dict(weights, strict=True, assign=True)
    if ours.config.decoder != 'linear':
        torch.nn.init.normal_(ours.decoder.cls_emb)
        theirs.decode_head.cls_emb.data.copy_(ours.decoder.cls_emb)
        weights = to_mmseg(ours.state_dict(), ours.config)
    good, gaps = agree(theirs, ours, (crop//2, crop))
    assert good, gaps
    assert all(torch.equal(value, ours.state_dict()[key]) for key, value in from_mmseg(weights, ours.config).items() if '.head.' not in key)
