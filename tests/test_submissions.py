"Submissions: the ids, the names and the folder a benchmark's server expects."
from dataclasses import replace
import numpy as np
import pytest
import torch
from PIL import Image
from segmenter.classes import class_list
from segmenter.datasets import load_dataset
from segmenter.patches import scene
from segmenter.predict import predict
from segmenter.submissions import submission_ids, write_submission
from segmenter.windows import PatchColours

def model_for(classes):
    return PatchColours(*scene(60, 90), classes.names, patch_size=4, window_size=32, window_stride=20, im_size=40)

def save(path, size=(44, 60)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(scene(*size)[0]).save(path)

@pytest.fixture
def ade(tmp_path):
    for name in 'ab': save(tmp_path/f'ade20k/release_test/testing/{name}.jpg')
    return load_dataset('ade20k', 'test', tmp_path)

@pytest.fixture
def city(tmp_path):
    for name in ('ulm/ulm_000000_000019', 'bonn/bonn_000001_000019'): save(tmp_path/f'cityscapes/leftImg8bit/test/{name}_leftImg8bit.png')
    return load_dataset('cityscapes', 'test', tmp_path)

def test_ade20k_counts_from_one(ade, tmp_path):
    model = model_for(ade.classes)
    paths = write_submission(model, ade, tmp_path/'out', progress=False)
    assert [p.name for p in paths] == ['a.png', 'b.png']
    for path, image in zip(paths, ade.images):
        written = Image.open(path)
        assert written.mode == 'L' and np.array_equal(np.array(written), predict(model, image).label_map + 1)

def test_cityscapes_has_its_label_ids(city, tmp_path):
    model = model_for(city.classes)
    paths = write_submission(model, city, tmp_path/'out', progress=False)
    assert sorted(p.name for p in paths) == ['bonn_000001_000019_leftImg8bit.png', 'ulm_000000_000019_leftImg8bit.png']
    official = dict(road=7, sidewalk=8, building=11, wall=12, fence=13, pole=17, sky=23, person=24, rider=25, car=26, truck=27, bus=28, train=31,
                    motorcycle=32, bicycle=33, vegetation=21, terrain=22)
    ids = dict(zip(city.classes.names, submission_ids(city).tolist()))
    assert official.items() <= ids.items() and (ids['traffic light'], ids['traffic sign']) == (19, 20)
    expected = submission_ids(city)[predict(model, city.images[0]).label_map]
    assert np.array_equal(np.array(Image.open(paths[0])), expected) and set(np.unique(expected)) <= set(ids.values())

def test_what_is_written_is_read_back_as_the_labels(city, tmp_path):
    model = model_for(city.classes)
    paths = write_submission(model, city, tmp_path/'out', progress=False)
    back = replace(city, labels=paths, table={stored: c for c, stored in enumerate(submission_ids(city).tolist())})
    assert np.array_equal(back.label_map(0), predict(model, city.images[0]).label_map)

def test_an_interrupted_run_goes_on_and_leaves_nothing_half_done(ade, tmp_path, monkeypatch):
    import segmenter.submissions as module
    model, segment, done = model_for(ade.classes), module.segment, []
    def stops(*args, **kwargs):
        if done: raise KeyboardInterrupt
        done.append(1)
        return segment(*args, **kwargs)
    monkeypatch.setattr(module, 'segment', stops)
    with pytest.raises(KeyboardInterrupt): write_submission(model, ade, tmp_path/'out', progress=False)
    assert [f.name for f in (tmp_path/'out').iterdir()] == ['a.png']
    monkeypatch.setattr(module, 'segment', segment)
    write_submission(model, ade, tmp_path/'out', progress=False)
    assert sorted(f.name for f in (tmp_path/'out').iterdir()) == ['a.png', 'b.png']

def test_what_cannot_be_submitted_is_refused_before_anything_is_written(ade, tmp_path):
    with pytest.raises(ValueError, match='a model of 19 classes'): write_submission(model_for(class_list('cityscapes')), ade, tmp_path/'out')
    with pytest.raises(ValueError, match='both be written'): write_submission(model_for(ade.classes), replace(ade, images=ade.images*2), tmp_path/'out')
    with pytest.raises(KeyError, match='unknown protocol'): write_submission(model_for(ade.classes), ade, tmp_path/'out', protocol='best')
    assert not list(tmp_path.glob('out/*'))
