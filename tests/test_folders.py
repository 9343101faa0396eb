"Any folder as a data set: where the files are, which are a split, what the ids mean, and what is refused."
import json, os
import numpy as np, pytest
from PIL import Image
from segmenter import pairs
from segmenter.classes import ClassList, read_classes
from segmenter.datasets import load_dataset
from segmenter.folders import Layout, folder_splits, read_layout
from segmenter.guards import UnknownName
from segmenter.pairs import Dataset, read_bands
from segmenter.patches import SCENE_CLASSES, scene

IMAGE, IDS = scene(40, 60)
IDS = IDS.astype(np.uint8)
NAMES = list(SCENE_CLASSES)

def save(path, array, **kwargs):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **kwargs)

def build(root, stems='abcde', image='images/{}.jpg', label='masks/{}.png', pixels=IDS, classes=NAMES, **said):
    for stem in stems:
        save(root/image.format(stem), IMAGE)
        save(root/label.format(stem), pixels)
    (root/'dataset.yaml').write_text(json.dumps(said | ({'classes': classes} if classes else {})))
    return root

def snapshot(root): return {f: f.stat().st_mtime_ns for f in sorted(root.rglob('*'))}

# --- where the files are

@pytest.mark.parametrize('images, labels', [('images', 'annotations'), ('images', 'labels'), ('imgs', 'masks'), ('JPEGImages', 'SegmentationClass'), ('img', 'label')])
def test_parallel_folders_are_found_by_their_usual_names(tmp_path, images, labels):
    build(tmp_path, image=images + '/{}.jpg', label=labels + '/{}.png')
    d = load_dataset(tmp_path)
    assert len(d) == 4 and (d.label_map(0) == IDS).all() and d.name == tmp_path.name

@pytest.mark.parametrize('train, val', [('train', 'val'), ('training', 'validation'), ('train', 'valid')])
@pytest.mark.parametrize('order', ['images/{}', '{}/images'])
def test_splits_are_found_as_subfolders_on_either_side(tmp_path, train, val, order):
    for split, stems in (train, 'abc'), (val, 'de'):
        place = order.format(split)
        build(tmp_path, stems, place + '/{}.jpg', place.replace('images', 'masks') + '/{}.png')
    assert [f.stem for f in load_dataset(tmp_path).images] == list('abc') and len(load_dataset(tmp_path, 'val')) == 2
    assert len(load_dataset(tmp_path, 'trainval')) == 5 and folder_splits(tmp_path) == ['train', 'val']

def test_a_pattern_pairs_files_that_lie_side_by_side(tmp_path):
    build(tmp_path, image='data/{}.png', label='data/{}_mask.png', images='data/*.png', labels='data/*_mask.png', classes=NAMES)
    with pytest.raises(FileNotFoundError, match='has no label map'): load_dataset(tmp_path, 'trainval') # every mask is a .png too
    root = build(tmp_path/'b', image='data/{}.jpg', label='data/{}_mask.png', images='data/*.jpg', labels='data/*_mask.png')
    d = load_dataset(root, 'trainval')
    assert len(d) == 5 and all(label.name == f'{image.stem}_mask.png' for image, label in zip(d.images, d.labels))

def test_a_pattern_reaches_into_subfolders_and_splits(tmp_path):
    build(tmp_path, ('x/a', 'y/b'), 'photo/train/{}.jpg', 'gt/train/{}.png', images='photo/{split}/**/*.jpg', labels='gt/{split}/**/*.png')
    build(tmp_path, ('x/c',), 'photo/val/{}.jpg', 'gt/val/{}.png', images='photo/{split}/**/*.jpg', labels='gt/{split}/**/*.png')
    assert len(load_dataset(tmp_path)) == 2 and load_dataset(tmp_path, 'val').labels[0].name == 'c.png'

def test_two_folders_of_label_maps_are_not_guessed_about(tmp_path):
    build(tmp_path)
    (tmp_path/'labels').mkdir()
    with pytest.raises(ValueError, match='labels/ and masks/.*say in dataset.yaml'): load_dataset(tmp_path)
    assert len(load_dataset(tmp_path, labels='masks')) == 4

def test_linked_folders_are_followed_and_a_circle_ends(tmp_path):
    build(tmp_path/'real')
    (tmp_path/'mine').mkdir()
    for name in ('images', 'masks', 'dataset.yaml'): os.symlink(tmp_path/'real'/name, tmp_path/'mine'/name)
    os.symlink(tmp_path/'real'/'images', tmp_path/'real'/'images'/'again')
    assert len(load_dataset(tmp_path/'mine', 'trainval')) == 5

