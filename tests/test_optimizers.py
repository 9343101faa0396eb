"Which parameter learns how fast, and in what direction."
import pytest, torch
from segmenter.model import create_model
from segmenter.optimizers import Muon, create_optimizer, layer_of

NARROW = dict(patch_size=8, embed_dim=32, depth=3, decoder_depth=1, n_heads=2, image_size=32, n_classes=3)

@pytest.mark.parametrize('backbone', ['vit_tiny_patch16_384', 'deit_tiny_distilled_patch16_224', 'vit_small_patch14_reg4_dinov2', 'eva02_tiny_patch14_224', 'beit_base_patch16_224'])
@pytest.mark.parametrize('name', ['sgd', 'adamw', 'muon', 'lamb'])
def test_each_parameter_is_in_one_group_and_its_rate_falls_with_its_distance(backbone, name):
    model = create_model(backbone=backbone, **NARROW)
    groups = create_optimizer(model, name, lr=.01, weight_decay=.05, layer_decay=.5).param_groups
    keys = {id(p): key for key, p in model.named_parameters()}
    found = [keys[id(p)] for group in groups for p in group['params']]
    assert sorted(found) == sorted(keys.values())
    for group in groups:
        for p in group['params']:
            distance = 4 - layer_of(keys[id(p)], 3)
            assert group['lr'] == pytest.approx(.01*.5**distance) and group['lr_scale'] == .5**distance
            if p.ndim < 2 or keys[id(p)] in model.no_weight_decay(): assert not group['weight_decay']
    of = {key: group['lr_scale'] for group in groups for key in (keys[id(p)] for p in group['params'])}
    assert {v for k, v in of.items() if k.startswith('decoder.')} == {1.}
    assert [of[f'encoder.blocks.{i}.norm1.weight'] for i in range(3)] == [.125, .25, .5] and of['encoder.patch_embed.proj.weight'] == .0625

def test_without_decays_there_is_the_authors_one_group():
    model = create_model(backbone='vit_tiny_patch16_384', **NARROW)
    groups = create_optimizer(model).param_groups
    assert len(groups) == 1 and 'lr_scale' not in groups[0]

@pytest.mark.parametrize('wrong', [0., -1., 1.5])
def test_a_decay_that_is_no_factor_is_refused(wrong):
    with pytest.raises(ValueError, match='a layer decay is a factor'): create_optimizer(create_model(backbone='vit_tiny_patch16_384', **NARROW), layer_decay=wrong)
