"The paper's data sets in their exact layouts, a few images each: listed, audited, trained on for a few steps, evaluated."
import shutil
import numpy as np, pytest
from PIL import Image
from segmenter.checkpoints import load_model
from segmenter.datasets import _LABEL_IDS, _TRAIN_IDS, load_dataset
from segmenter.doctor import audit
from segmenter.evaluate import evaluate
from segmenter.guards import UnknownName
from segmenter.patches import scene
from segmenter.training import train

def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)

def picture(k):
    image, ids = scene(48, 64)
    return np.roll(image, 5*k, 1), np.roll(ids, 5*k, 1).astype(np.uint8)

def ade20k(root, kind=''):
    for part, ks in dict(training=range(4), validation=(4, 5)).items():
        for k in ks:
            image, ids = picture(k)
            save(root/f'ade20k/ADEChallengeData2016/images/{part}/ADE_{part[:5]}_{k:08}.jpg', image)
            ids = np.where(ids == 4, 0, ids + 1) # cars are "other"
            save(root/f'ade20k/ADEChallengeData2016/annotations/{part}/ADE_{part[:5]}_{k:08}.png', ids.astype(np.uint8))
    (root/'ade20k/ADEChallengeData2016/objectInfo150.txt').write_text('Idx\n')
    save(root/'ade20k/release_test/testing/ADE_test_00000001.jpg', image)

def ade20k_zip(root, kind=''):
    "The two archives as they are distributed, in the data root, and nothing else."
    ade20k(root)
    for name in 'ADEChallengeData2016', 'release_test': shutil.make_archive(root/name, 'zip', root/'ade20k', name)
    shutil.rmtree(root/'ade20k')

def pascal_context(root, kind=''):
    home = root/'pcontext/VOCdevkit/VOC2010'
    for split, ks in dict(train=range(4), val=(4, 5)).items():
        for k in ks:
            image, ids = picture(k)
            save(home/f'JPEGImages/2008_00000{k}.jpg', image)
            save(home/f'SegmentationClassContext/2008_00000{k}.png', np.where(ids == 4, 255, ids).astype(np.uint8))
        (lists := home/'ImageSets/SegmentationContext').mkdir(parents=True, exist_ok=True)
        (lists/f'{split}.txt').write_text(''.join(f'2008_00000{k}\n' for k in ks))
    save(home/'JPEGImages/2007_000001.jpg', image) # in no list

def cityscapes(root, kind='labelTrainIds'):
    for split, ks in dict(train=range(4), val=(4, 5), test=(6,)).items():
        for k in ks:
            (image, ids), city = picture(k), ('ulm', 'bonn')[k % 2]
            stem = f'{split}/{city}/{city}_{k:06}_000019'
            save(root/f'cityscapes/leftImg8bit/{stem}_leftImg8bit.png', image)
            stored = {'labelTrainIds': np.where(ids == 4, 255, ids), 'labelIds': np.where(ids == 4, 1, np.array(_LABEL_IDS)[ids])}[kind]
            save(root/f'cityscapes/gtFine/{stem}_gtFine_{kind}.png', (stored*0 if split == 'test' else stored).astype(np.uint8))
            save(root/f'cityscapes/gtFine/{stem}_gtFine_color.png', image)
            (root/f'cityscapes/gtFine/{stem}_gtFine_polygons.json').write_text('{}')

TREES = {'ade20k': (ade20k, ''), 'ade20k zip': (ade20k_zip, ''), 'pascal_context': (pascal_context, ''), 'cityscapes': (cityscapes, 'labelTrainIds'), 'cityscapes labelIds': (cityscapes, 'labelIds')}

@pytest.fixture(params=TREES)
def tree(request, tmp_path):
    make, kind = TREES[request.param]
    make(tmp_path, kind)
    return request.param.split()[0], tmp_path

def test_an_existing_copy_is_listed_and_read(tree):
    name, root = tree
    train_set, val_set, both = (load_dataset(name, split, root) for split in ('train', 'val', 'trainval'))
    assert (len(train_set), len(val_set), len(both)) == (4, 2, 6)
    by_stem = lambda d: sorted(range(len(d)), key=lambda i: int(d.images[i].stem.replace('_leftImg8bit', '').replace('_000019', '')[-6:]))
    for d, first in (train_set, 0), (val_set, 4), (both, 0):
        for k, i in enumerate(by_stem(d)):
            ids = picture(first + k)[1]
            assert (d.label_map(i) == np.where(ids == 4, 255, ids)).all()

def test_a_test_split_has_images_and_no_truth_or_does_not_exist(tree):
    name, root = tree
    if name == 'pascal_context':
        with pytest.raises(UnknownName, match="unknown split 'test'"): load_dataset(name, 'test', root)
        return
    d = load_dataset(name, 'test', root)
    assert d.labels is None and len(d) == 1 and d.image(0).shape == (48, 64, 3)

def test_the_doctor_finds_nothing_grave(tree):
    name, root = tree
    found = audit(name, data_root=root, progress=False)
    assert found.ok and {p.kind for p in found.problems} == {'never_seen'} and list(found.counts) == ['train', 'val']

def test_a_few_steps_and_an_evaluation(tree, tmp_path):
    name, root = tree
    result = train(tmp_path/'run', dataset=name, data_root=str(root), crop_size=32, im_size=48, batch_size=2, epochs=2, embed_dim=32, depth=1, n_heads=1,
                   progress=False, device='cpu')
    assert len(result.records) == 2 and np.isfinite(result.records[-1]['train_loss']) and result.records[-1]['val_mean_iou'] >= 0
    scores = evaluate(load_model(result.folder), load_dataset(name, 'val', root), progress=False).scores
    assert round(scores.mIoU, 2) == result.records[-1]['val_mean_iou']

def test_the_id_table_is_that_of_the_cityscapes_team():
    labels = pytest.importorskip('cityscapesscripts.helpers.labels').labels
    assert {label.id: label.trainId for label in labels if label.id >= 0} == {v: k for v, k in _TRAIN_IDS.items() if v >= 0}

def test_train_ids_win_where_both_are_there(tmp_path):
    cityscapes(tmp_path, 'labelIds')
    cityscapes(tmp_path)
    d = load_dataset('cityscapes', 'train', tmp_path)
    assert d.table is None and d.labels[0].name.endswith('_labelTrainIds.png')

def test_a_wrong_root_says_which_folder_is_meant(tmp_path):
    ade20k(tmp_path)
    with pytest.raises(FileNotFoundError, match='is the folder that holds ade20k/') as e: load_dataset('ade20k', 'train', tmp_path/'ade20k')
    assert '\n' not in str(e.value)

def test_worker_processes_read_the_same_in_the_archive(tmp_path):
    ade20k_zip(tmp_path/'packed')
    ade20k(tmp_path/'tree')
    how = dict(dataset='ade20k', crop_size=32, im_size=48, batch_size=2, epochs=1, embed_dim=32, depth=1, n_heads=1, progress=False, device='cpu', seed=3)
    a = train(tmp_path/'a', data_root=str(tmp_path/'packed'), workers=2, **how)
    b = train(tmp_path/'b', data_root=str(tmp_path/'tree'), workers=0, **how)
    assert a.records[-1]['train_loss'] == b.records[-1]['train_loss'] and a.records[-1]['val_mean_iou'] == b.records[-1]['val_mean_iou']