# --- splits

def test_lists_name_a_split_in_their_order(tmp_path):
    build(tmp_path)
    (tmp_path/'train.txt').write_text('d\nb.jpg\n\n')
    (tmp_path/'val.txt').write_text('a\n')
    assert [f.stem for f in load_dataset(tmp_path).images] == ['d', 'b'] and len(load_dataset(tmp_path, 'val')) == 1
    (tmp_path/'val.txt').unlink()
    with pytest.raises(FileNotFoundError, match='a train.txt and no val.txt'): load_dataset(tmp_path, 'val')

def test_a_list_of_two_columns_holds_paths(tmp_path):
    build(tmp_path)
    (tmp_path/'train.txt').write_text('images/a.jpg masks/b.png\n')
    (tmp_path/'val.txt').write_text('images/c.jpg masks/lost.png\n')
    assert load_dataset(tmp_path).labels[0].name == 'b.png'
    with pytest.raises(FileNotFoundError, match='lost.png.* is listed and missing'): load_dataset(tmp_path, 'val')

def test_a_seeded_split_is_the_same_everywhere_and_covers_all(tmp_path):
    build(tmp_path, [f'{k:02}' for k in range(20)])
    parts = {seed: [[f.stem for f in load_dataset(tmp_path, split, seed=seed).images] for split in ('train', 'val')] for seed in (0, 1)}
    for train, val in parts.values(): assert len(val) == 4 and sorted(train + val) == [f'{k:02}' for k in range(20)]
    assert parts[0] != parts[1] and parts[0][1] == [f.stem for f in load_dataset(tmp_path, 'val').images]
    assert len(load_dataset(tmp_path, 'val', val_fraction=.5)) == 10

def test_a_test_split_may_come_without_label_maps(tmp_path):
    for split, stems in ('train', 'ab'), ('val', 'c'): build(tmp_path, stems, f'images/{split}/{{}}.jpg', f'masks/{split}/{{}}.png')
    save(tmp_path/'images/test/z.jpg', IMAGE)
    assert load_dataset(tmp_path, 'test').labels is None and folder_splits(tmp_path) == ['train', 'val', 'test']

# --- what the ids mean

@pytest.mark.parametrize('said, text', [
    (NAMES, 'list'), ({name: [k, 2, 3] for k, name in enumerate(NAMES)}, 'colours'), ({k: name for k, name in enumerate(NAMES)}, 'ids'),
    ([dict(id=k, name=name, color=[9, k, 0], isthing=0) for k, name in enumerate(NAMES)], 'rows')])
def test_classes_are_read_from_every_form(tmp_path, said, text):
    build(tmp_path, classes=None)
    (tmp_path/'dataset.yaml').unlink()
    (tmp_path/'classes.json').write_text(json.dumps(said))
    assert load_dataset(tmp_path).classes.names == SCENE_CLASSES and (load_dataset(tmp_path).label_map(0) == IDS).all()
    assert read_classes(tmp_path/'classes.json').names == SCENE_CLASSES

def test_an_id_table_maps_merges_and_ignores(tmp_path):
    stored = np.array([7, 8, 21, 0, 99], np.uint8)[IDS]
    root = build(tmp_path/'t', pixels=stored, classes=['road', 'tree'])
    table = {7: 'road', 8: 'road', 21: 'tree', 0: None}
    d = load_dataset(root, ids=table, ignore=99)
    assert (d.label_map(0) == np.array([0, 0, 1, 255, 255])[IDS]).all()
    with pytest.raises(ValueError, match=r'a?\.png: stored ids that the id table does not list: 99 \('): load_dataset(root, ids=table).label_map(0)

def test_reduce_zero_label_and_several_void_ids(tmp_path):
    build(tmp_path, pixels=IDS + 1, reduce_zero_label=True)
    assert (load_dataset(tmp_path).label_map(0) == IDS).all()
    root = build(tmp_path/'b', pixels=np.where(IDS == 4, 77, IDS).astype(np.uint8), ignore=[77, 78])
    assert (load_dataset(root).label_map(0) == np.where(IDS == 4, 255, IDS)).all()

