"Our model inside mmsegmentation: built from a configuration, trained and tested by its own code."
import json, subprocess, sys
import numpy as np, pytest, torch
from segmenter.mmseg_registry import from_registry, register_mmseg, registry_config, to_registry
from segmenter.model import ModelConfig, create_model
from segmenter.patches import scene
from segmenter.predict import predict

NARROW = dict(embed_dim=32, depth=1, n_heads=2, n_classes=4, image_size=64)
KINDS = {'mask': dict(backbone='vit_tiny_patch16_384'), 'DeiT, linear': dict(backbone='deit_tiny_distilled_patch16_224', decoder='linear'),
         'registers': dict(backbone='vit_small_patch14_reg4_dinov2', image_size=56)}

def made(**kwargs):
    torch.manual_seed(0)
    return create_model(**NARROW | kwargs).eval()

def build(about):
    "mmsegmentation's way from a configuration to a model."
    register_mmseg()
    from mmengine.config import Config
    from mmengine.registry import DefaultScope
    from mmseg.registry import MODELS
    with DefaultScope.overwrite_default_scope('mmseg'): return MODELS.build(Config(dict(model=about)).model)

def batch(twin, height=64, width=64, training=True, void=False):
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample
    pixels, labels = scene(height, width)
    truth = np.full_like(labels, 255) if void else np.minimum(labels, 3)
    about = dict(img_shape=(height, width), ori_shape=(height, width), pad_shape=(height, width), padding_size=[0]*4)
    sample = SegDataSample(gt_sem_seg=PixelData(data=torch.from_numpy(truth)[None]), metainfo=about)
    return twin.data_preprocessor(dict(inputs=[torch.from_numpy(pixels[..., ::-1].copy()).permute(2, 0, 1)], data_samples=[sample]), training)

@pytest.mark.parametrize('kind', KINDS)
def test_mmsegmentation_computes_the_same_logits(kind):
    model = made(**KINDS[kind])
    twin, image = to_registry(model), torch.randn(2, 3, 64, 100)
    with torch.no_grad():
        low = twin.decode_head(twin.extract_feat(image))
        assert torch.allclose(low, model.masks(image), atol=1e-5)
        assert low.shape[1] == 4

def test_the_weights_come_back_to_the_bit():
    model = made(**KINDS['mask'])
    again = from_registry(to_registry(model).state_dict(), model.config)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())

def test_a_configuration_is_plain_and_builds_the_model():
    model = made(**KINDS['mask'])
    about = registry_config(model.config)
    json.dumps(about)
    twin = build(about)
    assert type(twin).__name__ == 'EncoderDecoder' and type(twin.backbone).__name__ == 'SegmenterVIT'
    assert ModelConfig(**{k: v for k, v in about['backbone'].items() if k != 'type'}) == model.config

def test_loss_mode_gives_a_loss_that_reaches_every_part():
    twin = build(registry_config(made(**KINDS['mask']).config)).train()
    losses = twin(**batch(twin), mode='loss')
    losses['decode.loss_ce'].backward()
    still = [name for name, p in twin.named_parameters() if p.grad is None and 'encoder.head' not in name]
    assert still == [] and losses['decode.loss_ce'].item() > 0 and 'decode.acc_seg' in losses

def test_void_pixels_do_not_count():
    twin = build(registry_config(made(**KINDS['mask']).config)).train()
    assert twin(**batch(twin, void=True), mode='loss')['decode.loss_ce'].item() == 0

def test_predict_mode_slides_as_we_do():
    model = made(**KINDS['mask'], window_stride=48)
    twin, image = to_registry(model), scene(64, 96)[0]
    with torch.no_grad(): found = twin(**batch(twin, 64, 96, training=False), mode='predict')[0].pred_sem_seg.data[0].numpy()
    assert (found == predict(model, image).label_map).mean() > .999

def test_a_training_step_of_mmengine_learns():
    twin = build(registry_config(made(**KINDS['DeiT, linear']).config)).train()
    from mmengine.optim import OptimWrapper
    wrapper, losses = OptimWrapper(torch.optim.AdamW(twin.parameters(), 2e-3)), []
    for _ in range(6): losses.append(twin.train_step(dict(inputs=(b := raw())['inputs'], data_samples=b['data_samples']), wrapper)['loss'].item())
    assert losses[-1] < losses[0]

def raw():
    "What a data loader of mmsegmentation hands over."
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample
    pixels, labels = scene(64, 64)
    sample = SegDataSample(gt_sem_seg=PixelData(data=torch.from_numpy(np.minimum(labels, 3))[None]), metainfo=dict(img_shape=(64, 64), ori_shape=(64, 64)))
    return dict(inputs=[torch.from_numpy(pixels[..., ::-1].copy()).permute(2, 0, 1)], data_samples=[sample])

def test_registering_twice_does_no_harm():
    assert register_mmseg() == register_mmseg()
    register_mmseg.cache_clear()
    register_mmseg()
    build(registry_config(made(**KINDS['mask']).config))

def test_an_unknown_field_is_refused():
    about = registry_config(made(**KINDS['mask']).config)
    about['backbone']['colour'] = 'red'
    with pytest.raises(Exception, match='colour'): build(about)

def test_weights_of_another_model_are_refused_in_one_line():
    other = to_registry(made(**KINDS['DeiT, linear'])).state_dict()
    with pytest.raises(ValueError, match='not the weights of') as e: from_registry(other, made(**KINDS['mask']).config)
    assert '\n' not in str(e.value)

def test_importing_the_chapter_imports_nothing_of_mmsegmentation():
    code = 'import segmenter.mmseg_registry, sys; print([m for m in ("mmseg", "mmengine", "mmcv") if m in sys.modules])'
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.strip() == '[]'
