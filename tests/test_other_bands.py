"Images of one band, of six, of twelve bits: trained on, predicted, drawn, at the command and in Python."
import numpy as np, pytest
from PIL import Image
from segmenter.cli import main
from segmenter.datasets import load_dataset
from segmenter.evaluate import show_samples
from segmenter.model import create_model
from segmenter.patches import scene
from segmenter.pairs import picture_of
from segmenter.pipelines import dataloaders
from segmenter.predict import predict, predict_stream
from segmenter.training import train

@pytest.fixture(scope='module', params=[1, 6])
def bands(request, tmp_path_factory):
    "A folder of images with so many bands of twelve bits, and a model trained on it for a step."
    n, root = request.param, tmp_path_factory.mktemp('bands')
    for split, count in ('train', 2), ('val', 1):
        for part in 'images', 'annotations': (root/part/split).mkdir(parents=True)
        for k in range(count):
            image, ids = scene(64, 80)
            pages = [Image.fromarray(np.roll(image[..., b % 3], k + b, 1).astype(np.uint16)*(16 - b)) for b in range(n)]
            pages[0].save(root/f'images/{split}/{k}.tif', save_all=True, append_images=pages[1:])
            Image.fromarray(ids.astype(np.uint8)).save(root/f'annotations/{split}/{k}.png')
    (root/'classes.txt').write_text('sky\ngrass\nroad\ntree\ncar\n')
    (root/'dataset.yaml').write_text(f'in_chans: {n}\n')
    run = train(root/'run', dataset=str(root), epochs=1, batch_size=2, im_size=64, crop_size=32, window_size=32, window_stride=32, workers=0, device='cpu', progress=False,
        backbone='vit_tiny_patch16_384', pretrained=False)
    return n, root, run.model

def test_a_folder_of_them_is_predicted_at_the_command(bands, tmp_path):
    n, root, _ = bands
    assert main(['predict', '--model-path', str(root/'run'), '--input-dir', str(root/'images/val'), '--output-dir', str(tmp_path/'out'), '--no-gpu']) == 0
    assert Image.open(tmp_path/'out/0.png').size == (80, 64) and Image.open(tmp_path/'out/0_overlay.jpg').mode == 'RGB'

def test_paths_arrays_and_streams_give_the_same_labels(bands):
    n, root, model = bands
    path, data = root/'images/val/0.tif', load_dataset(root, 'val')
    a, b, (c,) = predict(model, path), predict(model, data.image(0)), predict_stream(model, [data.image(0).transpose(2, 0, 1)])
    assert (a.label_map == b.label_map).all() and (a.label_map == c.label_map).all()
    assert a.image.shape == (64, 80, 3) and a.image.dtype == np.uint8 and (a.image == picture_of(data.image(0))).all()
    assert a.overlay(legend=True).shape[0] == 64 and a.show() is None

def test_samples_and_batches_are_drawn(bands):
    n, root, model = bands
    data = load_dataset(root, 'val')
    assert show_samples(model, data, [0])
    assert dataloaders(load_dataset(root, 'train'), data, batch_size=2, crop_size=32, im_size=64, device='cpu', normalization=model.config.normalization).train.show_batch()

def test_wrong_bands_are_refused_in_one_line(bands):
    n, root, model = bands
    with pytest.raises(ValueError, match=rf'expected \[H, W, {n}\]'): predict(model, np.zeros((40, 50, 4), np.uint8))

def test_a_photograph_is_grey_for_a_model_of_one_band(tmp_path):
    model = create_model(backbone='vit_tiny_patch16_384', n_classes=3, image_size=32, in_chans=1, pretrained=False, normalization={'mean': [100.], 'std': [50.]})
    photograph = scene(64, 80)[0]
    Image.fromarray(photograph).save(tmp_path/'a.png')
    how = dict(im_size=0, window_size=32, window_stride=32)
    read, given = (predict(model, image, **how).image.astype(int) for image in (tmp_path/'a.png', Image.fromarray(photograph)))
    assert abs(read - given).max() <= 1 # OpenCV and Pillow round their greys differently