@pytest.mark.parametrize('on', [1, 255])
def test_binary_masks_just_work_when_told(tmp_path, on):
    build(tmp_path, pixels=((IDS == 4)*on).astype(np.uint8), classes=None, binary=True)
    d = load_dataset(tmp_path)
    assert d.classes.names == ('background', 'foreground') and (d.label_map(0) == (IDS == 4)).all()

@pytest.mark.parametrize('on', [1, 255])
@pytest.mark.parametrize('image, label', [('images/{}.jpg', 'masks/{}.png'), ('images/train/{}.jpg', 'masks/train/{}.png'), ('train/images/{}.jpg', 'train/masks/{}.png')])
def test_two_kinds_of_pixels_without_a_class_list_are_background_and_foreground(tmp_path, on, image, label):
    pixels = np.where(IDS == 4, on, 0).astype(np.uint8)
    for stem in 'abcde':
        save(tmp_path/image.format(stem), IMAGE)
        save(tmp_path/label.format(stem), pixels if stem != 'a' else pixels*0) # one without the object
    d = load_dataset(tmp_path, 'train')
    at = [f.stem for f in d.images].index('b') if 'b' in {f.stem for f in d.images} else 1
    assert list(d.classes.names) == ['background', 'foreground']
    assert (d.label_map(at) == (IDS == 4)).all()

@pytest.mark.parametrize('values, said', [([0, 1, 255], {}), ([0, 7], {}), ([0], {}), ([0, 255], dict(ignore=255)), ([0, 1], dict(binary=False))])
def test_what_may_mean_something_else_is_not_taken_for_binary(tmp_path, values, said):
    pixels = np.array(values, np.uint8)[IDS % len(values)]
    build(tmp_path, pixels=pixels, classes=None, **said)
    with pytest.raises(FileNotFoundError, match=r'has no classes\.txt .*, or says binary: true$'): load_dataset(tmp_path, 'train')

def test_void_stays_void_where_ids_of_0_and_1_were_recognised(tmp_path):
    stems = [f'{k:02}' for k in range(16)] # every second one is looked at
    build(tmp_path, stems, pixels=(IDS == 4).astype(np.uint8), classes=None)
    save(tmp_path/'masks/01.png', np.where(IDS == 4, 255, 1).astype(np.uint8))
    d = load_dataset(tmp_path, 'trainval')
    assert set(np.unique(d.label_map([f.stem for f in d.images].index('01')))) == {1, 255}

@pytest.mark.parametrize('mode', ['RGB', 'RGBA', 'P'])
def test_coloured_masks_go_through_the_palette(tmp_path, mode):
    palette = ClassList(NAMES).palette
    root = build(tmp_path, colours=palette.tolist())
    for f in (root/'masks').iterdir(): Image.fromarray(palette[IDS]).convert(mode, **(dict(palette=Image.Palette.ADAPTIVE, colors=8) if mode == 'P' else {})).save(f)
    d = load_dataset(root, **(dict(coloured=True) if mode == 'P' else {}))
    assert d.coloured and (d.label_map(0) == IDS).all()

def test_a_colour_of_no_class_is_named_with_file_and_count(tmp_path):
    palette = ClassList(NAMES).palette
    root = build(tmp_path, colours=palette.tolist())
    painted = palette[IDS]
    painted[0, :6] = 1, 2, 3
    for f in (root/'masks').iterdir(): save(f, painted)
    with pytest.raises(ValueError, match=r'\.png: 1 colours that no class has: \(1, 2, 3\) \(6 pixels\)'): load_dataset(root).label_map(0)
    assert (load_dataset(root, ignore=[[1, 2, 3]]).label_map(0)[0, :6] == 255).all()

def test_sixteen_bit_label_maps_of_many_classes(tmp_path):
    ids = np.arange(2400, dtype=np.uint16).reshape(40, 60) % 300
    ids[0, 0] = 65535
    build(tmp_path, pixels=ids, classes=[f'class {k}' for k in range(300)], ignore=65535)
    found = load_dataset(tmp_path).label_map(0)
    assert found[0, 0] == -1 and (found.ravel()[1:] == ids.ravel()[1:]).all()

# --- bands

