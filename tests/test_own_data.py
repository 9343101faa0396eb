"Five lines from a folder to a model that was looked at."
import numpy as np, pytest, torch
from fastai.callback.core import Callback
from PIL import Image
import segmenter as sg
from segmenter.model import create_model
from segmenter.own_data import Interpretation, segmentation_learner
from segmenter.patches import SCENE_CLASSES, scene
from segmenter.steps import Frozen

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "Ten pictures and their label maps."
    root, rng = tmp_path_factory.mktemp('mine'), np.random.default_rng(0)
    image, labels = scene(128, 192)
    for part in 'images', 'masks': (root/part).mkdir()
    for i in range(10):
        y, x = rng.integers(0, 64), rng.integers(0, 96)
        Image.fromarray(image[y:y+64, x:x+96]).save(root/'images'/f'{i}.png')
        Image.fromarray(labels[y:y+64, x:x+96].astype(np.uint8)).save(root/'masks'/f'{i}.png')
    (root/'classes.txt').write_text('\n'.join(SCENE_CLASSES))
    return root

@pytest.fixture
def dls(folder): return sg.dataloaders(*(sg.load_dataset(folder, s) for s in ('train', 'val')), batch_size=4, crop_size=32, im_size=64, device='cpu')

def tiny():
    torch.manual_seed(0)
    return create_model(backbone='vit_tiny_patch16_384', patch_size=8, embed_dim=24, depth=1, n_heads=2, decoder='linear', n_classes=5, image_size=32,
                        im_size=64, classes=list(SCENE_CLASSES))

def weights(learn, part=''): return {k: v.clone() for k, v in learn.model.segmenter.state_dict().items() if k.startswith(part)}

def test_five_lines(folder):
    dls = sg.dataloaders(*(sg.load_dataset(folder, split) for split in ('train', 'val')), batch_size=4, crop_size=32, im_size=64, device='cpu')
    learner = sg.segmentation_learner(dls, 'Seg-T-Mask/16', recipe='modern')
    c = learner.model.segmenter.config
    assert (c.n_classes, list(c.image_size), c.im_size, c.classes) == (5, [32, 32], 64, list(SCENE_CLASSES))
    learner.fine_tune(1, 1e-3)
    assert learner.predict(folder/'images'/'0.png').label_map.shape == (64, 96)

def test_the_encoder_waits_and_then_learns(dls):
    seen = []
    class Look(Callback):
        def after_epoch(self): seen.append(weights(self.learn, 'encoder'))
    learner = segmentation_learner(dls, tiny(), eval_freq=9)
    seen.append(weights(learner, 'encoder'))
    learner.fine_tune(1, .05, frozen_epochs=2, cbs=[Look()])
    same = [all(torch.equal(a[k], b[k]) for k in a) for a, b in zip(seen, seen[1:])]
    assert same == [True, True, False] and all(p.requires_grad for p in learner.model.segmenter.encoder.blocks.parameters())

def test_fine_tuning_is_one_fit_under_one_schedule(dls):
    one, other = (segmentation_learner(dls, tiny(), eval_freq=9) for _ in range(2))
    one.fine_tune(2, .05)
    other.fit(3, .05, cbs=[Frozen(1)])
    assert all(torch.equal(a, b) for a, b in zip(weights(one).values(), weights(other).values()))

def test_an_error_leaves_nothing_frozen(dls):
    class Fall(Callback):
        def after_batch(self): raise RuntimeError('fallen')
    learner = segmentation_learner(dls, tiny(), eval_freq=9)
    with pytest.raises(RuntimeError, match='fallen'): learner.fine_tune(1, .05, cbs=[Fall()])
    assert all(p.requires_grad for p in learner.model.segmenter.encoder.parameters())

def test_prediction_and_interpretation_look_at_the_averaged_weights(dls, folder):
    learner = segmentation_learner(dls, tiny(), ema=.5, eval_freq=9)
    learner.fit(1, .1)
    from segmenter.averaging import judged_model
    judged = judged_model(learner)
    assert judged is not learner.model.segmenter and Interpretation(learner).model is judged
    assert np.array_equal(learner.predict(folder/'images'/'1.png').label_map, sg.predict(judged, folder/'images'/'1.png').label_map)

def test_interpretation_answers(dls, tmp_path):
    import matplotlib
    matplotlib.use('Agg')
    learner = segmentation_learner(dls, tiny(), eval_freq=9)
    found = Interpretation(learner)
    scores = [score for _, score in found.worst(9)]
    assert scores == sorted(scores) and len(scores) == len(dls.valid.dataset)
    pairs = found.most_confused(50)
    assert sum(n for *_, n, _ in pairs) == found.evaluation.confusion.matrix.sum() - found.evaluation.confusion.matrix.trace()
    assert all(true != said for true, said, *_ in pairs)
    assert len(learner.show_results(2).axes) == 8 and len(learner.show_results([1]).axes) == 4
    assert len(found.show().axes) == 2 and found.show_worst(1).axes
    names = {path.name for path in found.write(tmp_path)}
    assert {'scores_ss.yml', 'per_class_ss.html', 'contact_sheet_ss.png'} <= names

def test_a_model_alone_needs_images():
    with pytest.raises(ValueError, match='give a data set too'): Interpretation(tiny())