@pytest.mark.parametrize('C', [1, 2, 4, 6])
@pytest.mark.parametrize('suffix', ['npy', 'tif'])
def test_images_of_any_number_of_bands(tmp_path, C, suffix):
    bands = np.random.default_rng(C).integers(0, 4000, (40, 60, C), np.uint16)
    build(tmp_path, 'ab', in_chans=C)
    for f in list((tmp_path/'images').iterdir()):
        if suffix == 'npy': np.save(f.with_suffix('.npy'), bands)
        else: Image.fromarray(bands[..., 0]).save(f.with_suffix('.tif'), save_all=True, append_images=[Image.fromarray(bands[..., c]) for c in range(1, C)])
        f.unlink()
    d = load_dataset(tmp_path)
    assert (d.image(0) == bands).all() and d.image(0).dtype == np.float32 and (d.label_map(0) == IDS).all() and d.picture(0).shape == (40, 60, 3)

def test_a_grey_or_transparent_picture_is_three_bands_unless_told(tmp_path):
    save(tmp_path/'a.png', np.full((5, 6, 4), 77, np.uint8))
    save(tmp_path/'g.png', np.full((5, 6), 77, np.uint8))
    assert {read_bands(tmp_path/f'{n}.png', C).shape for n in 'ag' for C in (3, 1)} == {(5, 6, 3), (5, 6, 1)} and read_bands(tmp_path/'a.png', 4).shape == (5, 6, 4)
    with pytest.raises(ValueError, match=r'g\.png.*expected \[H, W, 5\]'): read_bands(tmp_path/'g.png', 5)

# --- what is refused, and what is never written

@pytest.mark.parametrize('said, error, text', [
    (dict(ignroe=3), UnknownName, "did you mean 'ignore'"), (dict(settings=dict(epoch=3)), UnknownName, "did you mean 'epochs'"),
    (dict(val_fraction=1.5), ValueError, 'between 0 and 1'), (dict(images='nowhere'), FileNotFoundError, 'no folder'),
    (dict(ids=[1, 2]), ValueError, '2 ids given for 5 classes'), (dict(ignore='void'), ValueError, 'no stored id'),
    (dict(splits=dict(train=['a'])), None, ''), (dict(images='images/a.jpg*'), FileNotFoundError, 'fits the pattern|no file')])
def test_slips_are_refused_in_one_line(tmp_path, said, error, text):
    build(tmp_path, **said)
    if error is None: assert len(load_dataset(tmp_path)) == 1; return
    with pytest.raises(error, match=text) as e: load_dataset(tmp_path)
    assert '\n' not in str(e.value)

def test_a_known_name_takes_no_words_about_folders():
    with pytest.raises(ValueError, match='binary is a word about folders'): load_dataset('landcover', binary=True)

def test_a_broken_file_of_words_is_named(tmp_path):
    build(tmp_path)
    (tmp_path/'dataset.yaml').write_text('classes: [a, {')
    with pytest.raises(ValueError, match=r'dataset\.yaml.* cannot be parsed') as e: read_layout(tmp_path)
    assert '\n' not in str(e.value)

def test_a_folder_that_may_not_be_listed_is_no_empty_one(tmp_path, monkeypatch):
    build(tmp_path)
    def refuse(top, *args, onerror=None, **kwargs): onerror(PermissionError(13, 'Permission denied', str(top))); return iter(())
    monkeypatch.setattr('segmenter.pairs.os.walk', refuse)
    with pytest.raises(PermissionError, match=r"cannot list folder .*images.* \(Permission denied\)") as e: load_dataset(tmp_path)
    assert '\n' not in str(e.value)

def test_files_that_may_not_be_read_are_named_in_one_line(tmp_path, monkeypatch):
    d = load_dataset(build(tmp_path))
    def refuse(*args, **kwargs): raise PermissionError(13, 'Permission denied', str(args[0]))
    monkeypatch.setattr(pairs, 'open', refuse, raising=False)
    with pytest.raises(FileNotFoundError, match=r'\.jpg.* \(Permission denied\)'): d.image(0)
    with pytest.raises(OSError, match=r'\.png.* \(Permission denied\)'): d.stored_ids(0)

def test_nothing_is_written_beside_the_data(tmp_path):
    from segmenter.browser import write_page
    from segmenter.doctor import audit
    from segmenter.statistics import count_classes, own_normalization
    from segmenter.training import train
    root = build(tmp_path/'data', settings=dict(im_size=32, crop_size=32, epochs=1, batch_size=2))
    before = snapshot(root)
    train(tmp_path/'run', dataset=str(root), embed_dim=32, depth=1, n_heads=1, progress=False, device='cpu', rare_class_sampling=.5, normalization='own', class_balance=.5)
    d = load_dataset(root)
    count_classes(d), own_normalization(d), audit(root, progress=False), write_page(d, tmp_path/'page.html')
    assert snapshot(root) == before
